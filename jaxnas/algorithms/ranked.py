"""Search by a ranking: score many architectures, take the first, or the best of the first k by a cheap validation.

    candidates  all of the space, N drawn at random, or N evolved (`evolving`)
    ranking     the log-rank sum of a combination of proxies among the candidates (`combining`)
    k = 0       the first of the ranking: no accuracy is asked for
    k > 0       the best of the first k by validation, k queries: the benchmark's 12 epochs, or a short training

In the same table stand the controls, with as many queries: the candidates ranked by their parameters alone, by what of
the combination is itself a control (effective parameters, FLOPs; of skip lengths together with parameters), and
architectures drawn from the space at random. What a control finds too, the combination has not found.

Source: the sum of log ranks is AZ-NAS's (Lee & Ham, CVPR 2024), the shortlist KNAS's (Xu et al., ICML 2021).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxnas import registry
from jaxnas.algorithms.combining import (
  DEFAULT,
  Combination,
  RankBy,
  about,
  combined,
  proxies_of,
  refuse_unmeasured,
)
from jaxnas.algorithms.evolving import RankEvolution, evolve
from jaxnas.algorithms.measuring import UsualInputs, measure, passes
from jaxnas.algorithms.validation import WAYS, evaluation, validate
from jaxnas.base import (
  Algorithm,
  Column,
  Context,
  Indexed,
  Outcome,
  Proxy,
  RecordKind,
  Space,
  Work,
  lacking,
)
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine, Score
from jaxnas.settings import setting
from jaxnas.train import TrainConfig

ALL = "all"
RANDOM = "random"
_DRAWN = re.compile(r"(random|evolved):([0-9]{1,18})")
_K = re.compile(r"[0-9]{1,9}")


@dataclasses.dataclass(frozen=True)
class RankedConfig:
  """Settings of the search by a ranking."""

  inputs: UsualInputs = dataclasses.field(default_factory=UsualInputs)
  ranking: RankBy = dataclasses.field(default_factory=RankBy)
  evolution: RankEvolution = dataclasses.field(default_factory=RankEvolution)
  training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  ranked_candidates: str = setting(
    "random:1000", "what is ranked: 'all' of the space, 'random:N' drawn, or 'evolved:N', mutations of the best"
  )
  ranked_shortlists: tuple[str, ...] = setting(
    ("0", "5", "10", "20", "40"),
    "k, comma-separated: the best of the first k by validation, a row each; 0 is the first, without any",
  )
  ranked_fine: Literal["table", "train"] = setting(
    "table",
    "validation: 'table' reads the 12-epoch CIFAR-10 validation accuracy of --benchmark, 'train' trains for "
    "--train_epochs on one half of the images and validates on the other",
  )
  ranked_controls: bool = setting(
    True, "rank by parameters, by what of the combination is a mere count, and at random too, in the same table"
  )

  def __post_init__(self):
    if self.ranked_fine not in WAYS:
      raise ConfigError(f"--ranked_fine={self.ranked_fine!r} must be one of {', '.join(WAYS)}")
    text = self.ranked_candidates
    drawn = _DRAWN.fullmatch(text)
    if text != ALL and (drawn is None or int(drawn[2]) < 2):
      raise ConfigError(f"--ranked_candidates={text!r}: say all, random:N or evolved:N, with N of 2 at least")
    if drawn is None or drawn[1] != "evolved":
      self.evolution.refuse_unused(f"--ranked_candidates={text}")
    elif int(drawn[2]) <= self.evolution.ranked_population:
      raise ConfigError(
        f"--ranked_candidates={text} is no more than --ranked_population={self.evolution.ranked_population}, which are "
        "drawn at random, so nothing would evolve: raise the former or lower the latter"
      )
    if not self.ranked_shortlists or not all(map(_K.fullmatch, self.ranked_shortlists)):
      raise ConfigError(f"--ranked_shortlists={','.join(self.ranked_shortlists)!r}: say numbers from 0, such as 0,20")
    if len(set(self.shortlists)) < len(self.shortlists):
      raise ConfigError(f"--ranked_shortlists={','.join(self.ranked_shortlists)!r}: name each once")

  @property
  def shortlists(self) -> tuple[int, ...]:
    """The k's, least first."""
    return tuple(sorted(map(int, self.ranked_shortlists)))

  def count(self, space: Space) -> int:
    """How many candidates there are.

    Raises:
      ConfigError: the space cannot be listed, or has fewer; or a shortlist is longer.
    """
    drawn = _DRAWN.fullmatch(self.ranked_candidates)
    if drawn is None and lacking(space, Indexed):
      raise ConfigError(f"--ranked_candidates=all: {space.name} is too large to list; say random:N or evolved:N")
    count = len(space) if drawn is None else int(drawn[2])
    if count > len(space):
      raise ConfigError(
        f"--ranked_candidates={self.ranked_candidates} is more than the {len(space)} of --space={space.name}; lower it"
      )
    if self.shortlists[-1] > count:
      raise ConfigError(
        f"--ranked_shortlists={','.join(self.ranked_shortlists)}: {self.shortlists[-1]} is more than the {count} of "
        f"--ranked_candidates={self.ranked_candidates}; lower the former or raise the latter"
      )
    return count

  def combination(self, space: Space) -> Combination:
    """What ranks the candidates.

    Raises:
      ConfigError: several are asked for, or one that the space does not declare.
    """
    given = self.ranking if self.ranking.rank_by else RankBy((DEFAULT,))
    found = given.combinations(space)
    if len(found) != 1:
      raise ConfigError(f"--rank_by={','.join(given.rank_by)}: --algorithm=ranked ranks by one; give one of them")
    return found[0]

  def controls(self, space: Space) -> tuple[Combination, ...]:
    """The rankings to compare with, beside random ones: parameters, and what of the combination is one itself."""
    if not self.ranked_controls:
      return ()
    combination = self.combination(space)
    counts = tuple(name for name in combination.proxies if registry.make("proxy", name, "--rank_by").control)
    if counts == ("skip_length",):  # ranks at random alone
      counts = ("params", "skip_length")
    asked = (("params",), counts)
    names = dict.fromkeys(names for names in asked if names and names != combination.proxies)
    return tuple(Combination(f"control: {' + '.join(one)}", one) for one in names)


