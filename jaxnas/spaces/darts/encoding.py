"""DARTS cells as arrays: genotype text, alphas and back, sampling, neighbourhoods.

A cell has two inputs, nodes 0 and 1 (the outputs of the cell before the last and of the last), and four intermediate
nodes, 2 to 5, whose outputs it concatenates. Each of these adds two terms, an operation on an earlier node each. There
are two kinds of cell, normal and reduction; in the latter operations on nodes 0 and 1 have stride 2.

Everywhere in this package an architecture is an int8 array [32], a batch of them [A, 32]: flat, as in the other spaces,
so that all code for batches of architectures takes it. It is the raveled array `slots`, [cell (2), node (4), input (2),
(op, source)], with the op's column in `OPS` and the node it is applied to. A node's inputs stand in ascending order of
source; sources are distinct, and `none` is in no genotype, only in the supernet. The text form is the literature's:

    Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...], normal_concat=range(2, 6), reduce=[...], ...)

Source: Liu et al., "DARTS", ICLR 2019, sections 2.1, 2.4 and 3.1.1, and the released code.
"""

import ast
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import jax
import numpy as np
from jaxtyping import Float32, Int8

from jaxnas.base import host_generator
from jaxnas.errors import ArchitectureError, ConfigError, quoted
from jaxnas.spaces import arrays

OPS: Final = (
  "none",
  "max_pool_3x3",
  "avg_pool_3x3",
  "skip_connect",
  "sep_conv_3x3",
  "sep_conv_5x5",
  "dil_conv_3x3",
  "dil_conv_5x5",
)
TENAS_OPS: Final = (OPS[0], *OPS[3:], OPS[2], OPS[1])  # TE-NAS's column order, which decides ties there
CELLS: Final = ("normal", "reduce")
FIRST_NODE: Final = 2
NUM_NODES: Final = 4
NODES: Final = tuple(range(FIRST_NODE, FIRST_NODE + NUM_NODES))
EDGES: Final = tuple((t, s) for t in NODES for s in range(t))  # (target, source)
NONE: Final = OPS.index("none")
NUM_OPS: Final = len(OPS)
NUM_EDGES: Final = len(EDGES)
SLOTS: Final = (len(CELLS), NUM_NODES, 2, 2)
LENGTH: Final = int(np.prod(SLOTS))
PAIRS: Final = tuple(tuple(itertools.combinations(range(t), 2)) for t in NODES)  # a node's choices of sources
NUM_ARCHS: Final = int(np.prod([len(p) * (NUM_OPS - 1) ** 2 for p in PAIRS], dtype=object)) ** 2

FIRST_EDGES: Final = np.array([EDGES.index((t, 0)) for t in NODES])  # rows of each node's first edge
_NUMPY: Final = ("array", "int8", "int16", "int32", "int64", "intp", "str_")  # what repr writes
_FIELDS: Final = ("normal", "normal_concat", "reduce", "reduce_concat")
_FORM: Final = (
  "Genotype(normal=[('op', node), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
)


def as_codes(codes: Any) -> Int8[np.ndarray, "*A 32"]:
  """Checks architectures and returns them as int8 [..., 32], the inputs of each node in ascending order of source.

  Takes a text form (gives [32]) or anything integer of shape [..., 32].

  Raises:
    ArchitectureError: another dtype or shape, `none` or no op column, a source that is not an earlier node, or a node
      with twice the same source; says which.
  """
  if isinstance(codes, str):
    return parse(codes)
  array = arrays.integers(codes, LENGTH, _FORM)
  view = array.reshape(*array.shape[:-1], *SLOTS)
  ops, sources = view[..., 0], view[..., 1]
  limits = np.array(NODES)[:, None]
  _refuse((ops <= NONE) | (ops >= NUM_OPS), ops, f"is no op column of a genotype; use 1..{NUM_OPS - 1}: {OPS[1:]}")
  _refuse((sources < 0) | (sources >= limits), sources, "is no earlier node; node t has sources 0..t-1")
  _refuse(sources[..., :1] == sources[..., 1:], sources, "is the source of both inputs; they must differ")
  order = np.argsort(sources, axis=-1)[..., None]
  return np.take_along_axis(view, order, axis=-2).reshape(array.shape).astype(np.int8)


