"""Trains an architecture: epochs of steps, evaluation after each, checkpoints, and continuation after a kill.

Source of the recipes: see `recipe`.

Everything follows from the seed: the initialisation, the order of an epoch (seed, epoch), and augmentation and
drop-path of a step (seed, step). A continued training therefore ends bit for bit as an uninterrupted one on the same
devices. (On a GPU only with XLA_FLAGS=--xla_gpu_deterministic_ops=true.) Trainings of one network that differ in
architecture or seed alone share one compilation.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxnas.base import Code, Source, TrainableNetwork
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.settings import completed, recorded
from jaxnas.train import checkpoint
from jaxnas.train.parallel import compiled, mesh_for, replicated
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
      valid_loss, valid_accuracy and valid_top5, seconds (wall, compilation included), status ("ok" or "diverged").
      Losses are mean cross-entropies without the auxiliary head's, accuracies per cent; top5: the label is among the
      five largest outputs.
    params, batch_stats: the weights and running statistics at the end.
  """

  status: Status
  history: list[dict[str, Any]]
  params: PyTree
  batch_stats: PyTree


class Measured(NamedTuple):
  """Of a set of images: mean cross-entropy, and accuracies in per cent."""

  loss: float
  accuracy: float
  top5: float


def total_steps(config: TrainConfig, source: Source) -> int:
  """Steps of a whole training, also the sum of what `advance` is told.

  Raises ConfigError: a batch is larger than the data set.
  """
  if config.train_batch > len(source):
    raise ConfigError(
      f"--train_batch={config.train_batch} is larger than the {len(source)} training images of {source.name!r}"
    )
  return config.train_epochs * (len(source) // config.train_batch)


def train(
  network: TrainableNetwork,
  code: Code,
  source_train: Source,
  source_valid: Source,
  config: TrainConfig,
  *,
  seed: int = 0,
  architecture: str | None = None,
  workdir: str | pathlib.Path | None = None,
  advance: Callable[..., object] = lambda n, **earlier: None,
  log: Callable[[dict[str, Any]], object] = lambda record: None,
) -> Result:
  """Trains one architecture of `network` from fresh weights and evaluates it after every epoch.

  Args:
    network: such as `space.trained_network` makes.
    code: the architecture.
    source_train, source_valid: images of one shape and set of classes.
    architecture: its text form; a folder with a training of another one is refused with both.
    workdir: folder for metrics.jsonl and checkpoints; a training that was killed there continues.
    advance: told the number of steps that were done, those before a continued training's checkpoint at once and with
      `earlier=True`.
    log: told every epoch's record when it is done.

  Raises:
    ArchitectureError: `code` is not one architecture of the network's space.
    ConfigError: the batch is larger than the data or cannot be shared among the devices, or sources, network and
      recipe do not fit together.
    WorkdirError: the folder cannot be written, is in use, or holds a training of other settings or architecture.
    DatasetError: an image cannot be read.
  """
  arch, steps, mesh = encoded(network, code), total_steps(config, source_train), mesh_for(config)
  _check(network, source_train, source_valid, config)
  key = jax.random.key(seed)
  images = seen_shape(config, source_train)
  state = initial_state(network, arch, config, steps, jax.random.fold_in(key, _INIT), images)
  state = replicated(state, mesh)
  run = _Run(network, arch, source_train, source_valid, config, steps, key, mesh)
  named = architecture or np.asarray(code).tolist()
  identity = _identity(network, state, named, source_train, source_valid, config, seed)
  with contextlib.ExitStack() as stack:
    store = None
    if workdir is not None:
      complete = functools.partial(completed, config=type(config))
      store = stack.enter_context(checkpoint.opened(workdir, identity, complete=complete))
    state, history = store.restore(state) if store else (state, [])
    if history:
      advance(history[-1]["step"], earlier=True)
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

  def __init__(self, network, arch, source_train, source_valid, config, steps, key, mesh):
    self.source_train, self.source_valid, self.config, self.key = source_train, source_valid, config, key
    self.arch = arch
    self.per_epoch = steps // config.train_epochs
    self.rate = schedule(config, steps)
    self.step = _train_step(network, *colours_of(source_train), _numerics(config), steps, mesh)
    self.evaluate = _eval_step(network, *colours_of(source_valid), config.image_size, mesh)
    share = 1 if mesh is None else mesh.size
    self.eval_batch = -(-min(config.eval_batch, len(source_valid)) // share) * share

  def epoch(self, state: State, done: int, advance: Callable[..., object]) -> tuple[State, dict[str, Any]]:
    """Epoch number `done` from 0: the new state, and its record."""
    begin = time.perf_counter()
    key = jax.random.fold_in(self.key, _AUGMENT)
    tallies: list[tuple[float, int, int]] = []

    def settle(tally: Tally) -> bool:  # waits for its step
      tallies.append(_numbers(tally))
      advance(1)
      return math.isfinite(tallies[-1][0])

    pending, finite = None, True
    for images, labels in self._batches(done):
      state, tally = self.step(state, self.arch, images, labels, key)
      # One step behind, so that the next batch is read while this one is computed.
      finite = pending is None or settle(pending)
      pending = tally
      if not finite:
        break
    finite = finite and pending is not None and settle(pending)
    valid = Measured(math.nan, math.nan, math.nan)
    if finite:
      trained = state.params, state.batch_stats, self.arch
      valid = _measured(self.evaluate, trained, self.source_valid, self.eval_batch)
    step = done * self.per_epoch + len(tallies)
    train = _means(tallies, len(tallies) * self.config.train_batch)
    return state, {
      "epoch": done + 1,
      "step": step,
      "learning_rate": float(np.asarray(self.rate(step - 1))),
      "train_loss": train.loss,
      "train_accuracy": train.accuracy,
      "valid_loss": valid.loss,
      "valid_accuracy": valid.accuracy,
      "valid_top5": valid.top5,
      "seconds": time.perf_counter() - begin,
      "status": "ok" if finite and math.isfinite(valid.loss) else "diverged",
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
def _train_step(
  network: TrainableNetwork, mean: Colours, std: Colours, config: TrainConfig, steps: int, mesh: Mesh | None = None
) -> Any:
  step = train_step(network, _array(mean), _array(std), config, steps)
  return compiled(step, mesh, "aassa", donate_argnums=0)


@functools.lru_cache(maxsize=4)
def _eval_step(
  network: TrainableNetwork, mean: Colours, std: Colours, image_size: int = 0, mesh: Mesh | None = None
) -> Any:
  return compiled(eval_step(network, _array(mean), _array(std), image_size), mesh, "aaass")


def colours_of(source: Source) -> tuple[Colours, Colours]:
  """Mean and standard deviation, which compiled steps are found by."""
  mean, std = (tuple(np.asarray(x, np.float64).tolist()) for x in (source.mean, source.std))
  return mean, std


def _array(colours: Colours) -> Array:
  return jnp.asarray(colours, jnp.float32)


def _numerics(config: TrainConfig) -> TrainConfig:
  """`config` without what no step reads, as a key of the cache."""
  return dataclasses.replace(config, train_batch=1, eval_batch=1, checkpoint_every=1)


def evaluate(
  network: TrainableNetwork,
  code: Code,
  params: PyTree,
  batch_stats: PyTree,
  source: Source,
  batch: int = 500,
  image_size: int = 0,
) -> Measured:
  """Measures the network on every image of `source` once, with running statistics; see `TrainConfig.image_size`.

  Raises:
    ArchitectureError: as `train`.
    DatasetError: an image cannot be read.
  """
  trained = params, batch_stats, encoded(network, code)
  step = _eval_step(network, *colours_of(source), image_size)
  return _measured(step, trained, source, min(batch, len(source)))


def _measured(
  step: Callable[..., Tally], trained: tuple[PyTree, PyTree, Array], source: Source, batch: int
) -> Measured:
  """The last batch is filled up with images that do not count."""
  tallies = []
  for start in range(0, len(source), batch):
    indices = np.arange(start, start + batch)
    images, labels = source.examples(np.minimum(indices, len(source) - 1))
    tallies.append(_numbers(step(*trained, images, np.where(indices < len(source), labels, -1))))
  return _means(tallies, len(source))


def _numbers(tally: Tally) -> tuple[float, int, int]:
  return float(tally.loss), int(tally.right), int(tally.in_five)


def _means(tallies: list[tuple[float, int, int]], count: int) -> Measured:
  loss, right, in_five = (sum(column) for column in zip(*tallies, strict=True))
  return Measured(loss / count, 100 * right / count, 100 * in_five / count)


def encoded(network: TrainableNetwork, code: Code) -> Array:
  """What of the architecture enters a program."""
  one = np.asarray(code)
  if one.ndim != 1 or not np.issubdtype(one.dtype, np.integer):
    raise ArchitectureError(f"code of shape {one.shape} and type {one.dtype} must be one architecture's integers [L]")
  return jnp.asarray(network.encode(one[None])[0])


def seen_shape(config: TrainConfig, source: Source) -> tuple[int, ...]:
  """(H, W, 3) of what the network gets, or (T, 3) of tokens.

  Raises ConfigError: the recipe does not fit the images, or is for images where there are none.
  """
  if len(source.image_shape) != 3:
    for name in ("color_jitter", "cutout", "image_size"):
      if value := getattr(config, name):
        raise ConfigError(f"--{name}={value} is for images, and --dataset={source.name} has none; drop it")
    return source.image_shape
  height, width, colours = source.image_shape
  if config.image_size > min(height, width):
    raise ConfigError(
      f"--image_size={config.image_size} is larger than the {height}x{width} images of {source.name!r}; "
      "lower it, or give 0 for images as they are"
    )
  shape = (config.image_size or height, config.image_size or width, colours)
  if config.cutout >= min(shape[:2]):
    raise ConfigError(f"--cutout={config.cutout} must be smaller than the images, {shape[0]}x{shape[1]}")
  return shape


def _check(network: TrainableNetwork, source_train: Source, source_valid: Source, config: TrainConfig) -> None:
  for name in ("image_shape", "classes"):
    ours, theirs = getattr(source_train, name), getattr(source_valid, name)
    if ours != theirs:
      raise ConfigError(f"source_train has {name}={ours} and source_valid {theirs}: they must be the same")
  if network.classes != source_train.classes:
    raise ConfigError(f"the network has classes={network.classes}; {source_train.name!r} needs {source_train.classes}")
  if network.auxiliary != (config.auxiliary > 0):
    raise ConfigError(
      f"the network has auxiliary={network.auxiliary}; --auxiliary={config.auxiliary} needs it the other way round"
    )


def _identity(
  network: TrainableNetwork,
  state: State,
  architecture: str | list[int],
  source_train: Source,
  source_valid: Source,
  config: TrainConfig,
  seed: int,
) -> dict[str, Any]:
  """What makes a training this one and no other, JSON-able."""
  return {
    "architecture": architecture,
    "classes": network.classes,
    "weights": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    "dataset": source_train.name,
    "train_images": len(source_train),
    "valid_images": len(source_valid),
    "image_shape": list(source_train.image_shape),
    "seed": seed,
    **recorded(config),
  }
