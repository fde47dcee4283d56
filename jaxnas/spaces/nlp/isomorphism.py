"""Equal NAS-Bench-NLP cells: one hash for all recipes that compute the same function of their parameters.

Nodes may have other names and another order, `linear`, sums and products their inputs in another order, the states
another numbering (but for the first, the output), and there may be nodes and states that never reach the output. The
hash is iterated over the graph as that of NAS-Bench-101: a node starts from its operation and takes, as many times as
there are nodes, the hashes of what it reads and of what reads it. A previous state is an edge of another kind from the
node that is its new value; the three inputs of `blend` are of kinds of their own.

Source: Ying, "Enumerating Unique Computational Graphs via an Iterative Graph Invariant", 2019.
"""

import hashlib
from typing import Any

from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import BLEND, FIRST, X


def canonical(code: Any) -> str:
  """The hash, 32 hexadecimal digits, of one architecture ([99] or text form).

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = encoding.unpack(code)
  live = sorted(encoding.alive(recipe))
  reads: dict[int, list[tuple[str, int]]] = {k: [] for k in live}  # (kind of edge, node or -1 for x)
  read_by: dict[int, list[tuple[str, int]]] = {k: [] for k in live}
  for k in live:
    op, sources = recipe.nodes[k]
    for place, source in enumerate(sources):
      kind = f"{place if op == BLEND else ''}{'' if source >= FIRST else 'previous'}"
      other = -1 if source == X else encoding.node_of(recipe, source)
      reads[k].append(("x", other) if source == X else (kind, other))
      if other >= 0:
        read_by[other].append((kind, k))
  hashes = {k: _digest(f"{recipe.nodes[k].op} {k == recipe.states[0]}") for k in live} | {-1: "x"}
  for _ in live:
    sides = {k: [sorted(f"{kind} {hashes[j]}" for kind, j in side[k]) for side in (reads, read_by)] for k in live}
    hashes |= {k: _digest(f"{hashes[k]} {sides[k]}") for k in live}
  return _digest(str(sorted(hashes[k] for k in live)))


def _digest(text: str) -> str:
  return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
