"""The cells of a network whose genotype is data: few bodies of code for many of them, as in `darts.stages`.

The normal cells between two reductions are one `lax.scan`, and the slots of a cell are one, whose body chooses state
and operation. The concat set is data too: the chosen nodes come first in a cell's maps, zeros follow.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.nets.choose import choose
from jaxnas.nets.node import take
from jaxnas.nets.passes import Pass, Seen, together
from jaxnas.spaces.darts import blocks
from jaxnas.spaces.darts.operations import Convolved, Maps
from jaxnas.spaces.darts.stages import as_alike, joined_entries
from jaxnas.spaces.nds.cells import operations
from jaxnas.spaces.nds.cells.encoding import FIRST_NODE
from jaxnas.spaces.nds.cells.layout import INPUTS, CellPart, groups, slot_names
from jaxnas.spaces.nds.tables import CellTable


class ChosenCell(NamedTuple):
  """What a genotype chooses for one kind of cell.

  Attributes:
    ops, states: of each slot.
    select: which node stands in which place of the output, 0 or 1; None: all in order.
    empty: places of the output behind the last, which have zeros.
  """

  ops: Int[Array, " slots"]
  states: Int[Array, " slots"]
  select: Float[Array, "K K"] | None
  empty: Any


class LastCells(NamedTuple):
  """The two states that the next cell reads, and how many of their channels are but zeros behind their own."""

  states: tuple[Array, Array]
  empty: tuple[Any, Any]


class Own(NamedTuple):
  """Parameters of a part of the network, gates among them (`passes.with_gates`), and given moments of its BN."""

  params: PyTree
  stats: PyTree | None


def chosen_cell(table: CellTable, numbers: Int[Array, " _"]) -> ChosenCell:
  """Of the integers of one kind of cell, see `encoding`."""
  nodes = table.nodes
  slots, bits = numbers[: 4 * nodes].reshape(-1, 2), numbers[4 * nodes :]
  if table.all_nodes:
    return ChosenCell(slots[:, 0], slots[:, 1], None, 0)
  place = jnp.where(bits > 0, jnp.cumsum(bits) - 1, -1)
  select = (place[None] == np.arange(nodes, dtype=np.int32)[:, None]).astype(jnp.float32)
  return ChosenCell(slots[:, 0], slots[:, 1], select, nodes - bits.sum(dtype=jnp.int32))


def stage(
  table: CellTable, part: CellPart, own: Own, flow: LastCells, chosen: ChosenCell, run: Pass
) -> tuple[LastCells, Seen]:
  """The normal cells of a stage: (what the next cell reads, what they show; statistics are [cells, ...])."""
  width, count = table.nodes * part.channels, len(part.cells)
  alike = tuple(as_alike(x, part.cells[0].halve and i == 0, width) for i, x in enumerate(flow.states))
  names = [[name for name, _ in groups(part, place)] for place in range(len(INPUTS))]
  entries = {n: joined_entries(group, own.params[n], width) for n, group in zip(INPUTS, names, strict=True)}
  slots = side_by_side(own.params, table.nodes, 1)

  def body(carry, own):
    y, seen = _cell(table, carry, own, (blocks.relu_conv_bn, blocks.relu_conv_bn), chosen, 0, run)
    states, scale = run.rescaled(carry[1], y)
    return states, seen.plus(scale)

  (before, last), seen = lax.scan(body, alike, Own({**entries, "slots": slots}, own.stats))
  seen, empty = seen.over_layers(), chosen.empty * part.channels
  if run.observes:
    readers = (1, min(2, count))  # cells that read each of the inputs
    parts = zip(flow.states, flow.empty, alike, readers, strict=True)
    seen = seen.plus(*(_unlike(*one, run) for one in parts))
    seen = seen.plus(_unlike(last, empty, last, 2 * count - 2 - (count > 1), run))  # and each of the outputs in here
  if count == 1:
    before = flow.states[1] if seen.log_scale is None else flow.states[1] * jnp.exp2(-seen.log_scale)
    return LastCells((before, last), (flow.empty[1], empty)), seen
  return LastCells((before, last), (empty, empty)), seen


def reduction(
  table: CellTable, part: CellPart, own: Own, flow: LastCells, chosen: ChosenCell, run: Pass
) -> tuple[LastCells, Seen]:
  """A reduction cell: (what the next cell reads, what it shows)."""
  params = {**{name: own.params[name] for name in INPUTS}, "slots": side_by_side(own.params, table.nodes, 0)}
  first = blocks.factorised_reduction if part.cells[0].halve else blocks.relu_conv_bn
  y, seen = _cell(table, flow.states, Own(params, own.stats), (first, blocks.relu_conv_bn), chosen, 1, run)
  if run.observes:
    seen = seen.plus(*(_unlike(x, e, x, 1, run) for x, e in zip(flow.states, flow.empty, strict=True)))
  (before, last), scale = run.rescaled(flow.states[1], y)
  return LastCells((before, last), (flow.empty[1], chosen.empty * part.channels)), seen.plus(scale)


def side_by_side(params: PyTree, nodes: int, axis: int) -> PyTree:
  """The parameters of a cell's slots side by side."""
  own = [params[name] for name in slot_names(nodes)]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *own)


