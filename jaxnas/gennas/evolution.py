"""Ageing (regularised) evolution: the population is a queue, and the oldest dies whatever its fitness.

    population <- P random individuals
    repeat: parent <- best of a random tournament; append its mutated child; remove the oldest

One individual after the other, no crossover. All that ever lived are in the log; the best of the log is the result.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, algorithm 1.
"""

import collections
import dataclasses
import math
import random as python_random
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from jaxnas.errors import ConfigError
from jaxnas.settings import setting

Genome = TypeVar("Genome")


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
class Individual(Generic[Genome]):
  """One that lived.

  Attributes:
    id: its place in the log.
    genome: what `draw` or `mutate` gave.
    fitness: as evaluated; NaN ranks last.
    parent: id of its parent, None for the first population.
    tournament: ids of those that its parent was the best of, in the order drawn.
  """

  id: int
  genome: Genome
  fitness: float
  parent: int | None = None
  tournament: tuple[int, ...] = ()


def evolve(
  draw: Callable[[], Genome],
  mutate: Callable[[Genome], Genome],
  fitness: Callable[[Genome], float],
  *,
  population: int,
  tournament: int,
  children: int,
  random: python_random.Random,
  maximise: bool,
  known: Sequence[float] = (),
  keep: Callable[[Individual[Genome]], Any] = lambda individual: None,
) -> list[Individual[Genome]]:
  """Runs one evolution and returns its log, population + children individuals in order of birth.

  Args:
    draw: a random genome; called `population` times before anything is evaluated.
    mutate: a child of a genome.
    fitness: of a genome; called once an individual, in order of birth, repeats included. Must not consume the
      randomness of `draw`, `mutate` or `random`.
    population: P; tournament: how many are drawn from it, without replacement; children: how many are born.
    random: draws the tournaments. `draw` and `mutate` bring their own generators.
    maximise: True if a high fitness is good.
    known: fitness of the first individuals in an interrupted run with the same arguments and generators. These are
      not evaluated again; everything is drawn as then.
    keep: called with each individual that was evaluated now, before the next is.

  Raises:
    ConfigError: a size out of range.
  """
  if population < 1:
    raise ConfigError(f"population: got {population}; pass an integer >= 1")
  if not 1 <= tournament <= population:
    raise ConfigError(f"tournament: got {tournament}; pass an integer from 1 to the population's {population}")
  if children < 0:
    raise ConfigError(f"children: got {children}; pass an integer >= 0")

  log: list[Individual[Genome]] = []

  def born(genome: Genome, parent: int | None, drawn: tuple[int, ...]) -> Individual[Genome]:
    old = len(log) < len(known)
    value = float(known[len(log)] if old else fitness(genome))
    individual = Individual(len(log), genome, value, parent, drawn)
    log.append(individual)
    if not old:
      keep(individual)
    return individual

  alive = collections.deque(born(genome, None, ()) for genome in [draw() for _ in range(population)])
  for _ in range(children):
    rivals = random.sample(list(alive), tournament)
    parent = best(rivals, maximise=maximise)
    alive.append(born(mutate(parent.genome), parent.id, tuple(rival.id for rival in rivals)))
    alive.popleft()
  return log


def best(individuals: Sequence[Individual[Genome]], *, maximise: bool) -> Individual[Genome]:
  """The fittest; the first of several, and one with NaN only if all are NaN."""
  return max(individuals, key=lambda individual: _merit(individual.fitness, maximise))


def _merit(fitness: float, maximise: bool) -> tuple[bool, float]:
  if math.isnan(fitness):
    return False, 0.0
  return True, fitness if maximise else -fitness
