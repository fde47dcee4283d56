"""GenNAS's search for the proxy task: ageing evolution of configurations of synthetic signals.

    fitness of a task = |Spearman| between the losses of 20 architectures regressed on it and their accuracies

Every task brings its own images, targets, noise and initial weights. A task that is out of range (dots in less than one
cell) has fitness 0. All of a task is data, so one compiled program serves all tasks.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3.3.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxnas import scoring
from jaxnas.base import Accuracies
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.evolution import Individual, best, evolve
from jaxnas.gennas.search import EvolutionConfig
from jaxnas.gennas.settings import RegressionConfig, regression
from jaxnas.gennas.task_moves import mutate_task, random_task
from jaxnas.gennas.tasks import SignalTask
from jaxnas.scoring import Engine
from jaxnas.settings import setting
from jaxnas.tabular import metrics


@dataclasses.dataclass(frozen=True)
class GenNASTaskConfig:
  """Settings of the search for a task."""

  evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  task_archs: int = setting(20, "benchmarked architectures that a task has to rank")
  task_keep: float = setting(0.8, "probability with which a mutation keeps each part of a task")

  def __post_init__(self):
    if self.task_archs < 3:
      raise ConfigError(f"--task_archs={self.task_archs} must be at least 3: a rank correlation needs some")
    if not 0 <= self.task_keep <= 1:
      raise ConfigError(f"--task_keep={self.task_keep} must be from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search: the best task, and everyone that lived (fitness is |Spearman|)."""

  task: SignalTask
  fitness: float
  log: list[Individual[SignalTask]]
  archs: tuple[str, ...]


def architectures(benchmark: Accuracies, count: int) -> tuple[list[str], np.ndarray]:
  """`count` architectures of the benchmark whose accuracy is known (drawn with seed 0), and their accuracies.

  Accuracies are of the first data set: of validation where the benchmark has it, else of test.

  Raises:
    ConfigError: it has fewer.
  """
  dataset = benchmark.datasets[0]
  splits = [s for s in ("valid", "test") if f"{dataset}_{s}" in benchmark.columns]
  accuracies = benchmark.accuracies(dataset, splits[0])
  known = np.flatnonzero(np.isfinite(accuracies))
  if len(known) < count:
    raise ConfigError(f"--task_archs={count}: the benchmark knows the accuracy of {len(known)}; lower it")
  chosen = np.sort(np.random.default_rng(0).permutation(known)[:count])
  return [benchmark.archs[i] for i in chosen], accuracies[chosen]


def fitness(losses: np.ndarray, accuracies: np.ndarray) -> float:
  """|Spearman|; losses that left the numbers rank last together; 0 where nothing can be ranked."""
  losses = np.where(np.isfinite(losses), losses, np.inf)
  value = abs(metrics.spearman(-losses, accuracies))
  return float(value) if np.isfinite(value) else 0.0


def search(
  space: Any,
  source: ImageSource,
  config: GenNASTaskConfig,
  *,
  seed: int,
  benchmark: Accuracies,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> Result:
  """Runs one search; arguments as of `tenas.search`. Records hold a task and its fitness each."""
  evolution, engine = config.evolution, engine or Engine()
  texts, accuracies = architectures(benchmark, config.task_archs)
  archs = np.stack([space.parse(text) for text in texts])
  mine = [r for r in records if r.get("algorithm") == "gennas_task" and r["seed"] == seed]
  known = [r["fitness"] for r in sorted(mine, key=lambda r: r["id"])]
  advance(len(known) * len(archs), earlier=True)
  rng, births = np.random.RandomState(seed), iter(range(len(known), evolution.individuals))

  def evaluate(task: SignalTask) -> float:
    key = jax.random.fold_in(jax.random.key(seed), next(births))
    try:
      tasks.validate(task)
    except ConfigError:
      advance(len(archs))
      return 0.0
    given = regression(space, source, config.regression, task, key)
    lines = scoring.score(
      [given.proxy],
      space,
      archs,
      given.batch,
      int(jax.random.randint(key, (), 0, 2**31 - 1)),
      network=given.network,
      share_weights=False,
      engine=engine,
      advance=advance,
    )
    return fitness(np.array([-line.rank_by for line in lines]), accuracies)

  def remember(one: Individual[SignalTask]) -> None:
    keep(
      {
        "algorithm": "gennas_task",
        "seed": seed,
        "id": one.id,
        "fitness": one.fitness,
        "parent": one.parent,
        "task": tasks.to_json(one.genome),
      }
    )

  log = evolve(
    lambda: random_task(rng),
    lambda task: mutate_task(task, rng, config.task_keep),
    evaluate,
    population=evolution.evolution_population,
    tournament=evolution.evolution_tournament,
    children=evolution.evolution_children,
    random=random.Random(seed),
    maximise=True,
    known=known,
    keep=remember,
  )
  winner = best(log, maximise=True)
  return Result(winner.genome, winner.fitness, log, tuple(texts))
