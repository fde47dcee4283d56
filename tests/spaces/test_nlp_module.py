"""The Flax module of one NAS-Bench-NLP recipe against the fast network, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from module_checks import assert_trees
from nlp_fixture import SPACE, Recorded

from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError
from jaxnas.spaces import mapping
from jaxnas.spaces.nlp import costs
from jaxnas.spaces.nlp.mapping import parameters
from jaxnas.spaces.nlp.module import NLPModule

RECIPES = (
  "linear:x.h0|tanh:0|states:1",
  "linear:x.h0|tanh:0|linear:h1.1.x|sigm:2|blend:3.1.h1|prod:4.h2|sum:5.1|leaky_relu:6|linear:7|states:7.4.8",
)


@pytest.mark.parametrize("text", RECIPES)
def test_module_is_the_fast_network(text, x64):
  code, rng = SPACE.parse(text), np.random.default_rng(0)
  config = NetworkConfig(channels=6, cells=3, classes=5, shape=SPACE.shape(code))
  network, module = SPACE.network(config), SPACE.module(code, config)
  arch, parts = jnp.asarray(network.encode(code[None])[0]), parameters(module)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  params = network.start(jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.4, s.shape)), shapes), arch)
  inputs, factors = jnp.asarray(rng.normal(size=(3, 8, 5))), jnp.asarray(rng.normal(size=(3, 40)))

  def shown(run, params):
    return jax.value_and_grad(lambda p: (run(p) * factors).sum())(params)

  own = mapping.gather(parts, params)
  initial = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 5), np.float32)))["params"]
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(lambda s: s.shape, initial)
  value, gradient = jax.jit(lambda p: shown(lambda p: module.apply({"params": p}, inputs), p))(own)
  wanted, fast = jax.jit(lambda p: shown(lambda p: network.apply(p, inputs, arch).logits, p))(params)
  np.testing.assert_allclose(value, wanted, rtol=1e-12)
  assert_trees(mapping.scatter(parts, gradient, jax.tree.map(jnp.zeros_like, params)), fast, 1e-12)
  assert_trees(mapping.scatter(parts, own, params), params, 0)
  assert sum(leaf.size for leaf in jax.tree.leaves(own)) == costs.count(code, config).params


def test_module_has_the_published_outputs(x64, fixtures):
  recorded = Recorded(fixtures)
  module, inputs = SPACE.module(recorded.code, recorded.config), recorded.samples_first("input")
  outputs = module.apply({"params": recorded.collection("init")}, inputs)
  np.testing.assert_allclose(outputs, recorded.samples_first("eval0/output").reshape(3, -1), rtol=0, atol=1e-12)


def test_training_drops_and_evaluation_does_not():
  module, inputs = NLPModule(RECIPES[0], 6, 2, 5), jnp.ones((2, 8, 5))
  variables = module.init(jax.random.key(0), inputs)
  one, other = (module.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
  assert float(jnp.abs(one - other).max()) > 0
  np.testing.assert_array_equal(module.apply(variables, inputs), module.apply(variables, inputs, train=False))


def test_text_that_is_no_architecture_is_refused():
  with pytest.raises(ArchitectureError):
    jax.eval_shape(NLPModule("tanh:x|states:0").init, jax.random.key(0), jnp.zeros((1, 8, 48)))
