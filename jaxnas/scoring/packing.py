"""Sets of architectures in blocks in which operations are chosen as evenly as they can be, for `nets.choose`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxnas.base import Selections
from jaxnas.nets.choose import Slots

CANDIDATES = 256  # architectures that the next place of a block is chosen among


class Packed(NamedTuple):
  """Blocks of one size.

  Attributes:
    blocks: which architectures are in each, [blocks, size]; behind the last one some for another time.
    slots: as `nets.choose.capacities`.
    waste: the share of slots that none of the architectures fills, of operations that need slots.
  """

  blocks: Int[np.ndarray, "B size"]
  slots: dict[int, tuple[int, ...]]
  waste: float


def pack(choices: Sequence[Selections], size: int, at_least: Slots | None = None, seed: int = 0) -> Packed:
  """Blocks of `size` architectures, with as many slots as they need and no fewer than `at_least`.

  Architectures are taken one after the other, each time the one of some random ones that brings the block's counts
  nearest to those of the whole set. Where the set is closed under turning all operations round together, as a whole
  space is, a block made of whole turns has every operation equally often at every place: that order is tried too.
  """
  orders = [_turned(choices), _even(np.concatenate([_hot(own) for own in choices], 1), size, seed)]
  return min((_packed(choices, order, size, at_least or {}) for order in orders), key=lambda packed: packed.waste)


def _hot(own: Selections) -> Int[np.ndarray, "A places_operations"]:
  """1 for every place and operation that is chosen and needs a slot."""
  costly = np.setdiff1d(np.arange(own.operations), own.free)
  return (own.which[:, :, None] == costly).reshape(len(own.which), -1).astype(np.int32)


def _turned(choices: Sequence[Selections]) -> Int[np.ndarray, " A"]:
  first = choices[0].which[:, 0]
  keys = [first]
  for own in choices:
    keys += list(((own.which - first[:, None]) % own.operations).T)
  return np.lexsort(keys)


def _even(hot: Int[np.ndarray, "A F"], size: int, seed: int) -> Int[np.ndarray, " A"]:
  rng, mean = np.random.default_rng(seed), hot.mean(0)
  left, order, counts = rng.permutation(len(hot)), [], np.zeros(hot.shape[1])
  for taken in range(len(hot)):
    if taken % size == 0:
      counts[:] = 0
    # The squared distance of the counts with a candidate from the mean's, but for what all candidates share.
    some = left[:CANDIDATES]
    distance = hot[some] @ (counts - mean * (taken % size + 1)) + 0.5 * hot[some].sum(1)
    place = int(distance.argmin())
    order.append(some[place])
    counts += hot[some[place]]
    left[place] = left[0]
    left = left[1:]
  return np.array(order)


def _packed(choices: Sequence[Selections], order: Int[np.ndarray, " A"], size: int, at_least: Slots) -> Packed:
  blocks = -(-len(order) // size)
  filled = np.resize(order, blocks * size).reshape(blocks, size)  # the first ones again
  slots, used, given = {n: tuple(own) for n, own in at_least.items()}, 0, 0
  for own in choices:
    counts = (own.which[filled][..., None] == np.arange(own.operations)).sum(1)  # [blocks, places, operations]
    most = counts.max((0, 1))
    costly = [op for op in range(own.operations) if op not in own.free]
    before = slots.get(own.operations, (0,) * own.operations)
    slots[own.operations] = tuple(
      0 if op in own.free else max(1, int(most[op]), before[op]) for op in range(own.operations)
    )
    used += counts[..., costly].sum()
    given += counts.shape[0] * counts.shape[1] * sum(slots[own.operations][op] for op in costly)
  return Packed(filled, slots, 1 - used / max(1, given))
