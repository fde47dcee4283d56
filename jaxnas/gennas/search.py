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
from collections.abc import Sequence
from typing import ClassVar, cast

import jax
import numpy as np
from jaxtyping import Int

from jaxnas import registry, scoring
from jaxnas.algorithms.naming import refuse_too_many
from jaxnas.base import (
  Algorithm,
  Artefact,
  Code,
  Column,
  Context,
  Inputs,
  Outcome,
  Proxy,
  Space,
  Tabulated,
  Tapped,
  Work,
  host_generator,
  lacking,
)
from jaxnas.errors import ConfigError
from jaxnas.gennas import plots
from jaxnas.gennas.budget import Budget
from jaxnas.gennas.evolution import EvolutionConfig, Individual, best, evolve
from jaxnas.gennas.proxy import SignalConfig, SignalRegression, reads_sequences
from jaxnas.gennas.sequences import SequenceProblem
from jaxnas.scoring import Engine
from jaxnas.settings import setting


@dataclasses.dataclass(frozen=True)
class GenNASConfig:
  """Settings of the search for an architecture."""

  evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
  signal: SignalConfig = dataclasses.field(default_factory=SignalConfig)
  gennas_mutation: float = setting(
    1.0,
    "expected changes of a mutation: nb201 draws every op anew with this / 5; nb101 flips edges with this / 7; nlp "
    "makes a random number of single changes with this mean, darts this number, rounded; nds block spaces go to a near "
    "neighbour",
  )
  gennas_within: bool = setting(
    True,
    "of nds block spaces: search the architectures of --benchmark only, and go to near ones, as published",
    later=True,
    needs=Tabulated,
  )
  gennas_max_macs: float = setting(
    0.0,
    "architectures that do not stay below so many million multiply-adds are drawn again; counted is the network that "
    "the result's table shows (darts on imagenet2012: the mobile one of C=48 at 224 pixels); 0: no limit",
    later=True,
  )

  def __post_init__(self):
    if not 0 < self.gennas_mutation <= 5:
      raise ConfigError(f"--gennas_mutation={self.gennas_mutation} must be above 0 and at most 5")
    if not 0 <= self.gennas_max_macs < np.inf:
      raise ConfigError(f"--gennas_max_macs={self.gennas_max_macs} must be finite and at least 0")


@dataclasses.dataclass(frozen=True)
class Evolved:
  """A finished search for an architecture.

  Attributes:
    code: the architecture of the lowest loss.
    log: everyone that lived, in order of birth; genomes are text forms, fitness is the loss.
    curves: evaluation losses on the way, by text form: of the result and of the first population's best and worst.
    targets: what was regressed on, three [N, 8, 8, C]; of sequences inputs and targets, [N, T, D, 1].
    channels: how many of each are the task's.
  """

  code: Code
  log: list[Individual[str]]
  curves: dict[str, list[float]]
  targets: tuple[np.ndarray, ...]
  channels: tuple[int, ...]


@registry.register("algorithm", "gennas")
class GenNAS(Algorithm[GenNASConfig]):
  """The search for an architecture."""

  name: ClassVar[str] = "gennas"
  summary: ClassVar[str] = "ageing evolution by the loss of a short regression on synthetic signals (NeurIPS 2021)"
  Settings: ClassVar[type] = GenNASConfig
  requires: ClassVar[tuple[type, ...]] = (Tapped,)

  def proxies(self, settings: GenNASConfig, space: Space) -> tuple[Proxy, ...]:
    """The regression."""
    return (SignalRegression(),)

  def work(self, context: Context[GenNASConfig]) -> Work:
    """An architecture for everyone that ever lives.

    Raises:
      ConfigError: a first population of more than there are, or as `table_of`.
    """
    evolution, among = context.settings.evolution, table_of(context)
    refuse_too_many(context.space, evolution.evolution_population, "--evolution_population")
    if among is not None and len(among) < max(2, evolution.evolution_population):
      limit = context.settings.gennas_max_macs
      below = f" below --gennas_max_macs={limit:g}" if limit else ""
      fixes = ["lower it"] * (len(among) >= 2) + ["raise the limit"] * bool(below)
      raise ConfigError(
        f"--evolution_population={evolution.evolution_population}: the benchmark has {len(among)} architectures{below}"
        f"; {', or '.join([*fixes, 'search all of the space with --nogennas_within'])}"
      )
    return Work(evolution.individuals, "architectures")

  def search(self, context: Context[GenNASConfig], seed: int) -> Outcome:
    """Runs one search.

    Raises:
      ConfigError: every loss left the numbers.
    """
    settings, space = context.settings, context.space
    found = evolve_architectures(context, seed)
    row = {
      "arch": space.format(found.code),
      "signal_regression": min(one.fitness for one in found.log),
      "evaluated": len({one.genome for one in found.log}),
    }
    interval, channels = settings.signal.regression.signal_interval, found.channels
    shown = "the three stages regress on: some channels, for the first image"
    if reads_sequences(space):
      shown = "networks read, and what they should say, steps downwards: for the first sample"
    return Outcome(
      [row],
      columns=(Column("signal_regression", "regression loss"), Column("evaluated", "evaluated")),
      artefacts=(
        evolution_plot(found.log, settings.evolution, "regression loss", maximise=False),
        Artefact(
          "loss_curves.png",
          "Evaluation loss: the result, and the best and the worst of the first population.",
          lambda path: plots.plot_loss_curves(found.curves, interval, path, title="Regression loss"),
        ),
        Artefact(
          "targets.png",
          f"What {shown}.",
          lambda path: plots.plot_targets(found.targets, channels, path, title="Regression targets"),
        ),
      ),
      found=found,
    )