def _refuse(wrong: np.ndarray, values: np.ndarray, problem: str) -> None:
  """Raises for the first of the wrong entries [..., cell, node, input], with its place and value."""
  if wrong.any():
    *batch, cell, node, position = np.argwhere(wrong)[0].tolist()
    place = f"archs{batch}" if batch else "arch"
    value = values[(*batch, cell, node, position)]
    raise ArchitectureError(
      f"{place}, {CELLS[cell]} cell, node {node + FIRST_NODE}, input {position}: {value} {problem}"
    )


def as_code(code: Any) -> Int8[np.ndarray, "32"]:
  """Checks one architecture, as text or integers [32], and returns it as int8 [32].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code))


def slots(codes: Any) -> Int8[np.ndarray, "*A 2 4 2 2"]:
  """Architectures as [..., cell, node, input, (op, source)].

  Raises:
    ArchitectureError: as `as_codes`.
  """
  array = as_codes(codes)
  return array.reshape(*array.shape[:-1], *SLOTS)


def from_cells(normal: Any, reduce: Any) -> Int8[np.ndarray, "32"]:
  """The architecture of two lists of 8 pairs (op name, source), pairs 2k and 2k + 1 being the inputs of node k + 2.

  Raises:
    ArchitectureError: not 8 pairs, an unknown op or `none`, a source that is not an earlier node, or one that a node
      has twice; the message names the pair, such as `normal[3]`.
  """
  rows = []
  for name, pairs in zip(CELLS, (normal, reduce), strict=True):
    if not _is_list(pairs) or len(pairs) != 2 * NUM_NODES:
      got = f"{len(pairs)} entries" if _is_list(pairs) else repr(pairs)[:80]
      raise ArchitectureError(f"genotype, {name}: got {got}; a DARTS cell has {2 * NUM_NODES} pairs ('op', node)")
    rows += [_row(f"{name}[{i}]", pair, i // 2 + FIRST_NODE) for i, pair in enumerate(pairs)]
    for i in range(-2 * NUM_NODES, 0, 2):
      if rows[i][1] == rows[i + 1][1]:
        first = i + 2 * NUM_NODES
        raise ArchitectureError(
          f"genotype, {name}[{first}] and {name}[{first + 1}]: node {first // 2 + FIRST_NODE} has source {rows[i][1]} "
          "twice; its two sources must differ"
        )
  return as_code(np.array(rows, np.int8).ravel())


def _row(where: str, pair: Any, node: int) -> tuple[int, int]:
  if not _is_list(pair) or len(pair) != 2:
    raise ArchitectureError(f"genotype, {where}: got {repr(pair)[:80]}; use a pair ('op', node)")
  op, source = pair
  if not isinstance(op, str) or op not in OPS[1:]:
    raise ArchitectureError(f"genotype, {where}: unknown op {repr(op)[:80]}; ops are {', '.join(OPS[1:])}")
  if isinstance(source, bool) or not isinstance(source, int | np.integer) or not 0 <= source < node:
    raise ArchitectureError(f"genotype, {where}: source {repr(source)[:80]}; node {node} takes nodes 0..{node - 1}")
  return OPS.index(op), int(source)


def _is_list(value: Any) -> bool:
  return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def to_cells(code: Any) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
  """(normal, reduce) pairs of one architecture; the inverse of `from_cells`, up to the order of a node's inputs.

  Raises:
    ArchitectureError: not one architecture.
  """
  normal, reduce = slots(as_code(code)).reshape(len(CELLS), 2 * NUM_NODES, 2).tolist()
  return [(OPS[op], source) for op, source in normal], [(OPS[op], source) for op, source in reduce]


def from_nb301(entry: Any) -> Int8[np.ndarray, "32"]:
  """The architecture of a NAS-Bench-301 record: a mapping with `normal` and `reduce`, 8 pairs [op, source] each.

  Raises:
    ArchitectureError: no such mapping, or as `from_cells`.
  """
  if not isinstance(entry, Mapping) or not {*CELLS} <= entry.keys():
    raise ArchitectureError(f"NB301 entry is {repr(entry)[:80]}; use a mapping with the keys normal and reduce")
  return from_cells(entry["normal"], entry["reduce"])


def parse(text: str) -> Int8[np.ndarray, "32"]:
  """Reads the text form; nothing is executed. White space is free, `[2, 3, 4, 5]` and `range(2, 6)` are the same.

  What stands around it, as in a line of a log or in `DARTS = Genotype(...)`, is skipped, and numbers and concatenations
  may be NumPy's: `np.int64(1)`, `array([2, 3, 4, 5])`.

  Raises:
    ArchitectureError: not of that form (says where), another concatenation, or as `from_cells`.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"genotype is {repr(text)[:80]}; use text such as {_FORM}")
  whole, text = text, _call(text)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Python warns of odd escapes in the text
      call = ast.parse(text, mode="eval").body
  except SyntaxError as error:
    before = len(whole) - len(whole.lstrip()) if text == whole.strip() else whole.index(text)
    place = f"line {error.lineno}, character {(error.offset or 0) + (before if error.lineno == 1 else 0)}: {error.msg}"
    raise ArchitectureError(f"genotype {quoted(text)}, {place}; use {_FORM}") from error
  except (ValueError, RecursionError, MemoryError) as error:
    raise ArchitectureError(f"genotype {quoted(text)} cannot be read ({error}); use {_FORM}") from error
  if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
    _fail(text, "it does not begin with Genotype(...)")
  if len(call.args) > len(_FIELDS):
    _fail(text, f"Genotype has {len(_FIELDS)} fields but {len(call.args)} were given")
  values: dict[str, Any] = {}
  names = [*_FIELDS[: len(call.args)], *(k.arg for k in call.keywords)]
  for name, node in zip(names, [*call.args, *(k.value for k in call.keywords)], strict=True):
    if name not in _FIELDS or name in values:
      _fail(text, f"field {name!r} is {'given twice' if name in values else 'unknown'}; fields are {_FIELDS}")
    values[name] = _value(text, name, node)
  for name in _FIELDS:
    if name not in values:
      _fail(text, f"field {name!r} is missing")
    if name.endswith("concat") and values[name] not in (range(2, 6), [*NODES], NODES):
      _fail(text, f"{name} is {quoted(repr(values[name]))}; the DARTS cell concatenates {list(NODES)} or range(2, 6)")
  return from_cells(values["normal"], values["reduce"])


