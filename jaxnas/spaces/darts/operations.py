"""The layers of DARTS cells on feature maps [C, N, H, W].

Channels come first because most arithmetic here is 1x1 convolutions, which are then one matrix product. On a CPU
depthwise convolutions are matrix products too, with banded matrices over the columns of an image, and a sum over
shifted rows: XLA's grouped convolutions are 4 to 13 times slower, and sums of shifted maps make programs that take
minutes to compile (BUILD_NOTES.md, decision 29). All convolutions pad symmetrically and have no bias; everything works
at any size and to any order of derivatives.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, operations.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnas.nets.products import matmul, product, tensordot

_HIGHEST = lax.Precision.HIGHEST
Maps = Float[Array, "C N H W"]
Convolved = Float[Array, "D N H2 W2"]


def to_maps(images: Float[Array, "N H W C"]) -> Maps:
  """Images as feature maps."""
  return images.transpose(3, 0, 1, 2)


def pointwise(x: Maps, kernel: Float[Array, "1 1 C D"]) -> Float[Array, "D N H W"]:
  """1x1 convolution at stride 1."""
  return tensordot(kernel[0, 0], x, ((0,), (0,)))


def convolve(x: Maps, kernel: Float[Array, "3 3 C D"], stride: int = 1) -> Float[Array, "D N H2 W2"]:
  """Dense 3x3 convolution, padded by 1: for stems, as one matrix product with patches."""
  window = jnp.concatenate(_taps(x, stride, 0.0))
  return tensordot(kernel.reshape(-1, kernel.shape[-1]), window, ((0,), (0,)))


def depthwise(
  x: Maps, kernel: Float[Array, "k k 1 C"], stride: int = 1, dilation: int = 1
) -> Float[Array, "C N H2 W2"]:
  """Depthwise convolution, k odd, padded by dilation * (k - 1) // 2."""
  if jax.default_backend() == "cpu":
    return _banded(x, kernel, stride, dilation)
  return _grouped(x, kernel, stride, dilation)


