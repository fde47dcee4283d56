"""GenNAS's proxy and searches as the registry knows them."""

import dataclasses
import json
from collections.abc import Sequence
from typing import ClassVar

import jax

from jaxnas import registry
from jaxnas.base import (
  Algorithm,
  Artefact,
  Column,
  Context,
  Evaluated,
  Inputs,
  Outcome,
  Source,
  Space,
  Tapped,
  Work,
  lacking,
)
from jaxnas.errors import ConfigError
from jaxnas.gennas import plots, search, task_search, tasks
from jaxnas.gennas.evolution import Individual
from jaxnas.gennas.regression import Curve, SignalRegression, Training
from jaxnas.gennas.search import EvolutionConfig, GenNASConfig
from jaxnas.gennas.settings import RegressionConfig, TaskConfig, regression
from jaxnas.gennas.task_search import GenNASTaskConfig


@dataclasses.dataclass(frozen=True)
class SignalConfig:
  """How a network is regressed, and on which task."""

  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  signal: TaskConfig = dataclasses.field(default_factory=TaskConfig)


@registry.register("proxy", "signal_regression")
@dataclasses.dataclass(frozen=True)
class PosedRegression(SignalRegression):
  """The proxy with inputs of its own."""

  Settings: ClassVar[type | None] = SignalConfig

  def prepare(self, space: Space, source: Source, settings: SignalConfig, key: jax.Array) -> Inputs:
    """A batch of augmented images, drawn once, and the targets and noise of the task."""
    if lacking(space, Tapped):
      raise ConfigError(f"--proxies={self.name}: --space={space.name} has no backbone to regress; drop it")
    given = regression(space, source, settings.regression, settings.signal.task, key)
    return Inputs(given.network, given.batch, own_weights=True)

  def measure(self, evaluation: Evaluated) -> Curve:
    """Both curves of losses; the problem says how many steps there are."""
    problem = evaluation.problem
    if problem is None:
      return super().measure(evaluation)
    steps, times = len(problem.noise), len(problem.evaluation_noise)
    return SignalRegression(training=Training(steps, steps // times)).measure(evaluation)


@registry.register("algorithm", "gennas")
class GenNAS(Algorithm[GenNASConfig]):
  """The search for an architecture."""

  name: ClassVar[str] = "gennas"
  summary: ClassVar[str] = "ageing evolution by the loss of a short regression on signals (GenNAS)"
  Settings: ClassVar[type] = GenNASConfig
  requires: ClassVar[tuple[type, ...]] = (Tapped,)

  def work(self, context: Context[GenNASConfig]) -> Work:
    return Work(context.settings.evolution.individuals, "architectures")

  def search(self, context: Context[GenNASConfig], seed: int) -> Outcome:
    settings = context.settings
    found = search.search(context.space, context.source, settings, seed=seed, **_runtime(context))
    row = {
      "arch": context.space.format(found.arch),
      "signal_regression": min(one.fitness for one in found.log),
      "evaluated": len({one.genome for one in found.log}),
    }
    interval, channels = settings.regression.signal_interval, settings.signal.task.channels
    return Outcome(
      [row],
      columns=[Column("signal_regression", "regression loss"), Column("evaluated", "evaluated")],
      artefacts=[
        _evolution(found.log, settings.evolution, "regression loss", maximise=False),
        Artefact(
          "loss_curves.png",
          "Evaluation loss: the result, and the best and the worst of the first population.",
          lambda path: plots.plot_loss_curves(found.curves, interval, path, title="Regression loss"),
        ),
        Artefact(
          "targets.png",
          "What the three stages regress on: some channels, for the first image.",
          lambda path: plots.plot_targets(found.targets, channels, path, title="Regression targets"),
        ),
      ],
      found=found,
    )


@registry.register("algorithm", "gennas_task")
class GenNASTask(Algorithm[GenNASTaskConfig]):
  """The search for a task."""

  name: ClassVar[str] = "gennas_task"
  summary: ClassVar[str] = "ageing evolution of GenNAS's task, by how it ranks a benchmark"
  Settings: ClassVar[type] = GenNASTaskConfig
  requires: ClassVar[tuple[type, ...]] = (Tapped,)

  def work(self, context: Context[GenNASTaskConfig]) -> Work:
    settings = context.settings
    if context.benchmark is None:
      raise ConfigError("--algorithm=gennas_task needs --benchmark: a task is good if it ranks known accuracies")
    task_search.architectures(context.benchmark, settings.task_archs)  # type: ignore[arg-type]
    return Work(settings.evolution.individuals * settings.task_archs, "architectures")

  def search(self, context: Context[GenNASTaskConfig], seed: int) -> Outcome:
    found = task_search.search(
      context.space,
      context.source,  # type: ignore[arg-type]
      context.settings,
      seed=seed,
      benchmark=context.benchmark,  # type: ignore[arg-type]
      **_runtime(context),
    )
    task, file = tasks.to_json(found.task), f"task_seed{seed}.json"
    text = json.dumps(task, indent=1) + "\n"
    return Outcome(
      [{"task": file if context.folder else json.dumps(task), "task_fitness": found.fitness}],
      columns=[Column("task", "task"), Column("task_fitness", "|Spearman|")],
      artefacts=[
        _evolution(found.log, context.settings.evolution, "|Spearman|", maximise=True),
        Artefact(file, "The task found, for --signal_task.", lambda path: path.write_text(text, encoding="utf-8")),
      ],
      record={"task": task},
      found=found,
    )


def _runtime(context: Context) -> dict:
  return {name: getattr(context, name) for name in ("engine", "records", "keep", "advance")}


def _evolution(log: Sequence[Individual], evolution: EvolutionConfig, ylabel: str, *, maximise: bool) -> Artefact:
  values, population = [one.fitness for one in log], evolution.evolution_population
  return Artefact(
    "evolution.png",
    f"{ylabel} of everyone that lived, in order of birth.",
    lambda path: plots.plot_evolution(values, population, path, title="Evolution", ylabel=ylabel, maximise=maximise),
  )
