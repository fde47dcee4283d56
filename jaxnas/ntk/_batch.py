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
from jaxnas.ntk._arguments import checked_integer, key_axes, second_input


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
    kernel_fn: `kernel_fn(x1, x2, *args, **kwargs) -> tree of kernels`; inputs have their rows on axis 0, and are taken
      whole where they have none.
    batch_size: rows of x1 and of x2 in a block; the last block may be smaller. 0: all.
    device_count: over how many devices the rows of x1 in a block are spread; -1: over as many as divide them evenly,
      0: none.
    store_on_device: False: blocks are moved to the host's memory as they are computed, and are NumPy arrays.

  Returns:
    `batched_fn(x1, x2=None, *args, **kwargs)`. Of further arguments the arrays in their trees are traced, and all else
    is compiled in, and has to be hashable. A keyword argument that is a tuple of two arrays, or trees of them, with as
    many rows as x1 and x2 is cut along with these; random keys count as rows where they are arrays of keys.

  Raises:
    ConfigError: numbers out of range; a `device_count` that does not divide the rows; arrays of an input that differ in
      their rows; an argument that is not hashable; more rows than `batch_size` where the kernel lacks their axis, or
      some of several have it once and others twice.

  Example:
    >>> kernel_fn = ntk.batch(ntk.empirical_ntk_fn(f, vmap_axes=0), batch_size=64, store_on_device=False)
    >>> theta = kernel_fn(x, None, params)
  """
  size = checked_integer(batch_size, 0, "batch_size")
  devices = checked_integer(device_count, -1, "device_count")

  @functools.partial(jax.jit, static_argnames="constants")
  def block(x1, x2, arrays, *, constants):
    treedef, others = constants
    values = jax.tree.unflatten(treedef, [arrays.get(i, other) for i, other in enumerate(others)])
    args = [values.pop(name) for name in sorted(filter(str.isdigit, values), key=int)]
    return kernel_fn(x1, x2, *args, **values)

  def batched_fn(x1: PyTree, x2: PyTree = None, *args: Any, **kwargs: Any) -> PyTree:
    x2 = second_input(x2)
    other = x1 if x2 is None else x2
    values = {str(i): value for i, value in enumerate(args)} | kwargs

    def at(one, two, values):
      arrays, constants = _split(values)
      kernels = block(*_spread(one, two, arrays, devices), constants=constants)
      return kernels if store_on_device else jax.tree.map(np.asarray, kernels)

    if size == 0:
      return at(x1, x2, values)
    rows1, rows2 = _rows(x1, "x1"), _rows(other, "x2")
    if size >= max(rows1, rows2) or 0 in (rows1, rows2):
      return at(x1, x2, values)
    pairs = [name for name, value in kwargs.items() if _is_pair(name, value, rows1, rows2)]

    def square(rows):
      """The shapes of the kernels of so many rows of the longer input with themselves."""
      side = int(rows2 > rows1)
      cut = _cut(other if side else x1, 0, rows)
      arrays, constants = _split(values | {name: (_cut(values[name][side], 0, rows),) * 2 for name in pairs})
      return jax.eval_shape(functools.partial(block, constants=constants), cut, cut, arrays)

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
      own = {name: (_cut(values[name][0], i, size), _cut(values[name][1], j, size)) for name in pairs}
      return at(_cut(x1, i, size), _cut(other, j, size), values | own)

    def joined(blocks, axes):
      concatenate = jnp.concatenate if store_on_device else np.concatenate
      leaves = [concatenate(parts, axis) for *parts, axis in zip(*map(jax.tree.leaves, blocks), axes, strict=True)]
      return jax.tree.unflatten(jax.tree.structure(blocks[0]), leaves)

    starts1, starts2 = range(0, rows1, size), range(0, rows2, size)
    outer, inner = [grown[0] for grown in axes], [grown[-1] for grown in axes]
    if counts == {1}:
      return joined([cut(i, i) for i in starts1], outer)
    return joined([joined([cut(i, j) for j in starts2], inner) for i in starts1], outer)

  return batched_fn


def _split(values: dict[str, Any]) -> tuple[dict[int, Any], tuple]:
  """The arrays among the leaves, by number, and all else as what is hashable."""
  for name, value in values.items():
    try:
      hash(tuple(leaf for leaf in jax.tree.leaves(value) if not _is_array(leaf)))
    except TypeError as error:
      argument = f"argument {int(name) + 2}" if name.isdigit() else name
      raise ConfigError(f"{argument}={value!r}: expected arrays, or what is hashable, or trees of these.") from error
  leaves, treedef = jax.tree.flatten(values)
  arrays = {i: leaf for i, leaf in enumerate(leaves) if _is_array(leaf)}
  return arrays, (treedef, tuple(None if i in arrays else leaf for i, leaf in enumerate(leaves)))


def _is_array(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array | np.ndarray)


def _is_pair(name: str, value: Any, *rows: int) -> bool:
  """Whether a keyword argument is a value by rows for x1 and another for x2."""
  if not isinstance(value, tuple) or len(value) != 2:
    return False

  def by_rows(leaf: Any, count: int) -> bool:
    if not _is_array(leaf) or leaf.shape[:1] != (count,):
      return False
    return name != "rng" or key_axes(leaf) > 0

  sides = [(jax.tree.leaves(own), count) for own, count in zip(value, rows, strict=True)]
  return all(leaves and all(by_rows(leaf, count) for leaf in leaves) for leaves, count in sides)


def _rows(x: PyTree, name: str) -> int:
  """The rows of an input; 1 where no array in it has an axis."""
  sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
  if len(sizes) > 1:
    raise ConfigError(
      f"{name}: arrays with first axes of sizes {sorted(sizes)}; expected the rows there, equally many, in all of them."
    )
  return next((size[0] for size in sizes if size), 1)


def _cut(x: PyTree, start: int, size: int) -> PyTree:
  return jax.tree.map(lambda leaf: leaf[start : start + size], x)


def _spread(x1: PyTree, x2: PyTree, arrays: dict[int, Any], device_count: int) -> tuple:
  """The arguments with the rows of x1 spread over devices and the others on each of them."""
  available = len(jax.devices())
  if device_count in (0, 1) or (device_count == -1 and available == 1):
    return x1, x2, arrays
  rows = _rows(x1, "x1")
  count = math.gcd(available, rows or 1) if device_count == -1 else device_count
  if count > available or rows % count:
    raise ConfigError(
      f"device_count={device_count}: expected at most the {available} devices there are, and a divisor of the {rows} "
      "rows computed at a time."
    )
  if count == 1:
    return x1, x2, arrays
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("rows",))
  by_rows, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (["rows"], []))
  return jax.device_put(x1, by_rows), jax.device_put(x2, everywhere), jax.device_put(arrays, everywhere)
