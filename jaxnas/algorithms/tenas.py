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
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxnas import ntk, registry
from jaxnas.algorithms.tenas_plots import plot_pruning_history, plot_spectrum
from jaxnas.algorithms.tenas_pruning import as_dict, choose_edges, evaluations, initial_active, prune
from jaxnas.algorithms.tenas_ranking import Candidate, Indicators
from jaxnas.base import (
  Algorithm,
  Artefact,
  Column,
  Context,
  Outcome,
  Parametrised,
  Proxy,
  Prunable,
  RecordKind,
  Space,
  Work,
  lacking,
)
from jaxnas.errors import ConfigError
from jaxnas.nets.supernet import active_weights
from jaxnas.proxies.linear_regions import LinearRegions
from jaxnas.proxies.ntk_condition_number import SupernetConditionNumber
from jaxnas.scoring import Engine
from jaxnas.settings import filled, setting


@dataclasses.dataclass(frozen=True)
class TENASConfig:
  """Defaults are the official settings of each space, except for `batch_norm` (the code has `batch`).

  How the indicators are measured is set by `proxies.indicators.IndicatorConfig`.
  """

  batch_norm: Literal["batch_frozen", "batch"] = setting(
    "batch_frozen",
    "batch normalisation in TE-NAS's NTK: 'batch' differentiates through the mini-batch statistics, exactly as the "
    "published code does; 'batch_frozen' takes them as constants and is about 11 times cheaper",
  )
  repeats: int = setting(3, "repeats R of each indicator, with fresh weights and images")
  prune_number: int | None = setting(
    None,
    "operations to prune on each edge in a round (default: as published for the space, nb201 1, darts 3, ImageNet 2)",
  )
  decimals: int = setting(3, "decimals of the relative changes, and significant digits of their ranking")
  variant: Literal["stable", "code"] = setting(
    "stable",
    "ranking: 'stable' is finite-safe and independent of the eigenvalue solver; 'code' replays the official one",
  )

  def __post_init__(self):
    for name in ("repeats", "prune_number", "decimals"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")
    if self.decimals > 15:
      raise ConfigError(f"--decimals={self.decimals} must be at most 15: a float64 has no more digits")
    for name, allowed in (("variant", ("stable", "code")), ("batch_norm", ("batch_frozen", "batch"))):
      if getattr(self, name) not in allowed:
        raise ConfigError(f"--{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class PrunedSupernet:
  """What a search leaves of the supernet.

  Attributes:
    arch: the architecture found.
    history: one JSON-able dict a step: candidates, indicators, ranks, what was pruned; of a node's edges also "group".
    eigenvalues: NTK spectra of the full supernet and of the result, same weights and batch.
  """

  arch: Int[np.ndarray, " L"]
  history: list[dict[str, Any]]
  eigenvalues: dict[str, np.ndarray]


RECORD = RecordKind(
  "tenas",
  {"round": int, "repeat": int, "ntk_condition_number": np.ndarray, "linear_regions": np.ndarray, "status": list},
)


@registry.register("algorithm", "tenas")
class TENAS(Algorithm[TENASConfig]):
  """The search; see the head of this file."""

  name: ClassVar[str] = "tenas"
  summary: ClassVar[str] = "prunes a supernet by trainability and expressivity (TE-NAS)"
  Settings: ClassVar[type] = TENASConfig
  requires: ClassVar[tuple[type, ...]] = (Prunable,)

  def proxies(self, settings: TENASConfig, space: Space) -> tuple[Proxy, ...]:
    return SupernetConditionNumber(batch_norm=settings.batch_norm), LinearRegions()

  def work(self, context: Context[TENASConfig]) -> Work:
    kernel, _ = self.proxies(context.settings, context.space)
    kernel.prepare(context.space, context.source, context.settings_of(kernel), jax.random.key(0))  # refuses bad batches
    supernets = context.settings.repeats * evaluations(_prunable(context), _prune_number(context))
    return Work(supernets, "supernets")

  def search(self, context: Context[TENASConfig], seed: int) -> Outcome:
    """Runs one search. Labels are never used; records are of a repeat of a step each."""
    space, settings, engine = _prunable(context), context.settings, context.engine or Engine()
    kernel, regions = self.proxies(settings, context.space)
    known = {(r["round"], r["repeat"]): r for r in RECORD.of(context.records, seed)}

    def order(proxy: Proxy, key: Array, nets: np.ndarray) -> tuple[Any, ...]:
      """The arguments of `Engine.measure`: fresh weights and inputs from `key`."""
      inputs = proxy.prepare(space, context.source, context.settings_of(proxy), key)
      init_key, _ = jax.random.split(key)
      network = cast(Parametrised, inputs.network)
      return [proxy], network, network.init(init_key), nets, inputs.batch

    def repeat_key(number: int, repeat: int) -> Array:
      return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), repeat)

    def measure(number: int, repeat: int, kernel_nets: np.ndarray, region_nets: np.ndarray) -> Mapping[str, Any]:
      if (number, repeat) in known:
        context.advance(len(kernel_nets), earlier=True)
        return known[number, repeat]
      kernel_key, region_key = jax.random.split(repeat_key(number, repeat))
      (counts,) = engine.score(*order(regions, region_key, region_nets))
      (conditions,) = engine.score(*order(kernel, kernel_key, kernel_nets), advance=context.advance)
      record = RECORD.make(
        seed,
        round=number,
        repeat=repeat,
        ntk_condition_number=[r.value for r in conditions],
        linear_regions=[r.value for r in counts],
        status=sorted({str(r.status) for r in itertools.chain(conditions, counts)} - {"ok"}),
      )
      context.keep(record)
      return record

    def indicate(number: int, parent: np.ndarray, active: np.ndarray, found: list[Candidate]) -> Indicators:
      nets = np.repeat(active[None], len(found) + 1, 0)  # the parent, then each candidate without its operation
      for i, candidate in enumerate(found):
        nets[(i + 1, *candidate)] = False
      region_nets = active_weights(nets)
      nets[0] = parent
      kernel_nets = active_weights(nets)
      runs = [measure(number, repeat, kernel_nets, region_nets) for repeat in range(settings.repeats)]
      kappa = np.array([r["ntk_condition_number"] for r in runs], np.float64).T  # [1 + K, R]
      count = np.array([r["linear_regions"] for r in runs], np.float64).T
      before = (len(found), settings.repeats)
      return Indicators(
        found,
        np.broadcast_to(kappa[0], before),
        kappa[1:],
        np.broadcast_to(count[0], before),
        count[1:],
      )

    ranking: dict[str, Any] = {"decimals": settings.decimals, "variant": settings.variant}
    left, steps = prune(space, indicate, prune_number=_prune_number(context), **ranking)
    left, groups = choose_edges(space, left, indicate, first=len(steps) + 1, **ranking)
    ends = active_weights(np.stack([initial_active(space), left]))
    (theta,) = engine.measure(*order(kernel, repeat_key(0, 0), ends))
    spectra = ntk.spectrum(np.stack(theta)).eigenvalues
    return _outcome(
      space,
      PrunedSupernet(
        space.from_weights(active_weights(left)),
        [as_dict(step) for step in steps + groups],
        {"full supernet": spectra[0], "found architecture": spectra[1]},
      ),
    )


