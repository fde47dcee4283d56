"""GenNAS: ageing evolution of architectures, by their loss after a short regression on synthetic signals.

    population = P random architectures, each regressed from its own initial weights
    repeat: the best of a random tournament is mutated; the child is regressed and joins, the oldest leaves
    result     = the lowest loss of all that lived

One task for the run: the same images, targets and noise for everyone, so an architecture that is met again keeps its
loss and is not regressed twice.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3.4.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxnas import scoring
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.gennas.evolution import Individual, best, evolve
from jaxnas.gennas.settings import RegressionConfig, TaskConfig, regression
from jaxnas.scoring import Engine
from jaxnas.settings import setting


@dataclasses.dataclass(frozen=True)
class EvolutionConfig:
  """Defaults are the published settings."""

  evolution_population: int = setting(50, "individuals alive; as many random ones begin")
  evolution_tournament: int = setting(10, "individuals drawn, the best of whom has a child")
  evolution_children: int = setting(400, "children after the first population")

  def __post_init__(self):
    for name, least in (("evolution_population", 1), ("evolution_tournament", 1), ("evolution_children", 0)):
      if getattr(self, name) < least:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least {least}")
    if self.evolution_tournament > self.evolution_population:
      raise ConfigError(
        f"--evolution_tournament={self.evolution_tournament} is more than "
        f"--evolution_population={self.evolution_population}: lower the former or raise the latter"
      )

  @property
  def individuals(self) -> int:
    """All that ever live."""
    return self.evolution_population + self.evolution_children


@dataclasses.dataclass(frozen=True)
class GenNASConfig:
  """Settings of the search for an architecture."""

  evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  signal: TaskConfig = dataclasses.field(default_factory=TaskConfig)
  gennas_mutation: float = setting(
    1.0, "expected changes of a mutation: nb201 draws every op anew with this / 5; nb101 flips edges with this / 7"
  )

  def __post_init__(self):
    if not 0 < self.gennas_mutation <= 5:
      raise ConfigError(f"--gennas_mutation={self.gennas_mutation} must be above 0 and at most 5")


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: op columns [E] of the lowest loss.
    log: everyone that lived, in order of birth; genomes are text forms, fitness is the loss.
    curves: evaluation losses on the way, by text form: of the result and of the first population's best and worst.
    targets: what was regressed on, three [N, 8, 8, C].
  """

  arch: Int[np.ndarray, " E"]
  log: list[Individual[str]]
  curves: dict[str, list[float]]
  targets: tuple[np.ndarray, ...]


def search(
  space: Any,
  source: ImageSource,
  config: GenNASConfig,
  *,
  seed: int,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> Result:
  """Runs one search; arguments as of `tenas.search`.

  Raises:
    ConfigError: every loss left the numbers.
  """
  evolution, engine, records = config.evolution, engine or Engine(), list(records)
  draw_key, mutate_key, problem_key = jax.random.split(jax.random.key(seed), 3)
  given = regression(space, source, config.regression, config.signal.task, problem_key)
  losses: dict[str, float] = {}

  def evaluate(archs: np.ndarray) -> None:
    lines = scoring.score(
      [given.proxy],
      space,
      archs,
      given.batch,
      seed,
      network=given.network,
      share_weights=False,
      engine=engine,
      records=records,
      keep=keep,
      advance=advance,
    )
    losses.update({line.arch: -line.rank_by for line in lines})

  first = space.sample(draw_key, evolution.evolution_population)
  evaluate(first)
  beginners, births = iter(first), iter(range(evolution.evolution_children))

  def mutate(parent: str) -> str:
    key = jax.random.fold_in(mutate_key, next(births))
    return space.format(space.resample(key, space.parse(parent), config.gennas_mutation))

  def child_loss(arch: str) -> float:
    if arch not in losses:
      evaluate(space.parse(arch)[None])
    else:
      advance(1)
    return losses[arch]

  log = evolve(
    lambda: space.format(next(beginners)),
    mutate,
    child_loss,
    population=evolution.evolution_population,
    tournament=evolution.evolution_tournament,
    children=evolution.evolution_children,
    random=random.Random(seed),
    maximise=False,
    known=[losses[space.format(arch)] for arch in first],
  )
  winner = best(log, maximise=False)
  if not np.isfinite(winner.fitness):
    raise ConfigError(
      f"--signal_task={config.signal.signal_task}: the losses of all {len(losses)} architectures left the numbers; "
      "lower the levels of its signals"
    )
  begun = sorted(log[: evolution.evolution_population], key=lambda one: one.fitness)
  shown = list(dict.fromkeys([winner.genome, begun[0].genome, begun[-1].genome]))
  return Result(space.parse(winner.genome), log, curves(space, given, engine, shown, seed), given.batch.problem.targets)


def curves(space: Any, given: Any, engine: Engine, archs: list[str], seed: int) -> dict[str, list[float]]:
  """Evaluation losses on the way of a few architectures (from other weights than their scores)."""
  columns = np.stack([space.parse(arch) for arch in archs])
  keys = jax.random.split(jax.random.key(seed), len(archs))
  (found,) = engine.measure([given.proxy], given.network, None, columns, given.batch, init_keys=keys)
  return {arch: np.asarray(curve.evaluation, np.float64).tolist() for arch, curve in zip(archs, found, strict=True)}
