"""SWAP: how many different patterns the network's units have over the samples of a batch.

    score = number of different columns of S,   S_nu = 1 if sample n switches ReLU unit u on
    regularised: score * exp(-(P - mu)^2 / sigma),   P the number of parameters in thousands

over the units of all executed ReLUs together, as `naswot` sees them (whose forward pass it shares), also those that the
output ignores. NASWOT compares the samples by their rows of S, SWAP the units by their columns. Batch normalisation in
`batch` mode. A unit that no sample switches on has no pattern here; the code counts all of these as one. Higher is
better. A network that ignores its input has the one pattern of units that are always on, or none; one that is not
finite has that status. mu and sigma are a guess at the size of the best network of a space, so they are not given by
default. Source: Peng, Song, Fayek, Ciesielski, Chang, "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS",
ICLR 2024, and its code.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnas import registry
from jaxnas.base import Collect, Evaluated, Proxy
from jaxnas.errors import ConfigError

WORD = 32  # bits


@registry.register("proxy", "swap")
@dataclasses.dataclass(frozen=True)
class SWAP(Proxy):
  """The proxy, called `swap` or `swap_regularised`.

  Attributes:
    mu, sigma: of the regularised score, both or neither.

  Raises:
    ConfigError: one of them alone, or a sigma that is not positive.
  """

  name: str = ""
  worst: ClassVar[float] = 0.0
  collects: ClassVar[tuple[Collect, ...]] = ("patterns",)
  mu: float | None = None
  sigma: float | None = None

  def __post_init__(self):
    if (self.mu is None) != (self.sigma is None):
      raise ConfigError(f"mu={self.mu}, sigma={self.sigma}: give both or neither")
    if self.sigma is not None and not self.sigma > 0:
      raise ConfigError(f"sigma={self.sigma} must be positive")
    if not self.name:
      object.__setattr__(self, "name", "swap" if self.mu is None else "swap_regularised")

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    shown = evaluation.shown("patterns")
    assert shown.patterns is not None
    count = different(shown.patterns)
    if self.mu is not None and self.sigma is not None:
      thousands = evaluation.network.costs(evaluation.arch).params / 1000
      count = count * jnp.exp(-jnp.square(thousands - self.mu) / self.sigma)
    return jnp.where(jnp.isfinite(shown.logits).all(), count, jnp.nan)


def different(patterns: Bool[Array, "N bits"]) -> Float[Array, ""]:
  """The number of different columns with an entry that is not 0, exact up to 2^24."""
  samples, bits = patterns.shape
  padded = jnp.pad(patterns, ((0, -samples % WORD), (0, 0))).reshape(-1, WORD, bits)
  place = jnp.arange(WORD, dtype=jnp.uint32)[None, :, None]
  words = (padded.astype(jnp.uint32) << place).sum(1, dtype=jnp.uint32)  # [words, bits]
  ordered = jnp.stack(jax.lax.sort(tuple(words), num_keys=len(words)))
  news = (ordered[:, 1:] != ordered[:, :-1]).any(0).sum(dtype=jnp.int32)
  first = (ordered[:, 0] != 0).any()  # the least of them, unless that is the zeros
  return news.astype(jnp.float32) + first.astype(jnp.float32)
