"""The one batching helper: a function over a leading axis, a bounded number at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.ntk._arguments import checked_integer


def check_chunk_size(chunk_size: int | None) -> None:
  """Raises ConfigError unless `chunk_size` is None or an integer of at least 1."""
  if chunk_size is not None:
    checked_integer(chunk_size, 1, "chunk_size")


def chunked(fn: Callable[[PyTree], PyTree], xs: PyTree, chunk_size: int | None) -> PyTree:
  """`fn(xs)` with at most `chunk_size` elements in memory at a time.

  Args:
    fn: function of any number of slices of `xs`, stacked, that treats them independently, such as `jax.vmap` makes.
    xs: pytree of arrays with one common leading axis.
    chunk_size: elements a chunk; None: all of them, without a loop.

  Returns:
    fn's output, every leaf with the leading axis of `xs`.
  """
  xs = jax.tree.map(jnp.asarray, xs)
  size = jax.tree.leaves(xs)[0].shape[0]
  if chunk_size is None or chunk_size >= size:
    return fn(xs)
  chunks = -(-size // chunk_size)
  # A short last chunk repeats the last element: unlike zeros, it is surely in fn's domain.
  index = np.minimum(np.arange(chunks * chunk_size), size - 1).reshape(chunks, chunk_size)

  def one_chunk(rows):
    return fn(jax.tree.map(lambda a: a[rows], xs))

  out = jax.lax.map(one_chunk, jnp.asarray(index))
  return jax.tree.map(lambda a: a.reshape((chunks * chunk_size, *a.shape[2:]))[:size], out)


def chunked_vmap(fn: Callable[[PyTree], PyTree], xs: PyTree, chunk_size: int | None) -> PyTree:
  """As `chunked`, of a function of one slice."""
  return chunked(jax.vmap(fn), xs, chunk_size)
