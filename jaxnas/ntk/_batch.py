"""Any kernel function, block by block and device by device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from jaxnas.errors import ConfigError


class _Axes(NamedTuple):
  """Where the samples of x1 and of x2 stand in an array of a kernel; the same place where they go in pairs."""

  rows: int
  columns: int


def batch(
  kernel_fn: Callable[..., PyTree], batch_size: int = 0, device_count: int = -1, store_on_device: bool = True
) -> Callable[..., PyTree]:
  """A kernel function that gives what `kernel_fn` gives, computed in blocks of at most `batch_size` x1 by x2 samples.

  It may be used where the whole would not fit; within one program, `empirical_ntk_fn(batch_size=)` does less work.
  The result does not depend on the block size, but for rounding. Interface after neural_tangents.

  Args:
    kernel_fn: `kernel_fn(x1, x2, *args, **kwargs)`, traceable, whose inputs have their samples along the first axis of
      every leaf. Arrays among the other arguments, such as params, are the same for all blocks.
    batch_size: samples a block; 0: all.
    device_count: devices that share the rows of a block, each of which has `batch_size`; -1: all, 0 or 1: one.
    store_on_device: whether the result stays a JAX array, or goes block by block into NumPy's in the host's memory.

  Returns:
    `batched(x1, x2=None, *args, **kwargs)`.

  Raises:
    ConfigError: a negative size, more devices than there are; by the function returned: a kernel without an axis of
      samples, which cannot be put together from blocks.
  """
  devices = jax.devices()
  count = len(devices) if device_count == -1 else max(1, device_count)
  if batch_size < 0 or count > len(devices) or device_count < -1:
    raise ConfigError(
      f"batch_size={batch_size}, device_count={device_count}: expected at least 0, and -1 to {len(devices)}."
    )
  mesh = Mesh(np.array(devices[:count]), ("rows",))

  def batched(x1: PyTree, x2: PyTree = None, *args: Any, **kwargs: Any) -> PyTree:
    other = x1 if not jax.tree.leaves(x2) else x2
    rows, columns = _samples(x1), _samples(other)
    size = batch_size or max(rows, columns)

    def kernel(a: PyTree, b: PyTree) -> PyTree:
      return kernel_fn(a, b, *args, **kwargs)

    axes = _axes(kernel, x1, other)
    paired = jax.tree.leaves(axes, is_leaf=_is_axes)[0] if axes else None
    together = paired is not None and paired.rows == paired.columns

    def shared(a: PyTree, b: PyTree) -> PyTree:
      spec = PartitionSpec("rows")
      out = jax.tree.map(lambda own: PartitionSpec(*[None] * own.rows, "rows"), axes, is_leaf=_is_axes)
      inputs = (spec, spec if together else PartitionSpec())
      return jax.shard_map(kernel, mesh=mesh, in_specs=inputs, out_specs=out, check_vma=False)(a, b)

    alone, parallel = jax.jit(kernel), jax.jit(shared)
    strips = []
    for start, stop, program in _strips(rows, size, count, alone, parallel):
      a = _cut(x1, start, stop)
      starts = [start] if together else range(0, columns, size)
      blocks = [program(a, _cut(other, s, stop if together else min(s + size, columns))) for s in starts]
      if not store_on_device:
        blocks = [jax.device_get(block) for block in blocks]
      strips.append(blocks)
    module = jnp if store_on_device else np

    def joined(own: _Axes, *parts: Any) -> Any:
      per_strip, inner = len(strips[0]), iter(parts)
      lines = [[next(inner) for _ in range(per_strip)] for _ in strips]
      return module.concatenate([module.concatenate(line, own.columns) for line in lines], own.rows)

    flat = [block for strip in strips for block in strip]
    return jax.tree.map(joined, axes, *flat, is_leaf=_is_axes)

  return batched


def _strips(rows: int, size: int, count: int, alone: Callable, parallel: Callable):
  """Rows [start, stop) and the program that computes them: those that fill all devices together, the others alone."""
  start, wide = 0, size * count
  while count > 1 and rows - start >= count:
    stop = start + min(wide, (rows - start) // count * count)
    yield start, stop, parallel
    start = stop
  for begin in range(start, rows, size):
    yield begin, min(begin + size, rows), alone


def _axes(kernel: Callable[[PyTree, PyTree], PyTree], x1: PyTree, x2: PyTree) -> PyTree:
  """`_Axes` of every array of the kernel, seen from the shapes that it has for other numbers of samples."""

  def shapes(n: int, m: int) -> PyTree:
    sized = [
      jax.tree.map(lambda a, k=k: jax.ShapeDtypeStruct((k, *a.shape[1:]), a.dtype), x) for k, x in ((n, x1), (m, x2))
    ]
    return jax.eval_shape(kernel, *sized)

  try:
    base, taller, wider = shapes(3, 2), shapes(4, 2), shapes(3, 5)
  except ConfigError:  # samples in pairs: x1 and x2 must have as many
    base, taller, wider = shapes(3, 3), shapes(4, 4), shapes(4, 4)

  def of(one: Any, tall: Any, wide: Any) -> _Axes:
    rows = [i for i in range(len(one.shape)) if one.shape[i] != tall.shape[i]]
    columns = [i for i in range(len(one.shape)) if one.shape[i] != wide.shape[i]]
    if len(rows) != 1 or len(columns) != 1:
      raise ConfigError(
        f"kernel_fn: gives arrays such as {one.shape}, which have no one axis for each input's samples; blocks of them "
        "cannot be put together (were the samples traced?)."
      )
    return _Axes(rows[0], columns[0])

  return jax.tree.map(of, base, taller, wider)


def _is_axes(value: Any) -> bool:
  return isinstance(value, _Axes)


def _samples(x: PyTree) -> int:
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
  if len(sizes) != 1 or () in sizes:
    raise ConfigError(f"x: expected leaves [N, ...] of one N, got first axes {sorted(sizes)}.")
  return sizes.pop()[0]


def _cut(x: PyTree, start: int, stop: int) -> PyTree:
  return jax.tree.map(lambda a: a[start:stop], x)
