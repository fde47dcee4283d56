"""Scores sets of architectures with any proxies: the same weights and images for all that are compared."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np

from jaxnas import data, proxies, scoring
from jaxnas.algorithms import indicators
from jaxnas.algorithms.indicators import IndicatorConfig, setting
from jaxnas.base import Accuracies, NetworkConfig
from jaxnas.data import ImageSource
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.gennas.settings import RegressionConfig, TaskConfig, regression
from jaxnas.scoring import Batch, Engine, Score
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb101 import NB101
from jaxnas.spaces.nb201 import NB201

# Linear regions are counted on TE-NAS's one-channel network, and regression trains a network with heads: neither can
# share a pass.
OWN_NETWORK = ("linear_regions", "signal_regression")


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Settings of scoring."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  signal: TaskConfig = dataclasses.field(default_factory=TaskConfig)
  archs: tuple[str, ...] = setting(
    (),
    "architectures to score: benchmark indices or text forms (|op~0|+...; of darts Genotype(...) or a published name, "
    "such as DARTS_V2), comma-separated; 'random:N' draws N different ones (from seed 0, whatever --seeds is), 'all' "
    "is the whole space, 'benchmark' is all of those in --benchmark, 'benchmark:N' N drawn from them",
  )
  proxies: tuple[str, ...] = setting(
    ("naswot", "mgm", "ntk_condition_number_frozen", "linear_regions", "params"),
    f"what to score with, comma-separated, out of {', '.join(proxies.names())}; or 'all'",
  )
  score_batch: int = setting(32, "images N in the batch that architectures are scored on")
  score_channels: int = setting(16, "channels C of the scored networks in their first stage")
  score_cells: int = setting(
    0, "cells N per stage of the scored networks; 0: as in the benchmark (nb201 5, nb101 3) or the search (darts 8)"
  )
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
    for name, least in (("score_channels", 1), ("score_cells", 0), ("repeats_per_seed", 1)):
      if getattr(self, name) < least:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least {least}")
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
    return proxies.names() if self.proxies == ("all",) else self.proxies

  @property
  def passes(self) -> int:
    """How often an architecture is visited per repeat."""
    own = [n for n in self.names if n in OWN_NETWORK]
    return len(own) + (len(own) < len(self.names))


def resolve(space: NB201 | NB101 | DARTS, archs: tuple[str, ...], benchmark: Accuracies | None = None) -> np.ndarray:
  """Op columns [A, E] of what `--archs` says.

  Raises:
    ArchitectureError: malformed, out of range, or (of one that is named) without a path from input to output.
    ConfigError: a malformed 'random:N', or what the space or the benchmark cannot give.
  """
  found = []
  for text in (a.strip() for a in archs):
    kind, _, count = text.partition(":")
    if text == "all":
      if not isinstance(space, NB201):
        raise ConfigError(f"--archs='all': {space.name} is too large to list; say random:N or benchmark:N")
      found.append(space.enumerate_all())
    elif kind == "benchmark":
      if benchmark is None:
        raise ConfigError(f"--archs={text!r} needs --benchmark: name its file")
      known = [space.parse(a) for a in benchmark.archs]
      most = len(known)
      if count and not (count.isdigit() and 1 <= int(count) <= most):
        raise ConfigError(f"--archs={text!r}: say benchmark:N with N from 1 to {most}")
      chosen = np.random.default_rng(0).permutation(most)[: int(count)] if count else np.arange(most)
      found.append(np.stack([known[i] for i in chosen]))
    elif text.startswith("random:"):
      if not count.isdigit() or not 1 <= int(count) <= len(space):
        raise ConfigError(f"--archs={text!r}: say random:N with N from 1 to {len(space)}")
      found.append(space.sample(jax.random.key(0), int(count)))
    else:
      if isinstance(space, NB201) and text.lstrip("-").isdigit():
        one = space.from_index(int(text))
      else:
        one = space.parse(text)
      if not space.is_connected(one):
        raise ArchitectureError(
          f"--archs={text!r}: no path from input to output, so its output does not depend on the images; "
          "put another operation than 'none' on the edges of some path"
        )
      found.append(one[None])
  return np.concatenate(found)


def score(
  space: NB201 | NB101 | DARTS,
  source: ImageSource,
  config: ScoreConfig,
  *,
  seed: int,
  benchmark: Accuracies | None = None,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> list[Score]:
  """All scores of one seed; see `scoring.score`, which this calls once per network.

  Arguments as of `tenas.search`; `keep` takes several records; `benchmark` is only read for its architectures.
  """
  archs = resolve(space, config.archs, benchmark)
  engine, records = engine or Engine(), list(records)
  shared: dict[str, Any] = {
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
    network = NetworkConfig(config.score_channels, config.score_cells or None, source.classes, config.score_init)

    def images(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return Batch(*data.plain_batch(source, key, config.score_batch))

    lines += scoring.score(plain, space, archs, images, seed, network=network, **shared)
  if "linear_regions" in config.names:
    given = indicators.regions(space, source, config.indicators, jax.random.key(seed))

    def crops(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return indicators.regions(space, source, config.indicators, key).batch

    lines += scoring.score([given.proxy], space, archs, crops, seed, network=given.network, **shared)
  if "signal_regression" in config.names:
    given = regression(space, source, config.regression, config.signal.task, jax.random.key(seed))

    def problem(repeat: int, key: jax.Array) -> Batch:
      del repeat
      return regression(space, source, config.regression, config.signal.task, key).batch

    own: dict[str, Any] = {**shared, "share_weights": False}
    lines += scoring.score([given.proxy], space, archs, problem, seed, network=given.network, **own)
  return lines
