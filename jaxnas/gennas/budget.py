"""A limit of multiply-adds, below which everyone that lives in GenNAS's search must stay.

Counted is the network that tables show for the data set (`Space.costs_on`): of DARTS on ImageNet the mobile setting,
whose published networks have less than 600 M. What is not below is drawn again, so that what is found can be trained at
the published width; the published search has no such rule, and its DARTS networks no published one.
"""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import Int

from jaxnas.base import Code, Source, Tapped
from jaxnas.errors import ConfigError

TRIES = 20  # draws of a child, or times as many architectures as are needed, before it is given up


@dataclasses.dataclass(frozen=True)
class Budget:
  """Draws architectures of a space below `millions` of multiply-adds on a data set; 0: no limit."""

  space: Tapped
  source: Source
  millions: float = 0.0

  def fits(self, code: Code) -> bool:
    """Whether an architecture is below."""
    return self.millions == 0 or self.space.costs_on(code, self.source).macs < self.millions * 1e6

  def sample(self, key: jax.Array, n: int) -> Int[np.ndarray, "n L"]:
    """The first n that fit of the architectures that the space draws with a key.

    Raises:
      ConfigError: hardly any fit.
    """
    drawn, most = n, min(TRIES * n, len(self.space))
    while True:
      codes = self.space.sample(key, drawn)
      fitting = [code for code in codes if self.fits(code)]
      if len(fitting) >= n:
        return np.stack(fitting[:n])
      if drawn == most:
        raise ConfigError(
          f"--gennas_max_macs={self.millions:g}: {len(fitting)} of {drawn} architectures of --space={self.space.name} "
          f"have fewer million multiply-adds, the lightest {self._lightest(codes):.0f}; {n} are needed: raise it"
        )
      drawn = min(2 * drawn, most)

  def resample(self, key: jax.Array, parent: Code, changes: float) -> Code:
    """A child that fits, see `Tapped.resample`, or the parent where many draws gave none."""
    for _ in range(TRIES):
      child = self.space.resample(key, parent, changes)
      if self.fits(child):
        return child
      key = jax.random.fold_in(key, 0)
    return parent

  def _lightest(self, codes: Int[np.ndarray, "n L"]) -> float:
    return min((self.space.costs_on(code, self.source).macs / 1e6 for code in codes), default=math.nan)
