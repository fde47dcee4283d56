"""Random search: the control that every table needs.

Draw n distinct architectures, keep the best by a proxy at initialisation, by cheap validation (the benchmark's
12-epoch accuracy), or, with n = 1, none at all.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxnas import registry
from jaxnas.algorithms.measuring import UsualInputs, measure, passes
from jaxnas.algorithms.naming import refuse_too_many
from jaxnas.algorithms.validation import after_12_epochs
from jaxnas.base import Algorithm, Column, Context, Outcome, Proxy, Space, Work
from jaxnas.errors import ConfigError
from jaxnas.settings import setting

OTHERS = ("valid_12ep", "first")  # criteria that are no proxies


@dataclasses.dataclass(frozen=True)
class RandomSearchConfig:
  """Settings of random search."""

  inputs: UsualInputs = dataclasses.field(default_factory=UsualInputs)
  samples: int = setting(100, "architectures that random search draws, without replacement")
  criterion: str = setting(
    "supernet_condition_number_frozen",
    "what random search keeps the best of: any proxy (see --proxies), 'valid_12ep' (12-epoch CIFAR-10 validation "
    "accuracy in the benchmark), or 'first' (the first architecture drawn)",
  )

  def __post_init__(self):
    if self.samples < 1:
      raise ConfigError(f"--samples={self.samples} must be at least 1")
    known = (*registry.names("proxy"), *OTHERS)
    if self.criterion not in known:
      raise ConfigError(registry.unknown(f"--criterion={self.criterion!r}", self.criterion, known))


@dataclasses.dataclass(frozen=True)
class RandomDraw:
  """What was drawn, and the best of it.

  Attributes:
    arch: the best architecture.
    archs: all that were drawn, [n, L].
    scores: the criterion for each of them, float64 [n], as the proxy gives it; NaN for "first".
    best: position of `arch` in `archs`.
  """

  arch: Int[np.ndarray, " L"]
  archs: Int[np.ndarray, "n L"]
  scores: Float[np.ndarray, " n"]
  best: int


@registry.register("algorithm", "random_search")
class RandomSearch(Algorithm[RandomSearchConfig]):
  """The search; see the head of this file."""

  name: ClassVar[str] = "random_search"
  summary: ClassVar[str] = "the best of n random architectures, by any proxy or a table: the control"
  Settings: ClassVar[type] = RandomSearchConfig

  def proxies(self, settings: RandomSearchConfig, space: Space) -> tuple[Proxy, ...]:
    return () if settings.criterion in OTHERS else (registry.make("proxy", settings.criterion, "--criterion"),)

  def image_size(self, settings: RandomSearchConfig) -> int:
    """As `base.Algorithm.image_size`."""
    return settings.inputs.score_side or 0

  def work(self, context: Context[RandomSearchConfig]) -> Work:
    settings = context.settings
    refuse_too_many(context.space, settings.samples, "--samples")
    if settings.criterion == "valid_12ep":
      after_12_epochs(context.benchmark, "--criterion=valid_12ep", "give another --criterion")
    return Work(settings.samples * max(1, passes(self.proxies(settings, context.space))), "architectures")

  def search(self, context: Context[RandomSearchConfig], seed: int) -> Outcome:
    """Runs one search; images are read by a proxy only."""
    space, settings = context.space, context.settings
    draw_key, _ = jax.random.split(jax.random.key(seed))
    archs = space.sample(draw_key, settings.samples)
    if settings.criterion == "first":
      context.advance(len(archs))
      return self._outcome(context, RandomDraw(archs[0], archs, np.full(len(archs), np.nan), 0))
    if settings.criterion == "valid_12ep":
      accuracy = after_12_epochs(context.benchmark, "--criterion=valid_12ep", "give another --criterion")
      scores = np.array([accuracy(space.format(arch)) for arch in archs], np.float64)
      ranking = np.where(np.isnan(scores), -np.inf, scores)
      context.advance(len(archs))
    else:
      lines = measure(context, self.proxies(settings, space), settings.inputs, archs, seed)
      scores = np.array([line.value for line in lines], np.float64)
      ranking = np.array([line.rank_by for line in lines], np.float64)
    if not np.isfinite(ranking).any():
      raise ConfigError(f"--criterion={settings.criterion}: none of the {len(archs)} architectures drawn has a score")
    best = int(np.argmax(ranking))
    return self._outcome(context, RandomDraw(archs[best], archs, scores, best))

  def _outcome(self, context: Context[RandomSearchConfig], drawn: RandomDraw) -> Outcome:
    criterion = context.settings.criterion
    row: dict[str, Any] = {"arch": context.space.format(drawn.arch)}
    if criterion == "first":
      return Outcome([row], found=drawn)
    row[criterion] = float(drawn.scores[drawn.best])
    title = "valid 12 ep. %" if criterion == "valid_12ep" else criterion
    return Outcome([row], columns=[Column(criterion, title)], found=drawn)
