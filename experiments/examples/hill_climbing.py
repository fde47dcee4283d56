"""An algorithm of your own in one file: hill climbing by any proxy.

    x = a random architecture
    repeat: score all neighbours of x; stop if none is better; x = the best of them

    python -m jaxnas.main --plugins=experiments/examples/hill_climbing.py --algorithm=hill_climbing --climb_by=naswot

Its settings are flags, --help shows them, the table and the report show its columns and its picture, and a killed run
continues. As a library call:

    HillClimbing().search(Context(space, source, HillClimbingConfig()), seed=0).found
"""

import dataclasses
import pathlib
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Int

from jaxnas import figures, registry
from jaxnas.algorithms.measuring import UsualInputs, measure
from jaxnas.base import Algorithm, Artefact, Code, Column, Context, Outcome, Proxy, Space, Work
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine
from jaxnas.settings import setting


@dataclasses.dataclass(frozen=True)
class HillClimbingConfig:
  """Each field made by `setting` is a flag; those of `inputs` are the flags that --algorithm=score has too."""

  inputs: UsualInputs = dataclasses.field(default_factory=UsualInputs)
  climb_by: str = setting("naswot", "the proxy to climb by")
  climb_steps: int = setting(10, "steps at most")

  def __post_init__(self):
    registry.get("proxy", self.climb_by, "--climb_by")
    if self.climb_steps < 1:
      raise ConfigError(f"--climb_steps={self.climb_steps} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Climb:
  """The way up: architectures [1 + steps, L] from the first to the last, and the proxy's values of them."""

  path: Int[np.ndarray, "steps L"]
  values: list[float]


@registry.register("algorithm", "hill_climbing")
class HillClimbing(Algorithm[HillClimbingConfig]):
  """The search. It asks nothing of a space that not every space has, so `requires` stays empty."""

  name: ClassVar[str] = "hill_climbing"
  summary: ClassVar[str] = "steps to the best neighbour by a proxy, from a random architecture"
  Settings: ClassVar[type] = HillClimbingConfig

  def proxies(self, settings: HillClimbingConfig, space: Space) -> tuple[Proxy, ...]:
    """Which proxies are measured: their settings, if they have any, then belong to this run."""
    return (registry.get("proxy", settings.climb_by)(),)

  def work(self, context: Context[HillClimbingConfig]) -> Work:
    """What the progress bar counts."""
    return Work(context.settings.climb_steps, "steps")

  def search(self, context: Context[HillClimbingConfig], seed: int) -> Outcome:
    """Runs one seed. What `measure` keeps is found again after a kill, so the same steps are taken again at once."""
    space, settings = context.space, context.settings
    seen = list(context.records)

    def keep(*new: dict[str, Any]) -> None:
      seen.extend(new)
      context.keep(*new)

    # One engine for all steps and records that grow: nothing is compiled or scored twice. Progress counts steps here.
    inner = dataclasses.replace(
      context, engine=context.engine or Engine(), records=seen, keep=keep, advance=lambda n, *, earlier=False: None
    )

    def scored(codes: Int[np.ndarray, "A L"]) -> list[tuple[float, float]]:
      """(what to rank by, the proxy's own figure); the same weights and images in every step."""
      lines = measure(inner, self.proxies(settings, space), settings.inputs, codes, seed)
      return [(line.rank_by, line.value) for line in lines]

    here: Code = space.sample(jax.random.key(seed), 1)[0]
    ((rank, value),) = scored(here[None])
    path, values = [here], [value]
    for step in range(settings.climb_steps):
      context.note(f"{settings.climb_by} {value:.4g}")
      around = space.neighbours(here)
      scores = scored(around)
      best = int(np.argmax([one[0] for one in scores]))
      if scores[best][0] <= rank:
        context.advance(settings.climb_steps - step)
        break
      here, (rank, value) = around[best], scores[best]
      path.append(here)
      values.append(value)
      context.advance(1)
    context.note("")
    return self._outcome(context, Climb(np.stack(path), values))

  def _outcome(self, context: Context[HillClimbingConfig], climb: Climb) -> Outcome:
    """The search for the reader: a row of the table, a picture, and what result.json keeps."""
    by = context.settings.climb_by
    texts = [context.space.format(code) for code in climb.path]

    def draw(path: pathlib.Path) -> None:
      figure = figures.new_figure(6.4, 3.6)
      axis = figure.subplots()
      axis.plot(range(len(climb.values)), climb.values, "o-", color=figures.BLUE)
      axis.set_xlabel("Step")
      axis.set_ylabel(by)
      figures.plain_frame(axis)
      figures.save_png(figure, path)

    return Outcome(
      [{"arch": texts[-1], by: climb.values[-1], "steps": len(texts) - 1}],
      columns=[Column(by, by), Column("steps", "steps")],
      artefacts=[Artefact("climb.png", f"{by} after every step.", draw)],
      record={"path": texts, "values": climb.values},
      found=climb,
    )
