"""Convolutions, batch normalisation and pooling, in the form that is fast for kernels at initialisation.

Kernels need one backward pass per sample, so the cost of a layer is that of its pull-back under `vmap`
over cotangents. Two ideas keep the cores busy there:

* **Folding.** With 3 to 12 channels a convolution spends its time on packing. `width_fold` neighbouring pixels
  of a row are moved into the channel axis (a free reshape in NHWC) and the kernel is expanded to match.
* **One correlation for everything.** For `BN(conv(x))` with mini-batch statistics, the gradients of kernel, scale
  and bias, and the two means inside the pull-back of BN, are all linear in `A = sum patches(x) dy`. `conv_bn_mix`
  computes A once per *source* of a cell, for all its outgoing edges and kernel sizes together.

All layers use symmetric padding (k - 1) // 2, as PyTorch does (`SAME` differs at stride 2), NHWC and HWIO.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

BN_EPSILON = 1e-5
_HIGHEST = lax.Precision.HIGHEST
_FOLDED_CHANNELS = 48  # input + output channels at which folding stops to pay on a CPU (BUILD_NOTES.md)

Kernels = Sequence[Float[Array, "k k Cin Cout"]]
Vectors = Sequence[Float[Array, " Cout"]]


def width_fold(width: int, channels_in: int, channels_out: int) -> int:
  """How many neighbouring pixels of a row to treat as channels: a divisor of `width`, 1 for no folding."""
  if jax.default_backend() != "cpu":
    return 1
  limit = max(1, _FOLDED_CHANNELS // (channels_in + channels_out))
  return max(b for b in range(1, width + 1) if width % b == 0 and b <= limit)


def _folded_kernel(kernel: Array, fold: int) -> Array:
  """HWIO kernel of odd width k -> kernel over blocks of `fold` pixels, [k, 3 or more, fold*Cin, fold*Cout]."""
  height, width, channels_in, channels_out = kernel.shape
  reach = -(-(width // 2) // fold)  # blocks to each side
  select = np.zeros((2 * reach + 1, width, fold, fold))
  for out in range(fold):
    for tap in range(width):
      block, inside = divmod(out + tap - width // 2, fold)
      select[block + reach, tap, inside, out] = 1
  expanded = jnp.einsum("btmn,ytio->ybmino", select.astype(kernel.dtype), kernel, precision=_HIGHEST)
  return expanded.reshape(height, 2 * reach + 1, fold * channels_in, fold * channels_out)


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
  n, height, width, channels_in = x.shape
  channels_out = kernel.shape[-1]
  fold = width_fold(width, channels_in, channels_out) if stride == 1 else 1
  if fold > 1:
    x = x.reshape(n, height, width // fold, fold * channels_in)
    kernel = _folded_kernel(kernel, fold)
  pad = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
  y = lax.conv_general_dilated(
    x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=_HIGHEST
  )
  return y.reshape(n, height, width, channels_out) if fold > 1 else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "k k Cin Cout"], stride: int = 1
) -> Float[Array, "N H2 W2 Cout"]:
  """Convolution without bias, padded symmetrically by (k - 1) // 2, at full float32 precision.

  Its kernel gradient is a matrix product over `patches`, also per sample (under `vmap` the gradient that XLA
  derives becomes a grouped convolution, which is several times slower).
  """
  return _convolve(x, kernel, stride)


def _conv_fwd(x, kernel, stride):
  return _convolve(x, kernel, stride), (x, kernel)


def _conv_bwd(stride, residuals, dy):
  x, kernel = residuals
  window = patches(x, kernel.shape[0], stride)
  d_kernel = jnp.einsum("nhwk,nhwc->kc", window, dy, precision=_HIGHEST)
  return conv_transpose(dy, kernel, stride, x.shape), d_kernel.reshape(kernel.shape)


conv.defvjp(_conv_fwd, _conv_bwd)


def conv_transpose(
  dy: Float[Array, "N H2 W2 Cout"], kernel: Array, stride: int, shape: tuple[int, ...]
) -> Float[Array, "N H W Cin"]:
  """The transpose of `conv` in its input, whose shape is `shape`."""
  if stride == 1:
    return _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
  primal = jax.ShapeDtypeStruct((dy.shape[0], *shape[1:]), dy.dtype)
  return jax.linear_transpose(lambda x: _convolve(x, kernel, stride), primal)(dy)[0]


def patches(x: Float[Array, "N H W C"], size: int, stride: int = 1) -> Float[Array, "N H2 W2 K"]:
  """The size x size neighbourhoods of every output pixel, K = size * size * C in the order of an HWIO kernel."""
  if size == 1:
    return x[:, ::stride, ::stride]
  pad = (size - 1) // 2
  _, height, width, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
  return jnp.concatenate(shifted, axis=-1)


def batch_moments(z: Float[Array, "N H W C"]) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
  """Mean and biased variance over samples and pixels."""
  mean = z.mean((0, 1, 2))
  return mean, jnp.square(z - mean[None, None, None]).mean((0, 1, 2))


def normalise(z: Array, mean: Array, variance: Array) -> Array:
  """(z - mean) / sqrt(variance + eps), per channel."""
  scale = lax.rsqrt(variance + jnp.asarray(BN_EPSILON, z.dtype))
  return (z - mean[None, None, None]) * scale[None, None, None]


def _per_channel(vector: Array) -> Array:
  return vector[None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def conv_bn_mix(
  x: Float[Array, "N H W Cin"],
  kernels: Kernels,
  scales: Vectors,
  biases: Vectors,
  weights: Vectors,
  stride: int,
) -> Float[Array, "N H2 W2 Cout"]:
  """sum_o weights_o * BN_o(conv_o(x)), BN in `batch` mode: mini-batch statistics, differentiated through.

  Args:
    x: input of all convolutions, after its ReLU.
    kernels: one HWIO kernel per branch o, of any odd sizes, with the same Cout.
    scales, biases: affine parameters of the branches' batch normalisations, [Cout] each.
    weights: mixing weight of every branch and output channel, [Cout] each.
    stride: of all convolutions.
  """
  y: Any = 0.0
  for kernel, scale, bias, weight in zip(kernels, scales, biases, weights, strict=True):
    z = _convolve(x, kernel, stride)
    normal = normalise(z, *batch_moments(z))
    y = y + normal * _per_channel(scale * weight) + _per_channel(bias * weight)
  return y


def _conv_bn_mix_fwd(x, kernels, scales, biases, weights, stride):
  largest = max(k.shape[0] for k in kernels)
  window = patches(x, largest, stride)
  window = window.reshape(-1, window.shape[-1]).T  # the layout that the products with every dy read
  patch_sum = window.sum(1)
  y: Any = 0.0
  saved = []
  for kernel, scale, bias, weight in zip(kernels, scales, biases, weights, strict=True):
    z = _convolve(x, kernel, stride)
    mean, variance = batch_moments(z)
    normal = normalise(z, mean, variance)
    y = y + normal * _per_channel(scale * weight) + _per_channel(bias * weight)
    inverse = lax.rsqrt(variance + jnp.asarray(BN_EPSILON, z.dtype))
    cross = jnp.matmul(window, normal.reshape(-1, normal.shape[-1]), precision=_HIGHEST)
    saved.append(
      (
        kernel,
        scale,
        bias,
        weight,
        mean,
        inverse,
        cross,
        *_pullback_basis(kernel, normal, stride, x.shape),
      )
    )
  return y, (window, patch_sum, saved)


def _pullback_basis(kernel, normal, stride, shape):
  """Per output channel c: conv' of that channel's normalised map, and of the constant one.

  The pull-back of BN subtracts multiples of these two maps, so the input gradient of every cotangent is one
  convolution of dy plus a combination of 2 Cout maps that do not depend on the cotangent.
  """
  channels = kernel.shape[-1]

  def one(c_kernel, c_map):
    return conv_transpose(c_map[..., None], c_kernel[..., None], stride, shape)

  by_channel = jnp.moveaxis(kernel, -1, 0)
  maps = jax.vmap(one)(by_channel, jnp.moveaxis(normal, -1, 0))
  ones = jnp.ones((channels, 1, *normal.shape[1:3]), normal.dtype)
  return maps, jax.vmap(one)(by_channel, ones)


def _conv_bn_mix_bwd(stride, residuals, dy):
  window, patch_sum, saved = residuals
  dy = lax.optimization_barrier(dy)  # else XLA assembles it once per reader
  count = jnp.asarray(dy.shape[0] * dy.shape[1] * dy.shape[2], dy.dtype)
  correlation = jnp.matmul(window, dy.reshape(-1, dy.shape[-1]), precision=_HIGHEST)
  total = dy.sum((0, 1, 2))
  largest = max(s[0].shape[0] for s in saved)
  channels_in, channels_out = saved[0][0].shape[2:]
  merged = jnp.zeros((largest, largest, channels_in, channels_out), dy.dtype)
  grads = []
  shift: Any = 0.0

  def taps(matrix, size):  # the inner size x size taps of a [largest * largest * Cin, Cout] matrix
    edge = (largest - size) // 2
    full = matrix.reshape(largest, largest, channels_in, channels_out)
    return full[edge : largest - edge, edge : largest - edge]

  for kernel, scale, bias, weight, mean, inverse, cross, maps, ones in saved:
    size = kernel.shape[0]
    raw = taps(correlation, size)
    along = ((kernel * raw).sum((0, 1, 2)) - mean * total) * inverse  # sum dy * normalised z
    gain = weight * scale * inverse
    d_kernel = raw - (taps(jnp.outer(patch_sum, total), size) + taps(cross * along[None], size)) / count
    grads.append((_per_channel(gain) * d_kernel, weight * along, weight * total, scale * along + bias * total))
    merged = merged + embed_kernel(kernel * _per_channel(gain), largest)
    shift = shift + jnp.tensordot(gain * along / count, maps, 1, precision=_HIGHEST)
    shift = shift + jnp.tensordot(gain * total / count, ones, 1, precision=_HIGHEST)
  shape = saved[0][7].shape[1:]
  dx = conv_transpose(dy, merged, stride, shape) - shift
  return dx, *(tuple(g) for g in zip(*grads, strict=True))


conv_bn_mix.defvjp(_conv_bn_mix_fwd, _conv_bn_mix_bwd)


def embed_kernel(kernel: Array, size: int) -> Array:
  """The kernel with zeros around it, as a size x size one: the same convolution."""
  edge = (size - kernel.shape[0]) // 2
  return jnp.pad(kernel, ((edge, edge), (edge, edge), (0, 0), (0, 0)))


def conv_affine_mix(
  x: Array,
  kernels: Kernels,
  scales: Vectors,
  biases: Vectors,
  weights: Vectors,
  means: Vectors,
  variances: Vectors,
  stride: int,
) -> Array:
  """`conv_bn_mix` with given statistics: BN is then affine, and all branches are one convolution."""
  largest = max(k.shape[0] for k in kernels)
  merged: Any = 0.0
  shift: Any = 0.0
  for kernel, scale, bias, weight, mean, var in zip(kernels, scales, biases, weights, means, variances, strict=True):
    gain = scale * lax.rsqrt(var + jnp.asarray(BN_EPSILON, var.dtype))
    merged = merged + embed_kernel(kernel * _per_channel(weight * gain), largest)
    shift = shift + weight * (bias - gain * mean)
  y: Any = conv(x, merged, stride)
  return y + _per_channel(shift)


def _box(x: Array) -> Array:
  """Sums over 3x3 neighbourhoods, zeros outside."""
  _, height, width, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
  rows = padded[:, :, :width] + padded[:, :, 1 : width + 1] + padded[:, :, 2:]
  padded = jnp.pad(rows, ((0, 0), (1, 1), (0, 0), (0, 0)))
  return padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2:]


def _box_weight(shape: tuple[int, ...], dtype) -> np.ndarray:
  """1 / (pixels of the image in each 3x3 neighbourhood), [1, H, W, 1]."""
  rows, columns = (np.minimum(np.arange(n) + 2, n) - np.maximum(np.arange(n) - 1, 0) for n in shape[1:3])
  return (1.0 / np.outer(rows, columns)).astype(dtype)[None, :, :, None]


@jax.custom_vjp
def avg_pool(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
  """3x3 average at stride 1; padded zeros are not counted."""
  return _box(x) * _box_weight(x.shape, x.dtype)


def _avg_pool_bwd(_, dy):
  return (_box(dy * _box_weight(dy.shape, dy.dtype)),)  # the sum over neighbourhoods is its own transpose


avg_pool.defvjp(lambda x: (avg_pool(x), None), _avg_pool_bwd)


def avg_pool_2x2(x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 C"]:
  """2x2 average at stride 2, no padding; an odd last row or column is dropped."""
  n, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