def _call(text: str) -> str:
  """The part of a text from `Genotype(` to the bracket that closes it; all of it where there is none."""
  start = text.find("Genotype(")
  depth = 0
  for place in range(max(start, 0), len(text)):
    depth += (text[place] in "([{") - (text[place] in ")]}")
    if start >= 0 and depth == 0 and text[place] == ")":
      return text[start : place + 1]
  return text.strip()


def _value(text: str, name: str, node: ast.expr) -> Any:
  """The literal, or the range of integers, that a field holds."""
  try:
    match node:
      case ast.Call(func=ast.Name(id="range"), args=limits, keywords=[]) if name.endswith("concat"):
        return range(*(_literal(limit) for limit in limits))
      case _:
        return _literal(node)
  except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
    _fail(text, f"{name} is {quoted(ast.get_source_segment(text, node) or '?')}, no list and no range")


def _literal(node: ast.expr) -> Any:
  """A literal in which NumPy's own way of writing integers and arrays may stand.

  Raises:
    ValueError: anything else.
  """
  match node:
    case ast.List(elts=entries):
      return [_literal(entry) for entry in entries]
    case ast.Tuple(elts=entries):
      return tuple(_literal(entry) for entry in entries)
    case ast.Call(func=ast.Name(id=made) | ast.Attribute(attr=made), args=[value, *_]) if made in _NUMPY:
      return _literal(value)
    case _:
      return ast.literal_eval(node)


def _fail(text: str, problem: str) -> NoReturn:
  raise ArchitectureError(f"genotype {quoted(text)}: {problem}; use {_FORM}")