def evolution_plot(log: Sequence[Individual], evolution: EvolutionConfig, ylabel: str, *, maximise: bool) -> Artefact:
  """The course of an evolution."""
  values, population = [one.fitness for one in log], evolution.evolution_population

  def draw(path):
    return plots.plot_evolution(values, population, path, title="Evolution", ylabel=ylabel, maximise=maximise)

  return Artefact("evolution.png", f"{ylabel} of everyone that lived, in order of birth.", draw)


def table_of(context: Context[GenNASConfig]) -> Int[np.ndarray, "A L"] | None:
  """The architectures that are searched, where they are those of the benchmark (below --gennas_max_macs).

  Raises:
    ConfigError: there is no benchmark.
  """
  benchmark, space = context.benchmark, context.space
  if not context.settings.gennas_within or lacking(space, Tabulated):
    return None
  if benchmark is None:
    raise ConfigError(
      f"--algorithm=gennas needs --benchmark: it searches the architectures of the table of --space={space.name} only, "
      "as published; give it, or search all of the space with --nogennas_within"
    )
  budget = Budget(cast(Tapped, space), context.source, context.settings.gennas_max_macs)
  fitting = [code for arch in benchmark.archs if budget.fits(code := space.parse(arch))]
  return np.stack(fitting) if fitting else np.zeros((0, 0), np.int16)


def evolve_architectures(context: Context[GenNASConfig], seed: int) -> Evolved:
  """The search itself.

  Raises:
    ConfigError: every loss left the numbers, too few architectures are below the limit of multiply-adds, or as
      `table_of`.
  """
  space, settings, engine = cast(Tapped, context.space), context.settings, context.engine or Engine()
  evolution, proxy = settings.evolution, SignalRegression()
  budget = Budget(space, context.source, settings.gennas_max_macs)
  draw_key, mutate_key, problem_key = jax.random.split(jax.random.key(seed), 3)
  inputs = proxy.prepare(space, context.source, settings.signal, problem_key)
  losses: dict[str, float] = {}

  def evaluate(codes: np.ndarray) -> None:
    lines = scoring.score(
      [proxy],
      space,
      codes,
      inputs.batch,
      seed,
      network=inputs.network,
      share_weights=False,
      engine=engine,
      records=context.records,
      keep=context.keep,
      advance=context.advance,
    )
    losses.update({line.arch: -line.rank_by for line in lines})

  among = table_of(context)
  if among is None:
    first = budget.sample(draw_key, evolution.evolution_population)
  else:
    drawn = host_generator(draw_key).permutation(len(among))[: evolution.evolution_population]
    first = among[drawn]
  evaluate(first)
  beginners, births = iter(first), iter(range(evolution.evolution_children))

  def mutate(parent: str) -> str:
    key = jax.random.fold_in(mutate_key, next(births))
    code = space.parse(parent)
    if among is not None:
      return space.format(cast(Tabulated, space).nearest(key, code, among))
    return space.format(budget.resample(key, code, settings.gennas_mutation))

  def child_loss(arch: str) -> float:
    if arch not in losses:
      evaluate(space.parse(arch)[None])
    else:
      context.advance(1)
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
    known=[losses[space.format(code)] for code in first],
  )
  winner = best(log, maximise=False)
  if not np.isfinite(winner.fitness):
    raise ConfigError(
      f"--signal_task={settings.signal.signal_task}: the losses of all {len(losses)} architectures left the numbers; "
      "lower the levels of its signals"
    )
  begun = sorted(log[: evolution.evolution_population], key=lambda one: one.fitness)
  shown = list(dict.fromkeys([winner.genome, begun[0].genome, begun[-1].genome]))
  curves = loss_curves(context, inputs, engine, shown, seed)
  batch, channels = inputs.batch, settings.signal.task.channels
  targets = batch.problem.targets
  if isinstance(batch.problem, SequenceProblem):
    targets, channels = (np.asarray(batch.inputs)[..., None], np.asarray(targets)[..., None]), (1, 1)
  return Evolved(space.parse(winner.genome), log, curves, targets, channels)


def loss_curves(
  context: Context[GenNASConfig], inputs: Inputs, engine: Engine, archs: Sequence[str], seed: int
) -> dict[str, list[float]]:
  """Evaluation losses on the way of a few architectures (from other weights than their scores)."""
  codes = np.stack([context.space.parse(arch) for arch in archs])
  keys = jax.random.split(jax.random.key(seed), len(archs))
  curves: dict[int, list[float]] = {}
  for network, members in scoring.by_shape(context.space, codes, inputs.network):
    own = np.array(sorted(members))
    (found,) = engine.measure([SignalRegression()], network, None, codes[own], inputs.batch, init_keys=keys[own])
    curves |= {i: np.asarray(c.evaluation, np.float64).tolist() for i, c in zip(own.tolist(), found, strict=True)}
  return {arch: curves[i] for i, arch in enumerate(archs)}
