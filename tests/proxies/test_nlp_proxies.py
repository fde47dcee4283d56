"""Ranking proxies on recurrent networks of sequences, against plain formulas on the Flax module in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nlp_fixture import SPACE

from jaxnas import data, proxies, scoring
from jaxnas.base import Batch, NetworkConfig
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.spaces import mapping
from jaxnas.spaces.nlp.mapping import parameters

TEXT = "linear:x.h0|tanh:0|linear:h1.1.x|sigm:2|blend:3.1.h1|leaky_relu:4|linear:5|states:4.6"
NAMES = (
  *("synflow", "snip", "grad_norm", "plain", "mgm", "mgm_output", "jacob_cov", "naswot", "l2_norm", "params", "flops"),
  *("ntk_condition_number", "ntk_condition_number_frozen", "trace_norm", "trace_norm_per_sample", "trace_norm_exact"),
)
N = 4


class Case:
  """One recipe with its fast network, its module, and random parameters."""

  def __init__(self):
    rng, code = np.random.default_rng(0), SPACE.parse(TEXT)
    config = NetworkConfig(channels=6, cells=1, classes=3, shape=SPACE.shape(code))
    self.network, self.module = SPACE.network(config), SPACE.module(code, config)
    self.arch, self.parts = jnp.asarray(self.network.encode(code[None])[0]), parameters(self.module)
    shapes = jax.eval_shape(self.network.init, jax.random.key(0))
    drawn = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape)), shapes)
    self.params = self.network.start(drawn, self.arch)
    self.own = mapping.gather(self.parts, self.params)
    self.inputs, self.targets = jnp.asarray(rng.normal(size=(N, 8, 3))), jnp.asarray(rng.normal(size=(N, 24)))

  def outputs(self, own, inputs=None):
    return self.module.apply({"params": own}, self.inputs if inputs is None else inputs)

  def losses(self, own):
    return jnp.square(self.outputs(own) - self.targets).mean(1)


@pytest.fixture
def case(x64):
  return Case()


@functools.cache
def _found(names):
  one, some = Case(), [proxies.get(name) for name in names]

  @jax.jit
  def run(params, inputs, targets):
    e = Evaluation(one.network, params, one.arch, inputs, targets, None, jax.random.key(0))
    return [proxy.measure(e) for proxy in some]

  measured = jax.device_get(run(one.params, one.inputs, one.targets))
  return {name: proxy.finish(raw) for name, proxy, raw in zip(names, some, measured, strict=True)}


def kernels(tree):
  return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if "kernel" in path[-1].key]


def flat(tree):
  return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(tree)], 1)


def test_of_the_loss_s_gradient(case):
  found = _found(NAMES)
  gradient = jax.grad(lambda own: case.losses(own).mean())(case.own)
  pairs = list(zip(kernels(case.own), kernels(gradient), strict=True))
  squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
  wanted = {
    "snip": sum(jnp.abs(w * g).sum() for w, g in pairs),
    "plain": sum((w * g).sum() for w, g in pairs),
    "grad_norm": sum(jnp.sqrt(jnp.square(g).sum()) for _, g in pairs),
    "mgm": squares,
    "trace_norm": squares,
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name].value, float(value), rtol=1e-9, err_msg=name)
  rows = flat(jax.jacrev(case.losses)(case.own))
  np.testing.assert_allclose(found["trace_norm_per_sample"].value, float(jnp.square(rows).sum()) / N, rtol=1e-9)


def test_of_the_outputs(case):
  found = _found(NAMES)
  rows = jax.jacrev(lambda own: case.outputs(own).sum(1))(case.own)
  matrix = jnp.concatenate([leaf.reshape(N, -1) for leaf in kernels(rows)], 1)
  low, *_, high = np.linalg.eigvalsh(np.asarray(matrix @ matrix.T))
  for name in ("ntk_condition_number", "ntk_condition_number_frozen"):
    np.testing.assert_allclose(found[name].value, high / low, rtol=1e-6, err_msg=name)
  np.testing.assert_allclose(found["mgm_output"].value, float(jnp.square(flat(rows).mean(0)).sum()), rtol=1e-9)
  whole = jax.jacrev(case.outputs)(case.own)
  exact = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(whole)) / N
  np.testing.assert_allclose(found["trace_norm_exact"].value, float(exact), rtol=1e-9)
  by_inputs = np.asarray(jax.grad(lambda x: case.outputs(case.own, x).sum())(case.inputs)).reshape(N, -1)
  values = np.maximum(np.linalg.eigvalsh(np.corrcoef(by_inputs)), 0) + 1e-5
  np.testing.assert_allclose(found["jacob_cov"].value, -np.sum(np.log(values) + 1 / values), rtol=1e-6)


def test_synflow_is_the_flow_of_a_network_that_is_not_homogeneous(case):
  """By its definition: one sequence of ones, absolute kernels, no biases."""
  positive = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.abs(leaf) if "kernel" in path[-1].key else jnp.zeros_like(leaf), case.own
  )
  gradient = jax.grad(lambda own: case.outputs(own, jnp.ones((1, 8, 3))).sum())(positive)
  flow = sum(jnp.abs(w * g).sum() for w, g in zip(kernels(positive), kernels(gradient), strict=True))
  np.testing.assert_allclose(_found(NAMES)["synflow"].value, math.log10(float(flow)), rtol=1e-9)


def test_controls(case):
  found = _found(NAMES)
  assert found["params"].value == sum(leaf.size for leaf in jax.tree.leaves(case.own))
  products = sum(leaf.size for leaf in kernels(case.own))
  assert found["flops"].value == 8 * products
  wanted = sum(jnp.sqrt(jnp.square(leaf).sum()) for leaf in kernels(case.own))
  np.testing.assert_allclose(found["l2_norm"].value, float(wanted), rtol=1e-9)


def test_naswot_counts_signs_in_front_of_activations(case):
  network, arch = case.network, case.arch
  seen = network.apply(case.params, case.inputs, arch, collect=("observation",)).observation
  one = [network.apply(case.params, case.inputs[i][None], arch, collect=("observation",)).observation for i in range(N)]
  units = 8 * 4 * 4  # steps, activations and the output, hidden units
  np.testing.assert_array_equal([float(o.agreement[0, 0]) for o in one], units)
  agreement = np.asarray(seen.agreement)
  np.testing.assert_array_equal(np.diag(agreement), units)
  np.testing.assert_array_equal(agreement, agreement.T)
  assert 0.3 * units < agreement[0, 1] < units and agreement[0, 1] == round(agreement[0, 1])
  assert seen.features.shape == (N, 8, 1, 4)


def test_scores_of_many_sizes():
  """Of the data set's sequences, with targets; a program a size, shared among the proxies."""
  codes = SPACE.sample(jax.random.key(0), 5)
  batch = Batch(*data.plain_batch(data.load("signals"), jax.random.key(0), N))
  some = [proxies.get(name) for name in ("snip", "naswot", "params")]
  lines = scoring.score(some, SPACE, codes, batch, network=NetworkConfig(channels=5, cells=1, classes=48))
  assert [line.arch for line in lines[::3]] == [SPACE.format(code) for code in codes]
  assert all(line.status == "ok" for line in lines), lines