def _unlike(x: Maps, empty: Any, alike: Convolved, readers: int, run: Pass) -> Seen:
  """What has to be added because so many ReLUs read `alike` instead of x without its `empty` channels of zeros."""
  units = (jnp.asarray(empty, jnp.float32) * float(x.shape[2] * x.shape[3]))[None, None]
  change = -units if x.shape == alike.shape else run.agreement(x) - units - run.agreement(alike)
  return Seen(None, (readers * change, jnp.zeros((), x.dtype)))


def _cell(table: CellTable, inputs, own: Own, entries, chosen: ChosenCell, kind: int, run: Pass) -> tuple[Maps, Seen]:
  """(output, what is shown) of one cell; `entries` bring the inputs to its channels."""
  seen, states = {}, []
  for name, x, entry in zip(INPUTS, inputs, entries, strict=True):
    norm, found = blocks.collecting(run, own.stats and lax.stop_gradient(own.stats[name]))
    states.append(entry(x, own.params[name], norm))
    seen[name] = blocks.seen_of(run, found, x, (x,))
  nodes, seen["slots"] = _slots(table, jnp.stack(states), own, chosen, kind, run)
  if chosen.select is not None:
    nodes = jnp.tensordot(chosen.select.astype(nodes.dtype), nodes, 1, precision=lax.Precision.HIGHEST)
  return nodes.reshape(-1, *nodes.shape[2:]), together(seen)


def _slots(
  table: CellTable, inputs: Float[Array, "2 C N H W"], own: Own, chosen: ChosenCell, kind: int, run: Pass
) -> tuple[Float[Array, "K C N H2 W2"], Seen]:
  """A loop over the slots. Strides depend on the state: reduction cells have each operation at both."""
  shape = inputs.shape[1:-2] + tuple(-(-n // (1 + kind)) for n in inputs.shape[-2:])
  strides = (1, 2) if kind else (1,)
  branches = [functools.partial(_branch, op, stride, run) for stride in strides for op in table.ops]

  def body(nodes, slot):
    op, state, target, params, stats = slot
    from_input = take(inputs, jnp.minimum(state, FIRST_NODE - 1))
    from_node = take(nodes, jnp.maximum(state - FIRST_NODE, 0))
    number, x = op, from_node
    if kind:
      number = op + len(table.ops) * (state < FIRST_NODE).astype(op.dtype)
    else:
      x = jnp.where(state < FIRST_NODE, from_input, from_node)
    own = {"params": params, "stats": stats, "input": from_input if kind else None}
    y, seen = choose(branches, number, x, own)
    return lax.dynamic_update_index_in_dim(nodes, take(nodes, target) + y, target, 0), seen

  targets = np.arange(2 * table.nodes, dtype=np.int32) // 2
  stats = own.stats and own.stats["slots"]
  zeros = jnp.zeros((table.nodes, *shape), inputs.dtype)
  nodes, seen = lax.scan(body, zeros, (chosen.ops, chosen.states, targets, own.params["slots"], stats))
  return nodes, seen.over_layers()


def _branch(op: str, stride: int, run: Pass, x: Maps, own: PyTree) -> tuple[Convolved, Seen]:
  """The operation on x, or at stride 2 on the cell's input in `own`; what it shows has one form for all operations."""
  x = own["input"] if stride == 2 else x
  norm, found = blocks.collecting(run, lax.stop_gradient(own["stats"]))
  y, reads = operations.apply(op, x, own["params"].get(op, {}), norm, stride)
  seen = blocks.seen_of(run, found, x, reads)
  nothing = (jnp.zeros((len(x),), x.dtype), jnp.zeros((len(x),), x.dtype)) if run.keeps_stats else None
  return y, seen._replace(stats={"a": nothing, "b": nothing, **seen.stats})
