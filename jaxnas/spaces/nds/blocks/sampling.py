"""Networks of stages at random, and those beside one.

Source of the values: the published tables. `nearest`: Li et al., "Generic Neural Architecture Search via Regression",
NeurIPS 2021, and its code.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int16, Integer

from jaxnas.base import host_generator
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nds.blocks import costs, encoding
from jaxnas.spaces.nds.tables import BlockTable

CLASSES = 1000  # of the networks that are counted
DRAWN = 200  # of which GenNAS's mutation takes the nearest
SHARE = 4  # of a table a fourth at most: all of a small one would have the nearest of all always


def values(table: BlockTable) -> list[tuple[int, ...]]:
  """What each integer of a code may be that is drawn, ascending."""
  known = {
    "depth": table.depths,
    "width": table.widths,
    "four times bot_mul": tuple(int(encoding.QUARTERS * value) for value in table.bot_muls),
    "groups": table.groups,
  }
  return [table.stem_widths, *(known[name] for name in encoding.columns(table)[1:])]


def count(table: BlockTable) -> int:
  """How many architectures there are of the values that are drawn."""
  return int(np.prod([len(own) for own in values(table)], dtype=object))


def sample(table: BlockTable, key: jax.Array, n: int, unique: bool = True) -> Int16[np.ndarray, "n L"]:
  """n random architectures of uniform values, redrawn while they have too many parameters.

  Args:
    key: typed PRNG key.
    n: how many.
    unique: no two equal. In both cases the first m rows of a larger draw with the same key are the draw of m.

  Raises:
    ConfigError: n is not an integer >= 0.
  """
  if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
    raise ConfigError(f"n is {n!r}; use an integer >= 0")
  generator, found, seen, known = host_generator(key), [], set(), values(table)
  while len(found) < n:
    code = np.array([generator.choice(own) for own in known], np.int16)
    name = tuple(code.tolist())
    if name not in seen and _params(table, code) <= table.most_params:
      seen.update([name] if unique else [])
      found.append(code)
  return np.stack(found) if found else np.zeros((0, len(known)), np.int16)


def _params(table: BlockTable, code: np.ndarray) -> int:
  return costs.count(costs.staged(encoding.to_net(table, code), "trained"), CLASSES, 224)[0]


def neighbours(table: BlockTable, code: Any) -> Int16[np.ndarray, "n L"]:
  """All architectures in which one number is the next larger or smaller of the values that are drawn.

  Raises:
    ArchitectureError: not one architecture.
  """
  parent = encoding.as_code(table, code)
  found = []
  for place, known in enumerate(values(table)):
    below = [value for value in known if value < parent[place]][-1:]
    above = [value for value in known if value > parent[place]][:1]
    for value in below + above:
      child = parent.copy()
      child[place] = value
      try:
        found.append(encoding.as_code(table, child))
      except ArchitectureError:  # groups that do not divide the inner channels
        continue
  return np.stack(found)


def mutate(table: BlockTable, key: jax.Array, code: Any) -> Int16[np.ndarray, " L"]:
  """A uniformly random one of `neighbours`.

  Raises:
    ArchitectureError: not one architecture.
  """
  candidates = neighbours(table, code)
  return candidates[int(host_generator(key).integers(len(candidates)))]


def nearest(
  table: BlockTable, key: jax.Array, code: Any, among: Integer[np.ndarray, "A L"] | None = None
) -> Int16[np.ndarray, " L"]:
  """GenNAS's mutation: of 200 random architectures the first that differs in the fewest numbers, but in some.

  The published code may draw the parent, which of a table of thousands happens seldom, and of one of dozens mostly.

  Args:
    among: the architectures of a benchmark, from which its code draws (here a fourth of them at most); None: all of the
      space.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: there is no other one.
  """
  parent = encoding.as_code(table, code)
  if among is None:
    drawn = sample(table, key, DRAWN, unique=False)
  else:
    others = encoding.as_codes(table, among)
    others = others[(others != parent[None]).any(1)]
    if not len(others):
      raise ConfigError("among: no other architecture than the parent; give some")
    count = max(1, min(DRAWN, len(others) // SHARE))
    drawn = others[host_generator(key).choice(len(others), count, replace=False)]
  distances = (drawn != parent[None]).sum(1)
  return drawn[int(np.argmin(np.where(distances > 0, distances, len(parent) + 1)))]
