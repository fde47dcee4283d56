"""The loss that is left after a few steps of regression on synthetic signals, GenNAS's score: lower is better.

Each architecture trains weights of its own. A loss that leaves the numbers has the status `non_finite` and ranks last.
Between versions of JAX the loss after 100 steps differs by 3 to 5 %: training amplifies rounding.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import ClassVar, cast

import jax
from jax import lax
from jaxtyping import PyTree

from jaxnas import registry
from jaxnas.base import (
  Batch,
  Evaluated,
  Inputs,
  NetworkConfig,
  Proxy,
  Reading,
  Sequences,
  Source,
  Space,
  Tapped,
  TappedNetwork,
  lacking,
)
from jaxnas.data.batches import augmented_batch
from jaxnas.errors import ConfigError, naming
from jaxnas.gennas import sequences, tasks
from jaxnas.gennas.heads import Learner, SignalNetwork, signal_network
from jaxnas.gennas.regression import WIDTHS, Curve, Problem, Training, pose, regress
from jaxnas.gennas.sequences import SequenceConfig, SequenceLearner
from jaxnas.gennas.tasks import SequenceTask, SignalTask
from jaxnas.settings import setting

CHANNELS = 16  # of regressed networks of spaces whose architectures have no sizes of their own


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
  """How a network is regressed; defaults are the published settings."""

  signal_steps: int = setting(100, "steps of the regression")
  signal_interval: int = setting(10, "steps from one evaluation to the next; the last one is the score")
  signal_batch: int = setting(16, "images in the one batch that is regressed on")
  signal_channels: int | None = setting(
    None,
    f"channels C of the regressed networks in their first stage; default: {CHANNELS}, or (nds) an architecture's own",
    later=True,
  )
  signal_cells: int | None = setting(
    None,
    "cells of the regressed networks, per stage or (darts) in all; default: as in the space's benchmark, or (nds) an "
    "architecture's own",
  )

  def __post_init__(self):
    for name in ("signal_batch", "signal_channels", "signal_steps", "signal_interval", "signal_cells"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")
    if self.signal_steps % self.signal_interval:
      raise ConfigError(
        f"--signal_steps={self.signal_steps} must be a multiple of --signal_interval={self.signal_interval}: "
        "the score is the evaluation after the last step"
      )

  @property
  def training(self) -> Training:
    """The steps, with the published optimiser."""
    return Training(self.signal_steps, self.signal_interval)


@dataclasses.dataclass(frozen=True)
class SignalConfig:
  """How a network is regressed, and on which task."""

  regression: RegressionConfig = dataclasses.field(default_factory=RegressionConfig)
  sequences: SequenceConfig = dataclasses.field(default_factory=SequenceConfig)
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
    """The task of that name or file."""
    return tasks.get(self.signal_task)


@registry.register("proxy", "signal_regression")
@dataclasses.dataclass(frozen=True)
class SignalRegression(Proxy[SignalConfig]):
  """The proxy. The batch's problem, which also says how many steps there are, is a `Problem` of images, or a
  `SequenceProblem` of a space whose networks read sequences.
  """

  name: str = "signal_regression"
  higher_is_better: ClassVar[bool] = False
  worst: ClassVar[float] = float("inf")
  needs: ClassVar[type] = Learner
  Settings: ClassVar[type | None] = SignalConfig

  def prepare(self, space: Space, source: Source, settings: SignalConfig, key: jax.Array) -> Inputs:
    """A batch of augmented images, drawn once, or of sequences, and the targets and noise of the task."""
    task = settings.sequences.task if reads_sequences(space) else settings.task
    return pose_on(space, source, settings.regression, settings.sequences, task, key)

  def measure(self, evaluation: Evaluated) -> Curve:
    """Both curves of losses.

    Raises:
      ConfigError: the batch poses no problem.
    """
    e, problem = evaluation, evaluation.problem
    if problem is None:
      raise ConfigError("signal_regression needs targets: give the batch that its prepare() makes")
    if isinstance(e.network, SequenceLearner):
      return sequences.regress(e.network, e.params, e.arch, e.inputs, problem)[0]
    whole, count = cast(SignalNetwork, e.network), len(problem.evaluation_noise)
    training = Training(len(problem.noise), len(problem.noise) // count)

    def train(network: SignalNetwork, params: PyTree) -> Curve:
      return regress(network, params, e.arch, e.inputs, problem, training)[0]

    branches = [functools.partial(train, own) for own in whole.variants()]
    return lax.switch(whole.variant(e.arch), branches, e.params)

  def finish(self, measured: Curve) -> Reading:
    """The last evaluation."""
    return super().finish(measured.evaluation[-1])


def reads_sequences(space: Space) -> bool:
  """Whether the space's tasks are those of sequences."""
  return not lacking(space, Sequences)


def pose_on(
  space: Space,
  source: Source,
  config: RegressionConfig,
  recurrent: SequenceConfig,
  task: SignalTask | SequenceTask,
  key: jax.Array,
) -> Inputs:
  """What every architecture of a space is regressed with: its backbone with heads, images, targets and noise.

  There is a network a shape. Of a task of sequences, which takes nothing from the source but that it has sequences too:
  recurrent networks, signals and noise.

  Raises:
    ConfigError: a space without backbone, a batch larger than the data set, a data set of other inputs, or a task that
      is out of range.
  """
  if lacking(space, Tapped):
    raise ConfigError(f"signal_regression: --space={space.name} has no backbone with three taps to regress; drop it")
  if isinstance(task, SequenceTask):
    if source.image_shape[:-1] != (tasks.LENGTH,):
      raise ConfigError(f"--dataset={source.name} has no sequences of numbers; give --dataset=signals, or drop it")
    own = cast(Tapped, space), recurrent, task, config.signal_batch, config.signal_cells, config.training, key
    return sequences.pose_on(*own)
  image_key, problem_key = jax.random.split(key)
  images = augmented_batch(source, image_key, config.signal_batch, "--signal_batch")
  problem: Problem = pose(task, images, problem_key, config.training)

  def learner(shape: Hashable) -> SignalNetwork:
    channels = CHANNELS if config.signal_channels is None and shape is None else config.signal_channels
    with naming("signal"):
      backbone = cast(Tapped, space).backbone(NetworkConfig(channels, config.signal_cells, shape=shape))
    assert isinstance(backbone, TappedNetwork)
    return signal_network(backbone, WIDTHS)

  return Inputs(learner, Batch(images, None, problem), own_weights=True)
