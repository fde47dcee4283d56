"""The layout of a network of cells: its parts, the shapes of its parameters, and what of them a genotype uses.

The normal cells between two reductions are a stage, whose parameters are stacked ([cells of the stage, ...]), as in the
DARTS space (`darts.layout`). How many states a cell concatenates is data: its maps have room for all nodes, with zeros
behind those that there are, and so have the kernels that read them. A genotype uses the first rows of these.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxnas.nets.parameters import bn_shapes, stacked
from jaxnas.spaces.nds.cells import operations
from jaxnas.spaces.nds.cells.costs import CellInput, CellPlan, CellSize, Counts, plan
from jaxnas.spaces.nds.cells.encoding import FIRST_NODE
from jaxnas.spaces.nds.tables import CellTable

STAGE = "stage_"
INPUTS = ("input_0", "input_1")


class CellPart(NamedTuple):
  """A stage (normal cells, at least one) or a reduction cell.

  Attributes:
    name: stage_0, reduce_1, stage_1, ...
    first: the number of its first cell.
    cells: in order.
  """

  name: str
  first: int
  cells: tuple[CellPlan, ...]

  @property
  def kind(self) -> int:
    """0 or 1, as of its cells."""
    return self.cells[0].kind

  @property
  def channels(self) -> int:
    """c."""
    return self.cells[0].channels


class Kernel(NamedTuple):
  """A kernel that brings an input to the channels of its cells, or of cells of a stage that stand side by side.

  Attributes:
    path: of its layer in the parameters of the part.
    cells: their places in the part.
    rows, columns: of the kernel.
  """

  path: tuple[str, ...]
  cells: range
  rows: int
  columns: int


def slot_names(nodes: int) -> tuple[str, ...]:
  """The slots of a cell in order."""
  return tuple(f"node{FIRST_NODE + node}_input{i}" for node in range(nodes) for i in range(2))


def parts(size: CellSize) -> list[CellPart]:
  """A network's parts in order."""
  found: list[CellPart] = []
  reductions = 0
  for i, cell in enumerate(plan(size)):
    if cell.kind:
      reductions += 1
      found.append(CellPart(f"reduce_{reductions}", i, (cell,)))
    elif found and not found[-1].kind:
      found[-1] = found[-1]._replace(cells=(*found[-1].cells, cell))
    else:
      found.append(CellPart(f"{STAGE}{reductions}", i, (cell,)))
  return found


def room(source: CellInput, nodes: int) -> int:
  """Channels of an input's maps."""
  return source.width * (1 if source.kind is None else nodes)


def groups(part: CellPart, place: int) -> list[tuple[str, range]]:
  """Cells of a stage whose kernels for this input (0 or 1) have one shape: (name, their places in the stage)."""
  count = len(part.cells)
  bounds = [0, 1, count] if place == 0 and part.cells[0].halve and count > 1 else [0, count]
  return [(f"cell_{part.first + a}", range(a, b)) for a, b in itertools.pairwise(bounds)]


