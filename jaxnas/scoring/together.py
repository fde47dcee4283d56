"""Architectures measured many at a time, each operation for those that chose it (`nets.choose`)."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from jaxnas.base import Dispatched
from jaxnas.nets.choose import Slots, capacities
from jaxnas.scoring.packing import Packed, pack
from jaxnas.scoring.spread import Spread

SIZE = 100  # architectures in a program, to begin with: a multiple of NAS-Bench-201's 5 operations
SIZES = (1, 5, 25)  # of small sets: a program for each number of architectures would be compiled too often

log = logging.getLogger(__name__)

One = Callable[[Any, Array, Any, Array], list[PyTree]]  # (weights or a key, architecture, batch, key) -> values


class TooLarge(Exception):
  """A block does not fit into the memory, not even of one architecture."""


class Together:
  """Blocks of one set of proxies and network.

  There is a program for each of a few sizes, which sets of architectures share while its slots are enough for them.

  Args:
    compiled: (name, run, arguments, args) -> a program and the bytes of its intermediates.
    slots: those of each size so far; a set that needs more raises them.
  """

  def __init__(
    self, one: One, draws: bool, spread: Spread, memory: int, compiled: Callable[..., Any], slots: dict[int, Slots]
  ):
    self.one, self.draws, self.spread, self.memory, self.compiled = one, draws, spread, memory, compiled
    self.slots = slots

  def blocks(
    self, network: Dispatched, archs: np.ndarray, weights: Any, batch: Any, key: Array, size: int
  ) -> Iterator[tuple[Int[np.ndarray, " a"], list[PyTree]]]:
    """Which architectures, and their values on the host, leaves [a, ...]; a block after the other.

    Args:
      archs: what `encode` returned.
      weights: parameters, or a key for each architecture.
      size: architectures in a program and device, at most; where they do not fit half of them, or as many as should.

    Raises:
      TooLarge: one does not fit.
    """
    left = np.arange(len(archs))
    while len(left):
      each = -(-len(left) // self.spread.size)
      size = min(some for some in (*SIZES, size) if some >= min(each, size))
      try:
        for rows, values in self._blocks(network, archs, left, weights, batch, key, size):
          yield rows, values
          left = np.setdiff1d(left, rows)
      except _NoMemory as error:
        if size == 1:
          raise TooLarge from None
        size = max(1, min(size // 2, int(size * error.share)))
        log.warning("little memory: blocks of %d architectures now", size)

  def _blocks(self, network, archs, left, weights, batch, key, size):
    packed = pack(network.choices(archs[left]), size, self.slots.get(size, {}))
    self.slots[size] = packed.slots
    done = np.zeros(len(left), bool)
    for first in range(0, len(packed.blocks), self.spread.size):
      turn = np.arange(first, first + self.spread.size) % len(packed.blocks)
      places = packed.blocks[turn].reshape(-1)
      rows = left[places]
      own = self.spread.shared(weights[rows]) if self.draws else weights
      values = self._run(packed, (own, self.spread.shared(archs[rows]), batch, key))
      new = np.flatnonzero(~done[places])
      new = new[np.unique(places[new], return_index=True)[1]]  # those that fill the last block are there twice
      done[places] = True
      yield left[places[new]], jax.tree.map(lambda leaf, new=new: leaf[new], values)

  def _run(self, packed: Packed, args: tuple) -> list[PyTree]:
    name = (packed.blocks.shape[1], *((count, *own) for count, own in sorted(packed.slots.items())))
    run = program(self.one, self.draws, packed.slots)
    compiled, needed = self.compiled(name, run, "ssaa" if self.draws else "asaa", args)
    if needed > self.memory:
      raise _NoMemory(self.memory / needed)
    try:
      return jax.device_get(compiled(*args))
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      raise _NoMemory(0.5) from error


class _NoMemory(Exception):
  """A block takes too much; `share` of the memory that it takes is there."""

  def __init__(self, share: float):
    super().__init__(share)
    self.share = share


def program(one: One, draws: bool, slots: Slots) -> Callable[..., list[PyTree]]:
  """The program: weights or keys, architectures [a, ...], batch, key -> a tree a proxy, leaves [a, ...].

  Args:
    draws: whether each architecture has its own weights, of which the first argument has the keys.
    slots: as `nets.choose.capacities`.
  """

  def run(weights, block, batch, key):
    with capacities(slots):
      return jax.vmap(one, (0 if draws else None, 0, None, None))(weights, block, batch, key)

  return run