def format(code: Any) -> str:
  """The text form of one architecture, a node's inputs in ascending order of source; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  normal, reduce = to_cells(code)
  return f"Genotype(normal={normal}, normal_concat=range(2, 6), reduce={reduce}, reduce_concat=range(2, 6))"


def canonical(code: Any) -> str:
  """The text shared by all architectures that differ only in the numbering of their intermediate nodes.

  Renumbering permutes the channels of the concatenated output, which the next cell's 1x1 convolutions mix anyway, so it
  changes no network but for the order of its parameters. Different texts may still be equal functions: skips are kept.

  Raises:
    ArchitectureError: not one architecture.
  """
  return format(np.array([_least(cell) for cell in slots(as_code(code))], np.int8).ravel())


def _least(cell: np.ndarray) -> list[int]:
  """The least of the lists of a cell's rows over all numberings in which sources stay earlier."""
  nodes, found = cell.tolist(), []
  for order in itertools.permutations(range(NUM_NODES)):
    number = {0: 0, 1: 1, **{old + FIRST_NODE: new for new, old in enumerate(order, FIRST_NODE)}}
    rows = [sorted((number[source], op) for op, source in nodes[old]) for old in order]
    if all(row[-1][0] < new for new, row in enumerate(rows, FIRST_NODE)):
      found.append([v for row in rows for source, op in row for v in (op, source)])
  return min(found)


def sample(key: jax.Array, n: int, unique: bool = True, reduced: bool = False) -> Int8[np.ndarray, "n 32"]:
  """n uniformly random architectures, int8 [n, 32].

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two equal. In both cases the first m rows of a larger draw with the same key are the draw of m.
    reduced: from the reduced space, in which node t has the sources t - 2 and t - 1.

  Raises:
    ConfigError: n is not an integer >= 0.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  generator = host_generator(key)
  choices = [len(p) for p in PAIRS] * len(CELLS)
  limits = np.array([*choices, *[NUM_OPS - 1] * 2 * len(choices)])
  found: dict[bytes, np.ndarray] = {}
  while len(found) < n:
    drawn = generator.integers(0, limits, (n - len(found), len(limits)))
    codes = np.empty((len(drawn), *SLOTS), np.int8)
    codes[..., 0] = 1 + drawn[:, len(choices) :].reshape(codes.shape[:-1])
    for i, pairs in enumerate(PAIRS):
      if reduced:
        codes[:, :, i, :, 1] = (i, i + 1)
      else:
        codes[:, :, i, :, 1] = np.array(pairs)[drawn[:, i : len(choices) : NUM_NODES]]
    for code in codes.reshape(-1, LENGTH):
      found.setdefault(code.tobytes() if unique else str(len(found)).encode(), code)
  return np.stack(list(found.values())) if found else np.zeros((0, LENGTH), np.int8)


def neighbours(code: Any, reduced: bool = False) -> Int8[np.ndarray, "n 32"]:
  """All architectures that differ in one op (96) or one source (24, none if `reduced`), op changes first.

  Raises:
    ArchitectureError: not one architecture.
  """
  parent = slots(as_code(code))
  found = []
  for where in np.ndindex(*SLOTS[:-1]):
    found += [(*where, 0, op) for op in range(1, NUM_OPS) if op != parent[(*where, 0)]]
  if not reduced:
    for cell, node, position in np.ndindex(*SLOTS[:-1]):
      free = set(range(node + FIRST_NODE)) - set(parent[cell, node, :, 1].tolist())
      found += [(cell, node, position, 1, source) for source in sorted(free)]
  result = np.tile(parent, (len(found), 1, 1, 1, 1))
  for child, (*where, value) in zip(result, found, strict=True):
    child[tuple(where)] = value
  return as_codes(result.reshape(-1, LENGTH))


def mutate(key: jax.Array, code: Any, reduced: bool = False) -> Int8[np.ndarray, "32"]:
  """A uniformly random neighbour: another op on one input, or (unless `reduced`) another source of one.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(code, reduced)
  return candidates[int(host_generator(key).integers(len(candidates)))]


def alphas(codes: Any) -> Float32[np.ndarray, "*A 2 14 8"]:
  """Edge-op weights, [..., cell types, edges, ops]: 1 at the (edge, op) pairs that are in the cell, 0 elsewhere.

  Edges that a node does not use are rows of zeros.

  Raises:
    ArchitectureError: as `as_codes`.
  """
  array = slots(codes)
  flat = array.reshape(-1, *SLOTS)
  result = np.zeros((len(flat), len(CELLS), NUM_EDGES, NUM_OPS), np.float32)
  code, cell, node, _ = np.indices(flat.shape[:-1])
  result[code, cell, FIRST_EDGES[node] + flat[..., 1], flat[..., 0]] = 1
  return result.reshape(*array.shape[:-4], *result.shape[1:])
