"""Jacobians by one-hot cotangents, and their contraction over the parameters."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._chunking import chunked_vmap


class Selection(NamedTuple):
  """The parameter leaves that enter a kernel, and how to put them back."""

  leaves: list[Array]
  rebuild: Callable[[list], PyTree]  # selected leaves -> all parameters, the others as they were
  paths: list[str]  # of the leaves
  pack: Callable[[list], PyTree]  # one value a selected leaf -> tree like the parameters, else None


def select_leaves(params: PyTree, select: Callable[[str], bool] | None = None) -> Selection:
  """Splits off the leaves whose path ("cells_0/conv/kernel") satisfies `select` (None: all).

  Raises:
    ConfigError: nothing is selected, or a selected leaf is not real floating point.
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(params)
  paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
  values = [leaf for _, leaf in flat]
  chosen = [i for i, path in enumerate(paths) if select is None or select(path)]
  if not chosen:
    raise ConfigError(f"select: none of the {len(paths)} parameter leaves is chosen; got paths {paths[:3]}, ...")
  for i in chosen:
    try:
      dtype = jnp.asarray(values[i]).dtype
    except TypeError as error:
      raise ConfigError(f"params: leaf {paths[i]!r} is {values[i]!r}; expected arrays.") from error
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ConfigError(
        f"params: leaf {paths[i]!r} is {dtype}; kernels need real floating-point leaves (leave others out with select)."
      )

  def fill(base: list, new: list) -> PyTree:
    base = list(base)
    for i, value in zip(chosen, new, strict=True):
      base[i] = value
    return jax.tree.unflatten(treedef, base)

  return Selection(
    leaves=[jnp.asarray(values[i]) for i in chosen],
    rebuild=lambda new: fill(values, new),
    paths=[paths[i] for i in chosen],
    pack=lambda new: fill([None] * len(values), new),
  )


def matmul_precision(precision: jax.lax.Precision | None):
  """Context in which matmuls and convolutions that name no precision use this one."""
  if precision is None:
    return contextlib.nullcontext()
  return jax.default_matmul_precision(jax.lax.Precision(precision).name.lower())


def jacobian(fn: Callable[[list], PyTree], leaves: list[Array], chunk_size: int | None = None) -> list[list[Array]]:
  """Reverse-mode Jacobian of `fn` at `leaves`: `out[o][p]` is d output o / d leaf p.

  The forward pass runs once and its residuals stay unbatched; only the cotangent, a row of the
  identity, is `vmap`ped, in chunks of `chunk_size` rows.

  Returns:
    A list over fn's output leaves of lists over parameter leaves; arrays [*output, *parameter].

  Raises:
    ConfigError: an output leaf is not real floating point.
  """
  out, pullback = jax.vjp(fn, leaves)
  outputs, treedef = jax.tree.flatten(out)
  check_outputs(outputs)

  def rows_of(position: int) -> list[Array]:
    shape, dtype = outputs[position].shape, outputs[position].dtype
    size = math.prod(shape)

    def row(index):
      one_hot = (jnp.arange(size) == index).astype(dtype).reshape(shape)
      cotangent = [jnp.zeros_like(value) for value in outputs]
      cotangent[position] = one_hot
      return pullback(jax.tree.unflatten(treedef, cotangent))[0]

    if not shape:
      return row(0)
    rows = chunked_vmap(row, jnp.arange(size), chunk_size)
    return [jac.reshape(shape + leaf.shape) for jac, leaf in zip(rows, leaves, strict=True)]

  return [rows_of(position) for position in range(len(outputs))]


def check_outputs(outputs: Sequence[Array | jax.ShapeDtypeStruct]) -> None:
  """ConfigError unless all, or what they are the shapes of, are real floating point."""
  for value in outputs:
    if not jnp.issubdtype(value.dtype, jnp.floating):
      raise ConfigError(f"f: returned {value.dtype}; kernels need real floating-point outputs.")


def contract(
  rows1: Sequence[Array],
  rows2: Sequence[Array],
  ndim: int,
  *,
  trace_axes: Sequence[int] = (),
  diagonal_axes: Sequence[int] = (),
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> Array:
  """Sum over leaves of `rows1 . rows2` over the parameter axes, and over `trace_axes`, undivided.

  Args:
    rows1: arrays [*output1, *parameter], the first `ndim` axes being the output's.
    rows2: arrays [*output2, *parameter].
    ndim: number of output axes.
    trace_axes: output axes to sum over, non-negative.
    diagonal_axes: output axes of which only the diagonal is kept, non-negative.
    precision: of the products.

  Returns:
    The axes of the two outputs interleaved: (N1, N2, K, K) for outputs (N1, K), (N2, K); traced
    axes absent, diagonal axes once. float32, or float64 where a leaf is.
  """
  dtype = accumulator(*rows1, *rows2)
  free = [i for i in range(ndim) if i not in (*trace_axes, *diagonal_axes)]
  order = [*diagonal_axes, *free, *trace_axes]

  def matrices(rows: Array) -> Array:
    """[diagonal, free, traced and parameter]: one contracted axis is quicker than several."""
    moved = rows.astype(dtype).transpose(*order, *range(ndim, rows.ndim))
    sizes = [math.prod(rows.shape[i] for i in axes) for axes in (diagonal_axes, free)]
    return moved.reshape(*sizes, math.prod(moved.shape[len(diagonal_axes) + len(free) :]))

  numbers = (((2,), (2,)), ((0,), (0,))) if diagonal_axes else (((1,), (1,)), ((), ()))
  terms = []
  for rows in zip(rows1, rows2, strict=True):
    a, b = (matrices(r) if diagonal_axes else matrices(r)[0] for r in rows)
    terms.append(jax.lax.dot_general(a, b, numbers, precision=precision))
  kernel = sum(terms[1:], start=terms[0])
  shapes = [[rows.shape[i] for i in free] for rows in (rows1[0], rows2[0])]
  kernel = kernel.reshape([rows1[0].shape[i] for i in diagonal_axes] + shapes[0] + shapes[1])
  # Axes are now the diagonal ones, the free ones of the first, those of the second.
  at = {axis: position for position, axis in enumerate(diagonal_axes)}
  behind = len(diagonal_axes)
  final = []
  for i in range(ndim):
    if i in at:
      final.append(at[i])
    elif i in free:
      final += [behind + free.index(i), behind + len(free) + free.index(i)]
  return kernel.transpose(final)


def accumulator(*arrays: Array) -> jnp.dtype:
  """float32, or float64 where an array is."""
  with jax.numpy_dtype_promotion("standard"):
    return jnp.result_type(
      jnp.float32, *(array.dtype for array in arrays)
    )  # of arrays, those of Python numbers are weak
