"""Any kernel function in blocks of rows, over several devices, its result on the device or in the host's memory."""

import functools
import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_integer, second_input


def batch(
  kernel_fn: Callable[..., PyTree],
  batch_size: SupportsIndex = 0,
  device_count: SupportsIndex = -1,
  store_on_device: bool = True,
) -> Callable[..., PyTree]:
  """`kernel_fn` computed block by block: names, argument order and result are those of `neural_tangents.batch`.

  A block is one compiled program, and the loop over blocks is Python's: do not jit the result. Unlike
  `empirical_ntk_fn`'s own blocks, these take any kernel function, differentiate x2 again for each block of x1, and
  show to f one block at a time: batch normalisation takes its statistics over it, and each draws its noise anew.

  Args:
    kernel_fn: `kernel_fn(x1, x2, *args, **kwargs) -> tree of kernels`; inputs have their rows on axis 0.
    batch_size: rows of x1 and of x2 in a block; the last block may be smaller. 0: all.
    device_count: over how many devices the rows of x1 in a block are spread; -1: over as many as divide them evenly,
      0: none.
    store_on_device: False: blocks are moved to the host's memory as they are computed, and are NumPy arrays.

  Returns:
    `batched_fn(x1, x2=None, *args, **kwargs)`. Further arguments that are trees of arrays are traced, others compiled
    in, and have to be hashable. A keyword argument that is a tuple of two arrays is cut along with x1 and x2.

  Raises:
    ConfigError: numbers out of range; a `device_count` that does not divide the rows; more rows than `batch_size` where
      the kernel lacks their axis, or some of several have it once and others twice.

  Example:
    >>> kernel_fn = ntk.batch(ntk.empirical_ntk_fn(f, vmap_axes=0), batch_size=64, store_on_device=False)
    >>> theta = kernel_fn(x, None, params)
  """
  size = checked_integer(batch_size, 0, "batch_size")
  devices = checked_integer(device_count, -1, "device_count")

  @functools.partial(jax.jit, static_argnames="constants")
  def block(x1, x2, traced, *, constants):
    values = dict(constants) | traced
    args = [values.pop(name) for name in sorted(filter(str.isdigit, values), key=int)]
    return kernel_fn(x1, x2, *args, **values)

  def batched_fn(x1: PyTree, x2: PyTree = None, *args: Any, **kwargs: Any) -> PyTree:
    x2 = second_input(x2)
    other = x1 if x2 is None else x2
    values = {str(i): value for i, value in enumerate(args)} | kwargs
    traced = {name: value for name, value in values.items() if _is_arrays(value)}
    constants = tuple(sorted((name, value) for name, value in values.items() if name not in traced))

    def at(one, two, traced):
      kernels = block(*_spread(one, two, traced, devices), constants=constants)
      return kernels if store_on_device else jax.tree.map(np.asarray, kernels)

    if not 0 < size < max(_rows(x1), _rows(other)):
      return at(x1, x2, traced)

    def square(rows):
      """The shapes of the kernels of so many rows of the longer input with themselves."""
      side = int(_rows(other) > _rows(x1))
      cut = _cut(other if side else x1, 0, rows)
      own = {name: (_cut(v[side], 0, rows),) * 2 if _is_pair(name, v) else v for name, v in traced.items()}
      return jax.eval_shape(functools.partial(block, constants=constants), cut, cut, own)

    axes = [
      [axis for axis in range(len(a.shape)) if a.shape[axis] != b.shape[axis]]
      for a, b in zip(*(jax.tree.leaves(square(rows)) for rows in (1, 2)), strict=True)
    ]
    counts = {len(grown) for grown in axes}
    if counts not in ({1}, {2}):
      raise ConfigError(
        f"batch_size={batch_size!r}: needs kernels that all have the rows once (diagonal) or twice; of these outputs "
        f"they have them {sorted(counts)} times, as where trace_axes has the axis of the rows."
      )

    def cut(i, j):
      pairs = {name: (_cut(v[0], i, size), _cut(v[1], j, size)) for name, v in traced.items() if _is_pair(name, v)}
      return at(_cut(x1, i, size), _cut(other, j, size), traced | pairs)

    def joined(blocks, axes):
      concatenate = jnp.concatenate if store_on_device else np.concatenate
      leaves = [concatenate(parts, axis) for *parts, axis in zip(*map(jax.tree.leaves, blocks), axes, strict=True)]
      return jax.tree.unflatten(jax.tree.structure(blocks[0]), leaves)

    starts1, starts2 = (range(0, _rows(x), size) for x in (x1, other))
    outer, inner = [grown[0] for grown in axes], [grown[-1] for grown in axes]
    if counts == {1}:
      return joined([cut(i, i) for i in starts1], outer)
    return joined([joined([cut(i, j) for j in starts2], inner) for i in starts1], outer)

  return batched_fn


def _is_arrays(value: Any) -> bool:
  leaves = jax.tree.leaves(value)
  return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)


def _is_pair(name: str, value: Any) -> bool:
  """Whether a traced argument has a value for x1 and one for x2."""
  return not name.isdigit() and isinstance(value, tuple) and len(value) == 2


def _rows(x: PyTree) -> int:
  return jnp.shape(jax.tree.leaves(x)[0])[0]


def _cut(x: PyTree, start: int, size: int) -> PyTree:
  return jax.tree.map(lambda leaf: leaf[start : start + size], x)


def _spread(x1: PyTree, x2: PyTree, traced: dict[str, Any], device_count: int) -> tuple:
  """The arguments with the rows of x1 spread over devices and the others on each of them."""
  available, rows = len(jax.devices()), _rows(x1)
  count = math.gcd(available, rows) if device_count == -1 else max(device_count, 1)
  if count > available or rows % count:
    raise ConfigError(
      f"device_count={device_count}: expected at most the {available} devices there are, and a divisor of the {rows} "
      "rows computed at a time."
    )
  if count == 1:
    return x1, x2, traced
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("rows",))
  by_rows, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (["rows"], []))
  return jax.device_put(x1, by_rows), jax.device_put(x2, everywhere), jax.device_put(traced, everywhere)
