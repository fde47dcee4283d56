"""Layers against plain formulas, and single operations against the reference code's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw, nested
from jax import lax

from jaxnas.nets import layers, passes
from jaxnas.spaces.nb201.cell import cell
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import reduction
from jaxnas.spaces.nb201.operations import Operations
from jaxnas.spaces.nb201.parameters import CONVS, edge_name, new_batch_norm

FOLDS = (1, 2, 4, 8)
EXACT = {"rtol": 1e-11, "atol": 1e-11}
# Compiling is most of the time here: LLVM without its expensive passes.
NB201_CASES = [
  f"{op}.s1.hw{side}"
  for op in ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
  for side in (8, 7, 3)
]
OTHER_CASES = ["nor_conv_1x1.c6to4.hw8", "resblock.s2.c5to10.hw8", "resblock.s2.c5to10.hw16"]
DARTS_KINDS = (
  "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "max_pool_3x3",
  "skip_connect.s2", "avg_pool_3x3.s2", "none.s2",
)  # fmt: skip


def plain_conv(x, kernel, stride):
  pad = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=numbers, precision="highest")


def assert_trees_close(actual, expected, **tolerance):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, **tolerance)


@functools.partial(jax.jit, static_argnums=(0, 1))
def pull(layer, stride, arguments, cotangents):
  """`layer(*arguments, stride)`, and the pull-backs of cotangents [B, ...] in all arguments."""
  y, pullback = jax.vjp(lambda *a: layer(*a, stride), *arguments)
  return y, jax.vmap(pullback)(cotangents)


# Convolution


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_folded_conv_is_the_plain_one(x64, monkeypatch, size, fold):
  calls = []
  monkeypatch.setattr(layers, "width_fold", lambda *a: calls.append(a) or fold)
  arguments, cotangents = (draw(0, 2, 5, 8, 3), draw(1, size, size, 3, 4)), draw(2, 2, 2, 5, 8, 4)
  actual = pull(lambda *a: layers.conv(*a), 1, arguments, cotangents)  # a new function: no cache
  assert_trees_close(actual, pull(plain_conv, 1, arguments, cotangents), **EXACT)
  assert calls


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("sides", [(8, 8), (7, 5)])
def test_strided_conv_is_the_plain_one(x64, size, sides):
  arguments = draw(0, 2, *sides, 3), draw(1, size, size, 3, 4)
  cotangents = draw(2, 2, 2, -(-sides[0] // 2), -(-sides[1] // 2), 4)
  actual = pull(layers.conv, 2, arguments, cotangents)
  assert_trees_close(actual, pull(plain_conv, 2, arguments, cotangents), **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_pullback_under_vmap_is_the_loop(x64, stride):
  arguments = draw(0, 2, 6, 8, 3), draw(1, 3, 3, 3, 4)
  cotangents = draw(2, 3, 2, 6 // stride, 8 // stride, 4)
  _, together = pull(layers.conv, stride, arguments, cotangents)
  apart = [pull(layers.conv, stride, arguments, dy[None])[1] for dy in cotangents]
  assert_trees_close(together, jax.tree.map(lambda *r: jnp.concatenate(r), *apart), **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_gradients_per_sample(x64, stride):
  x, kernel = draw(0, 3, 6, 8, 3), draw(1, 3, 3, 3, 4)

  @functools.partial(jax.jit, static_argnums=0)
  def rows(conv):
    def one(sample):
      return jax.grad(lambda k: jnp.square(conv(sample[None], k, stride)).sum())(kernel)

    return jax.vmap(one)(x)

  assert_trees_close(rows(layers.conv), rows(plain_conv), **EXACT)


@pytest.mark.parametrize("channels", [(3, 4), (4, 2)])
@pytest.mark.parametrize("fold", [1, 3])
@pytest.mark.parametrize(("stride", "size"), [(1, 3), (2, 3), (2, 1), (2, 5)])
def test_conv_transpose_is_the_adjoint(x64, monkeypatch, stride, size, fold, channels):
  monkeypatch.setattr(layers, "width_fold", lambda *_: fold * (3 - stride))
  x, kernel = draw(0, 2, 7, 6, channels[0]), draw(1, size, size, *channels)
  y = jax.jit(plain_conv, static_argnums=2)(x, kernel, stride)
  dy = draw(2, *y.shape)
  back = jax.jit(lambda dy, k: layers.conv_transpose(dy, k, stride, x.shape))(dy, kernel)
  assert back.shape == x.shape
  np.testing.assert_allclose(np.vdot(y, dy), np.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize(("stride", "size"), [(1, 3), (2, 3), (2, 1), (1, 5)])
def test_patches_are_in_kernel_order(x64, stride, size):
  x, kernel = draw(0, 2, 7, 6, 3), draw(1, size, size, 3, 4)
  window = jax.jit(layers.patches, static_argnums=(1, 2))(x, size, stride)
  expected = jax.jit(plain_conv, static_argnums=2)(x, kernel, stride)
  product = np.asarray(window) @ np.asarray(kernel).reshape(-1, 4)
  np.testing.assert_allclose(product, expected, **EXACT)


def test_width_fold_divides_the_width():
  for width in (1, 3, 7, 8, 12, 32):
    for channels in ((3, 3), (1, 1), (12, 12), (64, 64)):
      fold = layers.width_fold(width, *channels)
      assert 1 <= fold <= width
      assert width % fold == 0
  assert layers.width_fold(32, 64, 64) == 1


def test_conv_keeps_float32():
  arguments = draw(0, 2, 6, 8, 3, dtype=np.float32), draw(1, 3, 3, 3, 4, dtype=np.float32)
  cotangents = draw(2, 2, 2, 6, 8, 4, dtype=np.float32)
  actual = pull(layers.conv, 1, arguments, cotangents)
  assert_trees_close(actual, pull(plain_conv, 1, arguments, cotangents), rtol=1e-4, atol=1e-4)


# Convolution with batch normalisation


def mix_arguments(sizes, dtype=np.float64, sides=(6, 8), channels=(3, 4)):
  c_in, c_out = channels
  vectors = [[draw(10 * i + j, c_out, dtype=dtype) for i in range(len(sizes))] for j in range(3)]
  kernels = tuple(draw(90 + i, k, k, c_in, c_out, dtype=dtype) for i, k in enumerate(sizes))
  x = jax.nn.relu(draw(7, 3, *sides, c_in, dtype=dtype))
  return (x, kernels, *(tuple(v) for v in vectors))


def plain_mix(x, kernels, scales, biases, weights, stride):
  y = 0.0
  for kernel, scale, bias, weight in zip(kernels, scales, biases, weights, strict=True):
    z = plain_conv(x, kernel, stride)
    mean = z.mean((0, 1, 2), keepdims=True)
    variance = jnp.square(z - mean).mean((0, 1, 2), keepdims=True)
    normal = (z - mean) / jnp.sqrt(variance + jnp.asarray(1e-5, z.dtype))
    y = y + weight[None, None, None] * (normal * scale[None, None, None] + bias[None, None, None])
  return y


@pytest.mark.parametrize(("sizes", "stride"), [((1,), 1), ((3,), 2), ((1, 3), 1), ((1, 3), 2), ((3, 1, 5), 1)])
def test_fused_pullback_is_plain_autodiff(x64, sizes, stride):
  arguments = mix_arguments(sizes)
  cotangents = draw(5, 2, 3, 6 // stride, 8 // stride, 4)
  actual = pull(layers.conv_bn_mix, stride, arguments, cotangents)
  assert_trees_close(actual, pull(plain_mix, stride, arguments, cotangents), rtol=1e-9, atol=1e-10)


def test_fused_pullback_at_odd_sides_with_stride(x64):
  arguments = mix_arguments((1, 3), sides=(7, 5))
  cotangents = draw(5, 2, 3, 4, 3, 4)
  actual = pull(layers.conv_bn_mix, 2, arguments, cotangents)
  assert_trees_close(actual, pull(plain_mix, 2, arguments, cotangents), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("stride", "channels"), [(1, (3, 4)), (2, (4, 3))])
def test_fused_sum_is_the_sum_of_plain_mixes(x64, stride, channels):
  """Inputs with other kernel sizes share one pull-back; few and many output channels lay out products differently."""
  parts = [mix_arguments(sizes, channels=channels) for sizes in ((1, 3), (1,), (3, 5))]
  parts[1] = (jax.nn.relu(draw(11, *parts[1][0].shape)), *parts[1][1:])
  xs = tuple(x for x, *_ in parts)
  mixes = tuple(tuple(zip(*rest, strict=True)) for _, *rest in parts)
  cotangents = draw(5, 2, 3, 6 // stride, 8 // stride, channels[1])

  def plain(xs, mixes, stride):
    return sum(plain_mix(x, *zip(*mix, strict=True), stride) for x, mix in zip(xs, mixes, strict=True))

  actual = pull(layers.conv_bn_sum, stride, (xs, mixes), cotangents)
  assert_trees_close(actual, pull(plain, stride, (xs, mixes), cotangents), rtol=1e-9, atol=1e-10)


def test_fused_pullback_in_float32():
  arguments = mix_arguments((1, 3), np.float32)
  cotangents = draw(5, 2, 3, 6, 8, 4, dtype=np.float32)
  actual = pull(layers.conv_bn_mix, 1, arguments, cotangents)
  assert_trees_close(actual, pull(plain_mix, 1, arguments, cotangents), rtol=1e-3, atol=2e-4)


def test_fused_pullback_of_a_constant_input_is_finite(x64):
  """A disconnected node: the variance is 0 and only eps keeps the gradient finite."""
  arguments = mix_arguments((1, 3))
  arguments = (jnp.zeros_like(arguments[0]), *arguments[1:])
  cotangents = draw(5, 2, 3, 6, 8, 4)
  actual = pull(layers.conv_bn_mix, 1, arguments, cotangents)
  assert_trees_close(actual, pull(plain_mix, 1, arguments, cotangents), rtol=1e-9, atol=1e-9)


def plain_affine(x, kernels, scales, biases, weights, means, variances, stride):
  y = 0.0
  for k, s, b, w, m, v in zip(kernels, scales, biases, weights, means, variances, strict=True):
    centred = plain_conv(x, k, stride) - m[None, None, None]
    normal = centred / jnp.sqrt(v + 1e-5)[None, None, None]
    y = y + w[None, None, None] * (normal * s[None, None, None] + b[None, None, None])
  return y


def affine_mix(x, kernels, scales, biases, weights, means, variances, stride):
  """Two inputs, the second scaled, as one convolution; `plain_affine` twice is the same."""
  mix = list(zip(kernels, scales, biases, weights, strict=True))
  moments = list(zip(means, variances, strict=True))
  both = layers.conv_affine_sum([x, 2 * x], [mix, mix[:1]], [moments, moments[:1]], stride)
  return both - layers.conv_affine_sum([2 * x], [mix[:1]], [moments[:1]], stride)


@pytest.mark.parametrize(("sizes", "stride"), [((3,), 2), ((1, 3), 1)])
def test_affine_mix_is_the_formula(x64, sizes, stride):
  means = tuple(draw(60 + i, 4) for i in range(len(sizes)))
  variances = tuple(jnp.square(draw(70 + i, 4)) for i in range(len(sizes)))
  arguments = (*mix_arguments(sizes), means, variances)
  cotangents = draw(5, 2, 3, 6 // stride, 8 // stride, 4)
  actual = pull(affine_mix, stride, arguments, cotangents)
  assert_trees_close(actual, pull(plain_affine, stride, arguments, cotangents), rtol=1e-9, atol=1e-9)


def test_values_without_differentiation(x64):
  """Fused, affine with this batch's moments, and plain: one value."""
  x, kernels, *vectors = mix_arguments((1, 3))

  @jax.jit
  def values(x):
    moments = [layers.batch_moments(plain_conv(x, k, 1)) for k in kernels]
    means, variances = zip(*moments, strict=True)
    affine = affine_mix(x, kernels, *vectors, means, variances, 1)
    return layers.conv_bn_mix(x, kernels, *vectors, 1), affine, plain_mix(x, kernels, *vectors, 1)

  fused, affine, plain = values(x)
  np.testing.assert_allclose(fused, plain, **EXACT)
  np.testing.assert_allclose(affine, plain, **EXACT)


