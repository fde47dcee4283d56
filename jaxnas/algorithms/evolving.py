"""Evolution whose fitness is a rank among all that was seen: regularised, by mutation, a few children at a time.

    population <- P random architectures, scored
    repeat: every architecture seen so far is ranked anew, which gives the fitness of all
            children times: parent <- the fittest of T drawn from the population; child <- a mutation of it
            score the children, append them; the oldest die, whatever their fitness

until N different architectures are scored. A child that was seen before is mutated again, so none is scored twice. All
that were ever scored are the result, not the last population.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, algorithm 1. There a
fitness stays as it is and children come one by one; ranks change with every architecture that is seen, so all are
ranked again before each round of children, and these share a pass.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxnas.base import Code, Space
from jaxnas.errors import ConfigError
from jaxnas.settings import setting

_TRIES = 100  # mutations of a mutation, before a random architecture is taken instead

Line = TypeVar("Line")  # whatever `score` gives of an architecture


@dataclasses.dataclass(frozen=True)
class RankEvolution:
  """Settings of the evolution."""

  ranked_population: int = setting(
    50, "with --ranked_candidates=evolved:N: architectures alive; as many random ones begin"
  )
  ranked_tournament: int = setting(10, "with evolved:N: architectures drawn, the fittest of which has a child")
  ranked_children: int = setting(10, "with evolved:N: children between two rankings of all that was seen")

  def __post_init__(self):
    for name in ("ranked_population", "ranked_tournament", "ranked_children"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if self.ranked_tournament > self.ranked_population:
      raise ConfigError(
        f"--ranked_tournament={self.ranked_tournament} is more than --ranked_population={self.ranked_population}: "
        "lower the former or raise the latter"
      )

  def refuse_unused(self, instead: str) -> None:
    """Refuses settings that were given although nothing evolves.

    Args:
      instead: the flag and value by which nothing does.

    Raises:
      ConfigError: names the settings that are not at their defaults.
    """
    given = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
    unused = [f"--{name}={value}" for name, value, default in given if value != default]
    if unused:
      raise ConfigError(f"{' and '.join(unused)}: nothing evolves with {instead}; say --ranked_candidates=evolved:N")


def evolve(
  space: Space,
  count: int,
  settings: RankEvolution,
  key: Array,
  score: Callable[[Int[np.ndarray, "A L"]], list[Line]],
  rank: Callable[[Sequence[Line]], dict[str, float]],
) -> list[Line]:
  """What `score` gave of `count` different architectures, in the order in which they were born.

  Args:
    count: N, at most as many as the space has.
    key: of all that is drawn; with the same scores it gives the same architectures.
    score: lines of new architectures, any number each.
    rank: the fitness, higher is better, of every architecture's text form, from all lines so far.
  """
  draw_key, host_key, child_key, rest_key = jax.random.split(key, 4)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(host_key)))
  codes = {space.format(code): code for code in space.sample(draw_key, min(settings.ranked_population, count))}
  population = collections.deque(codes, maxlen=settings.ranked_population)
  lines = score(np.stack(list(codes.values())))

  def born(parent: Code) -> Code:
    """A mutation that was not seen before."""
    nonlocal child_key
    child = parent
    for _ in range(_TRIES):
      child_key, now = jax.random.split(child_key)
      child = space.mutate(now, child)
      if space.format(child) not in codes:
        return child
    drawn = space.sample(rest_key, len(codes) + 1)  # all different, so one of them is new
    return next(code for code in drawn if space.format(code) not in codes)

  while len(codes) < count:
    fitness, names, children = rank(lines), list(population), []
    for _ in range(min(settings.ranked_children, count - len(codes))):
      drawn = rng.choice(len(names), min(settings.ranked_tournament, len(names)), replace=False)
      parent = max((names[i] for i in sorted(drawn)), key=lambda name: fitness[name])
      child = born(codes[parent])
      codes[space.format(child)] = child
      children.append(child)
    population.extend(map(space.format, children))
    lines += score(np.stack(children))
  return lines
