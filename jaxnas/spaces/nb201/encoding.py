"""NAS-Bench-201 cells as arrays: text, index, one-hot alphas, sampling, neighbourhoods.

A cell is a directed acyclic graph of four nodes (0 is the input, 3 the output) with one op on each
of its six edges, so the space holds 5^6 = 15,625 cells. Everywhere in this package an architecture
is an int8 array [6]: the column in `OPS` of the op on each edge, edges in the order of `EDGES`,
which is the order of the benchmark's text form `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

The index 0..15624 is the benchmark's own, the one `nats_bench` files are keyed by.

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020, section 2.1; Dong et al., "NATS-Bench", 2021.
"""

import functools
import operator
import random
from typing import Any, Final, NoReturn, SupportsIndex

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int8, Int32

from jaxnas.errors import ArchitectureError, ConfigError, quoted
from jaxnas.spaces import arrays

OPS: Final = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES: Final = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (target, source)
NUM_NODES: Final = 4
NUM_OPS: Final = len(OPS)
NUM_EDGES: Final = len(EDGES)
NUM_ARCHS: Final = NUM_OPS**NUM_EDGES

_POWERS: Final = NUM_OPS ** np.arange(NUM_EDGES - 1, -1, -1, dtype=np.int32)
_FORM: Final = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"


def as_codes(codes: Any) -> Int8[np.ndarray, "*A 6"]:
  """Checks architectures and returns them as int8 [..., 6].

  Takes a text form (gives [6]) or anything integer of shape [..., 6].

  Raises:
    ArchitectureError: another dtype (float and bool too), another shape, or an op column
      outside 0..4.
  """
  if isinstance(codes, str):
    return parse(codes)
  array = arrays.integers(codes, NUM_EDGES, _FORM)
  wrong = (array < 0) | (array >= NUM_OPS)
  if wrong.any():
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ArchitectureError(f"archs{list(where)} = {array[where]}; op columns are 0..{NUM_OPS - 1}: {', '.join(OPS)}")
  return array.astype(np.int8)


def as_code(code: Any) -> Int8[np.ndarray, "6"]:
  """Checks one architecture, as text or integers [6], and returns it as int8 [6].

  Raises:
    ArchitectureError: as `as_codes`, or more than one architecture.
  """
  return arrays.one(as_codes(code))


def parse(text: str) -> Int8[np.ndarray, "6"]:
  """Reads the text form `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`; outer white space is ignored.

  Raises:
    ArchitectureError: not text, or not of that form; the message quotes the offending segment, its
      place in the text (characters from 0), and what belongs there.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"architecture text is {text!r}; use a string such as {_FORM}")
  start = len(text) - len(text.lstrip())
  nodes = text.strip().split("+")
  if len(nodes) != NUM_NODES - 1:
    raise ArchitectureError(
      f"architecture {quoted(text)} has {len(nodes)} node group(s) joined by '+'; a cell has {NUM_NODES - 1}: {_FORM}"
    )
  columns = []
  for target, node in enumerate(nodes, start=1):
    columns += _parse_node(text, node, start, target)
    start += len(node) + 1
  return np.array(columns, np.int8)


def _parse_node(text: str, node: str, start: int, target: int) -> list[int]:
  """Op columns of one node's group `|op~0|...|`, which begins at character `start` of `text`."""
  if len(node) < 2 or node[0] != "|" or node[-1] != "|":
    _fail(text, node, start, f"the group of node {target} must begin and end with '|'")
  segments = node[1:-1].split("|")
  if len(segments) != target:
    _fail(text, node, start, f"node {target} takes {target} op(s) but has {len(segments)}")
  columns = []
  start += 1
  for source, segment in enumerate(segments):
    op, tilde, index = segment.partition("~")
    if op not in OPS:
      _fail(text, segment, start, f"unknown op {op!r}; ops are {', '.join(OPS)}")
    if not tilde or index != str(source):
      problem = f"edge {target}<-{source} must read '{op}~{source}', sources in ascending order"
      _fail(text, segment, start, problem)
    columns.append(OPS.index(op))
    start += len(segment) + 1
  return columns


