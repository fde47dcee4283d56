"""The DARTS supernet: TE-NAS's reference networks, modes of batch normalisation, bad inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nested

from jaxnas import ntk, spaces
from jaxnas.base import Network, NetworkConfig
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces import mixing_weights
from jaxnas.spaces.darts.encoding import EDGES, OPS, TENAS_OPS
from jaxnas.spaces.darts.supernet import DARTSSupernet, leaving

COLUMNS = [TENAS_OPS.index(op) for op in OPS]  # of a fixture, in our order
SPACE = spaces.get("darts")
TENAS = SPACE.supernet(NetworkConfig(channels=1, cells=2))
REGIONS = SPACE.region_network(NetworkConfig())
CASES = ("full", "pruned_normal", "single_path_two_edges")


def load(fixtures, name):
  return dict(np.load(fixtures / f"tenas/{name}.npz"))


def weights_of(fixture, dtype=jnp.float64):
  """The fixture's parameters as the supernet stacks them."""

  def tree(prefix):
    return nested(fixture, f"w/{prefix}.", dtype)

  params = {name: tree(name) for name in ("stem", "last", "classifier") if tree(name)}
  for i in range(2):
    cell = {name: tree(f"cells.{i}.{name}") for name in ("preprocess0", "preprocess1")}
    for source in range(5):
      edges = [tree(f"cells.{i}.edge{EDGES[e][0] - 2}_{source}") for e in leaving(source)]
      cell[f"from{source}"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *edges)
    params[f"cell_{i}"] = cell
  return params


def alphas_of(fixture, case, suffix=""):
  """Mixing weights [2, 14, 8] of a case; an edge whose operations are all pruned has none."""
  raw = np.stack([fixture[f"{case}/alphas_{cell}{suffix}"] for cell in ("normal", "reduce")]).astype(np.float64)
  weights = mixing_weights(raw) * (raw.max(-1, keepdims=True) > -1000)
  return jnp.asarray(weights[..., COLUMNS])


@pytest.fixture(scope="module", params=["generic", "torch_default_init"])
def f4(request, fixtures):
  return load(fixtures, f"f4_ntk_darts_{request.param}")


@functools.partial(jax.jit, static_argnums=0)
def kernel(mode, params, images, alphas):
  """Logits and the NTK of TE-NAS's supernet."""

  def logits(p, x):
    return TENAS.apply(p, x, alphas, mode).logits

  def enters(path):
    return path.rsplit("/", 1)[-1] in ("kernel", "scale")

  theta = ntk.gram_matrix(logits, params, images, coupled=True, select=enters, chunk_size=4)
  return logits(params, images), theta


NTK_CASES = ("full", "pruned_normal_e3_op2", "pruned_reduce_e10_op1", "single_path", "single_path_two_edges")


def test_kernel_is_the_reference(x64, f4):
  params, images = weights_of(f4), jnp.asarray(f4["x_nhwc"], jnp.float64)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == f4["n_params_without_alpha"]
  for case in NTK_CASES:
    logits, theta = kernel("batch", params, images, alphas_of(f4, case))
    np.testing.assert_allclose(logits, f4[f"{case}/logits"], rtol=1e-10)
    np.testing.assert_allclose(theta, f4[f"{case}/ntk"], rtol=1e-10)
    condition = ntk.condition_number(np.asarray(theta))
    np.testing.assert_allclose(condition.ratio, f4[f"{case}/cond"], rtol=1e-9)


REGION_CASES = (
  *(f"patch/{case}" for case in ("full_normal_e3_op2", "two_normal_e0", "two_reduce_e1", "one_normal_e1_off")),
  "patch/one_normal_e4_off", "patch/one_reduce_e2_off", "gauss/two_normal_e0", "gauss/two_reduce_e1",
)  # fmt: skip