def kernels(part: CellPart, nodes: int) -> Iterator[Kernel]:
  """Those that bring inputs to the part's channels."""
  c = part.channels
  for place, name in enumerate(INPUTS):
    for group, cells in groups(part, place):
      path = (name,) if part.kind else (name, group)
      first = part.cells[cells.start]
      own = room(first.inputs[place], nodes)
      if place == 0 and first.halve:
        yield Kernel((*path, "conv0"), cells, own, c // 2)
        yield Kernel((*path, "conv1"), cells, own, c - c // 2)
      else:
        yield Kernel((*path, "conv"), cells, own if part.kind else nodes * c, c)


def shapes(table: CellTable, size: CellSize) -> PyTree:
  """Shapes of all parameters, as `parameters.draw` takes them."""
  layout = parts(size)
  tree: dict[str, Any] = {"stem": _stem(size)}
  for part in layout:
    own: dict[str, Any] = {name: {"bn": _stacked(part, bn_shapes(part.channels))} for name in INPUTS}
    for kernel in kernels(part, table.nodes):
      shape = {"kernel": (1, 1, kernel.rows, kernel.columns)}
      *path, leaf = kernel.path
      inner = own
      for name in path:
        inner = inner.setdefault(name, {})
      inner[leaf] = shape if part.kind else stacked(shape, len(kernel.cells))
    tree[part.name] = own | _stacked(part, _slots(table, part))
  width = table.nodes * layout[-1].channels
  return tree | {"classifier": {"kernel": (width, size.classes), "bias": (size.classes,)}}


def _stacked(part: CellPart, tree: PyTree) -> PyTree:
  return tree if part.kind else stacked(tree, len(part.cells))


def is_stacked(path: list[str]) -> bool:
  """Whether the parameter of this name (its keys) has the cells of a stage as its first axis."""
  return path[0].startswith(STAGE)


def _slots(table: CellTable, part: CellPart) -> PyTree:
  """All operations of each slot that have parameters; in a reduction cell a slot may have the stride."""
  own = {op: operations.op_shapes(op, part.channels, 1 + part.kind) for op in table.ops}
  return {name: {op: shape for op, shape in own.items() if shape} for name in slot_names(table.nodes)}


def _stem(size: CellSize) -> PyTree:
  c = size.channels

  def layer(channels_in, channels_out):
    return {"conv": {"kernel": (3, 3, channels_in, channels_out)}, "bn": bn_shapes(channels_out)}

  if size.form == "cifar":
    return layer(3, 3 * c)
  return {"a": layer(3, c // 2), "b": layer(c // 2, c), "c": layer(c, c)}


def used_rows(table: CellTable, size: CellSize, counts: Counts) -> dict[tuple[str, ...], Array]:
  """By the path of a kernel with more rows than a genotype may use: how many it does, int32 [] or [cells]."""
  found, layout = {}, parts(size)
  for part in layout:
    for kernel in kernels(part, table.nodes):
      place = INPUTS.index(kernel.path[0])
      own = [part.cells[i].inputs[place].channels(counts) for i in kernel.cells]
      used = [jnp.asarray(rows, jnp.int32) for rows in own]
      found[part.name, *kernel.path, "kernel"] = used[0] if part.kind else jnp.stack(used)
  last = CellInput(layout[-1].kind, layout[-1].channels)
  found["classifier", "kernel"] = jnp.asarray(last.channels(counts), jnp.int32)
  return found


def used_channels(tree: PyTree, used: dict[tuple[str, ...], Array]) -> PyTree:
  """As `base.Single.used_channels`, of a tree like the parameters and `used_rows`."""

  def pair(path, leaf):
    names = tuple(p.key for p in path)
    stacked = is_stacked(list(names))
    sizes = [1, *leaf.shape[stacked:]][-2:]
    own = jnp.asarray(sizes, jnp.int32)
    own = jnp.broadcast_to(own, (len(leaf), 2)) if stacked else own
    return own.at[..., 0].set(used[names]) if names in used else own

  return jax.tree_util.tree_map_with_path(pair, tree)


def fitted(params: PyTree, used: dict[tuple[str, ...], Array], init: str) -> PyTree:
  """Fresh parameters as initial values of a genotype: zeros in rows that it lacks, scaled where fan in has a say."""

  def fit(path, leaf):
    names = tuple(p.key for p in path)
    if names == ("classifier", "bias"):
      rows = used["classifier", "kernel"]
      return leaf * _gain(params["classifier"]["kernel"].shape[0], rows, init).astype(leaf.dtype)
    if names not in used:
      return leaf
    own, full = used[names], leaf.shape[-2]
    there = np.arange(full, dtype=np.int32).reshape(*[1] * own.ndim, full) < own[..., None]
    factor = jnp.where(there, _gain(full, own, init)[..., None], 0)
    lead = leaf.ndim - 2 - own.ndim
    factor = factor.reshape(*own.shape, *[1] * lead, full, 1).astype(leaf.dtype)
    return leaf * jnp.broadcast_to(factor, leaf.shape)

  return jax.tree_util.tree_map_with_path(fit, params)


def _gain(full: int, used: Array, init: str) -> Array:
  ratio = full / jnp.maximum(used, 1).astype(jnp.float32)
  return jnp.ones_like(ratio) if init == "kaiming_fan_out" else jnp.sqrt(ratio)
