"""Trains an architecture: epochs of steps, evaluation after each, checkpoints, and continuation after a kill.

Source of the recipe: Dong & Yang, "NAS-Bench-201", ICLR 2020, table 1 (see `recipe`).

Everything follows from the seed: the initialisation, the order of an epoch (seed, epoch) and the augmentation of a
step (seed, step). A continued training therefore ends bit for bit as an uninterrupted one on the same device. (On a
GPU only with XLA_FLAGS=--xla_gpu_deterministic_ops=true.) Trainings that differ in architecture or seed alone share one
compilation.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PyTree

from jaxnas.data import ImageSource
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nb201 import PlainNetwork
from jaxnas.train import checkpoint
from jaxnas.train.recipe import TrainConfig, schedule
from jaxnas.train.steps import State, Tally, eval_step, initial_state, train_step

_INIT, _ORDER, _AUGMENT = range(3)  # purposes of a seed's keys

Status = Literal["finished", "diverged"]


@dataclasses.dataclass(frozen=True)
class Result:
  """A training.

  Attributes:
    status: "finished", or "diverged": the loss was not finite and the training stopped there.
    history: one JSON-able dict an epoch: epoch (from 1), step (updates so far), learning_rate (of the last step),
      train_loss and train_accuracy (mean over the epoch's augmented images, each before its step's update),
      valid_loss and valid_accuracy, seconds (wall, compilation included), status ("ok" or "diverged").
      Losses are mean cross-entropies, accuracies per cent.
    params, batch_stats: the weights and running statistics at the end.
  """

  status: Status
  history: list[dict[str, Any]]
  params: PyTree
  batch_stats: PyTree


def total_steps(config: TrainConfig, source: ImageSource) -> int:
  """Steps of a whole training, also the sum of what `advance` is told.

  Raises ConfigError: a batch is larger than the data set.
  """
  if config.train_batch > len(source):
    raise ConfigError(
      f"--train_batch={config.train_batch} is larger than the {len(source)} training images of {source.name!r}"
    )
  return config.train_epochs * (len(source) // config.train_batch)


def train(
  network: PlainNetwork,
  alphas: Float[Any, "1 E O"],
  source_train: ImageSource,
  source_valid: ImageSource,
  config: TrainConfig,
  *,
  seed: int = 0,
  workdir: str | pathlib.Path | None = None,
  advance: Callable[[int], object] = lambda n: None,
  log: Callable[[dict[str, Any]], object] = lambda record: None,
) -> Result:
  """Trains one architecture of `network` from fresh weights and evaluates it after every epoch.

  Args:
    network: such as `recipe.trained_network` makes.
    alphas: one-hot.
    source_train, source_valid: images of one shape and set of classes.
    workdir: folder for metrics.jsonl and checkpoints; a training that was killed there continues.
    advance: told the number of steps that were done, those of a continued training at once.
    log: told every epoch's record when it is done.

  Raises:
    ArchitectureError: `alphas` are no architecture.
    ConfigError: the batch is larger than the data, or sources and network do not fit together.
    WorkdirError: the folder cannot be written, is in use, or holds a training of other settings or architecture.
    DatasetError: an image cannot be read.
  """
  alphas, steps = _one_hot(alphas), total_steps(config, source_train)
  _check(network, source_train, source_valid)
  key = jax.random.key(seed)
  state = initial_state(network, config, steps, jax.random.fold_in(key, _INIT))
  run = _Run(network, alphas, source_train, source_valid, config, steps, key)
  identity = _identity(network, alphas, source_train, source_valid, config, seed)
  with checkpoint.opened(workdir, identity) if workdir is not None else contextlib.nullcontext() as store:
    state, history = store.restore(state) if store else (state, [])
    if history:
      advance(history[-1]["step"])
    while len(history) < config.train_epochs and not (history and history[-1]["status"] == "diverged"):
      state, record = run.epoch(state, len(history), advance)
      history.append(record)
      log(record)
      last = record["epoch"] == config.train_epochs or record["status"] == "diverged"
      if store:
        store.append(record)
        if last or record["epoch"] % config.checkpoint_every == 0:
          store.save(record["epoch"], state, history)
  status = "diverged" if history[-1]["status"] == "diverged" else "finished"
  return Result(status, history, state.params, state.batch_stats)


class _Run:
  """The two compiled steps of a training, and its epochs."""

  def __init__(self, network, alphas, source_train, source_valid, config, steps, key):
    self.source_train, self.source_valid, self.config, self.key = source_train, source_valid, config, key
    self.alphas = alphas
    self.per_epoch = steps // config.train_epochs
    self.rate = schedule(config, steps)
    self.step = _train_step(network, *_colours(source_train), _numerics(config), steps)
    self.evaluate = _eval_step(network, *_colours(source_valid))

  def epoch(self, state: State, done: int, advance: Callable[[int], object]) -> tuple[State, dict[str, Any]]:
    """Epoch number `done` from 0: the new state, and its record."""
    begin = time.perf_counter()
    key = jax.random.fold_in(self.key, _AUGMENT)
    losses, rights = [], []

    def settle(tally: Tally) -> bool:  # waits for its step
      losses.append(float(tally.loss))
      rights.append(int(tally.right))
      advance(1)
      return math.isfinite(losses[-1])

    pending, finite = None, True
    for images, labels in self._batches(done):
      state, tally = self.step(state, self.alphas, images, labels, key)
      # One step behind, so that the next batch is read while this one is computed.
      finite = pending is None or settle(pending)
      pending = tally
      if not finite:
        break
    finite = finite and pending is not None and settle(pending)
    seen, step = len(losses) * self.config.train_batch, done * self.per_epoch + len(losses)
    valid = math.nan, math.nan
    if finite:
      trained = state.params, state.batch_stats, self.alphas
      sums = _sums(self.evaluate, trained, self.source_valid, self.config.eval_batch)
      valid = _means(*sums, len(self.source_valid))
    train_loss, train_accuracy = _means(sum(losses), sum(rights), seen)
    return state, {
      "epoch": done + 1,
      "step": step,
      "learning_rate": float(np.asarray(self.rate(step - 1))),
      "train_loss": train_loss,
      "train_accuracy": train_accuracy,
      "valid_loss": valid[0],
      "valid_accuracy": valid[1],
      "seconds": time.perf_counter() - begin,
      "status": "ok" if finite and math.isfinite(valid[0]) else "diverged",
    }

  def _batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    key = jax.random.fold_in(jax.random.fold_in(self.key, _ORDER), epoch)
    order = np.asarray(jax.random.permutation(key, len(self.source_train)))
    size = self.config.train_batch
    for i in range(self.per_epoch):
      yield self.source_train.examples(order[i * size : (i + 1) * size])


# Compiled for all architectures, seeds and trainings: hence hashable arguments and a small cache.

Colours = tuple[float, ...]  # a data set's mean or standard deviation of every channel


@functools.lru_cache(maxsize=4)
def _train_step(network: PlainNetwork, mean: Colours, std: Colours, config: TrainConfig, steps: int) -> Any:
  return jax.jit(train_step(network, _array(mean), _array(std), config, steps), donate_argnums=0)


@functools.lru_cache(maxsize=4)
def _eval_step(network: PlainNetwork, mean: Colours, std: Colours) -> Any:
  return jax.jit(eval_step(network, _array(mean), _array(std)))


def _colours(source: ImageSource) -> tuple[Colours, Colours]:
  mean, std = (tuple(np.asarray(x, np.float64).tolist()) for x in (source.mean, source.std))
  return mean, std


def _array(colours: Colours) -> Array:
  return jnp.asarray(colours, jnp.float32)


def _numerics(config: TrainConfig) -> TrainConfig:
  """`config` without what no step reads, as a key of the cache."""
  return dataclasses.replace(config, train_epochs=1, train_batch=1, eval_batch=1, checkpoint_every=1)


def evaluate(
  network: PlainNetwork,
  alphas: Float[Any, "1 E O"],
  params: PyTree,
  batch_stats: PyTree,
  source: ImageSource,
  batch: int = 500,
) -> tuple[float, float]:
  """Mean cross-entropy and accuracy (per cent) over every image of `source` once, with running statistics.

  Raises:
    ArchitectureError: `alphas` are no architecture.
    DatasetError: an image cannot be read.
  """
  trained = params, batch_stats, _one_hot(alphas)
  return _means(*_sums(_eval_step(network, *_colours(source)), trained, source, batch), len(source))


def _sums(
  step: Callable[..., Tally], trained: tuple[PyTree, PyTree, Array], source: ImageSource, batch: int
) -> tuple[float, int]:
  """Loss and right answers summed over `source`; the last batch is filled up with images that do not count."""
  batch = min(batch, len(source))
  loss, right = 0.0, 0
  for start in range(0, len(source), batch):
    indices = np.arange(start, start + batch)
    images, labels = source.examples(np.minimum(indices, len(source) - 1))
    tally = step(*trained, images, np.where(indices < len(source), labels, -1))
    loss, right = loss + float(tally.loss), right + int(tally.right)
  return loss, right


def _means(loss: float, right: int, count: int) -> tuple[float, float]:
  return loss / count, 100 * right / count


def _one_hot(alphas: Any) -> Float32[Array, "1 E O"]:
  weights = np.asarray(alphas)
  if not (((weights == 0) | (weights == 1)).all() and (weights.sum(-1) == 1).all()):
    raise ArchitectureError("alphas must be one-hot to be trained: give space.alphas(arch) of one architecture")
  return jnp.asarray(weights, jnp.float32)


def _check(network: PlainNetwork, source_train: ImageSource, source_valid: ImageSource) -> None:
  for name in ("image_shape", "classes"):
    ours, theirs = getattr(source_train, name), getattr(source_valid, name)
    if ours != theirs:
      raise ConfigError(f"source_train has {name}={ours} and source_valid {theirs}: they must be the same")
  if network.config.classes != source_train.classes:
    raise ConfigError(
      f"the network has classes={network.config.classes}; {source_train.name!r} needs {source_train.classes}"
    )


def _identity(
  network: PlainNetwork,
  alphas: Array,
  source_train: ImageSource,
  source_valid: ImageSource,
  config: TrainConfig,
  seed: int,
) -> dict[str, Any]:
  """What makes a training this one and no other, JSON-able."""
  shape = dataclasses.asdict(network.config)
  return {
    "architecture": np.asarray(alphas).argmax(-1).tolist(),
    "network": {name: value for name, value in shape.items() if name not in ("batch_norm", "fused")},
    "dataset": source_train.name,
    "train_images": len(source_train),
    "valid_images": len(source_valid),
    "image_shape": list(source_train.image_shape),
    "seed": seed,
    **dataclasses.asdict(config),
  }