@pytest.mark.parametrize("init", ["generic", "kaiming_fanin_init"])
def test_patterns_are_the_reference(x64, fixtures, init):
  fixture = load(fixtures, f"f4_regions_darts_{init}")
  params = weights_of(fixture)
  run = jax.jit(jax.vmap(lambda *a: REGIONS.apply(*a, collect=("patterns",)).patterns, (None, 0, None)))
  for case in set(REGION_CASES) & {f"{kind}/{c}" for kind in ("patch", "gauss") for c in fixture["cases"].tolist()}:
    images = jnp.asarray(fixture[f"x_{case.split('/')[0]}_nhwc"], jnp.float64).reshape(3, 100, 3, 3, 1)
    for which in (0, 1):
      bits = np.asarray(run(params, images, alphas_of(fixture, case, f"_{which}"))).reshape(300, -1)
      wanted = np.unpackbits(fixture[f"{case}/pattern_{which}"], axis=1)[:, : fixture[f"{case}/n_neurons_{which}"]]
      assert len(np.unique(bits, axis=0)) == fixture[f"{case}/count_{which}"]
      # the same neurons, whatever their order and however often, but for those that are never active
      found, expected = ({c.tobytes() for c in b.T.astype(np.uint8) if c.any()} for b in (bits, wanted))
      assert found == expected


CONFIG = NetworkConfig(channels=1, cells=2, classes=3, init="kaiming_fan_out")
SMALL = SPACE.supernet(CONFIG)


@pytest.fixture(scope="module")
def small():
  images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
  weights = np.zeros((2, 14, 8), np.float32)
  weights[:, :, OPS.index("sep_conv_3x3")] = weights[:, :, OPS.index("skip_connect")] = 0.5
  return SMALL.init(jax.random.key(0)), images, jnp.asarray(weights)


def test_given_moments_are_those_of_the_batch(small):
  params, images, weights = small
  batch = jax.jit(lambda *a: SMALL.apply(*a, collect=("stats",)))(params, images, weights)
  given = jax.jit(lambda stats, *a: SMALL.apply(*a, "running", stats=stats).logits)(
    batch.stats, params, images, weights
  )
  np.testing.assert_allclose(given, batch.logits, rtol=1e-4, atol=1e-5)


def test_a_weight_of_zero_is_an_operation_that_is_not_there(small):
  params, images, weights = small
  run = jax.jit(lambda *a: SMALL.apply(*a).logits)
  before = run(params, images, weights)
  other = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * 7 if any(getattr(p, "key", "") == "dil_conv_5x5" for p in path) else leaf, params
  )
  np.testing.assert_array_equal(run(other, images, weights), before)
  changed = weights.at[0, 3, OPS.index("dil_conv_5x5")].set(0.5)
  assert np.abs(run(other, images, changed) - before).max() > 1e-4


def test_bad_input_is_refused(unchecked, small):
  params, images, weights = small
  with pytest.raises(ConfigError, match=r"weights of shape \(1, 6, 5\): expected \(2, 14, 8\)"):
    SMALL.apply(params, images, jnp.zeros((1, 6, 5)))
  with pytest.raises(DatasetError, match=r"\(3, 8, 8, 1\): expected \(N, H, W, 3\)"):
    SMALL.apply(params, images[..., :1], weights)
  with pytest.raises(ConfigError, match="needs stats"):
    SMALL.apply(params, images, weights, "running")
  with pytest.raises(ConfigError, match="collect='taps'"):
    SMALL.apply(params, images, weights, collect=("taps",))
  with pytest.raises(ConfigError, match="gates"):
    SMALL.apply(params, images, weights, gates={})
  for wrong, words in (({"cells": 0}, "cells=0"), ({"init": "x"}, "init='x'"), ({"auxiliary": True}, "auxiliary=True")):
    with pytest.raises(ConfigError, match=words):
      SPACE.supernet(dataclasses.replace(CONFIG, **wrong))
  with pytest.raises(ConfigError, match="reductions"):
    DARTSSupernet(CONFIG, reductions=(2,))


def test_it_keeps_the_contract():
  assert isinstance(SMALL, Network) and hash(SMALL) == hash(SPACE.supernet(CONFIG))
  codes = SPACE.sample(jax.random.key(0), 3)
  np.testing.assert_array_equal(SMALL.encode(codes).sum((2, 3)), 8)
