"""Genotypes with a width and a depth as integers and as text.

A cell has two inputs, states 0 and 1 (the outputs of the cell before the last and of the last), and K nodes, states 2
to K + 1. A node is the sum of two operations, each on an earlier state; both may be on the same. Its output is the
concatenation of the states in its concat set. There are two kinds of cell, normal and reduction.

A code is an int16 array [10 K + 2]: width, depth, and for each kind of cell the 2 K slots (op column, state) of its
nodes in order and then K numbers 0 or 1, which nodes are concatenated.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, section 3 and appendix.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int16

from jaxnas.errors import ArchitectureError
from jaxnas.spaces import arrays
from jaxnas.spaces.nds import text
from jaxnas.spaces.nds.tables import CellTable

CELLS: Final = ("normal", "reduce")
FIRST_NODE: Final = 2
MOST_WIDTH: Final = 4096
MOST_DEPTH: Final = 200
FORM: Final = (
  "Genotype(normal=[('op', state), ...], normal_concat=[...], reduce=[...], reduce_concat=[...], width=C, depth=D)"
)
_FIELDS: Final = ("normal", "normal_concat", "reduce", "reduce_concat")


class Genotype(NamedTuple):
  """One architecture.

  Attributes:
    width: channels of the first cell.
    depth: number of cells.
    slots: (op column, state) of the 2 K slots of the normal and of the reduction cell.
    concat: the states that each concatenates, ascending.
  """

  width: int
  depth: int
  slots: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]
  concat: tuple[tuple[int, ...], tuple[int, ...]]


def length(table: CellTable) -> int:
  """Integers of a code."""
  return 2 + 10 * table.nodes


def as_codes(table: CellTable, codes: Any) -> Int16[np.ndarray, "*A L"]:
  """Checks architectures and returns them as int16 [..., L].

  Takes a text form (gives [L]) or anything integer of shape [..., L].

  Raises:
    ArchitectureError: another dtype or shape, a width that is odd or out of range, a depth, op column, state or concat
      set that is none; says which.
  """
  if isinstance(codes, str):
    return parse(table, codes)
  array = arrays.integers(codes, length(table), FORM)
  nodes = table.nodes
  _refuse(array[..., 0], (2, MOST_WIDTH), "width")
  _refuse(array[..., 0] % 2, (0, 0), "width modulo 2")
  _refuse(array[..., 1], (1, MOST_DEPTH), "depth")
  for c, name in enumerate(CELLS):
    start = 2 + 5 * nodes * c
    for slot in range(2 * nodes):
      place, node = start + 2 * slot, slot // 2 + FIRST_NODE
      _refuse(array[..., place], (0, len(table.ops) - 1), f"{name}[{slot}], op column")
      _refuse(array[..., place + 1], (0, node - 1), f"{name}[{slot}], state of node {node}")
    bits = array[..., start + 4 * nodes : start + 5 * nodes]
    _refuse(bits.min(-1), (int(table.all_nodes), 1), f"{name}_concat, least entry")
    _refuse(bits.max(-1), (1, 1), f"{name}_concat, largest entry")
  return array.astype(np.int16)


def _refuse(values: Any, limits: tuple[int, int], what: str) -> None:
  """Raises for the first of the values [...] outside the limits."""
  values = np.asarray(values)
  wrong = (values < limits[0]) | (values > limits[1])
  if wrong.any():
    batch = np.argwhere(wrong)[0].tolist()
    place = f"archs{batch}" if batch else "arch"
    allowed = f"{limits[0]}..{limits[1]}" if limits[0] < limits[1] else f"only {limits[0]}"
    raise ArchitectureError(f"{place}, {what}: {values[tuple(batch)]} is out of range; use {allowed}")


def as_code(table: CellTable, code: Any) -> Int16[np.ndarray, " L"]:
  """Checks one architecture, as text or integers [L].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(table, code))


def genotype(table: CellTable, code: Any) -> Genotype:
  """The parts of one architecture.

  Raises:
    ArchitectureError: not one architecture.
  """
  return split(table.nodes, as_code(table, code))


def split(nodes: int, code: np.ndarray) -> Genotype:
  """As `genotype`, of a code that is known to be one."""
  width, depth, *rest = code.tolist()
  slots, concat = [], []
  for own in (rest[: 5 * nodes], rest[5 * nodes :]):
    slots.append(tuple(zip(own[: 4 * nodes : 2], own[1 : 4 * nodes : 2], strict=True)))
    concat.append(tuple(node for node, bit in enumerate(own[4 * nodes :], FIRST_NODE) if bit))
  return Genotype(width, depth, (slots[0], slots[1]), (concat[0], concat[1]))


def join(nodes: int, own: Genotype) -> Int16[np.ndarray, " L"]:
  """The code of a legal genotype."""
  found = [own.width, own.depth]
  for slots, concat in zip(own.slots, own.concat, strict=True):
    found += [number for slot in slots for number in slot]
    found += [int(node in concat) for node in range(FIRST_NODE, FIRST_NODE + nodes)]
  return np.array(found, np.int16)