class Ranked(NamedTuple):
  """What one seed found.

  Attributes:
    lines: scores of the candidates by all proxies, and by the combination.
    order: of each rule, the combination's first, the candidates that it takes, best first.
    validation: accuracy in per cent of all that were validated.
  """

  lines: list[Score]
  order: dict[str, list[str]]
  validation: dict[str, float]


RECORD = RecordKind("ranked", {"arch": str, "validation": float})


@registry.register("algorithm", "ranked")
class RankedSearch(Algorithm[RankedConfig]):
  """The search; see the head of this file."""

  name: ClassVar[str] = "ranked"
  summary: ClassVar[str] = "the best of many by a combination of proxies, and of its first k by validation"
  Settings: ClassVar[type] = RankedConfig
  extends: ClassVar[tuple[str, ...]] = ("seeds", "rank_by", "ranked_shortlists")

  def proxies(self, settings: RankedConfig, space: Space) -> tuple[Proxy, ...]:
    return proxies_of((), (settings.combination(space), *settings.controls(space)), "--rank_by")

  def work(self, context: Context[RankedConfig]) -> Work:
    settings, space = context.settings, context.space
    rules = (settings.combination(space), *settings.controls(space))
    count = settings.count(space)
    refuse_unmeasured(context, rules, settings.inputs, count)
    longest = settings.shortlists[-1]
    if longest:
      _evaluation(context, seed=0)
    validated = longest * (len(rules) + settings.ranked_controls)
    return Work(count * passes(self.proxies(settings, space)) + validated, "architectures")

  def search(self, context: Context[RankedConfig], seed: int) -> Outcome:
    """Runs one search; what was scored and validated is kept, the ranking is computed from it."""
    settings, space = context.settings, context.space
    combination, controls = settings.combination(space), settings.controls(space)
    key, random_key = jax.random.split(jax.random.key(seed))
    lines = _scored(context, combination, key, seed)
    longest = max(1, settings.shortlists[-1])
    order = {}
    for rule in (combination, *controls):
      ranks = _ranks(lines, rule)
      if not np.isfinite(list(ranks.values())).any():
        raise ConfigError(f"--rank_by={rule.name}: none of the {len(ranks)} candidates has a score")
      order[rule.name] = sorted(ranks, key=lambda arch: -ranks[arch])[:longest]  # of equals the first that was drawn
    if settings.ranked_controls:
      order[f"control: {RANDOM}"] = [space.format(code) for code in space.sample(random_key, longest)]
    archs = [arch for own in order.values() for arch in own] if settings.shortlists[-1] else []
    accuracy = {}
    if archs:
      evaluate = _evaluation(context, seed=seed)
      found = validate(context, archs, evaluate, RECORD, seed, WAYS[settings.ranked_fine])
      accuracy = dict(zip(archs, found.tolist(), strict=True))
    rows = [_row(rule, own, k, accuracy, settings) for rule, own in order.items() for k in settings.shortlists]
    together = combined(lines, [combination])
    lines = lines + together
    return Outcome(
      rows,
      columns=[Column("rule", "ranked by"), Column("k", "queries"), Column("validation", "valid %")],
      groups=("rule", "k"),
      scores=[line._asdict() for line in lines],
      record={"combinations": about(together, [combination])},
      found=Ranked(lines, order, accuracy),
    )


def _evaluation(context: Context[RankedConfig], *, seed: int):
  settings = context.settings
  try:
    return evaluation(context, settings.ranked_fine, settings.training, "ranked_fine", seed)
  except ConfigError as error:
    raise ConfigError(f"{error}, or --ranked_shortlists=0 for none") from error


def _scored(context: Context[RankedConfig], combination: Combination, key: Array, seed: int) -> list[Score]:
  """Lines of all candidates by all proxies."""
  settings, space = context.settings, context.space
  context = dataclasses.replace(context, engine=context.engine or Engine())
  proxies = RankedSearch().proxies(settings, space)

  def score(codes: Int[np.ndarray, "A L"]) -> list[Score]:
    return measure(context, proxies, settings.inputs, codes, seed)

  count = settings.count(space)
  if settings.ranked_candidates.startswith("evolved"):
    return evolve(space, count, settings.evolution, key, score, lambda lines: _ranks(lines, combination))
  everything = settings.ranked_candidates == ALL
  return score(cast(Indexed, space).enumerate_all() if everything else space.sample(key, count))


def _ranks(lines: Sequence[Score], rule: Combination) -> dict[str, float]:
  """Text form -> what to rank by."""
  return {line.arch: line.rank_by for line in combined(lines, [rule])}


def _row(
  rule: str, order: Sequence[str], k: int, accuracy: Mapping[str, float], settings: RankedConfig
) -> dict[str, Any]:
  """The best of the first k by validation, or the first."""
  if not k:
    return {"rule": rule, "k": 0, "arch": order[0], "validation": None}
  values = np.array([accuracy[arch] for arch in order[:k]], np.float64)
  if np.isnan(values).all():
    raise ConfigError(
      f"--ranked_fine={settings.ranked_fine}: none of the first {k} by {rule} has a value; raise --ranked_shortlists"
    )
  best = int(np.nanargmax(values))
  return {"rule": rule, "k": k, "arch": order[best], "validation": float(values[best])}
