"""Scores sets of architectures with any proxies: the same weights and images for all that are compared."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np

from jaxnas import data, proxies, scoring
from jaxnas.algorithms import indicators, regression
from jaxnas.algorithms.indicators import IndicatorConfig, setting
from jaxnas.algorithms.regression import RegressionConfig
from jaxnas.data import ImageSource
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.scoring import Batch, Engine, Score
from jaxnas.spaces import NB201, NetworkConfig

# Linear regions are counted on TE-NAS's one-channel network, and regression trains a network with heads: neither can
# share a pass.
OWN_NETWORK = ("linear_regions", "signal_regression")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Settings of scoring."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  archs: tuple[str, ...] = setting(
    (),
    "architectures to score: benchmark indices or |op~0|+... strings, comma-separated; 'random:N' draws N different "
    "ones (from seed 0, whatever --seeds is), 'all' is the whole space",
  )
  proxies: tuple[str, ...] = setting(
    ("naswot", "mgm", "ntk_condition_number_frozen", "linear_regions", "params"),
    f"what to score with, comma-separated, out of {', '.join(proxies.NAMES)}; or 'all'",
  )
  score_batch: int = setting(32, "images N in the batch that architectures are scored on")
  score_channels: int = setting(16, "channels C of the scored networks in their first stage")
  score_cells: int = setting(5, "cells N per stage of the scored networks")
  score_init: Literal["torch_default", "kaiming_fan_out", "kaiming_fan_in"] = setting(
    "torch_default", "initialisation of the scored networks"
  )
  repeats_per_seed: int = setting(1, "initialisations and batches per seed; the table has their mean rank")
  share_weights: bool = setting(
    True,
    "one initialisation for all architectures of a repeat; off, each architecture has its own (signal_regression "
    "always draws each its own, since it trains them)",
  )

  def __post_init__(self):
    if not self.archs:
      raise ConfigError("--archs is empty: name the architectures that --algorithm=score is to score")
    for name in ("score_channels", "score_cells", "repeats_per_seed"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if self.score_batch < 2:
      raise ConfigError(f"--score_batch={self.score_batch} must be at least 2: kernels compare samples")
    names = self.names
    for name in names:
      proxies.get(name)
    if not names or len(set(names)) < len(names):
      raise ConfigError(f"--proxies={','.join(names)!r}: name at least one, and each once")

  @property
  def names(self) -> tuple[str, ...]:
    """The proxies asked for."""
    return proxies.NAMES if self.proxies == ("all",) else self.proxies

  @property
  def passes(self) -> int:
    """How often an architecture is visited per repeat."""
    own = [n for n in self.names if n in OWN_NETWORK]
    return len(own) + (len(own) < len(self.names))


def resolve(space: NB201, archs: tuple[str, ...]) -> np.ndarray:
  """Op columns [A, E] of what `--archs` says.

  Raises:
    ArchitectureError: malformed, out of range, or (of one that is named) without a path from input to output.
    ConfigError: a malformed 'random:N'.
  """
  found = []
  for text in (a.strip() for a in archs):
    if text == "all":
      found.append(space.enumerate_all())
    elif text.startswith("random:"):
      count = text.removeprefix("random:")
      if not count.isdigit() or not 1 <= int(count) <= len(space):
        raise ConfigError(f"--archs={text!r}: say random:N with N from 1 to {len(space)}")
      found.append(space.sample(jax.random.key(0), int(count)))
    else:
      one = space.from_index(int(text)) if text.lstrip("-").isdigit() else space.parse(text)
      if not space.has_path(one):
        raise ArchitectureError(
          f"--archs={text!r}: no path from input to output, so its output does not depend on the images; "
          "put another operation than 'none' on the edges of some path"
        )
      found.append(one[None])
  return np.concatenate(found)


def score(
  space: NB201,
  source: ImageSource,
  config: ScoreConfig,
  *,
  seed: int,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[[int], None] = lambda n: None,
) -> list[Score]:
  """All scores of one seed; see `scoring.score`, which this calls once per network.

  Arguments as of `tenas.search`; `keep` takes several records.
  """
  archs = resolve(space, config.archs)
  engine, records = engine or Engine(), list(records)
  shared = {
    "repeats": config.repeats_per_seed,
    "share_weights": config.share_weights,
    "engine": engine,
    "records": records,
    "keep": keep,
    "advance": advance,
  }
  lines: list[Score] = []
  plain = [proxies.get(n) for n in config.names if n not in OWN_NETWORK]
  if plain:
    network = space.plain_network(
      NetworkConfig(config.score_channels, config.score_cells, source.classes, init=config.score_init)
    )

    def images(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return Batch(*data.plain_batch(source, key, config.score_batch))

    lines += scoring.score(plain, space, archs, images, seed, network=network, **shared)
  if "linear_regions" in config.names:
    given = indicators.regions(space, source, config.indicators, jax.random.key(seed))

    def crops(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return Batch(indicators.regions(space, source, config.indicators, key).batch)

    lines += scoring.score([given.proxy], space, archs, crops, seed, network=given.network, **shared)
  if "signal_regression" in config.names:
    given = regression.regression(space, source, config.regression, jax.random.key(seed))

    def problem(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return regression.regression(space, source, config.regression, key).batch

    lines += scoring.score(
      [given.proxy], space, archs, problem, seed, network=given.network, **shared | {"share_weights": False}
    )
  return lines