def test_moments_are_biased_and_normalise_uses_them(x64):
  z = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
  mean, variance = map(np.asarray, jax.jit(layers.batch_moments)(jnp.asarray(z)))
  np.testing.assert_allclose(mean, z.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(variance, z.var((0, 1, 2)), rtol=1e-12)
  expected = (z - mean) / np.sqrt(variance + layers.BN_EPSILON)
  np.testing.assert_allclose(jax.jit(layers.normalise)(*map(jnp.asarray, (z, mean, variance))), expected, rtol=1e-12)


def test_embedded_kernel_convolves_alike(x64):
  x, kernel = draw(0, 2, 6, 8, 3), draw(1, 1, 1, 3, 4)
  larger = layers.embed_kernel(kernel, 3)
  assert larger.shape == (3, 3, 3, 4)
  convolve = jax.jit(plain_conv, static_argnums=2)
  np.testing.assert_allclose(convolve(x, larger, 1), convolve(x, kernel, 1), **EXACT)


# Pooling


@pytest.mark.parametrize("sides", [(8, 8), (5, 7), (3, 3), (2, 1), (1, 1)])
def test_avg_pool_does_not_count_padding(x64, sides):
  x = draw(0, 2, *sides, 3)
  expected = np.zeros(x.shape)
  for i, j in np.ndindex(sides):
    window = np.asarray(x)[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
    expected[:, i, j] = window.mean((1, 2))
  np.testing.assert_allclose(jax.jit(layers.avg_pool)(x), expected, **EXACT)


def test_avg_pool_of_a_constant_is_the_constant():
  np.testing.assert_allclose(jax.jit(layers.avg_pool)(jnp.full((1, 4, 6, 2), 3.0)), 3.0, rtol=1e-6)


@pytest.mark.parametrize("sides", [(4, 6), (5, 7)])
def test_halving_pool_drops_an_odd_last_row(x64, sides):
  x = np.asarray(draw(0, 2, *sides, 3))
  height, width = sides[0] // 2, sides[1] // 2
  expected = np.zeros((2, height, width, 3))
  for i, j in np.ndindex(height, width):
    expected[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
  np.testing.assert_allclose(jax.jit(layers.avg_pool_2x2)(jnp.asarray(x)), expected, **EXACT)


# Single operations of the reference code


@pytest.fixture(scope="module")
def ops(fixtures):
  with np.load(fixtures / "tenas" / "f0_ops.npz") as file:
    return dict(file)


MODES = [("batch", "y_train_nhwc"), ("identity", "y_eval_nhwc")]
FORMS = ("single", "many", "second_order")


def operations_of(mode, form):
  return Operations(passes.begin(mode, (), None, able=()), form)


@pytest.mark.parametrize("way", ["static", "switch", "many", "second_order"])
@pytest.mark.parametrize(("mode", "output"), MODES)
@pytest.mark.parametrize("case", NB201_CASES)
def test_operation_of_a_cell_is_the_reference(x64, ops, case, mode, output, way):
  op, edge = OPS.index(case.split(".")[0]), EDGES.index((3, 0))  # the edge from the cell's input to its output
  code = np.zeros(len(EDGES), np.int32)
  code[edge] = op
  idle = {OPS[o]: {"conv": {"kernel": jnp.zeros((k, k, 4, 4))}, "bn": new_batch_norm((4,))} for o, k in CONVS.items()}
  params = {edge_name(e): jax.tree.map(lambda leaf: leaf.astype(jnp.float64), idle) for e in EDGES}
  if weights := nested(ops, f"{case}/w/"):
    params["edge3_0"][OPS[op]] = weights
  choices = {"static": tuple(code.tolist()), "switch": jnp.asarray(code)}.get(way, jnp.eye(len(OPS))[code])
  operations = operations_of(mode, way if way in FORMS else "single")

  def run(x, params):
    return cell(operations, choices, x, {"params": params, "stats": None})[0]

  y = jax.jit(run)(jnp.asarray(ops[f"{case}/x_nhwc"], jnp.float64), params)
  np.testing.assert_allclose(y, ops[f"{case}/{output}"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mode", "output"), MODES)
@pytest.mark.parametrize("case", OTHER_CASES)
def test_block_is_the_reference(x64, ops, case, mode, output, form):
  operations, weights = operations_of(mode, form), nested(ops, f"{case}/w/")

  def run(x, weights):
    if case.startswith("resblock"):
      return reduction(operations, x, weights, {})[0]
    return operations.conv_bn(jax.nn.relu(x), weights, None)[0]

  y = jax.jit(run)(jnp.asarray(ops[f"{case}/x_nhwc"], jnp.float64), weights)
  np.testing.assert_allclose(y, ops[f"{case}/{output}"], rtol=1e-10, atol=1e-12)


def test_every_case_is_tested_or_of_darts(ops):
  rest = set(ops["cases"].tolist()) - {*NB201_CASES, *OTHER_CASES}
  assert {*NB201_CASES, *OTHER_CASES} <= set(ops["cases"].tolist())
  assert all(case.startswith(DARTS_KINDS) for case in rest)
