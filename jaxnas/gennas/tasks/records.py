"""The records of a proxy task. A random draw may give a task that cannot be trained (dots in less than one cell), so
they check nothing themselves: `validate` does, and everything that reads a user's task calls it."""

import dataclasses
import math
import reprlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxnas.errors import ConfigError

GRID = (8, 8)  # cells of a target
LAST_CHANNELS = 64  # channels of a target whose multiplier is 1
LENGTH = 8  # steps of a sequence
FREQUENCIES = 10
NOISE_TYPES = ("uniform", "gaussian")
WEIGHTS = (0.25, 0.5, 1.0)  # of the three stages' losses
ORDER = ("sin1d", "sin2d", "resize", "dot", "dot_gaussian")  # in which the signals of a stage are added
_MOST_CHANNELS = 64 * FREQUENCIES  # the maps that `sin1d` can choose from


@dataclasses.dataclass(frozen=True)
class Sines:
  """Waves: their amplitude, ten frequencies in periods per cell, and whether every image has waves of its own."""

  level: float
  range: tuple[float, ...]
  local: bool


@dataclasses.dataclass(frozen=True)
class Dots:
  """Dots: their height, the share of cells that have one, and whether every image has dots of its own."""

  level: float
  partial: float
  local: bool


@dataclasses.dataclass(frozen=True)
class Resize:
  """The images themselves, scaled to [-level, level]."""

  level: float


@dataclasses.dataclass(frozen=True)
class Signals:
  """The target of one stage is the sum of these; None leaves a signal out. Field order is that of the JSON."""

  sin1d: Sines | None = None
  sin2d: Sines | None = None
  dot: Dots | None = None
  dot_gaussian: Dots | None = None
  resize: Resize | None = None


BASES: dict[str, type] = {"sin1d": Sines, "sin2d": Sines, "dot": Dots, "dot_gaussian": Dots, "resize": Resize}


@dataclasses.dataclass(frozen=True)
class SignalTask:
  """A proxy task on images.

  Attributes:
    noise_type: "uniform" is U(-level, level), "gaussian" is N(0, level^2), added to the normalised images.
    noise_level: see `noise_type`.
    channel_multipliers: of the three targets' 64 channels.
    stages: signals of the three targets, the earliest stage first.
    batch_size: as read; a run sets its own.
    loss_weights: of the three stages' mean squared errors in training.
    eval_weights: the same in the evaluations that give the score.
  """

  noise_type: Literal["uniform", "gaussian"]
  noise_level: float
  channel_multipliers: tuple[float, float, float]
  stages: tuple[Signals, Signals, Signals]
  batch_size: int = 16
  loss_weights: tuple[float, float, float] = WEIGHTS
  eval_weights: tuple[float, float, float] = WEIGHTS

  @property
  def channels(self) -> tuple[int, int, int]:
    """Channels C_0, C_1, C_2 of the targets."""
    first, second, third = (int(m * LAST_CHANNELS) for m in self.channel_multipliers)
    return first, second, third


@dataclasses.dataclass(frozen=True)
class SequenceTask:
  """A proxy task for recurrent networks: stage 0 is the input sequence, stage 1 the target, both [8, dimension].

  Attributes are those of `SignalTask`; the stages have no `resize`.
  """

  noise_type: Literal["uniform", "gaussian"]
  noise_level: float
  dimension: int
  stages: tuple[Signals, Signals]
  batch_size: int = 16


def noise(task: SignalTask | SequenceTask, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
  """Noise of the task for inputs of `shape`, in normalised units: U(-a, a) or a N(0, 1), a the noise level."""
  if task.noise_type == "uniform":
    return task.noise_level * jax.random.uniform(key, shape, dtype, -1, 1)
  return task.noise_level * jax.random.normal(key, shape, dtype)


def dot_count(partial: float, cells: int = math.prod(GRID)) -> int:
  """How many of the cells have a dot."""
  return int(partial * cells)


def validate(task: SignalTask | SequenceTask, source: str = "task") -> None:
  """Checks every value of a task.

  Raises:
    ConfigError: the first that is out of range: its key in the JSON, the value got, what is allowed.
  """

  def require(fine: bool, key: str, value: Any, allowed: str) -> None:
    if not fine:
      raise ConfigError(f"{source}: {key}: got {reprlib.repr(value)}; pass {allowed}")

  require(task.batch_size >= 1, "batchsize", task.batch_size, "an integer >= 1")
  require(task.noise_type in NOISE_TYPES, "noise.type", task.noise_type, " or ".join(NOISE_TYPES))
  require(0 <= task.noise_level < math.inf, "noise.noise_level", task.noise_level, "a number >= 0")
  if isinstance(task, SequenceTask):
    cells = LENGTH * task.dimension
    require(task.dimension >= 1, "dimension", task.dimension, "an integer >= 1")
  else:
    cells = math.prod(GRID)
    for i, multiplier in enumerate(task.channel_multipliers):
      fine = 1 <= multiplier * LAST_CHANNELS <= _MOST_CHANNELS
      require(fine, f"last_channel_l{i}", multiplier, f"a number from 1/{LAST_CHANNELS} to {FREQUENCIES}")
    for key, weights in (("train_weights", task.loss_weights), ("eval_weights", task.eval_weights)):
      fine = len(weights) == 3 and all(0 <= w < math.inf for w in weights)
      require(fine, key, weights, "three numbers >= 0")
  for i, signals in enumerate(task.stages):
    for basis in BASES:
      signal, key = getattr(signals, basis), f"feature.{i}.{basis}"
      if signal is None:
        continue
      require(math.isfinite(signal.level), f"{key}.level", signal.level, "a finite number")
      if isinstance(signal, Sines):
        fine = len(signal.range) == FREQUENCIES and all(map(math.isfinite, signal.range))
        require(fine, f"{key}.range", signal.range, f"{FREQUENCIES} finite numbers")
      if isinstance(signal, Dots):
        fine = 0 <= signal.partial <= 1 and dot_count(signal.partial, cells) >= 1
        require(fine, f"{key}.partial", signal.partial, f"a number from 1/{cells} (one dot) to 1")
