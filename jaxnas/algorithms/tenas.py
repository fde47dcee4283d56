"""TE-NAS: prune a supernet by the importance of its operations to trainability and expressivity.

    supernet = every operation on every edge, but 'none'
    while some edge has more than one operation:
      for every such operation o, R times: change of the NTK's condition number, and of the number of linear
        regions, when o is removed
      on every edge remove the `prune_number` operations with the smallest sum of the two (global) ranks

Source: Chen, Gong, Wang, "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021, algorithm 1.

Within a repeat the parent and all candidates share one initialisation, one batch and one set of crops, so the
parent is scored once. The paper's text draws weights anew for every candidate; the released code draws them once a
round for the NTK and once a candidate for the regions. Sharing lowers the variance of the differences that are
ranked and nearly halves the cost.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxnas import ntk, spaces
from jaxnas.algorithms import indicators
from jaxnas.algorithms.indicators import IndicatorConfig, setting
from jaxnas.algorithms.tenas_ranking import (
  Candidate,
  Decision,
  Indicators,
  argmax_genotype,
  candidates,
  decide,
)
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.scoring import Batch, Engine
from jaxnas.spaces import NB201

Indicate = Callable[[int, np.ndarray, list[Candidate]], Indicators]


@dataclasses.dataclass(frozen=True)
class TENASConfig:
  """Defaults are the official settings for NAS-Bench-201."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  repeats: int = setting(3, "repeats R of each indicator, with fresh weights and images")
  prune_number: int = setting(1, "operations to prune on each edge in a round")
  precision: int = setting(3, "decimals of the relative changes, and significant digits of their ranking")
  variant: Literal["stable", "code"] = setting(
    "stable",
    "ranking: 'stable' is finite-safe and independent of the eigenvalue solver; 'code' replays the official one",
  )

  def __post_init__(self):
    for name in ("repeats", "prune_number", "precision"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if self.variant not in ("stable", "code"):
      raise ConfigError(f"--variant={self.variant!r} must be stable or code")


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: op columns [E] of the architecture found.
    history: one JSON-able dict a round: candidates, indicators, ranks, what was pruned.
    eigenvalues: NTK spectra of the full supernet and of the result, same weights and batch.
  """

  arch: Int[np.ndarray, " E"]
  history: list[dict[str, Any]]
  eigenvalues: dict[str, np.ndarray]


def initial_active(space: NB201) -> Bool[np.ndarray, "cells E O"]:
  """Every operation but 'none', which is dropped before the search starts."""
  active = np.ones((space.cell_types, len(space.edges), len(space.ops)), bool)
  active[..., space.none_op] = False
  return active


def prune(
  active: Bool[np.ndarray, "cells E O"], indicate: Indicate, config: TENASConfig
) -> tuple[Bool[np.ndarray, "cells E O"], list[tuple[Indicators, Decision]]]:
  """Algorithm 1, given the indicators: `indicate(round, active, candidates)`; returns what is left, and each round."""
  active, rounds = active.copy(), []
  while found := candidates(active):
    measured = indicate(len(rounds) + 1, active, found)
    decision = decide(
      measured,
      prune_number=config.prune_number,
      active=active,
      precision=config.precision,
      variant=config.variant,
    )
    for candidate in decision.pruned:
      active[candidate] = False
    rounds.append((measured, decision))
  return active, rounds


def evaluations(space: NB201, config: TENASConfig) -> int:
  """How many supernets a search scores: every candidate and the parent, in every repeat and round."""
  left = int(initial_active(space)[0, 0].sum())
  edges, total = space.cell_types * len(space.edges), 0
  while left > 1:
    total += config.repeats * (left * edges + 1)
    left -= min(config.prune_number, left - 1)
  return total


def search(
  space: NB201,
  source: ImageSource,
  config: TENASConfig,
  *,
  seed: int,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[[dict[str, Any]], None] = lambda record: None,
  advance: Callable[[int], None] = lambda n: None,
) -> Result:
  """Runs one search.

  Args:
    space, source: where to search, and the images to search with (labels are never used).
    config: settings.
    seed: of all weights, batches and crops; the same seed gives the same result.
    engine: compiled programs to share with other searches.
    records: what an interrupted run of the same search passed to `keep`; not measured again.
    keep: called with each finished repeat, JSON-able.
    advance: called with the number of supernets scored since the last call.
  """
  engine = engine or Engine()
  known = {(r["round"], r["repeat"]): r for r in records if r.get("algorithm") == "tenas" and r.get("seed") == seed}

  def repeat_key(number: int, repeat: int):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), repeat)

  def measure(number: int, repeat: int, nets: np.ndarray) -> dict[str, Any]:
    if (number, repeat) in known:
      advance(len(nets))
      return known[number, repeat]
    ntk_key, region_key = jax.random.split(repeat_key(number, repeat))
    (counts,) = engine.score(*_order(indicators.regions(space, source, config.indicators, region_key), nets))
    (kernels,) = engine.score(
      *_order(indicators.condition_number(space, source, config.indicators, ntk_key), nets),
      advance=advance,
    )
    record = {
      "algorithm": "tenas",
      "seed": seed,
      "round": number,
      "repeat": repeat,
      "ntk_condition_number": [r.value for r in kernels],
      "linear_regions": [r.value for r in counts],
      "status": sorted({r.status for r in itertools.chain(kernels, counts)} - {"ok"}),
    }
    keep(record)
    return record

  def indicate(number: int, active: np.ndarray, found: list[Candidate]) -> Indicators:
    nets = np.repeat(active[None], len(found) + 1, 0)  # the parent, then each candidate without its operation
    for i, candidate in enumerate(found):
      nets[(i + 1, *candidate)] = False
    weights = spaces.active_weights(nets)
    runs = [measure(number, repeat, weights) for repeat in range(config.repeats)]
    kappa = np.array([r["ntk_condition_number"] for r in runs], np.float64).T  # [1 + K, R]
    count = np.array([r["linear_regions"] for r in runs], np.float64).T
    before = (len(found), config.repeats)
    return Indicators(
      found,
      np.broadcast_to(kappa[0], before),
      kappa[1:],
      np.broadcast_to(count[0], before),
      count[1:],
    )

  full = initial_active(space)
  left, rounds = prune(full, indicate, config)
  arch = argmax_genotype(left)[0].astype(np.int8)
  indicator = indicators.condition_number(space, source, config.indicators, repeat_key(0, 0))
  (theta,) = engine.measure(*_order(indicator, spaces.active_weights(np.stack([full, left]))))
  spectra = ntk.spectrum(np.stack(theta)).eigenvalues
  return Result(
    arch,
    [_as_dict(i, *r) for i, r in enumerate(rounds, start=1)],
    {"full supernet": spectra[0], "found architecture": spectra[1]},
  )


def _order(indicator: indicators.Indicator, nets: np.ndarray) -> tuple[Any, ...]:
  """An indicator's parts in the order of `Engine.measure`."""
  return [indicator.proxy], indicator.network, indicator.params, nets, Batch(indicator.batch)


def _as_dict(number: int, measured: Indicators, decision: Decision) -> dict[str, Any]:
  return {
    "round": number,
    "candidates": [list(c) for c in decision.candidates],
    "cond_before": np.asarray(measured.cond_before)[0].tolist(),
    "cond_after": np.asarray(measured.cond_after).tolist(),
    "regions_before": np.asarray(measured.regions_before)[0].tolist(),
    "regions_after": np.asarray(measured.regions_after).tolist(),
    "ntk_delta": decision.ntk_mean.tolist(),
    "region_delta": decision.region_mean.tolist(),
    "ntk_rank": decision.ntk_rank.tolist(),
    "region_rank": decision.region_rank.tolist(),
    "pruned": [list(c) for c in decision.pruned],
    "clipped": decision.clipped,
  }