def loose_ends(slots: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
  """The nodes that no other node of the cell uses."""
  used = {state for _, state in slots}
  return tuple(node for node in range(FIRST_NODE, FIRST_NODE + len(slots) // 2) if node not in used)


def from_net(table: CellTable, net: Any) -> Int16[np.ndarray, " L"]:
  """The architecture of the field `net` of a published table: `width`, `depth`, `genotype` (its four fields).

  Raises:
    ArchitectureError: another form, an op of another space, a state that is not an earlier one, or a concat set that
      the space does not have; says where.
  """
  width, depth, cells = text.fields(net, ("width", "depth", "genotype"))
  text.integer(width, "width", 2, MOST_WIDTH)
  if width % 2:
    raise ArchitectureError(f"width is {width}; use an even number: a factorised reduction halves it")
  text.integer(depth, "depth", 1, MOST_DEPTH)
  values = text.fields(cells, _FIELDS, "genotype")
  slots, concat = [], []
  for name, pairs, states in zip(CELLS, values[::2], values[1::2], strict=True):
    pairs = text.sequence(pairs, name, 2 * table.nodes)
    slots.append(tuple(_slot(table, f"{name}[{i}]", pair, i // 2 + FIRST_NODE) for i, pair in enumerate(pairs)))
    concat.append(_concat(table, f"{name}_concat", states))
  return join(table.nodes, Genotype(width, depth, (slots[0], slots[1]), (concat[0], concat[1])))


def _slot(table: CellTable, where: str, pair: Any, node: int) -> tuple[int, int]:
  op, state = text.sequence(pair, f"{where}, a pair (op, state)", 2)
  if not isinstance(op, str) or op not in table.ops:
    raise ArchitectureError(f"{where}: {table.name} has no op {repr(op)[:80]}; it has {', '.join(table.ops)}")
  return table.ops.index(op), text.integer(state, f"{where}: the state of node {node}", 0, node - 1)


def _concat(table: CellTable, where: str, states: Any) -> tuple[int, ...]:
  last = FIRST_NODE + table.nodes - 1
  found = [text.integer(state, where, FIRST_NODE, last) for state in text.sequence(states, where)]
  if not found or found != sorted(set(found)):
    raise ArchitectureError(f"{where} is {found}; name nodes {FIRST_NODE}..{last}, ascending, each once, at least one")
  if table.all_nodes and len(found) < table.nodes:
    raise ArchitectureError(f"{where} is {found}; a cell of {table.name} concatenates all of {FIRST_NODE}..{last}")
  return tuple(found)


def parse(table: CellTable, arch: str) -> Int16[np.ndarray, " L"]:
  """The architecture of a text form, see `format`, or of a published table's `net` in JSON.

  Raises:
    ArchitectureError: as `text.read` and `from_net`.
  """
  net = text.read(arch, "Genotype", FORM)
  if isinstance(net, dict) and "genotype" not in net:
    size = {name: net.pop(name) for name in ("width", "depth") if name in net}
    net = {**size, "genotype": net}
  return from_net(table, net)


def format(table: CellTable, code: Any) -> str:
  """The text form of one architecture.

  Raises:
    ArchitectureError: not one architecture.
  """
  own = genotype(table, code)
  parts = []
  for name, slots, concat in zip(CELLS, own.slots, own.concat, strict=True):
    pairs = [(table.ops[op], state) for op, state in slots]
    parts += [f"{name}={pairs}", f"{name}_concat={list(concat)}"]
  return f"Genotype({', '.join(parts)}, width={own.width}, depth={own.depth})"


def canonical(table: CellTable, code: Any) -> Genotype:
  """Equal for architectures that differ only in the order of a node's two inputs.

  Raises:
    ArchitectureError: not one architecture.
  """
  own = genotype(table, code)
  normal, reduce = (
    tuple(slot for i in range(0, len(slots), 2) for slot in sorted(slots[i : i + 2])) for slots in own.slots
  )
  return own._replace(slots=(normal, reduce))


def is_connected(table: CellTable, code: Any) -> bool:
  """Whether a path without `none` leads from the images to the output.

  Raises:
    ArchitectureError: not one architecture.
  """
  own = genotype(table, code)
  reaching = [_reaching(table, slots, concat) for slots, concat in zip(own.slots, own.concat, strict=True)]
  alive = [True, True]
  for i in range(own.depth):
    through = reaching[i in reductions(own.depth)]
    alive = [alive[1], any(alive[state] for state in through)]
  return alive[1]


def _reaching(table: CellTable, slots: tuple[tuple[int, int], ...], concat: tuple[int, ...]) -> set[int]:
  """Which of a cell's inputs its output depends on."""
  reach = [{0}, {1}]
  for i in range(0, len(slots), 2):
    terms = [reach[state] for op, state in slots[i : i + 2] if table.ops[op] != "none"]
    reach.append(set().union(*terms))
  return set().union(*(reach[node] for node in concat))


def reductions(depth: int) -> tuple[int, int]:
  """The numbers of the reduction cells in a network of so many cells; they may be equal."""
  return depth // 3, 2 * depth // 3
