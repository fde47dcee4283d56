"""Interleaved kernels and outputs as matrices, and back."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, output_axes
from jaxnas.ntk._layout import flatten


class Layout(NamedTuple):
  """The training set's outputs: n rows that the kernel couples, c columns that it does not.

  Attributes:
    shape: of the outputs.
    traced: the axes that the kernel lacks, non-negative and sorted: the columns.
    kept: the other axes: the rows.
  """

  shape: tuple[int, ...]
  traced: tuple[int, ...]
  kept: tuple[int, ...]

  @property
  def sizes(self) -> tuple[int, ...]:
    """Sizes of the kept axes of the training outputs."""
    return tuple(self.shape[axis] for axis in self.kept)

  def output_shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
    """The shape of outputs whose kept axes have `sizes`."""
    shape = list(self.shape)
    for axis, size in zip(self.kept, sizes, strict=True):
      shape[axis] = size
    return tuple(shape)

  @functools.partial(jax.jit, static_argnums=0)
  def rows(self, outputs: Array) -> Array:
    """Outputs [...] as a matrix [n, c]."""
    moved = jnp.transpose(outputs, (*self.kept, *self.traced))
    return moved.reshape((-1, math.prod(self.shape[axis] for axis in self.traced)))

  @functools.partial(jax.jit, static_argnums=(0, 2, 3))
  def outputs(self, rows: Array, sizes: tuple[int, ...], lead: tuple[int, ...] = ()) -> Array:
    """Matrices [T, m, c], T the product of `lead`, as outputs [*lead, *output_shape(sizes)]."""
    moved = rows.reshape((*lead, *sizes, *(self.shape[axis] for axis in self.traced)))
    source = [len(lead) + i for i in range(len(self.shape))]
    return jnp.moveaxis(moved, source, [len(lead) + axis for axis in (*self.kept, *self.traced)])

  def matrix(self, kernel: Array, name: str) -> Array:
    """A kernel between any outputs and the training outputs, interleaved, as a matrix [m, n]."""
    if kernel.ndim != 2 * len(self.kept) or kernel.shape[1::2] != self.sizes:
      wanted = ", ".join(f"*, {size}" for size in self.sizes)
      raise ConfigError(
        f"{name}: expected shape [{wanted}] for y_train of shape {self.shape} without its trace_axes {self.traced}, "
        f"got {kernel.shape}; trace_axes must be those of the kernel, and its diagonal_axes ()."
      )
    return flatten(kernel)


def layout_of(y_train: Array, trace_axes: SupportsIndex | Sequence[SupportsIndex]) -> Layout:
  """How `y_train` is laid out; ConfigError if an axis is out of range or none is left for the kernel."""
  traced = output_axes(trace_axes, y_train.ndim, "trace_axes")
  kept = tuple(axis for axis in range(y_train.ndim) if axis not in traced)
  if not kept or 0 in y_train.shape:
    raise ConfigError(f"y_train: shape {y_train.shape} leaves nothing to train beside trace_axes={trace_axes!r}.")
  return Layout(y_train.shape, traced, kept)


def as_kernel(kernel: ArrayLike | None, name: str) -> Array:
  """A kernel in float32, or in float64 where it is; ConfigError if it is missing, complex or no array of numbers."""
  if kernel is None:
    raise ConfigError(f"{name}=None: expected a kernel.")
  array = checked_array(kernel, name)
  if jnp.iscomplexobj(array):
    raise ConfigError(f"{name}: complex; expected real numbers.")
  with jax.numpy_dtype_promotion("standard"):
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def unflatten(matrix: Array, sizes: tuple[int, ...], lead: tuple[int, ...] = ()) -> Array:
  """Matrices [T, m, m] as [*lead, *interleaved], m the product of `sizes` and T that of `lead`."""
  pairs = len(sizes)
  order = [len(lead) + i + side * pairs for i in range(pairs) for side in (0, 1)]
  return jnp.transpose(matrix.reshape((*lead, *sizes, *sizes)), (*range(len(lead)), *order))


@functools.partial(jax.jit, static_argnums=(1, 2))
def unflatten_kernel(matrix: Array, sizes: tuple[int, ...], lead: tuple[int, ...] = ()) -> Array:
  """Matrices [T, m, m] as [*lead, *interleaved], m the product of `sizes` and T that of `lead`."""
  pairs = len(sizes)
  order = [len(lead) + i + side * pairs for i in range(pairs) for side in (0, 1)]
  return jnp.transpose(matrix.reshape((*lead, *sizes, *sizes)), (*range(len(lead)), *order))


def square_matrix(kernel: Array, sizes: Sequence[int], name: str) -> Array:
  """A kernel of outputs with themselves, whose kept axes have `sizes`, as a matrix."""
  wanted = tuple(size for size in sizes for _ in range(2))
  if kernel.shape != wanted:
    raise ConfigError(f"{name}: expected shape {wanted}, got {kernel.shape}.")
  return flatten(kernel)
