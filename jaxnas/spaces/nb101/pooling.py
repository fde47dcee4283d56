"""Max-pooling by maxima of shifted maps, rows before columns.

XLA's own pull-back of a pooling window is slow on a CPU, and autodiff of these maxima is fused into one loop that pads
and compares again for every pixel. Here each step reads a padded map that exists (hence the barriers), with columns and
channels as one axis, so that all loops run over long rows: several times faster.

Where several pixels of a window are the largest, they share the cotangent.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_INF = float("inf")


@jax.custom_vjp
def max_pool(x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
  """3x3 maximum at stride 1; what lies outside the image is never the largest."""
  flat = _flat(x)
  return _largest(_largest(flat, 2, x.shape[-1]), 1, 1).reshape(x.shape)


def max_pool_2x2(x: Float[Array, "N H W C"]) -> Float[Array, "N H2 W2 C"]:
  """2x2 maximum at stride 2, no padding; an odd last row or column is dropped."""
  n, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
  rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def _pull(x, dy):
  step, flat = x.shape[-1], _flat(x)
  rows = _largest(flat, 2, step)
  d_rows = _pull_largest(rows, _flat(dy), 1, 1)
  return (_pull_largest(flat, d_rows, 2, step).reshape(x.shape),)


max_pool.defvjp(lambda x: (max_pool(x), x), _pull)


def _flat(x: Array) -> Float[Array, "N H WC"]:
  return x.reshape(*x.shape[:2], -1)


def _largest(x: Array, axis: int, step: int) -> Array:
  """The largest of each entry and its neighbours at a distance of `step` along `axis`."""
  before, at, after = _shifted(x, axis, step, -_INF)
  return lax.optimization_barrier(jnp.maximum(jnp.maximum(before, at), after))


def _pull_largest(x: Array, dy: Array, axis: int, step: int) -> Array:
  """The pull-back of `_largest`.

  Which entries are the largest is decided from one reading of x: a compiler may round x differently where it computes
  it a second time, and then no entry equals a maximum that was computed elsewhere.
  """
  taps = _shifted(x, axis, step, -_INF)
  largest = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
  equal = [tap == largest for tap in taps]
  share = dy / sum(mask.astype(dy.dtype) for mask in equal)
  before, at, after = (jnp.where(mask, share, jnp.zeros_like(share)) for mask in equal)
  of_next, of_last = _shifted(before, axis, step, 0.0)[2], _shifted(after, axis, step, 0.0)[0]
  return lax.optimization_barrier(of_next + at + of_last)


def _shifted(x: Array, axis: int, step: int, outside: float) -> list[Array]:
  """The entries before, at and after each, at a distance of `step` along `axis`."""
  pads = [(step, step) if i == axis else (0, 0) for i in range(x.ndim)]
  padded = lax.optimization_barrier(jnp.pad(x, pads, constant_values=outside))
  return [lax.slice_in_dim(padded, i * step, i * step + x.shape[axis], axis=axis) for i in range(3)]
