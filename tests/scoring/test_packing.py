"""Blocks in which operations are chosen evenly."""

import itertools

import numpy as np
import pytest

from jaxnas.base import Selections
from jaxnas.scoring.packing import pack

WHOLE = np.array(list(itertools.product(range(5), repeat=6)), np.int32)


def some(count, seed=0):
  return WHOLE[np.random.default_rng(seed).permutation(len(WHOLE))[:count]]


@pytest.mark.parametrize("size", [5, 25, 100, 125])
def test_a_whole_space_wastes_nothing(size):
  packed = pack([Selections(WHOLE, 5, (0,))], size)
  assert packed.waste == 0 or len(WHOLE) % size
  assert packed.slots == {5: (0, *[size // 5] * 4)}
  assert set(packed.blocks.flat) == set(range(len(WHOLE)))


@pytest.mark.parametrize(("count", "size"), [(1000, 100), (1000, 125), (350, 100), (300, 50)])
def test_any_set_wastes_little(count, size):
  which = some(count)
  packed = pack([Selections(which, 5, (0,))], size)
  assert packed.blocks.shape == (-(-count // size), size)
  assert set(packed.blocks.flat) == set(range(count))
  assert packed.waste < 0.25
  counts = (which[packed.blocks][..., None] == np.arange(5)).sum(1)
  assert (counts[..., 1:] <= np.array(packed.slots[5][1:])).all()
  used = counts[..., 1:].sum() / (6 * len(packed.blocks) * sum(packed.slots[5]))
  assert packed.waste == pytest.approx(1 - used)


def test_several_kinds_of_choices():
  which, other = some(200), some(200, 1)[:, :2] % 3
  packed = pack([Selections(which, 5, (0,)), Selections(other, 3)], 50)
  for own in (Selections(which, 5, (0,)), Selections(other, 3)):
    counts = (own.which[packed.blocks][..., None] == np.arange(own.operations)).sum(1)
    slots = [n if op not in own.free else 50 for op, n in enumerate(packed.slots[own.operations])]
    assert (counts <= np.array(slots)).all()


def test_one_operation_only():
  packed = pack([Selections(np.full((7, 6), 3, np.int32), 5, (0,))], 4)
  assert packed.slots == {5: (0, 1, 1, 4, 1)} and set(packed.blocks.flat) == set(range(7))