def _grouped(x: Maps, kernel: Array, stride: int, dilation: int) -> Array:
  """The library's form."""
  pad = dilation * (kernel.shape[0] - 1) // 2
  fn = functools.partial(
    lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=((pad, pad), (pad, pad)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("CNHW", "HWIO", "CNHW"),
    feature_group_count=x.shape[0],
  )
  return product(fn, x, kernel)


def _banded(x: Maps, kernel: Array, stride: int, dilation: int) -> Array:
  """All columns by one product for each channel, then a sum over rows."""
  channels, samples, height, width = x.shape
  band = _band(kernel.shape[0], width, stride, dilation)
  matrix = jnp.einsum("ijc,jwv->cwiv", kernel[:, :, 0], jnp.asarray(band, x.dtype), precision=_HIGHEST)
  rows = x.reshape(channels, samples * height, width)
  z = matmul(rows, matrix.reshape(channels, width, -1))
  z = z.reshape(channels, samples, height, *matrix.shape[2:])
  return _sum_of_rows(z, stride, dilation, height, kernel.shape[0])


def _band(size: int, width: int, stride: int, dilation: int) -> np.ndarray:
  """[taps, W, W2]: 1 where tap j of output column v reads input column w."""
  pad = dilation * (size - 1) // 2
  tap, column, out = np.ogrid[:size, :width, : -(-width // stride)]
  return (column == stride * out + tap * dilation - pad).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _sum_of_rows(
  z: Float[Array, "C N H k W"], stride: int, dilation: int, height: int, size: int
) -> Float[Array, "C N H2 W"]:
  """y[h] = sum_i z[stride * h + i * dilation - pad, i], zeros outside; z has this height H and kernel size k."""
  pad, out = dilation * (size - 1) // 2, -(-height // stride)
  framed = jnp.pad(z, ((0, 0), (0, 0), (pad, pad + stride), (0, 0), (0, 0)))
  parts = []
  for i in range(size):
    start = i * dilation
    parts.append(framed[:, :, start : start + stride * out : stride, i])
  return sum(parts[1:], parts[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _spread_over_rows(
  y: Float[Array, "C N H2 W"], stride: int, dilation: int, height: int, size: int
) -> Float[Array, "C N H k W"]:
  """The transpose of `_sum_of_rows`."""
  pad, reach = dilation * (size - 1) // 2, dilation * (size - 1)
  apart = lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (0, 0, 0), (reach, reach + stride, stride - 1), (0, 0, 0)))
  parts = []
  for i in range(size):
    start = reach + pad - i * dilation
    parts.append(apart[:, :, start : start + height])
  return jnp.stack(parts, 3)


_sum_of_rows.defvjp(
  lambda z, *how: (_sum_of_rows(z, *how), None),
  lambda *args: (_spread_over_rows(args[-1], *args[:4]),),
)
_spread_over_rows.defvjp(
  lambda y, *how: (_spread_over_rows(y, *how), None),
  lambda *args: (_sum_of_rows(args[-1], *args[:4]),),
)


def avg_pool(x: Maps, stride: int = 1) -> Float[Array, "C N H2 W2"]:
  """3x3 average, padded by 1; padded zeros are not counted."""
  rows, columns = (
    _band(3, n, stride, 1).sum(0, dtype=np.float64) for n in x.shape[2:]
  )  # [n, n2]: which pixels an average reads
  rows, columns = (jnp.asarray(m / m.sum(0), x.dtype) for m in (rows, columns))
  return jnp.einsum("cnhw,hp,wq->cnpq", x, rows, columns, precision=_HIGHEST)


def max_pool(x: Maps, stride: int = 1) -> Float[Array, "C N H2 W2"]:
  """3x3 maximum, padded by 1. Of equal values the first, row by row, has the derivative."""
  return _max_pool(x, stride, x.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: Maps, stride: int, size: tuple[int, int]) -> Array:
  del size
  return functools.reduce(jnp.maximum, _taps(x, stride, -np.inf))


def _max_pool_fwd(x, stride, size):
  del size
  taps = _taps(x, stride, -np.inf)
  best, which = taps[0], jnp.zeros(taps[0].shape, jnp.int8)
  for number, tap in enumerate(taps[1:], 1):
    which = jnp.where(tap > best, jnp.int8(number), which)
    best = jnp.maximum(best, tap)
  return best, which


def _max_pool_bwd(stride, size, which, dy):
  height, width = size
  pads = ((0, 0, 0), (0, 0, 0), (1, 1 + stride, stride - 1), (1, 1 + stride, stride - 1))
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), pads)
  which = lax.pad(which, jnp.int8(-1), pads)
  parts = []
  for number in range(9):  # the output pixel of this tap that reads input pixel (h, w) is (h + 1 - row, w + 1 - column)
    top, left = (2 - k for k in divmod(number, 3))
    own = which[:, :, top : top + height, left : left + width] == number
    parts.append(jnp.where(own, dy[:, :, top : top + height, left : left + width], jnp.zeros((), dy.dtype)))
  return (sum(parts[1:], parts[0]),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _taps(x: Maps, stride: int, fill: float) -> list[Array]:
  """What each tap of a 3x3 window reads, row by row."""
  height, width = (-(-n // stride) for n in x.shape[2:])
  pads = ((0, 0, 0), (0, 0, 0), (1, 1 + stride, 0), (1, 1 + stride, 0))
  framed = lax.pad(x, jnp.asarray(fill, x.dtype), pads)
  return [
    framed[:, :, i : i + stride * height : stride, j : j + stride * width : stride] for i in range(3) for j in range(3)
  ]


def halved(x: Maps) -> tuple[Float[Array, "C N H2 W2"], Float[Array, "C N H2 W2"]]:
  """What the two 1x1 convolutions of a factorised reduction read: every second pixel, and the ones down-right of them.

  At odd sizes the second map ends with a row and a column of zeros.
  """
  height, width = (-(-n // 2) for n in x.shape[2:])
  framed = jnp.pad(x, ((0, 0), (0, 0), (0, 2 * height - x.shape[2]), (0, 2 * width - x.shape[3])))
  blocks = framed.reshape(*x.shape[:2], height, 2, width, 2)
  return blocks[:, :, :, 0, :, 0], blocks[:, :, :, 1, :, 1]
