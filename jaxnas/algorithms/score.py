"""Scores sets of architectures with any proxies: the same weights and images for all that are compared."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxnas import registry
from jaxnas.algorithms.combining import RankBy, about, combined, proxies_of, refuse_unmeasured
from jaxnas.algorithms.measuring import UsualInputs, measure, passes, unable
from jaxnas.algorithms.naming import resolve
from jaxnas.base import Algorithm, Column, Context, Outcome, Proxy, Space, Work
from jaxnas.errors import ConfigError
from jaxnas.scoring import Score
from jaxnas.settings import setting

ALL = "all"
LISTED = 30  # architectures that are listed one by one

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Settings of scoring."""

  inputs: UsualInputs = dataclasses.field(default_factory=UsualInputs)
  ranking: RankBy = dataclasses.field(default_factory=RankBy)
  archs: tuple[str, ...] = setting(
    (),
    "architectures to score: benchmark indices or text forms (|op~0|+...; of darts Genotype(...) or a published name, "
    "such as DARTS_V2), comma-separated; 'random:N' draws N different ones (from seed 0, whatever --seeds is), 'all' "
    "is the whole space, 'benchmark' is all of those in --benchmark, 'benchmark:N' N drawn from them",
  )
  proxies: tuple[str, ...] = setting(
    ("naswot", "mgm", "ntk_condition_number_frozen", "linear_regions", "params"),
    lambda: (
      f"what to score with, comma-separated, out of {', '.join(registry.names('proxy'))}; or 'all' that can be measured"
    ),
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
    if self.repeats_per_seed < 1:
      raise ConfigError(f"--repeats_per_seed={self.repeats_per_seed} must be at least 1")
    if ALL in self.proxies and len(self.proxies) > 1:
      raise ConfigError(f"--proxies={','.join(self.proxies)!r}: {ALL!r} stands alone")
    for name in self.names:
      registry.get("proxy", name, "--proxies")
    if not self.proxies or len(set(self.proxies)) < len(self.proxies):
      raise ConfigError(f"--proxies={','.join(self.proxies)!r}: name at least one, and each once")

  @property
  def names(self) -> tuple[str, ...]:
    """The proxies asked for."""
    return registry.names("proxy") if self.proxies == (ALL,) else self.proxies


@registry.register("algorithm", "score")
class Scoring(Algorithm[ScoreConfig]):
  """Scores what `--archs` names; its `found` is the list of `scoring.Score` lines."""

  name: ClassVar[str] = "score"
  summary: ClassVar[str] = "scores architectures that you name, and compares the proxies by a benchmark"
  Settings: ClassVar[type] = ScoreConfig
  extends: ClassVar[tuple[str, ...]] = ("seeds", "archs", "proxies", "rank_by", "repeats_per_seed")

  def proxies(self, settings: ScoreConfig, space: Space) -> tuple[Proxy, ...]:
    return proxies_of(settings.names, settings.ranking.combinations(space), "--proxies")

  def work(self, context: Context[ScoreConfig]) -> Work:
    settings = context.settings
    chosen, left_out = self._able(context)
    if left_out:
      log.warning("--proxies=%s leaves out %s", ALL, "; ".join(left_out))
    archs = resolve(context.space, settings.archs, context.benchmark)
    different = len(np.unique(archs, axis=0))
    refuse_unmeasured(context, settings.ranking.combinations(context.space), settings.inputs, different)
    return Work(len(archs) * passes(chosen) * settings.repeats_per_seed, "architectures")

  def image_size(self, settings: ScoreConfig) -> int:
    """As `base.Algorithm.image_size`."""
    return settings.inputs.score_side or 0

  def _able(self, context: Context[ScoreConfig]) -> tuple[list[Proxy], list[str]]:
    """The proxies to measure, and of "all" those that cannot be measured here, with the reasons."""
    settings = context.settings
    chosen = list(self.proxies(settings, context.space))
    if settings.proxies != (ALL,):
      return chosen, []
    reasons = {proxy.name: unable(context, proxy, settings.inputs) for proxy in chosen}
    return [p for p in chosen if not reasons[p.name]], [f"{name} ({why})" for name, why in reasons.items() if why]

  def search(self, context: Context[ScoreConfig], seed: int) -> Outcome:
    """Scores everything with one seed; the benchmark is only read for its architectures."""
    settings = context.settings
    lines = measure(
      context,
      self._able(context)[0],
      settings.inputs,
      resolve(context.space, settings.archs, context.benchmark),
      seed,
      repeats=settings.repeats_per_seed,
      share_weights=settings.share_weights,
    )
    combinations = settings.ranking.combinations(context.space)
    together = combined(lines, combinations)
    lines += together
    rows, columns = _shown(lines)
    scores = [line._asdict() for line in lines]
    record = {"combinations": about(together, combinations)} if combinations else {}
    return Outcome(rows, columns=columns, scores=scores, record=record, found=lines)


def _shown(lines: Sequence[Score]) -> tuple[list[dict[str, Any]], list[Column]]:
  """Rows of the first repeat: every architecture of few, else the best by each proxy."""
  archs = list(dict.fromkeys(line.arch for line in lines))
  first = [line for line in lines if line.repeat == 0]
  if len(archs) <= LISTED:
    rows: dict[str, dict[str, Any]] = {arch: {"arch": arch} for arch in archs}
    for line in first:
      rows[line.arch] |= {line.proxy: line.value, f"{line.proxy}_status": str(line.status)}
    names = dict.fromkeys(line.proxy for line in first)
    return list(rows.values()), [Column(name, name, f"{name}_status") for name in names]
  best: dict[str, Score] = {}
  for line in first:
    if line.proxy not in best or line.rank_by > best[line.proxy].rank_by:
      best[line.proxy] = line
  found = [{"best_by": name, "arch": line.arch, "score": line.value} for name, line in best.items()]
  return found, [Column("best_by", "best by"), Column("score", "score")]
