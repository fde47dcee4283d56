"""How GenNAS's regression is set up: task, backbone, images and training, for any algorithm."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jaxnas import data
from jaxnas.base import Proxy
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.gennas.regression import WIDTHS, SignalRegression, Training, pose
from jaxnas.gennas.tasks import SignalTask
from jaxnas.scoring import Batch
from jaxnas.settings import setting


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """Which task."""

  signal_task: str = setting(
    "CONF_NB101", f"what to regress on: {', '.join(tasks.names())}, or the path of a configuration in JSON"
  )

  def __post_init__(self):
    try:
      tasks.get(self.signal_task)
    except ConfigError as error:
      raise ConfigError(f"--signal_task: {error}") from error

  @property
  def task(self) -> SignalTask:
    return tasks.get(self.signal_task)


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
  """How a network is regressed; defaults are the published settings."""

  signal_steps: int = setting(100, "steps of the regression")
  signal_interval: int = setting(10, "steps from one evaluation to the next; the last one is the score")
  signal_batch: int = setting(16, "images in the one batch that is regressed on")
  signal_channels: int = setting(16, "channels C of the regressed networks in their first stage")
  signal_cells: int = setting(0, "cells per stage of the regressed networks; 0: as in the benchmark (nb201 5, nb101 3)")

  def __post_init__(self):
    for name in ("signal_batch", "signal_channels", "signal_steps", "signal_interval"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if self.signal_cells < 0:
      raise ConfigError(f"--signal_cells={self.signal_cells} must be at least 0")
    if self.signal_steps % self.signal_interval:
      raise ConfigError(
        f"--signal_steps={self.signal_steps} must be a multiple of --signal_interval={self.signal_interval}: "
        "the score is the evaluation after the last step"
      )

  @property
  def training(self) -> Training:
    return Training(self.signal_steps, self.signal_interval)


class Regression(NamedTuple):
  """The proxy with the network and the batch that it is to see; every architecture draws its own weights."""

  proxy: Proxy
  network: SignalNetwork
  batch: Batch


def regression(space: Any, source: ImageSource, config: RegressionConfig, task: SignalTask, key: Array) -> Regression:
  """A batch of augmented images, drawn once, and the targets and noise of a task."""
  image_key, problem_key = jax.random.split(key)
  images = data.augmented_batch(source, image_key, config.signal_batch)
  problem = pose(task, images, problem_key, config.training)
  network = SignalNetwork(space.backbone(config.signal_channels, config.signal_cells or space.cells), WIDTHS)
  return Regression(SignalRegression(training=config.training), network, Batch(images, problem=problem))
