"""NAS-Bench-101 cells as arrays: text, the benchmark's matrices, pruning, alphas.

A cell is a directed acyclic graph of 2 to 7 vertices, the first the input and the last the output, an operation on each
of the others, and at most 9 edges. Everywhere in this package an architecture is an int8 array [28]: 21 edges, 0 or 1,
in the order of `EDGES`, then the column in `OPS` of each of 7 vertices. A cell of fewer vertices has its output earlier
and `absent` vertices after it. Vertices on no path from input to output do not count: they are kept, so that text and
array are the cell as it was given, and pruned (`prune`) by everything that computes with the cell.

The text form has one group a vertex, its operation and the digits of its predecessors:

    conv3x3:0|maxpool3x3:01|output:12

Source: Ying et al., "NAS-Bench-101: Towards Reproducible NAS", ICML 2019.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import numpy as np
from jaxtyping import Float32, Int8

from jaxnas.errors import ArchitectureError, quoted
from jaxnas.spaces import arrays
from jaxnas.spaces.nb101 import channels

OPS: Final = ("input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "output", "absent")
INPUT, CONV3, CONV1, POOL, OUTPUT, ABSENT = range(len(OPS))
INNER_OPS: Final = (CONV3, CONV1, POOL)
MAX_VERTICES: Final = 7
MAX_EDGES: Final = 9
EDGES: Final = tuple((t, s) for t in range(1, MAX_VERTICES) for s in range(t))  # (target, source)
LENGTH: Final = len(EDGES) + MAX_VERTICES

# Columns of `alphas`: edges from each slot, the operation, the rank that decides the channels.
OP_COLUMNS: Final = slice(MAX_VERTICES, MAX_VERTICES + len(INNER_OPS))
RANK_COLUMN: Final = MAX_VERTICES + len(INNER_OPS)
COLUMNS: Final = RANK_COLUMN + 1

_NAMES: Final = {"conv3x3": CONV3, "conv1x1": CONV1, "maxpool3x3": POOL, "output": OUTPUT}
_SHORT: Final = {op: name for name, op in _NAMES.items()}
_FORM: Final = "conv3x3:0|maxpool3x3:01|output:12"


def as_codes(codes: Any) -> Int8[np.ndarray, "*A 28"]:
  """Checks architectures and returns them as int8 [..., 28]; takes a text form (gives [28]) or integers [..., 28].

  Raises:
    ArchitectureError: another dtype or shape, or a cell that is not in the space (see `from_cell`); says which.
  """
  if isinstance(codes, str):
    return parse(codes)
  array = _as_integers(codes)
  for index in np.ndindex(array.shape[:-1]):
    where = f"archs{list(index)}" if index else "arch"
    _check_valid(unpack(array[index], where)[0], where)
  return array


def as_code(code: Any) -> Int8[np.ndarray, "28"]:
  """Checks one architecture, as text or integers [28].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code))


def from_cell(matrix: Any, ops: Sequence[str] | np.ndarray) -> Int8[np.ndarray, "28"]:
  """The architecture of the benchmark's own form.

  Args:
    matrix: adjacency, [V, V] of 0 and 1, row to column, strictly upper triangular.
    ops: V labels, of `OPS` without `absent`.

  Raises:
    ArchitectureError: another shape, not upper triangular, more than 7 vertices or (after pruning) 9 edges, an unknown
      or misplaced label, or no path from input to output; the message says where.
  """
  try:
    array = np.asarray(matrix)
  except ValueError as error:
    raise ArchitectureError("matrix is ragged; use V rows of V zeros and ones") from error
  if array.ndim != 2 or array.shape[0] != array.shape[1] or array.dtype.kind not in "iub":
    shape = f"dtype {array.dtype} and shape {list(array.shape)}"
    raise ArchitectureError(f"matrix has {shape}; use V rows of V zeros and ones")
  vertices = len(array)
  if not 2 <= vertices <= MAX_VERTICES:
    raise ArchitectureError(f"matrix has {vertices} vertices; a cell has 2 to {MAX_VERTICES}")
  for row, column in np.argwhere(array != 0).tolist():
    if array[row, column] != 1:
      raise ArchitectureError(f"matrix[{row}][{column}] = {array[row, column]}; entries are 0 or 1")
    if row >= column:
      raise ArchitectureError(f"matrix[{row}][{column}] = 1; the matrix must be strictly upper triangular")
  if isinstance(ops, str) or not isinstance(ops, Iterable):
    raise ArchitectureError(f"ops is {ops!r}; give a list of V labels")
  labels = list(ops)
  if len(labels) != vertices:
    raise ArchitectureError(f"ops has {len(labels)} labels for {vertices} vertices; give one a vertex")
  for v, label in enumerate(labels):
    allowed = _allowed(v, vertices)
    if label not in [OPS[op] for op in allowed]:
      raise ArchitectureError(f"ops[{v}] = {label!r}; there use {' or '.join(OPS[op] for op in allowed)}")
  _check_valid(array, "matrix")
  return pack(array, [OPS.index(label) for label in labels])


