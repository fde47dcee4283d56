"""Scores architectures that the user names with both indicators: the same weights, images and crops for all."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxnas.algorithms import indicators
from jaxnas.algorithms.indicators import IndicatorConfig, setting
from jaxnas.data import ImageSource
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.scoring import Engine
from jaxnas.spaces import NB201


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Settings of scoring."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  archs: tuple[str, ...] = setting(
    (), "architectures to score: benchmark indices or |op~0|+... strings, comma-separated"
  )

  def __post_init__(self):
    if not self.archs:
      raise ConfigError("--archs is empty: name the architectures that --algorithm=score is to score")


def resolve(space: NB201, arch: str) -> np.ndarray:
  """Op columns [E] of a benchmark index or an architecture string.

  Raises:
    ArchitectureError: malformed, out of range, or without a path from input to output.
  """
  text = arch.strip()
  found = space.from_index(int(text)) if text.lstrip("-").isdigit() else space.parse(text)
  if not space.has_path(found):
    raise ArchitectureError(
      f"--archs={text!r}: no path from input to output, so its output does not depend on the images; "
      "put another operation than 'none' on the edges of some path"
    )
  return found


def score(
  space: NB201, source: ImageSource, config: ScoreConfig, *, seed: int, engine: Engine | None = None
) -> list[dict[str, Any]]:
  """One JSON-able dict an architecture, in the order given: its text form, and value and status of each indicator."""
  archs = np.stack([resolve(space, a) for a in config.archs])
  engine = engine or Engine()
  rows: list[dict[str, Any]] = [{"arch": space.format(a)} for a in archs]
  for make, key in zip(
    (indicators.condition_number, indicators.regions),
    jax.random.split(jax.random.key(seed)),
    strict=True,
  ):
    given = make(space, source, config.indicators, key)
    readings = engine.score(given.proxy, given.network, given.params, space.alphas(archs), given.batch)
    for row, reading in zip(rows, readings, strict=True):
      row[given.proxy.name] = reading.value
      row[f"{given.proxy.name}_status"] = reading.status
  return rows
