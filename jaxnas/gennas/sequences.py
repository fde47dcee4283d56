"""GenNAS's regression of recurrent networks: a few steps of learning one sequence from another.

    loss = mean over samples, steps and numbers of (outputs - target)^2

Input and target are signals, one map a sample (`signals.sequences`), with fresh noise on the input at every step. Adam
with L2 decay added to the gradients of everything that is trained; dropout as the networks have it in training. The
score is the loss in evaluation mode, without dropout, after the last step.

The published code re-wraps the matrices that have weight drop as fresh parameters at every pass, so its optimiser never
moves them: every matrix that reads something else than a layer's input stays at its initial value. `variant="code"`
does that, `variant="paper"` trains them. Its command line's learning rate is 0.1, with which the loss ranks nothing (on
16 recipes Spearman -0.14 with the perplexity; 0.82 with the logs' own 1e-3, the default here).

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.base import Batch, Inputs, NetworkConfig, RecurrentNetwork, Tapped
from jaxnas.errors import ConfigError
from jaxnas.gennas import signals, tasks
from jaxnas.gennas.heads import Learner
from jaxnas.gennas.regression import Curve, Training
from jaxnas.gennas.tasks import SequenceTask
from jaxnas.settings import setting

WEIGHT_DECAY = 1.2e-6


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
  """How recurrent networks are regressed, beside the steps and the batch; defaults are the published settings."""

  signal_sequences: str = setting(
    "CONF_NLP",
    f"what recurrent networks (nlp) regress on: {', '.join(tasks.sequence_names())}, or the path of a configuration",
    later=True,
  )
  signal_hidden: int = setting(600, "hidden units of the regressed recurrent networks", later=True)
  signal_rate: float = setting(
    1e-3, "learning rate of the regressed recurrent networks; the published command line's is 0.1", later=True
  )
  signal_weight_drop: Literal["code", "paper"] = setting(
    "code",
    "matrices with weight drop stay at their initial values, as in the published 'code', or are trained ('paper')",
    later=True,
  )

  def __post_init__(self):
    if self.signal_hidden < 1:
      raise ConfigError(f"--signal_hidden={self.signal_hidden} must be at least 1")
    if not 0 < self.signal_rate < np.inf:
      raise ConfigError(f"--signal_rate={self.signal_rate} must be a number above 0")
    if self.signal_weight_drop not in ("code", "paper"):
      raise ConfigError(f"--signal_weight_drop={self.signal_weight_drop!r} must be one of code, paper")
    try:
      tasks.get_sequence(self.signal_sequences)
    except ConfigError as error:
      raise ConfigError(f"--signal_sequences: {error}") from error

  @property
  def task(self) -> SequenceTask:
    """The task of that name or file."""
    return tasks.get_sequence(self.signal_sequences)


@dataclasses.dataclass(frozen=True)
class SequenceLearner(Learner):
  """A recurrent network, and how it is trained.

  Attributes:
    network: see `base.RecurrentNetwork`.
    variant: whether matrices with weight drop stay as they are ("code") or are trained ("paper").
    rate: of Adam.
    dropout: whether training has the network's dropout.
  """

  network: RecurrentNetwork
  variant: Literal["code", "paper"] = "code"
  rate: float = 1e-3
  dropout: bool = True

  def encode(self, codes: Int[np.ndarray, "A L"]) -> np.ndarray:
    """As the network does."""
    return self.network.encode(codes)

  def init(self, key: Array) -> PyTree:
    """As the network does."""
    return self.network.init(key)

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """As the network does."""
    return self.network.start(params, arch)

  def split(self, params: PyTree) -> tuple[PyTree, PyTree]:
    """(what is trained, what is not), trees like the parameters with None in the other's places."""

    def kept(path) -> bool:
      return self.variant == "code" and self.network.is_recurrent([p.key for p in path])

    return (
      jax.tree_util.tree_map_with_path(lambda path, leaf: None if kept(path) else leaf, params),
      jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if kept(path) else None, params),
    )


class SequenceProblem(NamedTuple):
  """What a task asks of every architecture; all of it is data.

  Attributes:
    targets: [N, T, D].
    noise: [steps, N, T, D], added to the inputs at each step.
    evaluation_noise: [steps / interval, N, T, D].
    key: of the dropout.
  """

  targets: Any
  noise: Any
  evaluation_noise: Any
  key: Any


def pose_on(
  space: Tapped,
  config: SequenceConfig,
  task: SequenceTask,
  batch: int,
  cells: int | None,
  training: Training,
  key: Array,
) -> Inputs:
  """What every architecture of a space is regressed with; a network a shape.

  Raises:
    ConfigError: a task that is out of range, or a space whose networks learn no sequences.
  """
  signal_key, noise_key, evaluation_key, own_key = jax.random.split(key, 4)
  inputs, targets = signals.sequences(task, batch, signal_key)
  noise = tasks.noise(task, noise_key, (training.steps, *inputs.shape))
  evaluation = tasks.noise(task, evaluation_key, (training.steps // training.interval, *inputs.shape))

  def learner(shape: Hashable) -> SequenceLearner:
    network = space.backbone(NetworkConfig(config.signal_hidden, cells, task.dimension, shape=shape))
    if not isinstance(network, RecurrentNetwork):
      raise ConfigError(f"signal_regression: networks of --space={space.name} read sequences and learn none; drop it")
    return SequenceLearner(network, config.signal_weight_drop, config.signal_rate)

  return Inputs(learner, Batch(inputs, None, SequenceProblem(targets, noise, evaluation, own_key)), own_weights=True)


def regress(
  learner: SequenceLearner, params: PyTree, arch: Array, inputs: Float[Array, "N T D"], problem: SequenceProblem
) -> tuple[Curve, PyTree]:
  """Trains one architecture from `params`: losses and final parameters."""
  network, targets = learner.network, problem.targets
  steps, count = len(problem.noise), len(problem.evaluation_noise)
  adam = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.adam(learner.rate))
  trained, kept = learner.split(params)

  def whole(trained: PyTree) -> PyTree:
    return jax.tree.map(lambda one, other: other if one is None else one, trained, kept, is_leaf=lambda x: x is None)

  def loss(trained, noise, key):
    if key is None or not learner.dropout:
      outputs = network.apply(whole(trained), inputs + noise, arch).logits
    else:
      outputs = network.train(whole(trained), inputs + noise, arch, key)
    return jnp.square(outputs.reshape(targets.shape) - targets).mean()

  def update(step, state):
    trained, memory, losses = state
    key = jax.random.fold_in(problem.key, step)
    value, gradients = jax.value_and_grad(loss)(trained, problem.noise[step], key)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the number of the step
      updates, memory = adam.update(gradients, memory, trained)
    return optax.apply_updates(trained, updates), memory, losses.at[step].set(value)

  def stretch(state, given):
    number, noise = given
    begin = number * (steps // count)
    state = lax.fori_loop(begin, begin + steps // count, update, state)
    return state, loss(state[0], noise, None)

  state = trained, adam.init(trained), jnp.zeros(steps, inputs.dtype)
  (trained, _, losses), evaluated = lax.scan(stretch, state, (jnp.arange(count), problem.evaluation_noise))
  return Curve(losses, evaluated), whole(trained)