def to_cell(code: Any) -> tuple[list[list[int]], list[str]]:
  """(matrix, ops) of the benchmark's own form; the inverse of `from_cell`.

  Raises:
    ArchitectureError: not one architecture.
  """
  matrix, ops = unpack(as_code(code), "arch")
  return matrix.tolist(), [OPS[op] for op in ops]


def parse(text: str) -> Int8[np.ndarray, "28"]:
  """Reads the text form, such as `conv3x3:0|maxpool3x3:01|output:12`; outer white space is ignored.

  Raises:
    ArchitectureError: not of that form, or not a cell of the space; the message quotes the group.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"architecture text is {text!r}; use a string such as {_FORM}")
  groups = text.strip().split("|")
  vertices = len(groups) + 1
  if vertices > MAX_VERTICES:
    raise ArchitectureError(f"architecture {quoted(text)} has {vertices} vertices; a cell has 2 to {MAX_VERTICES}")
  matrix, ops = np.zeros((vertices, vertices), np.int8), [INPUT]
  for v, group in enumerate(groups, start=1):
    name, colon, sources = group.partition(":")
    allowed = [_SHORT[op] for op in _allowed(v, vertices)]
    if name not in allowed:
      _fail(text, v, group, f"unknown operation {name[:20]!r}; there use {' or '.join(allowed)}")
    if not colon or list(sources) != sorted({s for s in sources if s in "0123456"[:v]}):
      _fail(text, v, group, f"after ':' give the vertices before {v} that lead to it, ascending digits")
    ops.append(_NAMES[name])
    matrix[[int(s) for s in sources], v] = 1
  _check_valid(matrix, f"architecture {quoted(text)}")
  return pack(matrix, ops)


def format(code: Any) -> str:
  """The text form of one architecture; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  matrix, ops = unpack(as_code(code), "arch")
  sources = ["".join(str(s) for s in np.flatnonzero(matrix[:, v])) for v in range(len(ops))]
  return "|".join(f"{_SHORT[op]}:{sources[v]}" for v, op in enumerate(ops) if v)


def prune(code: Any) -> tuple[Int8[np.ndarray, "V V"], list[int]]:
  """(adjacency, op columns) of the vertices on a path from input to output, in their order.

  Raises:
    ArchitectureError: not one architecture.
  """
  matrix, ops = unpack(as_code(code), "arch")
  kept = _on_path(matrix)
  return matrix[np.ix_(kept, kept)], [ops[v] for v in kept]


def is_connected(code: Any) -> bool:
  """Whether some path leads from the input to the output. Only here a cell without one is no error.

  Raises:
    ArchitectureError: not one well-formed architecture.
  """
  if isinstance(code, str):
    return len(as_code(code)) > 0
  array = _as_integers(code)
  if array.ndim != 1:
    raise ArchitectureError(f"arch has shape {list(array.shape)}; give one architecture [{LENGTH}]")
  return len(_on_path(unpack(array, "arch")[0])) > 0


