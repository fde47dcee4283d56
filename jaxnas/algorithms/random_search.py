"""Random search: the control that every table needs.

Draw n distinct architectures, keep the best by a proxy at initialisation, by cheap validation (the benchmark's
12-epoch accuracy), or, with n = 1, none at all.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int

from jaxnas import data
from jaxnas.algorithms import indicators
from jaxnas.algorithms.indicators import IndicatorConfig, setting
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb201 import NB201

CRITERIA = ("ntk_condition_number", "linear_regions", "valid_12ep", "first")
_STEP = 24  # architectures between two records


@dataclasses.dataclass(frozen=True)
class RandomSearchConfig:
  """Settings of random search."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  samples: int = setting(100, "architectures that random search draws, without replacement")
  criterion: Literal["ntk_condition_number", "linear_regions", "valid_12ep", "first"] = setting(
    "ntk_condition_number",
    "what random search keeps the best of: a proxy at initialisation, 'valid_12ep' (12-epoch CIFAR-10 validation "
    "accuracy, needs --benchmark), or 'first' (the first architecture drawn)",
  )

  def __post_init__(self):
    if self.samples < 1:
      raise ConfigError(f"--samples={self.samples} must be at least 1")
    if self.criterion not in CRITERIA:
      raise ConfigError(f"--criterion={self.criterion!r} must be one of {', '.join(CRITERIA)}")


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: the best architecture, int8 [L] in the space's encoding.
    archs: all that were drawn, [n, L].
    scores: the criterion for each of them, float64 [n], as the proxy gives it.
    best: position of `arch` in `archs`.
  """

  arch: Int[np.ndarray, " L"]
  archs: Int[np.ndarray, "n L"]
  scores: np.ndarray
  best: int


def check(config: RandomSearchConfig, validation: bool) -> None:
  """Raises ConfigError if the criterion needs a table of accuracies and there is none."""
  if config.criterion == "valid_12ep" and not validation:
    raise ConfigError("--criterion=valid_12ep needs --benchmark: the accuracies come from its table")


def search(
  space: NB201 | DARTS,
  source: data.ImageSource | None,
  config: RandomSearchConfig,
  *,
  seed: int,
  validation: Callable[[str], float] | None = None,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[[dict[str, Any]], None] = lambda record: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> Result:
  """Runs one random search; arguments as of `tenas.search`.

  Args:
    source: images; only a proxy needs them.
    validation: cheap validation accuracy of an architecture's text form; only `valid_12ep` needs it.

  Raises:
    ConfigError: the criterion needs what was not given, or no architecture drawn has a usable score.
  """
  draw_key, indicator_key = jax.random.split(jax.random.key(seed))
  archs = space.sample(draw_key, config.samples)
  if config.criterion == "first":
    return Result(archs[0], archs, np.full(len(archs), np.nan), 0)
  if config.criterion == "valid_12ep":
    check(config, validation is not None)
    assert validation is not None
    scores = np.array([validation(space.format(a)) for a in archs], np.float64)
    ranking = np.where(np.isnan(scores), -np.inf, scores)
    advance(len(archs))
  else:
    if source is None:
      raise ConfigError(f"--criterion={config.criterion} needs images")
    make = indicators.regions if config.criterion == "linear_regions" else indicators.condition_number
    indicator = make(space, source, config.indicators, indicator_key)
    scores, ranking = _scored(space, indicator, archs, engine or Engine(), seed, records, keep, advance)
  if not np.isfinite(ranking).any():
    raise ConfigError(f"--criterion={config.criterion}: none of the {len(archs)} architectures drawn has a score")
  best = int(np.argmax(ranking))
  return Result(archs[best], archs, scores, best)


def _scored(space, indicator, archs, engine, seed, records, keep, advance) -> tuple[np.ndarray, np.ndarray]:
  """(values, the same to rank by: higher is better), float64 [n]; records of an earlier run are not scored again."""
  mine = [r for r in records if r.get("algorithm") == "random_search" and r.get("seed") == seed]
  known = {r["arch"]: r for r in mine}
  values, ranking = [], []
  for start in range(0, len(archs), _STEP):
    part = archs[start : start + _STEP]
    names = [space.format(a) for a in part]
    if all(name in known for name in names):
      advance(len(part), earlier=True)
    else:
      (readings,) = engine.score(
        [indicator.proxy],
        indicator.network,
        indicator.params,
        part,
        indicator.batch,
        advance=advance,
      )
      for name, reading in zip(names, readings, strict=True):
        known[name] = {
          "algorithm": "random_search",
          "seed": seed,
          "arch": name,
          "proxy": indicator.proxy.name,
          "value": reading.value,
          "status": reading.status,
          "rank_by": indicator.proxy.ranking_value(reading),
        }
        keep(known[name])
    values += [known[name]["value"] for name in names]
    ranking += [known[name]["rank_by"] for name in names]
  return np.array(values, np.float64), np.array(ranking, np.float64)
