"""NAS-Bench-101 cells at random, and those beside a cell.

Source: Ying et al., "NAS-Bench-101", ICML 2019: sampling and mutation are as its released code does them.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int8

from jaxnas.base import host_generator
from jaxnas.errors import ConfigError
from jaxnas.spaces.nb101 import isomorphism
from jaxnas.spaces.nb101.encoding import (
  CONV3,
  EDGES,
  INNER_OPS,
  INPUT,
  LENGTH,
  MAX_VERTICES,
  OUTPUT,
  POOL,
  as_code,
  is_valid,
  pack,
  unpack,
)


def sample(key: jax.Array, n: int, unique: bool = True) -> Int8[np.ndarray, "n 28"]:
  """n random architectures of 7 vertices: edges with probability 1/2, uniform operations, redrawn until valid.

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two isomorphic. In both cases the first m rows of a larger draw with the same key are the draw of m.

  Raises:
    ConfigError: n is not an integer >= 0, or above the number of different cells with `unique`.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  if unique and n > isomorphism.NUM_UNIQUE:
    raise ConfigError(f"n is {n}, but there are {isomorphism.NUM_UNIQUE} architectures; lower n or use unique=False")
  generator, found, seen = host_generator(key), [], set()
  while len(found) < n:
    edges, inner = generator.integers(0, 2, len(EDGES)), generator.integers(CONV3, POOL + 1, MAX_VERTICES - 2)
    code = np.array([*edges, INPUT, *inner, OUTPUT], np.int8)
    if is_valid(unpack(code, "arch")[0]):
      name = isomorphism.canonical(code) if unique else len(found)
      if name not in seen:
        seen.add(name)
        found.append(code)
  return np.stack(found) if found else np.zeros((0, LENGTH), np.int8)


def neighbours(code: Any) -> Int8[np.ndarray, "n 28"]:
  """All cells that differ in one edge or in one operation, edges first.

  A cell of fewer than 7 vertices first gets the missing ones before its output, 3x3 convolutions without edges.

  Raises:
    ArchitectureError: not one architecture.
  """
  matrix, ops = unpack(as_code(code), "arch")
  parent = _whole(matrix, ops, [CONV3] * (MAX_VERTICES - len(ops)))
  found = []
  for edge in range(len(EDGES)):
    child = parent.copy()
    child[edge] ^= 1
    if is_valid(unpack(child, "arch")[0]):
      found.append(child)
  for vertex in range(len(EDGES) + 1, LENGTH - 1):
    for op in INNER_OPS:
      if op != parent[vertex]:
        child = parent.copy()
        child[vertex] = op
        found.append(child)
  return np.stack(found)


def mutate(key: jax.Array, code: Any) -> Int8[np.ndarray, "28"]:
  """A uniformly random one of `neighbours`.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(code)
  return candidates[int(host_generator(key).integers(len(candidates)))]


def resample(key: jax.Array, code: Any, changes: float = 1.0) -> Int8[np.ndarray, "28"]:
  """GenNAS's mutation: each of the 21 edges flips with probability changes / 7, each operation with changes / 5.

  Redrawn until valid; the result may be the parent. A cell of fewer vertices first gets the missing ones before its
  output, without edges and with random operations.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: `changes` outside (0, 5].
  """
  if not 0 < changes <= MAX_VERTICES - 2:
    raise ConfigError(f"changes={changes} must be above 0 and at most {MAX_VERTICES - 2}")
  matrix, ops = unpack(as_code(code), "arch")
  generator = host_generator(key)
  missing = MAX_VERTICES - len(ops)
  packed = _whole(matrix, ops, generator.integers(CONV3, POOL + 1, missing).tolist())
  edges, inner = packed[: len(EDGES)], packed[len(EDGES) + 1 : -1]
  while True:
    flips = generator.random(len(EDGES)) < changes / MAX_VERTICES
    others = generator.random(len(inner)) < changes / len(inner)
    steps = generator.integers(1, len(INNER_OPS), len(inner))
    changed = np.where(others, CONV3 + (inner - CONV3 + steps) % len(INNER_OPS), inner)
    child = np.array([*(edges ^ flips), INPUT, *changed, OUTPUT], np.int8)
    if is_valid(unpack(child, "arch")[0]):
      return child


def _whole(matrix: np.ndarray, ops: list[int], missing: list[int]) -> Int8[np.ndarray, "28"]:
  """A cell as one of 7 vertices: those that are missing, with these operations, stand before its output."""
  places = [*range(len(matrix) - 1), MAX_VERTICES - 1]
  whole = np.zeros((MAX_VERTICES, MAX_VERTICES), np.int8)
  whole[np.ix_(places, places)] = matrix
  return pack(whole, [*ops[:-1], *missing, OUTPUT])