def _prunable(context: Context[TENASConfig]) -> Prunable:
  if missing := lacking(context.space, Prunable):
    raise ConfigError(f"TE-NAS prunes supernets; --space={context.space.name} has no {', '.join(missing)}")
  return cast(Prunable, context.space)


def _prune_number(context: Context[TENASConfig]) -> int:
  """As set, or as published for the space.

  Raises:
    ConfigError: neither.
  """
  number = filled(context.settings, context.space.published("tenas", context.source.name)).prune_number
  if number is not None and number >= len(_prunable(context).ops):
    most = len(_prunable(context).ops) - 1
    raise ConfigError(f"--prune_number={number}: an edge of {context.space.name} can lose {most} operations at most")
  if number is None:
    raise ConfigError(f"--prune_number: TE-NAS has no published value for --space={context.space.name}; give one")
  return number


def _outcome(space: Prunable, found: PrunedSupernet) -> Outcome:
  """The search for the reader: a row, the history, two pictures."""
  first = found.history[0]
  row = {
    "arch": space.format(found.arch),
    "supernet_condition_number": _median(first["cond_before"]),
    "supernet_regions": _median(first["regions_before"]),
    "clipped": sum(step["clipped"] for step in found.history),
    "rounds": sum("group" not in step for step in found.history),
  }

  def draw_history(path: pathlib.Path) -> None:
    edges = [f"{target}←{source}" for target, source in space.edges]
    cells = space.cell_names if space.cell_types > 1 else None
    plot_pruning_history(
      found.history, path, edge_names=edges, op_names=space.ops, cell_names=cells, title="Pruning history"
    )

  def draw_spectrum(path: pathlib.Path) -> None:
    plot_spectrum(found.eigenvalues, path, title="NTK spectrum")

  return Outcome(
    [row],
    columns=[
      Column("supernet_condition_number", "supernet NTK cond."),
      Column("supernet_regions", "supernet regions"),
    ],
    artefacts=[
      Artefact("pruning_history.png", "Which operation of which edge was pruned in which round.", draw_history),
      Artefact("ntk_spectrum.png", "Eigenvalues of the neural tangent kernel on one batch.", draw_spectrum),
    ],
    record={"history": found.history},
    found=found,
  )


def _median(values: Sequence[float]) -> float:
  finite = sorted(value for value in values if math.isfinite(value))
  return finite[len(finite) // 2] if finite else math.nan
