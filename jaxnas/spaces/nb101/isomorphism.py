"""Isomorphic NAS-Bench-101 cells: one hash for all cells that differ by the order of their vertices.

The benchmark's iterated graph hash on the pruned cell: every vertex starts from its out-degree, in-degree and operation
and takes, as many times as there are vertices, the hash of its neighbours' hashes, those before it and those after it
sorted apart. The sorted hashes of all vertices identify the cell.

Source: Ying et al., "NAS-Bench-101", ICML 2019, section 2 and the released code; Ying, "Enumerating Unique
Computational Graphs via an Iterative Graph Invariant", 2019.
"""

import hashlib
from typing import Any

from jaxnas.spaces.nb101 import encoding

NUM_UNIQUE = 423_624

_LABELS = {encoding.INPUT: -1, encoding.CONV3: 0, encoding.CONV1: 1, encoding.POOL: 2, encoding.OUTPUT: -2}


def canonical(code: Any) -> str:
  """The hash, 32 hexadecimal digits, shared by all cells isomorphic to this one ([28] or text form).

  Raises:
    ArchitectureError: not one architecture.
  """
  matrix, ops = encoding.prune(code)
  rows = matrix.tolist()
  vertices = range(len(ops))
  before = [[s for s in vertices if rows[s][v]] for v in vertices]
  after = [[t for t in vertices if rows[v][t]] for v in vertices]
  hashes = [_digest(str((len(after[v]), len(before[v]), _LABELS[ops[v]]))) for v in vertices]
  for _ in vertices:
    parts = [["".join(sorted(hashes[u] for u in side[v])) for side in (before, after)] for v in vertices]
    hashes = [_digest(f"{a}|{b}|{own}") for (a, b), own in zip(parts, hashes, strict=True)]
  return _digest(str(sorted(hashes)))


def index_of(code: Any) -> int:
  """A number below 2^31 made of `canonical`: the space has no index, but random streams need a number a cell.

  Raises:
    ArchitectureError: not one architecture.
  """
  return int(canonical(code)[:8], 16) >> 1


def _digest(text: str) -> str:
  return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
