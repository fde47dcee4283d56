"""A recipe as a program that is data: a table of instructions over numbered values, padded to one of a few sizes.

A step of a layer computes values in slots: 0 is a vector of zeros, 1 to 3 are the previous states, then one a node. An
instruction is (operation, slot written, slots read (3), number of the parameter). A `linear` node is several: START
writes its bias, PROJECT adds what the input x gives (known for all steps before), PRODUCT adds a value times a matrix.
Matrices, projections and biases are numbered in the order of the instructions.
"""

import itertools
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Array, Int, Int32

from jaxnas.errors import ConfigError
from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import FIRST, LINEAR, MAX_NODES, MAX_STATES, OPS, PREVIOUS, Recipe, X

START: Final = LINEAR  # the other operations keep their columns
PROJECT, PRODUCT = len(OPS), len(OPS) + 1
INSTRUCTIONS: Final = PRODUCT + 1
_FIELDS: Final = 6  # of an instruction


class Size(NamedTuple):
  """How much a program has room for: what of a recipe cannot be data."""

  nodes: int
  linears: int
  projections: int
  matrices: int

  @property
  def slots(self) -> int:
    """Values of a step."""
    return 1 + MAX_STATES + self.nodes

  @property
  def instructions(self) -> int:
    """Rows of the table."""
    return self.nodes + self.projections + self.matrices


# Every recipe trained on Penn Treebank fits into one of the first five; the last holds any recipe.
SIZES: Final = (
  Size(6, 2, 2, 3),
  Size(8, 4, 2, 5),
  Size(10, 5, 3, 6),
  Size(12, 6, 4, 10),
  Size(20, 10, 6, 24),
  Size(MAX_NODES, MAX_NODES, MAX_NODES, 3 * MAX_NODES),
)


class RecipeProgram(NamedTuple):
  """A program; instructions and numbers that there are not are 0.

  Attributes:
    instructions: [I, 6].
    states: slots of the new states, [3]; the first is the output.
    linears, projections: slots of the nodes that have a bias, and of those that read x.
    readers, sources: of each matrix, the slot of its node and the slot that it reads.
  """

  instructions: Int[Array, "I 6"]
  states: Int[Array, " 3"]
  linears: Int[Array, " L"]
  projections: Int[Array, " P"]
  readers: Int[Array, " M"]
  sources: Int[Array, " M"]


def size_of(code: Any) -> Size:
  """The smallest of `SIZES` that holds a recipe.

  Raises:
    ArchitectureError: not one architecture.
  """
  return _size_of(encoding.unpack(code))


def largest(sizes: Any) -> Size:
  """The size that holds all of these."""
  return max(sizes, key=SIZES.index)


def table(codes: Int[np.ndarray, "A L"], size: Size) -> Int32[np.ndarray, "A n"]:
  """The programs of architectures, each in one row, see `read`.

  Raises:
    ArchitectureError: no architectures.
    ConfigError: one that the size does not hold.
  """
  rows = [_row(encoding.unpack(code), size) for code in encoding.as_codes(codes)]
  return np.stack(rows) if rows else np.zeros((0, sum(_lengths(size))), np.int32)


def read(row: Int[Array, " n"], size: Size) -> RecipeProgram:
  """The program of a row of `table`.

  Raises:
    ConfigError: a row of another length.
  """
  lengths = _lengths(size)
  if row.shape != (sum(lengths),):
    raise ConfigError(f"arch of shape {row.shape}: expected ({sum(lengths)},), a row of what encode() returned")
  ends = list(itertools.accumulate(lengths))
  first, *rest = (row[end - length : end] for end, length in zip(ends, lengths, strict=True))
  return RecipeProgram(first.reshape(-1, _FIELDS), *rest)


def used(program: RecipeProgram) -> RecipeProgram:
  """1 for every state, bias, projection and matrix that there is, else 0, float32; the instructions as they are."""
  return RecipeProgram(program.instructions, *((slots > 0).astype(np.float32) for slots in program[1:]))


def _size_of(recipe: Recipe) -> Size:
  needed = _needed(recipe)
  return next(size for size in SIZES if all(n <= m for n, m in zip(needed, size, strict=True)))


def _needed(recipe: Recipe) -> tuple[int, int, int, int]:
  linears = [node for node in recipe.nodes if node.op == LINEAR]
  projections = sum(X in node.sources for node in linears)
  return len(recipe.nodes), len(linears), projections, sum(len(node.sources) for node in linears) - projections


def _lengths(size: Size) -> tuple[int, ...]:
  return _FIELDS * size.instructions, MAX_STATES, size.linears, size.projections, size.matrices, size.matrices


def _row(recipe: Recipe, size: Size) -> Int32[np.ndarray, " n"]:
  if any(n > m for n, m in zip(_needed(recipe), size, strict=True)):
    raise ConfigError(
      f"a network of size {tuple(size)} (nodes, linear nodes, matrices of x, other matrices) is too small for a recipe "
      f"of {_needed(recipe)}; give its own, space.shape(code)"
    )
  instructions: list[tuple[int, ...]] = []
  linears, projections, readers, sources = [], [], [], []
  for k, (op, read_by) in enumerate(recipe.nodes):
    own = _slot(FIRST + k)
    if op != LINEAR:
      slots = [_slot(source) for source in read_by]
      instructions.append((op, own, *slots, *[0] * (_FIELDS - 2 - len(slots))))
      continue
    instructions.append((START, own, 0, 0, 0, len(linears)))
    linears.append(own)
    for source in read_by:
      if source == X:
        instructions.append((PROJECT, own, 0, 0, 0, len(projections)))
        projections.append(own)
      else:
        instructions.append((PRODUCT, own, _slot(source), 0, 0, len(readers)))
        readers.append(own)
        sources.append(_slot(source))
  states = [_slot(FIRST + k) for k in recipe.states]
  parts = (np.ravel(instructions).tolist(), states, linears, projections, readers, sources)
  padded = [[*part, *[0] * (length - len(part))] for part, length in zip(parts, _lengths(size), strict=True)]
  return np.concatenate(padded).astype(np.int32)


def _slot(source: int) -> int:
  """Of a source that is not x."""
  return source - PREVIOUS + 1
