"""Convolutions, batch normalisation and pooling, in the form that is fast for kernels at initialisation.

Kernels need one backward pass per sample, so the cost of a layer is that of its pull-back under `vmap`
over cotangents. Three ideas keep the cores busy there:

* **Folding.** With 3 to 12 channels a convolution spends its time on packing. `width_fold` neighbouring pixels
  of a row are moved into the channel axis (a free reshape in NHWC) and the kernel is expanded to match.
* **One correlation for everything.** For `BN(conv(x))` with mini-batch statistics, the gradients of kernel, scale
  and bias, and the two means inside the pull-back of BN, are all linear in `A = sum patches(x) dy`.
* **One layer per target.** All convolutions that are added up in one node (`conv_bn_sum`) share its cotangent: it is
  laid out once for their products A, and one convolution with many outputs pulls it back to all their inputs.

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

from jaxnas.nets.products import einsum, matmul, product, tensordot

BN_EPSILON = 1e-5
_HIGHEST = lax.Precision.HIGHEST
_FOLDED_CHANNELS = 48  # input + output channels at which folding stops to pay on a CPU (BUILD_NOTES.md, decision 4)
_FEW_CHANNELS = 3  # up to so many outputs, products are faster with dy on the left

Kernels = Sequence[Float[Array, "_ _ Cin Cout"]]  # of any sizes
Vectors = Sequence[Float[Array, " Cout"]]
Branch = tuple[Float[Array, "_ _ Cin Cout"], Float[Array, " Cout"], Float[Array, " Cout"], Float[Array, " Cout"]]


def width_fold(width: int, channels_in: int, channels_out: int) -> int:
  """How many neighbouring pixels of a row to treat as channels: a divisor of `width`, 1 for no folding."""
  if jax.default_backend() != "cpu":
    return 1
  limit = max(1, _FOLDED_CHANNELS // (channels_in + channels_out))
  return max(b for b in range(1, width + 1) if width % b == 0 and b <= limit)


def _selection(size: int, stride: int, fold_in: int, fold_out: int) -> tuple[np.ndarray, tuple[int, int]]:
  """How the taps of a transposed convolution lead from input to output pixels, along one axis.

  `fold_out` input pixels, of which `fold_in` are one block, give stride * fold_out output pixels. Returns zeros and
  ones [blocks, size, fold_in, stride * fold_out], and how many of the blocks lie to the left and to the right.
  """
  pad = (size - 1) // 2
  pairs = [(out, tap, out + pad - tap) for out in range(stride * fold_out) for tap in range(size)]
  found = [(out, tap, *divmod(far // stride, fold_in)) for out, tap, far in pairs if far % stride == 0]
  reached = [block for _, _, block, _ in found]
  left, right = max(0, -min(reached)), max(0, max(reached) + 1 - fold_out // fold_in)
  select = np.zeros((left + fold_out // fold_in + right, size, fold_in, stride * fold_out))
  for out, tap, block, inside in found:
    select[left + block, tap, inside, out] = 1
  return select, (left, right)


def _transposed_kernel(kernel: Array, stride: int, fold_in: int, fold_out: int) -> tuple[Array, Any]:
  """The HWIO kernel, and its padding, of the transposed convolution as one over blocks of pixels.

  Its inputs are `fold_in` pixels of a row, its outputs stride x (stride * fold_out) pixels.
  """
  rows, pad_rows = _selection(kernel.shape[0], stride, 1, 1)
  columns, pad_columns = _selection(kernel.shape[1], stride, fold_in, fold_out)
  rows, columns = rows[:, :, 0].astype(kernel.dtype), columns.astype(kernel.dtype)
  expanded = jnp.einsum("ayp,bxmo,yxic->abmcpoi", rows, columns, kernel, precision=_HIGHEST)
  return expanded.reshape(*expanded.shape[:2], fold_in * kernel.shape[3], -1), (pad_rows, pad_columns)


def _flipped(kernel: Array) -> Array:
  """The kernel whose convolution, at stride 1, is the transpose of that with `kernel`."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def _transposes(dy: Array, kernels: Sequence[Array], stride: int) -> list[Array]:
  """The transposes, in their inputs, of convolutions whose outputs have the same cotangent, as one convolution.

  [N, H2, W2, Cout] -> [N, stride * H2, stride * W2, Cin] for each of the kernels.
  """
  n, height, width, channels = dy.shape
  outputs = stride * stride * sum(k.shape[2] for k in kernels)
  fold = width_fold(width, channels, outputs)
  fold_in = fold // 2 if fold % 2 == 0 and outputs <= channels else fold  # less arithmetic, but more packing
  size = max(k.shape[0] for k in kernels)
  parts, pads = zip(*(_transposed_kernel(embed_kernel(k, size), stride, fold_in, fold) for k in kernels), strict=True)
  blocks = dy.reshape(n, height, width // fold_in, fold_in * channels)
  y = _strided(blocks, jnp.concatenate(parts, -1), (1, fold // fold_in), pads[0])
  results = []
  for part in jnp.split(y, np.cumsum([p.shape[-1] for p in parts])[:-1], -1):
    phases = part.reshape(n, height, width // fold, stride, -1).swapaxes(2, 3)
    results.append(phases.reshape(n, stride * height, stride * width, -1))
  return results


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
  if stride == 1:
    return _transposes(x, [_flipped(kernel)], 1)[0]
  pad = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
  return _strided(x, kernel, (stride, stride), pad)


def _strided(x: Array, kernel: Array, strides: tuple[int, int], pads: Any) -> Array:
  numbers = ("NHWC", "HWIO", "NHWC")
  fn = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=pads, dimension_numbers=numbers)
  return product(fn, x, kernel)


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
  d_kernel = einsum("nhwk,nhwc->kc", window, dy)
  return conv_transpose(dy, kernel, stride, x.shape), d_kernel.reshape(kernel.shape)


conv.defvjp(_conv_fwd, _conv_bwd)


def conv_transpose(
  dy: Float[Array, "N H2 W2 Cout"], kernel: Array, stride: int, shape: tuple[int, ...]
) -> Float[Array, "N H W Cin"]:
  """The transpose of `conv` in its input, whose shape is `shape`."""
  return _transposes(dy, [kernel], stride)[0][:, : shape[1], : shape[2]]


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
  return conv_bn_sum((x,), (tuple(zip(kernels, scales, biases, weights, strict=True)),), stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_bn_sum(
  xs: tuple[Float[Array, "N H W Cin"], ...], mixes: tuple[tuple[Branch, ...], ...], stride: int
) -> Float[Array, "N H2 W2 Cout"]:
  """The sum of `conv_bn_mix` over several inputs of one shape.

  Args:
    xs: inputs s, after their ReLU.
    mixes: for each input its branches (kernel, scale, bias, weight), one or more.
    stride: of all convolutions.
  """
  y: Any = 0.0
  for x, mix in zip(xs, mixes, strict=True):
    for kernel, scale, bias, weight in mix:
      z = _convolve(x, kernel, stride)
      normal = normalise(z, *batch_moments(z))
      y = y + normal * _per_channel(scale * weight) + _per_channel(bias * weight)
  return y


def _conv_bn_sum_fwd(xs, mixes, stride):
  y: Any = 0.0
  saved = []
  for x, mix in zip(xs, mixes, strict=True):
    channels_out = mix[0][0].shape[-1]
    window = patches(x, max(kernel.shape[0] for kernel, *_ in mix), stride)
    window = window.reshape(-1, window.shape[-1])
    window = window if channels_out <= _FEW_CHANNELS else window.T
    branches, maps, ones = [], [], []
    for kernel, scale, bias, weight in mix:
      z = _convolve(x, kernel, stride)
      mean, variance = batch_moments(z)
      normal = normalise(z, mean, variance)
      y = y + normal * _per_channel(scale * weight) + _per_channel(bias * weight)
      inverse = lax.rsqrt(variance + jnp.asarray(BN_EPSILON, z.dtype))
      cross = _correlation(window, normal)
      branches.append((kernel, scale, bias, weight, mean, inverse, cross))
      of_normal, of_one = _pullback_basis(kernel, normal, stride, x.shape)
      maps.append(of_normal)
      ones.append(of_one)
    patch_sum = window.sum(int(channels_out > _FEW_CHANNELS))
    saved.append((window, patch_sum, branches, jnp.concatenate(maps), jnp.concatenate(ones)))
  return y, saved


def _correlation(window: Array, dy: Array) -> Float[Array, "K Cout"]:
  """sum patches dy. The window is stored in the layout that the products with every dy read."""
  dy = dy.reshape(-1, dy.shape[-1])
  if dy.shape[-1] <= _FEW_CHANNELS:
    return matmul(dy.T, window).T
  return matmul(window, dy)


def _pullback_basis(kernel, normal, stride, shape):
  """Per output channel c: conv' of that channel's normalised map, [Cout, N, H, W, Cin], and of a constant one (N = 1).

  The pull-back of BN subtracts multiples of these maps, so the input gradient of every cotangent is one convolution
  of dy plus a combination of 2 Cout maps that do not depend on the cotangent. All are one convolution with a
  block-diagonal kernel: per channel it would be a grouped one, which is slow.
  """
  size, _, channels_in, channels_out = kernel.shape
  eye = jnp.eye(channels_out, dtype=kernel.dtype)
  diagonal = (kernel[:, :, None] * eye[None, None, :, None]).reshape(size, size, -1, channels_out)
  maps = conv_transpose(jnp.concatenate([normal, jnp.ones_like(normal[:1])]), diagonal, stride, shape)
  maps = jnp.moveaxis(maps.reshape(*maps.shape[:3], channels_out, channels_in), 3, 0)
  return maps[:, :-1], maps[:, -1:]


def _conv_bn_sum_bwd(stride, saved, dy):
  # XLA would assemble dy once per reader. The barrier, and the sum's reading dy in its own shape, keep it from that.
  dy = lax.optimization_barrier(dy)
  total = dy.sum((0, 1, 2))
  count = jnp.asarray(dy.size // dy.shape[-1], dy.dtype)
  merged, shifts, grads = [], [], []
  for window, patch_sum, branches, maps, ones in saved:
    found = _branch_gradients(branches, _correlation(window, dy), total, patch_sum, count)
    kernels, of_normal, of_one, gradients = zip(*found, strict=True)
    largest = max(k.shape[0] for k in kernels)
    merged.append(sum(embed_kernel(k, largest) for k in kernels))
    shift = tensordot(jnp.concatenate(of_normal), maps, 1)
    shifts.append(shift + tensordot(jnp.concatenate(of_one), ones, 1))
    grads.append(gradients)
  _, height, width, _ = shifts[0].shape
  pulled = _transposes(dy, merged, stride)
  return tuple(dx[:, :height, :width] - shift for dx, shift in zip(pulled, shifts, strict=True)), tuple(grads)


def _branch_gradients(branches, correlation, total, patch_sum, count):
  """Per branch: its kernel in dx, the multiples of its fixed maps in dx, and the gradients of its four arguments."""
  largest = max(kernel.shape[0] for kernel, *_ in branches)

  def taps(matrix, like):  # of a [largest * largest * Cin, Cout] matrix those in the middle, in the shape of a kernel
    edge = (largest - like.shape[0]) // 2
    full = matrix.reshape(largest, largest, *like.shape[2:])
    return full[edge : largest - edge, edge : largest - edge]

  for kernel, scale, bias, weight, mean, inverse, cross in branches:
    raw = taps(correlation, kernel)
    along = ((kernel * raw).sum((0, 1, 2)) - mean * total) * inverse  # sum dy * normalised z
    gain = weight * scale * inverse
    d_kernel = raw - (taps(jnp.outer(patch_sum, total), kernel) + taps(cross * along[None], kernel)) / count
    gradients = (_per_channel(gain) * d_kernel, weight * along, weight * total, scale * along + bias * total)
    yield kernel * _per_channel(gain), gain * along / count, gain * total / count, gradients


conv_bn_sum.defvjp(_conv_bn_sum_fwd, _conv_bn_sum_bwd)


def embed_kernel(kernel: Array, size: int) -> Array:
  """The kernel with zeros around it, as a size x size one: the same convolution."""
  edge = (size - kernel.shape[0]) // 2
  return jnp.pad(kernel, ((edge, edge), (edge, edge), (0, 0), (0, 0)))


def conv_affine_sum(
  xs: Sequence[Float[Array, "N H W Cin"]],
  mixes: Sequence[Sequence[Branch]],
  moments: Sequence[Sequence[tuple[Float[Array, " Cout"], Float[Array, " Cout"]]]],
  stride: int,
) -> Float[Array, "N H2 W2 Cout"]:
  """`conv_bn_sum` with given (mean, variance) of every branch: BN is then affine, and all is one convolution."""
  largest = max(branch[0].shape[0] for mix in mixes for branch in mix)
  kernels, shift = [], 0.0
  for mix, seen in zip(mixes, moments, strict=True):
    merged: Any = 0.0
    for (kernel, scale, bias, weight), (mean, variance) in zip(mix, seen, strict=True):
      gain = scale * lax.rsqrt(variance + jnp.asarray(BN_EPSILON, variance.dtype))
      merged = merged + embed_kernel(kernel * _per_channel(weight * gain), largest)
      shift = shift + weight * (bias - gain * mean)
    kernels.append(merged)
  y: Any = conv(jnp.concatenate(xs, -1), jnp.concatenate(kernels, 2), stride)
  return y + _per_channel(jnp.asarray(shift))


def _box(x: Array) -> Array:
  """Sums over 3x3 neighbourhoods, zeros outside."""
  _, height, width, _ = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = padded[:, :, :width] + padded[:, :, 1 : width + 1] + padded[:, :, 2:]
  return rows[:, :height] + rows[:, 1 : height + 1] + rows[:, 2:]


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
