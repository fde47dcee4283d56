"""TE-NAS: prune a supernet by the importance of its operations to trainability and expressivity.

    supernet = every operation on every edge, but 'none'
    while some edge has more than one operation:
      for every such operation o, R times: change of the NTK's condition number, and of the number of linear
        regions, when o is removed
      on every edge remove the `prune_number` operations with the smallest sum of the two (global) ranks
    where nodes keep only some of their edges (DARTS: two), for every node with more of them:
      the same changes when an edge is removed; remove the edges with the smallest sums of ranks within the node

Source: Chen, Gong, Wang, "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021, algorithm 1.

Within a repeat the parent and all candidates share one initialisation, one batch and one set of crops, so the
parent is scored once. The paper's text draws weights anew for every candidate; the released code draws them once a
round for the NTK and once a candidate for the regions. Sharing lowers the variance of the differences that are
ranked and nearly halves the cost.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

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
  candidates,
  decide,
  decide_group,
)
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb201 import NB201

Active = Bool[np.ndarray, "cells E O"]
Indicate = Callable[[int, np.ndarray, np.ndarray, list[Candidate]], Indicators]
"""(step, NTK's parent, active, candidates) -> indicators. "After" is `active` without a candidate's operation; "before"
is the NTK's parent for condition numbers and `active` for regions. The two differ in groups of `variant="code"`."""


class Step(NamedTuple):
  """A round of pruning operations, or (`group`: cell type and edges) the choice of a node's edges."""

  number: int
  measured: Indicators
  decision: Decision
  group: tuple[int, tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class TENASConfig:
  """Defaults are the official settings of each space."""

  indicators: IndicatorConfig = dataclasses.field(default_factory=IndicatorConfig)
  repeats: int = setting(3, "repeats R of each indicator, with fresh weights and images")
  prune_number: int | None = setting(
    None, "operations to prune on each edge in a round (default: as published for the space, nb201 1, darts 3)"
  )
  precision: int = setting(3, "decimals of the relative changes, and significant digits of their ranking")
  variant: Literal["stable", "code"] = setting(
    "stable",
    "ranking: 'stable' is finite-safe and independent of the eigenvalue solver; 'code' replays the official one",
  )

  def __post_init__(self):
    for name in ("repeats", "prune_number", "precision"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")
    if self.variant not in ("stable", "code"):
      raise ConfigError(f"--variant={self.variant!r} must be stable or code")


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: the architecture found, int8 in the space's encoding.
    history: one JSON-able dict a step: candidates, indicators, ranks, what was pruned; of a node's edges also "group".
    eigenvalues: NTK spectra of the full supernet and of the result, same weights and batch.
  """

  arch: Int[np.ndarray, " L"]
  history: list[dict[str, Any]]
  eigenvalues: dict[str, np.ndarray]


def initial_active(space: NB201 | DARTS) -> Active:
  """Every operation but 'none', which is dropped before the search starts."""
  active = np.ones((space.cell_types, len(space.edges), len(space.ops)), bool)
  active[..., space.none_op] = False
  return active


def prune(space: NB201 | DARTS, indicate: Indicate, config: TENASConfig) -> tuple[Active, list[Step]]:
  """Algorithm 1, given the indicators: the one operation left on each edge, and every round.

  Candidates are listed in the official code's order of operations, which decides ties in `variant="code"`.
  """
  config = indicators.resolve(config, space)
  assert config.prune_number is not None
  active, steps = initial_active(space), []
  while found := candidates(active, space.op_order):
    measured = indicate(len(steps) + 1, active, active, found)
    decision = decide(
      measured,
      prune_number=config.prune_number,
      active=active,
      precision=config.precision,
      variant=config.variant,
    )
    for candidate in decision.pruned:
      active[candidate] = False
    steps.append(Step(len(steps) + 1, measured, decision))
  return active, steps


def choose_edges(
  space: NB201 | DARTS, active: Active, indicate: Indicate, config: TENASConfig, *, first: int
) -> tuple[Active, list[Step]]:
  """Switches off edges until every node has `space.edges_kept`, given the indicators.

  A node is decided before the next one is measured. In `variant="code"` the supernet without a candidate is always
  compared, by the NTK, with the supernet from before the first node, so later changes include those of earlier nodes.

  Args:
    active: one operation an edge.
    first: number of the first step.
  """
  whole, active, steps = active.copy(), active.copy(), []
  for cell, edges in _groups(space):
    found = [(cell, e, int(active[cell, e].argmax())) for e in edges]
    parent = whole if config.variant == "code" else active
    measured = indicate(first + len(steps), parent, active, found)
    decision = decide_group(measured, keep=space.edges_kept, precision=config.precision, variant=config.variant)
    for candidate in decision.pruned:
      active[candidate] = False
    steps.append(Step(first + len(steps), measured, decision, (cell, edges)))
  return active, steps


def _groups(space: NB201 | DARTS) -> list[tuple[int, tuple[int, ...]]]:
  """(cell type, edges) of every node that has more edges than it keeps, in the order of the decisions."""
  wide = [edges for edges in space.edge_groups if len(edges) > space.edges_kept]
  return [(cell, edges) for cell in range(space.cell_types) for edges in wide]


def evaluations(space: NB201 | DARTS, config: TENASConfig) -> int:
  """How many supernets a search scores: every candidate and the parent, in every repeat and step."""
  config = indicators.resolve(config, space)
  assert config.prune_number is not None
  left = int(initial_active(space)[0, 0].sum())
  edges, total = space.cell_types * len(space.edges), 0
  while left > 1:
    total += left * edges + 1
    left -= min(config.prune_number, left - 1)
  return config.repeats * (total + sum(len(group) + 1 for _, group in _groups(space)))


def search(
  space: NB201 | DARTS,
  source: ImageSource,
  config: TENASConfig,
  *,
  seed: int,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[[dict[str, Any]], None] = lambda record: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> Result:
  """Runs one search.

  Args:
    space, source: where to search, and the images to search with (labels are never used).
    config: settings.
    seed: of all weights, batches and crops; the same seed gives the same result.
    engine: compiled programs to share with other searches.
    records: what an interrupted run of the same search passed to `keep`; not measured again.
    keep: called with each finished repeat, JSON-able.
    advance: called with the number of supernets scored since the last call, and with `earlier=True` if they are in
      `records`.
  """
  config, engine = indicators.resolve(config, space), engine or Engine()
  known = {(r["round"], r["repeat"]): r for r in records if r.get("algorithm") == "tenas" and r.get("seed") == seed}

  def repeat_key(number: int, repeat: int):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), repeat)

  def measure(number: int, repeat: int, kernel_nets: np.ndarray, region_nets: np.ndarray) -> dict[str, Any]:
    if (number, repeat) in known:
      advance(len(kernel_nets), earlier=True)
      return known[number, repeat]
    ntk_key, region_key = jax.random.split(repeat_key(number, repeat))
    (counts,) = engine.score(*_order(indicators.regions(space, source, config.indicators, region_key), region_nets))
    (kernels,) = engine.score(
      *_order(indicators.condition_number(space, source, config.indicators, ntk_key), kernel_nets),
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

  def indicate(number: int, parent: np.ndarray, active: np.ndarray, found: list[Candidate]) -> Indicators:
    nets = np.repeat(active[None], len(found) + 1, 0)  # the parent, then each candidate without its operation
    for i, candidate in enumerate(found):
      nets[(i + 1, *candidate)] = False
    region_nets = spaces.active_weights(nets)
    nets[0] = parent
    kernel_nets = spaces.active_weights(nets)
    runs = [measure(number, repeat, kernel_nets, region_nets) for repeat in range(config.repeats)]
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

  left, steps = prune(space, indicate, config)
  left, groups = choose_edges(space, left, indicate, config, first=len(steps) + 1)
  arch = space.from_weights(spaces.active_weights(left))
  indicator = indicators.condition_number(space, source, config.indicators, repeat_key(0, 0))
  ends = spaces.active_weights(np.stack([initial_active(space), left]))
  (theta,) = engine.measure(*_order(indicator, ends))
  spectra = ntk.spectrum(np.stack(theta)).eigenvalues
  return Result(
    arch,
    [_as_dict(step) for step in steps + groups],
    {"full supernet": spectra[0], "found architecture": spectra[1]},
  )


def _order(indicator: indicators.Indicator, nets: np.ndarray) -> tuple[Any, ...]:
  """An indicator's parts in the order of `Engine.measure`."""
  return [indicator.proxy], indicator.network, indicator.params, nets, indicator.batch


def _as_dict(step: Step) -> dict[str, Any]:
  measured, decision = step.measured, step.decision
  group = {} if step.group is None else {"group": {"cell": step.group[0], "edges": list(step.group[1])}}
  return {
    "round": step.number,
    **group,
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
