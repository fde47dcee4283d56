"""GenNAS's search for the proxy task: ageing evolution of configurations of synthetic signals.

    fitness of a task = |Spearman| between the losses of 20 architectures regressed on it and their accuracies

Every task brings its own images, targets, noise and initial weights. A task that is out of range (dots in less than one
cell) has fitness 0. All of a task on images is data, so one compiled program serves all; tasks of sequences need one
for each of their dimensions.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3.3.
"""

import dataclasses
import json
import random
from typing import ClassVar

import jax
import numpy as np

from jaxnas import registry, scoring
from jaxnas.base import Accuracies, Algorithm, Artefact, Column, Context, Outcome, RecordKind, Tapped, Work
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.evolution import EvolutionConfig, Individual, best, evolve
from jaxnas.gennas.proxy import RegressionConfig, SignalRegression, pose_on, reads_sequences
from jaxnas.gennas.search import evolution_plot
from jaxnas.gennas.sequences import SequenceConfig
from jaxnas.gennas.task_moves import mutate_sequence_task, mutate_task, random_sequence_task, random_task
from jaxnas.gennas.tasks import SequenceTask, SignalTask
from jaxnas.scoring import Engine
from jaxnas.settings import setting
from jaxnas.tabular import metrics


@dataclasses.dataclass(frozen=True)
class GenNASTaskConfig:
  """Settings of the search for a task."""

  evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  sequences: SequenceConfig = dataclasses.field(default_factory=SequenceConfig)
  task_archs: int = setting(20, "benchmarked architectures that a task has to rank")
  task_keep: float = setting(0.8, "probability with which a mutation keeps each part of a task")

  def __post_init__(self):
    if self.task_archs < 3:
      raise ConfigError(f"--task_archs={self.task_archs} must be at least 3: a rank correlation needs some")
    if not 0 <= self.task_keep <= 1:
      raise ConfigError(f"--task_keep={self.task_keep} must be from 0 to 1")


@dataclasses.dataclass(frozen=True)
class EvolvedTask:
  """A finished search for a task: the best one, and everyone that lived (fitness is |Spearman|)."""

  task: SignalTask | SequenceTask
  fitness: float
  log: list[Individual]
  archs: tuple[str, ...]


@registry.register("algorithm", "gennas_task")
class GenNASTask(Algorithm[GenNASTaskConfig]):
  """The search for a task."""

  name: ClassVar[str] = "gennas_task"
  summary: ClassVar[str] = "search for the signals of GenNAS's regression that rank a benchmark best"
  Settings: ClassVar[type] = GenNASTaskConfig
  requires: ClassVar[tuple[type, ...]] = (Tapped,)

  def work(self, context: Context[GenNASTaskConfig]) -> Work:
    """Every task that ever lives regresses all architectures.

    Raises:
      ConfigError: no benchmark, or one with too few architectures.
    """
    settings = context.settings
    if context.benchmark is None:
      raise ConfigError("--algorithm=gennas_task needs --benchmark: a task is good if it ranks known accuracies")
    architectures(context.benchmark, settings.task_archs)
    return Work(settings.evolution.individuals * settings.task_archs, "architectures")

  def search(self, context: Context[GenNASTaskConfig], seed: int) -> Outcome:
    """Runs one search."""
    found = evolve_tasks(context, seed)
    task, file = tasks.to_json(found.task), f"task_seed{seed}.json"
    text = json.dumps(task, indent=1) + "\n"
    row = {"task": file if context.folder else json.dumps(task), "task_fitness": found.fitness}
    return Outcome(
      [row],
      columns=(Column("task", "task"), Column("task_fitness", "|Spearman|")),
      artefacts=(
        evolution_plot(found.log, context.settings.evolution, "|Spearman|", maximise=True),
        Artefact(
          file,
          f"The task found, for --signal_{'sequences' if reads_sequences(context.space) else 'task'}.",
          lambda path: path.write_text(text, encoding="utf-8"),
        ),
      ),
      record={"seed": seed, "task": task},
      found=found,
    )


def architectures(benchmark: Accuracies, count: int) -> tuple[list[str], np.ndarray]:
  """`count` architectures of the benchmark whose accuracy is known (drawn with seed 0), and their accuracies.

  Accuracies are of validation where the benchmark has it, else of test.

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


RECORD = RecordKind("gennas_task", {"id": int, "fitness": float, "task": dict})


def evolve_tasks(context: Context[GenNASTaskConfig], seed: int) -> EvolvedTask:
  """The search itself. Records hold a task and its fitness each."""
  space, settings, engine = context.space, context.settings, context.engine or Engine()
  assert context.benchmark is not None
  evolution = settings.evolution
  texts, accuracies = architectures(context.benchmark, settings.task_archs)
  codes = np.stack([space.parse(text) for text in texts])
  known = [r["fitness"] for r in sorted(RECORD.of(context.records, seed), key=lambda r: r["id"])]
  context.advance(len(known) * len(codes), earlier=True)
  rng, births = np.random.RandomState(seed), iter(range(len(known), evolution.individuals))

  def evaluate(task: SignalTask | SequenceTask) -> float:
    key = jax.random.fold_in(jax.random.key(seed), next(births))
    try:
      tasks.validate(task)
    except ConfigError:
      context.advance(len(codes))
      return 0.0
    inputs = pose_on(space, context.source, settings.regression, settings.sequences, task, key)
    lines = scoring.score(
      [SignalRegression()],
      space,
      codes,
      inputs.batch,
      int(jax.random.randint(key, (), 0, 2**31 - 1)),
      network=inputs.network,
      share_weights=False,
      engine=engine,
      advance=context.advance,
    )
    return fitness(np.array([-line.rank_by for line in lines]), accuracies)

  def remember(one: Individual) -> None:
    context.keep(RECORD.make(seed, id=one.id, fitness=one.fitness, parent=one.parent, task=tasks.to_json(one.genome)))

  def mutate(task: SignalTask | SequenceTask) -> SignalTask | SequenceTask:
    if isinstance(task, SequenceTask):
      return mutate_sequence_task(task, rng, settings.task_keep)
    return mutate_task(task, rng, settings.task_keep)

  log = evolve(
    lambda: random_sequence_task(rng) if reads_sequences(space) else random_task(rng),
    mutate,
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
  return EvolvedTask(winner.genome, winner.fitness, log, tuple(texts))
