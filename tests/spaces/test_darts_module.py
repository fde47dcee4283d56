"""The Flax module of one DARTS genotype against the fast network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from module_checks import check_module_is_network, number_of_params

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces import mapping
from jaxnas.spaces.darts import costs, encoding, genotypes
from jaxnas.spaces.darts.mapping import parameters, statistics
from jaxnas.spaces.darts.module import DARTSCell, DARTSModule

SKIPS = encoding.from_cells(*2 * ([("skip_connect", i) for _ in encoding.NODES for i in range(2)],))
# All seven operations in both cells, in the reduction cell at stride 2 but one, and inputs of all nodes.
_ALL = [op for op in encoding.OPS if op != "none"]
EVERY = encoding.from_cells(
  [(op, source) for op, source in zip([*_ALL, "skip_connect"], (0, 1, 0, 2, 1, 3, 2, 4), strict=True)],
  [(op, source) for op, source in zip([*_ALL, "sep_conv_3x3"], (0, 1, 0, 1, 0, 1, 0, 4), strict=True)],
)


def check(code, cells, size=8, static=True, **settings):
  """`static`: whether the fast network is made for the genotype, or reads it from the code."""
  config = NetworkConfig(4, cells, 3, **settings)
  parts = parameters, functools.partial(statistics, genotype_is_data=not static)
  space = spaces.get("darts")
  own = space.trained_network(config, code) if static else None
  check_module_is_network(space, code, config, parts, own, size)


@pytest.mark.slow
def test_every_operation_at_both_strides_and_odd_sizes(x64):
  check(EVERY, cells=3, size=7)


@pytest.mark.slow
def test_skips_only_in_stages_of_several_cells(x64):
  check(SKIPS, cells=7)  # two normal cells, a reduction, one normal cell, a reduction, two normal cells


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "cells", "stem"), [("PDARTS", 7, "cifar"), ("DARTS_V2", 2, "cifar"), ("PDARTS", 4, "imagenet")]
)
def test_published_cells(name, cells, stem, x64):
  check(genotypes.get(name), cells, size=8 if stem == "cifar" else 32, stem=stem)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_network_whose_genotype_is_data(seed, x64):
  check(encoding.sample(jax.random.key(seed), 1)[0], cells=4, static=False)


@pytest.mark.parametrize("static", [True, False])
def test_trees_fit_where_the_genotype_is_static_or_data(static):
  config = NetworkConfig(4, 7, 3)
  space = spaces.get("darts")
  module, network = space.module(EVERY, config), space.trained_network(config, EVERY if static else None)
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  params, stats = jax.tree.map(
    lambda s: np.zeros(s.shape), (jax.eval_shape(network.init, jax.random.key(0)), network.init_stats())
  )
  found = {
    "params": mapping.gather(parameters(module), params),
    "batch_stats": mapping.gather(statistics(module, genotype_is_data=not static), stats),
  }
  wanted = jax.eval_shape(module.init, jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "size"), [("cifar", 32), ("imagenet", 224)])
def test_auxiliary_head(stem, size, x64):
  check(SKIPS, cells=2, size=size, stem=stem, auxiliary=True)


@pytest.mark.slow
def test_stem_of_imagenet(x64):
  check(SKIPS, cells=2, size=32, stem="imagenet")


@pytest.mark.parametrize("name", ["DARTS_V1", pytest.param("TENAS_CIFAR10", marks=pytest.mark.slow)])
def test_parameters_are_those_that_costs_count(name):
  arch = genotypes.get(name)
  assert number_of_params(DARTSModule(name), 8) == costs.params(arch)
  small = dataclasses.replace(costs.IMAGENET, channels=8, cells=5)
  assert number_of_params(DARTSModule(name, 8, 5, 1000, stem="imagenet"), 32) == costs.params(arch, small)
  heads = [number_of_params(DARTSModule(name, 8, 5, auxiliary=auxiliary), 32) for auxiliary in (False, True)]
  assert heads[1] - heads[0] == costs.auxiliary_cost(costs.EvaluationNetwork(8, 5, 10, 32, "cifar")).params


def test_drop_path_leaves_out_operations_but_not_identities():
  """Node 2 of a cell is an operation and an identity, both of the first state: each sample has both or one."""
  pairs = (("sep_conv_3x3", 0), ("skip_connect", 1), *(("skip_connect", i) for _ in range(3) for i in range(2)))
  cell = DARTSCell(pairs, 3, reduction=False, halve=False)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 4, 4, 3)), jnp.float32)
  variables = cell.init(jax.random.key(0), x, x)

  @jax.jit
  def node(rate, key):
    y = cell.apply(variables, x, x, True, rate, rngs={"drop_path": key}, mutable=["batch_stats"])[0]
    return y[..., :3]

  whole, identity = (
    node(0.0, jax.random.key(1)),
    cell.apply(variables, x, x, True, mutable=["batch_stats"])[0][..., 3:6],
  )
  # Nodes 3 to 5 are the sum of both states; the identity of node 2 is the second of them.
  states = cell.apply(variables, x, x, True, capture_intermediates=True, mutable=["batch_stats", "intermediates"])[1]
  first, second = (states["intermediates"][f"input_{i}"]["__call__"][0] for i in range(2))
  np.testing.assert_allclose(identity, first + second, rtol=1e-5, atol=1e-5)
  operation = whole - second
  dropped = node(0.3, jax.random.key(2))
  ratio = np.asarray(((dropped - second) * operation).sum((1, 2, 3)) / (operation**2).sum((1, 2, 3)))
  np.testing.assert_allclose(dropped, second + ratio[:, None, None, None] * operation, rtol=1e-3, atol=1e-4)
  kept = np.isclose(ratio, 1 / 0.7, rtol=1e-3)
  assert (kept | np.isclose(ratio, 0, atol=1e-3)).all()
  assert 0.6 < kept.mean() < 0.8  # 200 draws of 0.7: three deviations
  again = cell.apply(variables, x, x, False, 0.3)[..., :3]  # nothing is left out in evaluation, and no RNG needed
  assert np.isfinite(again).all()


def test_module_trains_in_a_loop_of_ones_own():
  images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
  labels = jnp.asarray([0, 1, 2, 0])
  module = DARTSModule(encoding.format(EVERY), 2, 1, 3)
  variables = jax.jit(module.init)(jax.random.key(1), images)
  state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=optax.sgd(0.05))

  @jax.jit
  def step(state, stats, key):
    def loss(params):
      own, rngs = {"params": params, "batch_stats": stats}, {"drop_path": key}
      logits, updates = state.apply_fn(own, images, train=True, drop_path=0.1, rngs=rngs, mutable=["batch_stats"])
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates["batch_stats"]

    (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient), moved, value

  stats, losses = variables["batch_stats"], []
  for i in range(15):
    state, stats, value = step(state, stats, jax.random.key(i))
    losses.append(float(value))
  assert losses[-1] < 0.7 * losses[0]


def test_settings_that_are_none_are_refused(unchecked):
  images = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(ConfigError, match="stem='stm'"):
    jax.eval_shape(DARTSModule("DARTS_V2", 4, 2, stem="stm").init, jax.random.key(0), images)
  with pytest.raises(ArchitectureError, match="DARTS_V9"):
    jax.eval_shape(DARTSModule("DARTS_V9", 4, 2).init, jax.random.key(0), images)
