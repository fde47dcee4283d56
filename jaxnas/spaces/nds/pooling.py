"""Windows along one axis of feature maps: a pooling of k x k is one along rows, then one along columns.

Windows are padded by (k - 1) // 2; outputs have the length ceil(n / stride).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Maps = Float[Array, "A B C D"]
Pooled = Float[Array, "A2 B2 C2 D2"]


def taps(x: Array, axis: int, size: int, stride: int, fill: float) -> list[Array]:
  """What each tap of a window of this size reads, `fill` outside."""
  out, pad = -(-x.shape[axis] // stride), size // 2
  pads = [(0, 0, 0)] * x.ndim
  pads[axis] = (pad, pad + stride, 0)
  framed = lax.pad(x, jnp.asarray(fill, x.dtype), pads)
  return [lax.slice_in_dim(framed, i, i + stride * (out - 1) + 1, stride, axis) for i in range(size)]


def average_along(x: Maps, axis: int, size: int, stride: int) -> Pooled:
  """Averages; what is outside does not count."""
  pixel, out = np.ogrid[: x.shape[axis], : -(-x.shape[axis] // stride)]
  read = np.abs(pixel - stride * out) <= size // 2
  shares = jnp.asarray(read / read.sum(0), x.dtype)
  return jnp.moveaxis(jnp.tensordot(x, shares, ((axis,), (0,)), precision=lax.Precision.HIGHEST), -1, axis)


def max_along(x: Maps, axis: int, size: int, stride: int) -> Pooled:
  """Maxima. The first of equal values has the derivative."""
  return _max_along(x, axis, size, stride, x.shape[axis])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x: Array, axis: int, size: int, stride: int, side: int) -> Array:
  del side
  return functools.reduce(jnp.maximum, taps(x, axis, size, stride, -np.inf))


def _forward(x, axis, size, stride, side):
  del side
  best, *rest = taps(x, axis, size, stride, -np.inf)
  which = jnp.zeros(best.shape, jnp.int8)
  for number, tap in enumerate(rest, 1):
    which = jnp.where(tap > best, jnp.int8(number), which)
    best = jnp.maximum(best, tap)
  return best, which


def _backward(axis, size, stride, side, which, dy):
  pads = [(0, 0, 0)] * dy.ndim
  pads[axis] = (size, size + stride, stride - 1)
  dy, which = lax.pad(dy, jnp.zeros((), dy.dtype), pads), lax.pad(which, jnp.int8(-1), pads)
  parts = []
  for number in range(size):  # the output that reads pixel p by this tap is (p + size // 2 - number) / stride
    start = size + size // 2 - number
    own = lax.slice_in_dim(which, start, start + side, axis=axis) == number
    parts.append(jnp.where(own, lax.slice_in_dim(dy, start, start + side, axis=axis), jnp.zeros((), dy.dtype)))
  return (sum(parts[1:], parts[0]),)


_max_along.defvjp(_forward, _backward)
