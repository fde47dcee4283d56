"""Kernels of infinite width against wide networks in plain JAX, against stax alone, and as a proxy."""

import functools
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw, jaxnas, needs_neural_tangents

from jaxnas import base, data, ntk, proxies, registry, scoring, spaces
from jaxnas.algorithms.score import ScoreConfig
from jaxnas.base import InfiniteWidth, lacking
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.ntk import neural_tangents_bridge
from jaxnas.spaces.nb201 import encoding

SPACE = spaces.get("nb201")
PROXY = proxies.get("infinite_ntk_condition_number")
N = 3
IMAGES = draw(0, N, 8, 8, 3, dtype=np.float32)
SMALL = IMAGES[:2, ::2, ::2]
# All operations; nodes that are reached by several ways without a convolution, sums of terms that are not independent.
MIXED = "|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"
LINEAR = "|skip_connect~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|skip_connect~1|skip_connect~2|"
CHAIN = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|nor_conv_3x3~2|"
CUT = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|none~1|none~2|"


def infinite(text, *images):
  return np.asarray(SPACE.infinite_width(SPACE.parse(text))(*images))


# A network of finite width, as its paper draws it, without batch normalisation


def conv(x, kernel, stride=1):
  """He: the factor sqrt(2 / fan in) stands outside the parameters."""
  scale, pad = math.sqrt(2 / math.prod(kernel.shape[:3])), kernel.shape[0] // 2
  dimensions = ("NHWC", "HWIO", "NHWC")
  return scale * jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=dimensions)


def window_mean(x, size, stride, padding):
  def total(a):
    return jax.lax.reduce_window(a, 0.0, jax.lax.add, (1, size, size, 1), (1, stride, stride, 1), padding)

  return total(x) / total(jnp.ones_like(x))


def network(text, params, images):
  """Every layer takes the next kernel of `params`: a function of (size, stride, x)."""
  operations = dict(zip(encoding.EDGES, encoding.parse(text).tolist(), strict=True))

  def cell(x):
    nodes = [x]
    for target in (1, 2, 3):
      total = jnp.zeros_like(x)
      for source in range(target):
        name, y = encoding.OPS[operations[target, source]], nodes[source]
        if name == "skip_connect":
          total += y
        elif name == "avg_pool_3x3":
          total += window_mean(y, 3, 1, "SAME")
        elif name != "none":
          total += params(3 if name == "nor_conv_3x3" else 1, 1, jax.nn.relu(y))
      nodes.append(total)
    return nodes[-1]

  x = cell(params(3, 1, images))
  for _ in range(2):
    y = params(3, 1, jax.nn.relu(params(3, 2, jax.nn.relu(x))))
    x = cell(y + params(1, 1, window_mean(x, 2, 2, "VALID")))
  return params(1, 1, jax.nn.relu(x).mean((1, 2), keepdims=True))[:, 0, 0]


def finite_kernel(text, width, images, key):
  """[N, N] of one output of a network with this many channels everywhere."""
  shapes = []

  def measured(size, stride, x):
    shapes.append((size, size, x.shape[-1], width))
    return jnp.zeros((x.shape[0], x.shape[1] // stride, x.shape[2] // stride, width), x.dtype)

  jax.eval_shape(lambda: network(text, measured, images))
  shapes[-1] = (*shapes[-1][:3], 1)
  params = [jax.random.normal(jax.random.fold_in(key, i), shape) for i, shape in enumerate(shapes)]

  def f(params, x):
    own = iter(params)
    return network(text, lambda size, stride, x: conv(x, next(own), stride), x)

  return ntk.empirical_ntk_fn(f, vmap_axes=0)(images, None, params)


@needs_neural_tangents
@pytest.mark.parametrize("text", [MIXED, LINEAR])
def test_wide_networks_come_near_it(text):
  """One network's error halves with four times the channels; the mean of several has no other limit."""
  limit, errors, means = infinite(text, SMALL), [], []
  for width, draws in ((16, 32), (64, 16), (256, 8)):
    kernel = jax.jit(functools.partial(finite_kernel, text, width, SMALL))
    found = np.stack([kernel(jax.random.key(i)) for i in range(draws)])
    errors.append(np.linalg.norm(found - limit, axis=(1, 2)).mean() / np.linalg.norm(limit))
    means.append(np.linalg.norm(found.mean(0) - limit) / np.linalg.norm(limit))
  assert errors[0] > 1.3 * errors[1] and errors[1] > 1.3 * errors[2], errors
  assert errors[2] < 0.3 and means[2] < 0.15, (errors, means)


# Properties


@needs_neural_tangents
def test_a_chain_is_what_stax_makes_of_it():
  """Without two ways to a node, `stax` alone gives it."""
  stax, he = neural_tangents_bridge.load().stax, math.sqrt(2)

  def layer(size):
    return stax.Conv(1, (size, size), padding="SAME", W_std=he)

  def cell():
    return [part for size in (3, 1, 3) for part in (stax.Relu(), layer(size))]

  def reduction():
    deep = stax.serial(stax.Relu(), layer(3), stax.AvgPool((1, 1), (2, 2)), stax.Relu(), layer(3))
    short = stax.serial(stax.AvgPool((2, 2), (2, 2)), layer(1))
    return [stax.FanOut(2), stax.parallel(deep, short), stax.FanInSum()]

  body = [layer(3), *cell(), *reduction(), *cell(), *reduction(), *cell()]
  whole = stax.serial(*body, stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1, W_std=he))
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
    pytest.warns(UserWarning, match="independent"),  # it warns at every sum
  ):
    expected = whole[2](IMAGES, None, "ntk")
  np.testing.assert_allclose(infinite(CHAIN, IMAGES), expected, rtol=1e-3)


