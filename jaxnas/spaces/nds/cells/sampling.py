"""Networks of cells at random, and those beside one.

Source of the ranges: the published tables, whose networks have operations and states drawn uniformly.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int16

from jaxnas.base import host_generator
from jaxnas.errors import ConfigError
from jaxnas.spaces.nds.cells import costs, encoding
from jaxnas.spaces.nds.cells.encoding import FIRST_NODE, Genotype
from jaxnas.spaces.nds.tables import CellTable

CLASSES = 1000  # of the networks that are counted


def count(table: CellTable) -> int:
  """How many architectures there are of the widths and depths that are drawn."""
  states = np.prod([state for state in range(FIRST_NODE, FIRST_NODE + table.nodes)], dtype=object)
  cells = (len(table.ops) ** (2 * table.nodes) * int(states) ** 2) ** 2
  return len(table.widths) * len(table.depths) * cells


def sample(table: CellTable, key: jax.Array, n: int, unique: bool = True) -> Int16[np.ndarray, "n L"]:
  """n random architectures: widths, depths, operations and states uniform, redrawn while they have too many parameters.

  A cell that does not concatenate all of its nodes does so with those that no other node uses.

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two equal. In both cases the first m rows of a larger draw with the same key are the draw of m.

  Raises:
    ConfigError: n is not an integer >= 0.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  generator, found, seen = host_generator(key), [], set()
  while len(found) < n:
    own = _drawn(table, generator)
    size = costs.CellSize(own.width, own.depth, CLASSES)
    if own not in seen and costs.count(own, table.ops, size).params <= table.most_params:
      seen.update([own] if unique else [])
      found.append(encoding.join(table.nodes, own))
  return np.stack(found) if found else np.zeros((0, encoding.length(table)), np.int16)


def _drawn(table: CellTable, generator: np.random.Generator) -> Genotype:
  width, depth = (int(generator.choice(values)) for values in (table.widths, table.depths))
  limits = np.arange(2 * table.nodes) // 2 + FIRST_NODE
  slots = []
  for _ in encoding.CELLS:
    ops, states = generator.integers(len(table.ops), size=2 * table.nodes), generator.integers(0, limits)
    slots.append(tuple(zip(ops.tolist(), states.tolist(), strict=True)))
  return _closed(table, Genotype(width, depth, (slots[0], slots[1]), ((), ())))


def _closed(table: CellTable, own: Genotype) -> Genotype:
  """With the concat sets that the space draws."""
  nodes = tuple(range(FIRST_NODE, FIRST_NODE + table.nodes))
  normal, reduce = (nodes if table.all_nodes else encoding.loose_ends(slots) for slots in own.slots)
  return own._replace(concat=(normal, reduce))


def neighbours(table: CellTable, code: Any) -> Int16[np.ndarray, "n L"]:
  """All architectures that differ in the width, the depth, or the operation or state of one slot.

  A concat set of the nodes that no other node uses stays one of these; any other set stays as it is.

  Raises:
    ArchitectureError: not one architecture.
  """
  own = encoding.genotype(table, code)
  found = [own._replace(width=width) for width in table.widths if width != own.width]
  found += [own._replace(depth=depth) for depth in table.depths if depth != own.depth]
  drawn = own == _closed(table, own)
  for kind, slots in enumerate(own.slots):
    for place, (op, state) in enumerate(slots):
      others = [(other, state) for other in range(len(table.ops)) if other != op]
      others += [(op, other) for other in range(place // 2 + FIRST_NODE) if other != state]
      for slot in others:
        changed = list(own.slots)
        changed[kind] = (*slots[:place], slot, *slots[place + 1 :])
        child = own._replace(slots=(changed[0], changed[1]))
        found.append(_closed(table, child) if drawn else child)
  return np.stack([encoding.join(table.nodes, child) for child in found])


def mutate(table: CellTable, key: jax.Array, code: Any) -> Int16[np.ndarray, " L"]:
  """A uniformly random one of `neighbours`.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(table, code)
  return candidates[int(host_generator(key).integers(len(candidates)))]
