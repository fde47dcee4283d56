"""The DARTS network with GenNAS's taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.errors import ConfigError
from jaxnas.spaces.darts import Backbone, costs, genotypes

SPACE = spaces.get("darts")
BACKBONE = SPACE.backbone(channels=2, cells=3)
ARCH = genotypes.get("DARTS_V2")
ALPHAS = jnp.asarray(SPACE.alphas(ARCH))


@pytest.fixture(scope="module")
def drawn():
  images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
  return BACKBONE.init_params(jax.random.key(0)), BACKBONE.init_stats(), images


def test_taps_are_the_stages_outputs(drawn):
  params, stats, images = drawn
  taps, moved = jax.jit(BACKBONE.taps, static_argnums=4)(params, stats, images, ALPHAS, True)
  assert [tap.shape for tap in taps] == [(3, 8, 8, 8), (3, 4, 4, 16), (3, 2, 2, 32)]
  assert tuple(tap.shape[-1] for tap in taps) == BACKBONE.tap_channels
  last = jax.jit(BACKBONE.network.observe)(params, images, ALPHAS).features
  np.testing.assert_allclose(taps[-1], last, rtol=1e-5, atol=1e-6)
  mean, variance = moved["stem"]["a"] if "a" in moved["stem"] else moved["stem"]
  assert np.abs(mean).max() > 0
  np.testing.assert_array_less(0.9, variance)


def test_evaluation_uses_the_running_statistics_and_leaves_them(drawn):
  params, stats, images = drawn
  run = jax.jit(BACKBONE.taps, static_argnums=4)
  both, same = run(params, stats, images, ALPHAS, False)
  one, _ = run(params, stats, images[:1], ALPHAS, False)
  np.testing.assert_allclose(both[-1][:1], one[-1], rtol=1e-4, atol=1e-5)  # samples do not see each other
  jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_parameters_are_those_of_the_network_without_classifier():
  whole = costs.params(ARCH, costs.Evaluation(channels=2, cells=3))
  assert BACKBONE.parameter_count(ALPHAS) == whole - (32 * 10 + 10)


def test_two_cells_are_refused():
  with pytest.raises(ConfigError, match="cells=2 must be at least 3"):
    Backbone(cells=2)