def alphas(codes: Any) -> Float32[np.ndarray, "*A 1 7 11"]:
  """All that the network needs to know of the pruned cells, [..., cell types (1), slots (7), columns (11)].

  Slot 0 is the input, slot 6 the output; the inner vertices fill the slots from 5 downwards, in their order, so slot 5
  always feeds the output. A row holds the edges from each slot (7 columns), the operation one-hot (conv3x3, conv1x1,
  maxpool3x3; all 0 for no vertex) and the vertex's rank, see `channels.ranks`.

  Raises:
    ArchitectureError: as `as_codes`.
  """
  array = as_codes(codes)
  result = np.zeros((*array.shape[:-1], 1, MAX_VERTICES, COLUMNS), np.float32)
  for index in np.ndindex(array.shape[:-1]):
    matrix, ops = prune(array[index])
    inner = len(ops) - 2
    slots = [0, *range(MAX_VERTICES - 1 - inner, MAX_VERTICES)]
    rows = result[(*index, 0)]
    for source, target in np.argwhere(matrix).tolist():
      rows[slots[target], slots[source]] = 1
    for v, rank in enumerate(channels.ranks(matrix), start=1):
      rows[slots[v], OP_COLUMNS.start + INNER_OPS.index(ops[v])] = 1
      rows[slots[v], RANK_COLUMN] = rank
  return result


def _as_integers(codes: Any) -> Int8[np.ndarray, "*A 28"]:
  array = arrays.integers(codes, LENGTH, _FORM)
  limits = np.array([2] * len(EDGES) + [len(OPS)] * MAX_VERTICES)
  wrong = (array < 0) | (array >= limits)
  if wrong.any():
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ArchitectureError(
      f"archs{list(where)} = {array[where]}; entries 0..{len(EDGES) - 1} are edges, 0 or 1, the others op columns "
      f"0..{len(OPS) - 1}: {', '.join(OPS)}"
    )
  return array.astype(np.int8)


def unpack(code: np.ndarray, where: str) -> tuple[Int8[np.ndarray, "V V"], list[int]]:
  """(adjacency, op columns) of the present vertices of integers that are in range."""
  ops = code[len(EDGES) :].tolist()
  vertices = ops.index(ABSENT) if ABSENT in ops else MAX_VERTICES
  for v, op in enumerate(ops):
    allowed = _allowed(v, vertices) if v < max(vertices, 2) else (ABSENT,)
    if op not in allowed:
      names = " or ".join(OPS[o] for o in allowed)
      raise ArchitectureError(f"{where}: vertex {v} of {vertices} is {OPS[op]}; there use {names}")
  matrix = np.zeros((vertices, vertices), np.int8)
  for (target, source), present in zip(EDGES, code.tolist(), strict=False):
    if present and target >= vertices:
      raise ArchitectureError(f"{where}: an edge leads from vertex {source} to {target}, which is absent")
    if present:
      matrix[source, target] = 1
  return matrix, ops[:vertices]


def pack(matrix: np.ndarray, ops: Sequence[int]) -> Int8[np.ndarray, "28"]:
  vertices = len(ops)
  edges = [int(t < vertices and matrix[s, t]) for t, s in EDGES]
  return np.array([*edges, *ops, *[ABSENT] * (MAX_VERTICES - vertices)], np.int8)


def _allowed(vertex: int, vertices: int) -> tuple[int, ...]:
  """Op columns that a vertex may have in a cell of so many."""
  if vertex == 0:
    return (INPUT,)
  return (OUTPUT,) if vertex >= vertices - 1 else INNER_OPS


def _on_path(matrix: np.ndarray) -> list[int]:
  """Vertices on a path from the first to the last, none if there is no path."""
  vertices, rows = len(matrix), matrix.tolist()
  reached, leads = {0}, {vertices - 1}
  for target in range(1, vertices):
    if any(rows[s][target] for s in reached):
      reached.add(target)
  for source in range(vertices - 2, -1, -1):
    if any(rows[source][t] for t in leads):
      leads.add(source)
  return sorted(reached & leads) if 0 in leads else []


def is_valid(matrix: np.ndarray) -> bool:
  kept = _on_path(matrix)
  return bool(kept) and bool(matrix[np.ix_(kept, kept)].sum() <= MAX_EDGES)


def _check_valid(matrix: np.ndarray, where: str) -> None:
  kept = _on_path(matrix)
  if not kept:
    raise ArchitectureError(f"{where}: no path leads from the input to the output (vertex {len(matrix) - 1})")
  edges = int(matrix[np.ix_(kept, kept)].sum())
  if edges > MAX_EDGES:
    raise ArchitectureError(f"{where} has {edges} edges on paths from input to output; a cell has at most {MAX_EDGES}")


def _fail(text: str, vertex: int, group: str, problem: str) -> NoReturn:
  raise ArchitectureError(f"architecture {quoted(text)}, vertex {vertex}, {quoted(group)}: {problem}")
