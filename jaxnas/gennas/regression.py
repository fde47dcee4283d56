"""A few steps of regression on synthetic signals, whose remaining loss is GenNAS's score.

    loss = 0.25 MSE_0 + 0.5 MSE_1 + 1.0 MSE_2

The network has a head on each of three taps and is trained from scratch on one fixed batch of images, with fresh noise
on them at every step: SGD, constant learning rate, momentum, and weight decay on kernels only. Its score is the loss of
the same images in evaluation mode, with running statistics, after the last step.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.gennas import signals, tasks
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.gennas.tasks import SignalTask

WIDTHS = (96, 96, 96)  # of the heads: the widest target that a task can ask for, so that one program serves all tasks


@dataclasses.dataclass(frozen=True)
class Training:
  """How the network is trained; the defaults are the published ones.

  Attributes:
    steps: updates of the weights.
    interval: steps from one evaluation to the next.
    learning_rate: constant.
    momentum: of SGD, without Nesterov's correction.
    weight_decay: added to the gradients of kernels before the momentum.
  """

  steps: int = 100
  interval: int = 10
  learning_rate: float = 0.1
  momentum: float = 0.9
  weight_decay: float = 4e-5

  def __post_init__(self):
    if self.steps < 1 or self.interval < 1 or self.steps % self.interval:
      raise ConfigError(f"steps={self.steps} must be a positive multiple of interval={self.interval}")


class Problem(NamedTuple):
  """What a task asks of every architecture; all of it is data.

  Attributes:
    targets: three [N, 8, 8, width], zeros beyond the task's channels.
    weights: three [width], of every channel's mean squared error; 0 beyond the task's channels.
    evaluation_weights: the same for evaluations.
    noise: [steps, N, H, W, 3], added to the images at each step.
    evaluation_noise: [steps / interval, N, H, W, 3].
  """

  targets: tuple[Any, ...]
  weights: tuple[Any, ...]
  evaluation_weights: tuple[Any, ...]
  noise: Any
  evaluation_noise: Any


class Curve(NamedTuple):
  """Losses on the way: `train` [steps], in training mode before each update; `evaluation` [steps / interval]."""

  train: Float[Array, " T"]
  evaluation: Float[Array, " V"]


def pad(targets: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
  """Targets [N, 8, 8, C] with zeros up to `WIDTHS`."""
  return tuple(np.pad(t, ((0, 0),) * 3 + ((0, w - t.shape[-1]),)) for t, w in zip(targets, WIDTHS, strict=True))


def pose(
  task: SignalTask, images: Float[np.ndarray, "N H W 3"], key: Array, training: Training | None = None
) -> Problem:
  """Draws the targets and the noise of a task for a batch of normalised images.

  Raises:
    ConfigError: the task is out of range, see `tasks.validate`.
  """
  training = training or Training()
  target_key, noise_key, evaluation_key = jax.random.split(key, 3)
  targets = signals.targets(task, jnp.asarray(images), target_key)

  def per_channel(weights):
    shares = zip(weights, task.channels, WIDTHS, strict=True)
    return tuple(np.where(np.arange(width) < c, weight / c, 0).astype(np.float32) for weight, c, width in shares)

  return Problem(
    pad(targets),
    per_channel(task.loss_weights),
    per_channel(task.eval_weights),
    tasks.noise(task, noise_key, (training.steps, *images.shape)),
    tasks.noise(task, evaluation_key, (training.steps // training.interval, *images.shape)),
  )


def optimiser(training: Training) -> optax.GradientTransformation:
  """SGD with momentum and decay of the kernels; biases, and scales and biases of normalisations, do not decay."""

  def kernels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

  decay = optax.masked(optax.add_decayed_weights(training.weight_decay), kernels)
  return optax.chain(decay, optax.sgd(training.learning_rate, training.momentum))


def regress(
  network: SignalNetwork,
  params: PyTree,
  arch: Array,
  images: Float[Array, "N H W 3"],
  problem: Problem,
  training: Training,
) -> tuple[Curve, PyTree, PyTree]:
  """Trains one architecture from `params`: losses, final parameters and running statistics."""
  sgd = optimiser(training)

  def loss(params, stats, noise, weights, train):
    predicted, stats = network.predict(params, stats, images + noise, arch, train)
    triples = zip(weights, predicted, problem.targets, strict=True)
    errors = [(w * jnp.square(p - t).mean((0, 1, 2))).sum() for w, p, t in triples]
    return sum(errors[1:], errors[0]), stats

  def update(step, state):
    params, stats, memory, losses = state
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, stats), gradients = gradient(params, stats, problem.noise[step], problem.weights, True)
    updates, memory = sgd.update(gradients, memory, params)
    return optax.apply_updates(params, updates), stats, memory, losses.at[step].set(value)

  def stretch(state, given):
    number, noise = given
    begin = number * training.interval
    state = lax.fori_loop(begin, begin + training.interval, update, state)
    return state, loss(state[0], state[1], noise, problem.evaluation_weights, False)[0]

  stats = jax.tree.map(lambda s: s.astype(images.dtype), network.init_stats())
  state = params, stats, sgd.init(params), jnp.zeros(training.steps, images.dtype)
  count = training.steps // training.interval
  (params, stats, _, losses), evaluated = lax.scan(stretch, state, (jnp.arange(count), problem.evaluation_noise))
  return Curve(losses, evaluated), params, stats