def _fail(text: str, segment: str, start: int, problem: str) -> NoReturn:
  place = f"at character {start}, {quoted(segment)}" if segment else f"at character {start}"
  raise ArchitectureError(f"architecture {quoted(text)}, {place}: {problem}")


def format(code: Any) -> str:
  """The text form of one architecture; the inverse of `parse`.

  Raises:
    ArchitectureError: not one architecture.
  """
  nodes = [""] * (NUM_NODES - 1)
  for (target, source), op in zip(EDGES, as_code(code).tolist(), strict=True):
    nodes[target - 1] += f"|{OPS[op]}~{source}"
  return "+".join(node + "|" for node in nodes)


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[Int8[np.ndarray, "15625 6"], Int32[np.ndarray, "15625"]]:
  """Architectures in the benchmark's order, and the index of every base-5 code.

  The benchmark lists the cells node by node, each node's ops in product order (so in ascending
  base-5 code, edge 1<-0 most significant), and shuffles the list with Python's generator seeded
  with 88. The shuffle depends on the length only, so shuffling the codes gives the same order.
  """
  codes = list(range(NUM_ARCHS))
  random.Random(88).shuffle(codes)
  order = np.array(codes, np.int32)
  codes = (order[:, None] // _POWERS % NUM_OPS).astype(np.int8)
  indices = np.empty(NUM_ARCHS, np.int32)
  indices[order] = np.arange(NUM_ARCHS, dtype=np.int32)
  codes.flags.writeable = False
  return codes, indices


def enumerate_all() -> Int8[np.ndarray, "15625 6"]:
  """All architectures; row i has index i. Shared and read-only: copy it to change it."""
  return _tables()[0]


@functools.lru_cache(maxsize=1)
def all_texts() -> tuple[str, ...]:
  """The text forms of all architectures; the place in the tuple is the index."""
  nodes = ("|".join(("", *(f"{{}}~{source}" for source in range(target)), "")) for target in range(1, NUM_NODES))
  form = "+".join(nodes)
  return tuple(form.format(*(OPS[op] for op in code)) for code in enumerate_all().tolist())


def indices_of(codes: Any) -> Int32[np.ndarray, "*A"]:
  """Benchmark indices, int32 [...], of architectures [..., 6].

  Raises:
    ArchitectureError: as `as_codes`.
  """
  return np.asarray(_tables()[1][as_codes(codes).astype(np.int32) @ _POWERS])


def index_of(code: Any) -> int:
  """Benchmark index, 0..15624, of one architecture ([6] or text).

  Raises:
    ArchitectureError: not one architecture.
  """
  return int(indices_of(as_code(code)))


def from_index(index: SupportsIndex) -> Int8[np.ndarray, "6"]:
  """The architecture with this benchmark index.

  Raises:
    ArchitectureError: not an integer in 0..15624 (negative indices do not count from the end).
  """
  try:
    position = -1 if isinstance(index, bool | np.bool_) else operator.index(index)
  except TypeError:
    position = -1
  if not 0 <= position < NUM_ARCHS:
    raise ArchitectureError(f"architecture index is {index!r}; use an integer in 0..{NUM_ARCHS - 1}")
  return enumerate_all()[position].copy()


def sample(key: jax.Array, n: int, unique: bool = True) -> Int8[np.ndarray, "n 6"]:
  """n uniformly random architectures, int8 [n, 6].

  Args:
    key: typed PRNG key.
    n: how many.
    unique: without replacement; the first m rows of a larger draw with the same key are then the
      draw of m, so a search with more samples extends one with fewer.

  Raises:
    ConfigError: n is not an integer >= 0, or is above 15,625 with `unique`.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  if not unique:
    return enumerate_all()[np.asarray(jax.random.randint(key, (n,), 0, NUM_ARCHS, np.int32))]
  if n > NUM_ARCHS:
    raise ConfigError(f"n is {n}, but there are {NUM_ARCHS} architectures; lower n or use unique=False")
  order = jax.random.permutation(key, np.arange(NUM_ARCHS, dtype=np.int32))
  return enumerate_all()[np.asarray(order)[:n]]


def neighbours(code: Any) -> Int8[np.ndarray, "24 6"]:
  """All architectures that differ on one edge, int8 [24, 6]: edge by edge, ops ascending.

  Raises:
    ArchitectureError: not one architecture.
  """
  array = as_code(code)
  edges, ops = np.nonzero(array[:, None] != np.arange(NUM_OPS, dtype=np.int8))
  result = np.tile(array, (len(edges), 1))
  result[np.arange(len(edges)), edges] = ops
  return result


def mutate(key: jax.Array, code: Any) -> Int8[np.ndarray, "6"]:
  """One uniformly random neighbour: another op on one edge.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(code)
  return candidates[int(jax.random.randint(key, (), 0, len(candidates), np.int32))]


def resample(key: jax.Array, code: Any, changes: float = 1.0) -> Int8[np.ndarray, "6"]:
  """GenNAS's mutation: each op is drawn anew from all five with probability changes / 5; the result may be the parent.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: `changes` outside (0, 5].
  """
  if not 0 < changes <= NUM_OPS:
    raise ConfigError(f"changes={changes} must be above 0 and at most {NUM_OPS}")
  which, what = jax.random.split(key)
  redrawn = np.asarray(jax.random.bernoulli(which, changes / NUM_OPS, (NUM_EDGES,)))
  return np.where(redrawn, np.asarray(jax.random.randint(what, (NUM_EDGES,), 0, NUM_OPS)), as_code(code)).astype(
    np.int8
  )


def alphas(codes: Any) -> Float32[np.ndarray, "*A 1 6 5"]:
  """One-hot edge-op weights: [..., 6] -> [..., cell types (1), edges (6), ops (5)].

  Raises:
    ArchitectureError: as `as_codes`.
  """
  return np.eye(NUM_OPS, dtype=np.float32)[as_codes(codes)][..., None, :, :]


def from_weights(weights: Any) -> Int8[np.ndarray, "*A 6"]:
  """The heaviest op of every edge: [..., 1, 6, 5] -> [..., 6]; ties go to the lower column.

  Raises:
    ArchitectureError: another shape, values that are not numbers, or NaN.
  """
  wanted = (1, NUM_EDGES, NUM_OPS)
  try:
    array = np.asarray(weights).astype(np.float64)  # float64 also takes bfloat16, losing nothing
  except (TypeError, ValueError) as error:
    raise ArchitectureError(f"alphas are not numbers; use [..., {wanted}]") from error
  if array.shape[-3:] != wanted:
    raise ArchitectureError(f"alphas have shape {list(array.shape)}; use [..., 1, 6, 5]")
  if np.isnan(array).any():
    raise ArchitectureError(f"alphas hold {int(np.isnan(array).sum())} NaN; use finite weights")
  return array[..., 0, :, :].argmax(-1).astype(np.int8)


def choices(reduced: bool = False) -> Bool[np.ndarray, "1 6 5"]:
  """Which operations NASI samples: all, `none` too.

  Raises:
    ConfigError: `reduced`: the space has no reduced form.
  """
  if reduced:
    raise ConfigError("reduced=True: nb201 has no reduced form; drop --nasi_reduced or give --space=darts")
  return np.ones((1, NUM_EDGES, NUM_OPS), bool)


def derive(alphas: Any, reduced: bool = False) -> Int8[np.ndarray, "*A 6"]:
  """The architectures of NASI's architecture parameters: the largest of every edge.

  Raises:
    ArchitectureError: as `from_weights`.
    ConfigError: as `choices`.
  """
  choices(reduced)
  return from_weights(alphas)


def is_connected(code: Any) -> bool:
  """Whether the output depends on the input: some path from node 0 to node 3 avoids `none`.

  Raises:
    ArchitectureError: not one architecture.
  """
  reached = {0}
  for (target, source), op in zip(EDGES, as_code(code).tolist(), strict=True):
    if source in reached and OPS[op] != "none":
      reached.add(target)
  return NUM_NODES - 1 in reached
