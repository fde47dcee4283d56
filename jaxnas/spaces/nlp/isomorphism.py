"""Equal NAS-Bench-NLP cells: one hash for all recipes that compute the same function of their parameters.

Nodes may have other names and another order, `linear`, sums and products their inputs in another order, the states
another numbering (but for the first, the output), and there may be nodes and states that never reach the output. The
hash is iterated over the graph as that of NAS-Bench-101: a node starts from its operation and takes, as many times as
there are nodes, the hashes of what it reads and of what reads it. A previous state is an edge of another kind from the
node that is its new value; the three inputs of `blend` are of kinds of their own.

Source: Ying, "Enumerating Unique Computational Graphs via an Iterative Graph Invariant", 2019.
"""

from typing import Any, Final

from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import BLEND, FIRST, X

_X: Final = -1  # in the place of a node


def canonical(code: Any) -> int:
  """The hash, an integer that is the same in every process, of one architecture ([99] or text form).

  Raises:
    ArchitectureError: not one architecture.
  """
  recipe = encoding.unpack(code)
  live = sorted(encoding.alive(recipe))
  reads: dict[int, list[tuple[int, int]]] = {k: [] for k in live}  # (kind of edge, node or `_X`)
  read_by: dict[int, list[tuple[int, int]]] = {k: [] for k in live}
  for k in live:
    op, sources = recipe.nodes[k]
    for place, source in enumerate(sources):
      kind = 2 * (place if op == BLEND else 0) + (source < FIRST)
      other = _X if source == X else encoding.node_of(recipe, source)
      reads[k].append((kind, other))
      if other != _X:
        read_by[other].append((kind, k))
  hashes = {k: hash((recipe.nodes[k].op, k == recipe.states[0])) for k in live} | {_X: 0}
  for _ in live:
    sides = {k: [tuple(sorted((kind, hashes[j]) for kind, j in side[k])) for side in (reads, read_by)] for k in live}
    hashes |= {k: hash((hashes[k], *sides[k])) for k in live}
  return hash(tuple(sorted(hashes[k] for k in live)))
