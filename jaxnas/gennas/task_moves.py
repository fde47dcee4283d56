"""Random proxy tasks and their mutations, the moves of GenNAS's search for the task itself.

The draws come from numpy's legacy generator, in the published order, so that the same seed gives the published tasks.
A task drawn here may be out of range (dots in less than one cell), see `tasks.validate`.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3.3, and its code.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxnas.errors import ConfigError
from jaxnas.gennas.tasks import Dots, Resize, SequenceTask, Signals, SignalTask, Sines

BATCH_SIZES = (16,)
NOISE_TYPES = ("gaussian", "uniform")
NOISE_LEVELS = tuple(i / 10 for i in range(10))
MULTIPLIERS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
DIMENSIONS = (16, 32, 48, 64, 80, 96)
LEVELS = tuple(np.arange(0.5, 3.0, 0.1).tolist())  # with numpy's rounding, 1.0999999999999999 and so on
_BASES = ("sin1d", "sin2d", "dot", "resize", "dot_gaussian")
_SEQUENCE_BASES = ("sin1d", "sin2d", "dot", "dot_gaussian")


def random_task(rng: np.random.RandomState) -> SignalTask:
  """A random task on images: each of the fifteen signals is there with probability 1/2."""
  batch_size = _choice(rng, BATCH_SIZES)
  noise_type, noise_level = _noise(rng)
  first, second, third = (_choice(rng, MULTIPLIERS) for _ in range(3))
  stages = (_random_signals(rng), _random_signals(rng), _random_signals(rng))
  return SignalTask(noise_type, noise_level, (first, second, third), stages, batch_size)


def mutate_task(task: SignalTask, rng: np.random.RandomState, keep: float = 0.8) -> SignalTask:
  """A child: batch size, noise, each multiplier and each signal stays with probability `keep` or is drawn again.

  Raises:
    ConfigError: `keep` is not in [0, 1].
  """
  batch_size, (noise_type, noise_level) = _mutate_head(task, rng, keep)
  first, second, third = (_resampled(rng, m, MULTIPLIERS, keep) for m in task.channel_multipliers)
  a, b, c = (_mutate_signals(signals, rng, keep, _BASES) for signals in task.stages)
  return dataclasses.replace(
    task,
    noise_type=noise_type,
    noise_level=noise_level,
    channel_multipliers=(first, second, third),
    stages=(a, b, c),
    batch_size=batch_size,
  )


def random_sequence_task(rng: np.random.RandomState) -> SequenceTask:
  """A random task on sequences; signals are always local, though the coin is tossed."""
  batch_size = _choice(rng, BATCH_SIZES)
  noise_type, noise_level = _noise(rng)
  dimension = _choice(rng, DIMENSIONS)
  stages = (_random_signals(rng, _SEQUENCE_BASES), _random_signals(rng, _SEQUENCE_BASES))
  return SequenceTask(noise_type, noise_level, dimension, stages, batch_size)


def mutate_sequence_task(task: SequenceTask, rng: np.random.RandomState, keep: float = 0.8) -> SequenceTask:
  """As `mutate_task`, for sequences."""
  batch_size, (noise_type, noise_level) = _mutate_head(task, rng, keep)
  dimension = _resampled(rng, task.dimension, DIMENSIONS, keep)
  a, b = (_mutate_signals(signals, rng, keep, _SEQUENCE_BASES) for signals in task.stages)
  return SequenceTask(noise_type, noise_level, dimension, (a, b), batch_size)


def _choice(rng: np.random.RandomState, values: tuple[Any, ...]) -> Any:
  return values[rng.choice(len(values))]


def _noise(rng: np.random.RandomState) -> tuple[Any, float]:
  return _choice(rng, NOISE_TYPES), _choice(rng, NOISE_LEVELS)


def _random_signals(rng: np.random.RandomState, bases: tuple[str, ...] = _BASES) -> Signals:
  return Signals(**{basis: _signal(rng, basis, bases is _SEQUENCE_BASES) for basis in bases})


def _signal(rng: np.random.RandomState, basis: str, always_local: bool) -> Any:
  """Sines, Dots or Resize, as the basis needs, or None."""
  if rng.uniform() <= 0.5:
    return None
  level = _choice(rng, LEVELS)
  if basis == "resize":
    return Resize(level)
  if basis.startswith("sin"):
    low, high = sorted(rng.uniform(0, 0.5, 2))
    extent = tuple(rng.uniform(low, high, 10).tolist())
  else:
    extent = rng.uniform()
  local = bool(rng.uniform() > 0.5) or always_local
  return Sines(level, extent, local) if isinstance(extent, tuple) else Dots(level, extent, local)


def _mutate_head(task: SignalTask | SequenceTask, rng: np.random.RandomState, keep: float):
  if not 0 <= keep <= 1:
    raise ConfigError(f"keep: got {keep}; pass a probability")
  batch_size = _resampled(rng, task.batch_size, BATCH_SIZES, keep)
  noise = _noise(rng) if rng.uniform() > keep else (task.noise_type, task.noise_level)
  return batch_size, noise


def _resampled(rng: np.random.RandomState, value: Any, values: tuple[Any, ...], keep: float) -> Any:
  return _choice(rng, values) if rng.uniform() > keep else value


def _mutate_signals(signals: Signals, rng: np.random.RandomState, keep: float, bases: tuple[str, ...]) -> Signals:
  def child(basis: str) -> Any:
    return getattr(signals, basis) if rng.uniform() < keep else _signal(rng, basis, bases is _SEQUENCE_BASES)

  return Signals(**{basis: child(basis) for basis in bases})
