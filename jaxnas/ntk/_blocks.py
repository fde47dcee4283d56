"""A kernel block by block: what is held at a time does not grow with the number of samples, or only by one output's."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_integer
from jaxnas.ntk._sides import Side

Kernels = Callable[[Side, Side, Sequence[tuple]], list[Array]]  # of two sides and the axes of their outputs


class Blocks(NamedTuple):
  """How an output's kernel is divided.

  Attributes:
    size: samples of each input in a block; None: all.
    by_outputs: whether the elements of an output go by one at a time instead, each with all samples.
  """

  size: int | None
  by_outputs: bool = False

  def __str__(self) -> str:
    if self.by_outputs:
      return "one output element at a time, with all samples"
    return "all samples at once" if self.size is None else f"in blocks of {self.size} samples"


def check_blocks(batch_size: Any, memory: Any, vmap_axes: Any) -> None:
  """ConfigError unless at most one of the first two is given, an integer of at least 1, beside `vmap_axes`."""
  for name, value in (("batch_size", batch_size), ("memory", memory)):
    if value is None:
      continue
    checked_integer(value, 1, name)
    if vmap_axes is None:
      raise ConfigError(f"{name}={value}: f is taken by samples only with `vmap_axes`; give both, or neither.")
  if None not in (batch_size, memory):
    raise ConfigError(f"batch_size={batch_size} and memory={memory}: the memory chooses the block; give one of them.")


def given(batch_size: int | None, sides: Sequence[Side], axes: Sequence[tuple]) -> list[Blocks]:
  """For every output the blocks that a `batch_size` stands for; an empty kernel is not divided."""
  return [
    Blocks(None)
    if batch_size is None or is_empty(sides, position)
    else Blocks(batch_size, sample not in (*traced, *diagonal) and len(traced) == len(shape) - 1)
    for position, (shape, sample, (traced, diagonal)) in enumerate(
      zip(sides[0].shapes, sides[0].sample_axes, axes, strict=True)
    )
  ]


def is_empty(sides: Sequence[Side], position: int) -> bool:
  """Whether an output has no elements, or an input no samples."""
  return any(0 in side.shapes[position] for side in sides)


def blocked(
  kernels: Kernels, first: Side, second: Side, axes: Sequence[tuple], blocks: Sequence[Blocks]
) -> list[Array]:
  """The kernels of every output, undivided.

  Samples that are on the diagonal, or traced, go by once. Else rows go by in blocks, and for each of them the columns
  do.

  Args:
    kernels: computes them for any samples; called with `first is second` where the inputs are the same.
    axes: for every output its traced and its diagonal axes.
    blocks: for every output.
  """
  if all(block.size is None and not block.by_outputs for block in blocks):
    return kernels(first, second, axes)
  found = []
  for position, ((traced, diagonal), (size, by_outputs)) in enumerate(zip(axes, blocks, strict=True)):
    one, other = (side.only(position) for side in (first, second))
    other = one if second is first else other
    sample, shape = first.sample_axes[position], first.shapes[position]
    assert sample is not None
    if by_outputs:
      found.append(_by_outputs(kernels, one, other, math.prod(shape) // shape[sample]))
    elif size is None:
      found += kernels(one, other, [(traced, diagonal)])
    elif sample in (*traced, *diagonal):
      found.append(_streamed(kernels, one, other, traced, diagonal, size))
    else:
      found.append(_by_rows(kernels, one, other, traced, diagonal, size))
  return found


def _streamed(kernels: Kernels, first: Side, second: Side, traced, diagonal, size: int) -> Array:
  """Blocks of pairs of a sample with itself."""
  axis = first.sample_axes[0]

  def block(slices: tuple) -> Array:
    one = first.block(slices[0])
    other = one if second is first else second.block(slices[1])
    return kernels(one, other, [(traced, diagonal)])[0]

  slices = (first.slices, first.slices if second is first else second.slices)
  if axis in traced:
    return _sum_of_blocks(block, slices, size)
  return _joined(block, slices, size, _place(axis, traced, diagonal))


def _by_outputs(kernels: Kernels, first: Side, second: Side, count: int) -> Array:
  """The sum over the outputs of their kernels."""

  def add(total: Array, index: Array) -> tuple[Array, None]:
    one = first.element(index)
    other = one if second is first else second.element(index)
    return total + kernels(one, other, [((), ())])[0], None

  shape = jax.eval_shape(lambda: add(jnp.zeros(()), jnp.zeros((), jnp.int32))[0])
  return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), jnp.arange(count))[0]


def _by_rows(kernels: Kernels, first: Side, second: Side, traced, diagonal, size: int) -> Array:
  """Blocks of rows, and of columns for each of them."""
  row = _place(first.sample_axes[0], traced, diagonal)

  def rows(slices: PyTree) -> Array:
    one = first.block(slices)
    return _joined(
      lambda columns: kernels(one, second.block(columns), [(traced, diagonal)])[0], second.slices, size, row + 1
    )

  return _joined(rows, first.slices, size, row)


def _place(axis: int | None, traced: Sequence[int], diagonal: Sequence[int]) -> int:
  """Where an output axis, not a traced one, stands among the kernel's."""
  assert axis is not None
  return sum(1 if i in diagonal else 2 for i in range(axis) if i not in traced)


def _joined(fn: Callable[[PyTree], Array], xs: PyTree, size: int, axis: int) -> Array:
  """`fn` of blocks of `xs` along the leading axis, its results side by side along `axis`."""
  whole, rest = _blocks(fn, xs, size)
  parts = [] if rest is None else [rest]
  if whole is not None:
    moved = jnp.moveaxis(whole, 0, axis)
    parts.insert(0, moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :]))
  return jnp.concatenate(parts, axis)


def _sum_of_blocks(fn: Callable[[PyTree], Array], xs: PyTree, size: int) -> Array:
  whole, rest = _blocks(fn, xs, size)
  return sum(
    [part for part in (None if whole is None else whole.sum(0), rest) if part is not None], start=jnp.zeros(())
  )


def _blocks(fn: Callable[[PyTree], Array], xs: PyTree, size: int) -> tuple[Array | None, Array | None]:
  """`fn` of the whole blocks, stacked, and of what is left; None where there is none."""
  count = jax.tree.leaves(xs)[0].shape[0]
  blocks, left = divmod(count, size)
  whole = rest = None
  if blocks:
    cut = jax.tree.map(lambda a: a[: blocks * size].reshape(blocks, size, *a.shape[1:]), xs)
    whole = jax.lax.map(fn, cut)
  if left:
    rest = fn(jax.tree.map(lambda a: a[blocks * size :], xs))
  return whole, rest