@needs_neural_tangents
def test_two_sets_of_images_give_a_block_of_the_whole():
  whole = infinite(MIXED, IMAGES)
  np.testing.assert_allclose(infinite(MIXED, IMAGES[:1], IMAGES[1:]), whole[:1, 1:], rtol=1e-3)
  np.testing.assert_allclose(whole, whole.T, rtol=1e-4)
  assert np.linalg.eigvalsh(whole)[0] > 0
  np.testing.assert_allclose(infinite(MIXED, 2 * IMAGES), 4 * whole, rtol=1e-3)  # homogeneous: ReLU without biases


@needs_neural_tangents
def test_a_traced_architecture_is_the_same():
  codes = np.stack([SPACE.parse(text) for text in (MIXED, CUT)])
  kernel = jax.jit(lambda code, images: SPACE.infinite_width(code)(images))
  ours = [kernel(jnp.asarray(code), IMAGES) for code in codes]
  np.testing.assert_allclose(ours[0], infinite(MIXED, IMAGES), rtol=1e-3)
  np.testing.assert_array_equal(ours[1], np.zeros((N, N), np.float32))


@needs_neural_tangents
@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ((3, 6, 8, 3), "multiples of 4"),
    ((0, 8, 8, 3), "multiples of 4"),
    ((8, 8, 3), r"\(8, 8, 3\)"),
    ((17, 8, 8, 3), "1024 pixels"),
    ((2, 32, 32, 3), "16 images of 8 x 8"),
  ],
)
def test_images_that_do_not_fit_are_refused(unchecked, shape, message):
  kernel_fn = SPACE.infinite_width(SPACE.parse(MIXED))
  with pytest.raises(ConfigError, match=message):
    kernel_fn(np.zeros(shape, np.float32))
  with pytest.raises(ConfigError, match=message):
    kernel_fn(IMAGES, np.zeros(shape, np.float32))


@needs_neural_tangents
def test_no_architecture_is_refused():
  with pytest.raises(ArchitectureError, match="op columns"):
    SPACE.infinite_width(np.full(6, 5))


# The proxy


def prepared(space=SPACE, **settings):
  return PROXY.prepare(space, data.load("synthetic"), PROXY.Settings(**settings), jax.random.key(0))


@needs_neural_tangents
def test_scores_are_condition_numbers_of_the_kernel():
  inputs = prepared(infinite_batch=4)
  assert inputs.batch.inputs.shape == (4, 8, 8, 3) and isinstance(inputs.network, base.Parametrised)
  texts = [MIXED, CUT, CHAIN]
  lines = scoring.score([PROXY], SPACE, texts, inputs.batch, network=inputs.network)
  for line in (lines[0], lines[2]):
    values = np.linalg.eigvalsh(infinite(line.arch, inputs.batch.inputs).astype(np.float64))
    np.testing.assert_allclose(line.value, values[-1] / values[0], rtol=1e-3)
    assert line.status == "ok" and line.rank_by == -line.value
  assert lines[1].status == "singular" and lines[1].rank_by < min(lines[0].rank_by, lines[2].rank_by)


@needs_neural_tangents
def test_from_the_command_line(tmp_path):
  jaxnas(
    *("--algorithm=score", "--archs=1462,0", "--proxies=infinite_ntk_condition_number,params", "--infinite_batch=3"),
    *("--score_channels=2", "--score_cells=1", f"--workdir={tmp_path}"),
  )
  lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
  found = [line for line in lines if line.get("proxy") == PROXY.name]
  assert len(found) == 2 and len({line["value"] for line in found}) == 2
  assert all(line["status"] == "ok" and line["value"] > 1 for line in found)


@pytest.mark.parametrize("name", ["nb101", "darts"])
def test_other_spaces_have_none(name):
  assert lacking(spaces.get(name), InfiniteWidth) == ["infinite_width"] and not lacking(SPACE, InfiniteWidth)
  with pytest.raises(ConfigError, match=rf"infinite_ntk_condition_number.*--space={name}.*ntk_condition_number_frozen"):
    prepared(spaces.get(name))


def test_without_the_package_it_says_what_to_install(monkeypatch, caplog):
  monkeypatch.setitem(sys.modules, "neural_tangents", None)
  with pytest.raises(ConfigError, match="infinite_ntk_condition_number.*pip install --no-deps neural-tangents"):
    prepared()
  with pytest.raises(ImportError, match="pip install"):
    SPACE.infinite_width(SPACE.parse(MIXED))
  scored = ScoreConfig(archs=("1",), proxies=("all",))
  registry.make("algorithm", "score").work(base.Context(SPACE, data.load("synthetic"), scored))
  assert "leaves out" in caplog.text and "infinite_ntk_condition_number (" in caplog.text


@needs_neural_tangents
def test_all_proxies_are_with_it_where_the_package_is(caplog):
  scored = ScoreConfig(archs=("1",), proxies=("all",))
  registry.make("algorithm", "score").work(base.Context(SPACE, data.load("synthetic"), scored))
  assert PROXY.name not in caplog.text


@pytest.mark.parametrize("size", [1, 17])
def test_a_batch_of_another_size_is_refused(size):
  with pytest.raises(ConfigError, match=rf"--infinite_batch={size} must lie in \[2, 16\]"):
    PROXY.Settings(infinite_batch=size)
