"""One step of training and one batch of evaluation, as pure functions of arrays.

Loss: cross-entropy against (1 - s) one_hot(y) + s / K, with the label smoothing s (Szegedy et al., CVPR 2016, section
7). Running statistics follow PyTorch's rule, 0.9 old + 0.1 new with the unbiased variance of the mini-batch.

Which architecture is trained is data, so one compiled step serves all of them. Weights of operations that it does not
execute have no gradient, and no weight decay here: they keep their values. A step reads its whole batch and folds its
number into the key, so it may be sharded over devices as it is.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int, Int32, PyTree, UInt8

from jaxnas.spaces.nb201 import PlainNetwork
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.train.augment import flip_and_crop, normalise
from jaxnas.train.recipe import TrainConfig, optimizer

_KEPT = 0.9  # share of the old running statistics (PyTorch's momentum 0.1)


class State(NamedTuple):
  """What a step changes: all of it is in a checkpoint.

  Attributes:
    params: of the network, float32.
    batch_stats: running (mean, variance) of every BN, as `PlainNetwork.moments` has them; those of operations that the
      architecture does not execute mean nothing.
    optimizer: its momenta.
    step: the number of updates done.
  """

  params: PyTree
  batch_stats: PyTree
  optimizer: Any
  step: Int32[Array, ""]


class Tally(NamedTuple):
  """Sums over a batch: of the loss, and of right answers."""

  loss: Float32[Array, ""]
  right: Int32[Array, ""]


def initial_state(network: PlainNetwork, config: TrainConfig, steps: int, key: Array) -> State:
  """Fresh parameters, running means 0 and variances 1, momentum 0."""
  params = network.init_params(key)
  stats = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(leaf.shape, path[-1].idx, jnp.float32), _moment_shapes(network)
  )
  return State(params, stats, optimizer(config, steps).init(params), jnp.zeros((), jnp.int32))


@functools.lru_cache(maxsize=4)
def _moment_shapes(network: PlainNetwork) -> PyTree:
  params = jax.eval_shape(network.init_params, jax.random.key(0))
  return jax.eval_shape(network.moments, params, jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, len(EDGES), len(OPS))))


def train_step(
  network: PlainNetwork, mean: Array, std: Array, config: TrainConfig, steps: int
) -> Callable[[State, Float[Array, "1 E O"], UInt8[Array, "N H W C"], Int[Array, " N"], Array], tuple[State, Tally]]:
  """`step(state, alphas, images, labels, key) -> (state, tally)`; the tally is of the parameters before the update.

  `mean` and `std` [3] are the data set's, in 0..1 units; `steps` are those of the whole training; `key` is the same
  for every step.
  """
  dtype = jnp.bfloat16 if config.bf16 else jnp.float32
  update = optimizer(config, steps).update

  def loss(params, alphas, images, labels):
    params, images = _cast((params, images), dtype)
    logits, moments = _cast(network.logits_and_moments(params, images, alphas, unbiased=True), jnp.float32)
    return cross_entropy(logits, labels, config.label_smoothing).mean(), (moments, logits)

  def step(state, alphas, images, labels, key):
    if config.augmentation:
      images = flip_and_crop(jax.random.fold_in(key, state.step), images)
    images = normalise(images, mean, std)
    (value, (moments, logits)), grads = jax.value_and_grad(loss, has_aux=True)(state.params, alphas, images, labels)
    decayed = jax.tree.map(_times, network.executed(alphas), state.params)
    updates, momentum = update(grads, state.optimizer, decayed)
    batch_stats = jax.tree.map(lambda old, new: _KEPT * old + (1 - _KEPT) * new, state.batch_stats, moments)
    tally = Tally(value * images.shape[0], (logits.argmax(-1) == labels).sum(dtype=jnp.int32))
    return State(optax.apply_updates(state.params, updates), batch_stats, momentum, state.step + 1), tally

  return step


def eval_step(
  network: PlainNetwork, mean: Array, std: Array
) -> Callable[[PyTree, PyTree, Float[Array, "1 E O"], UInt8[Array, "N H W C"], Int[Array, " N"]], Tally]:
  """`step(params, batch_stats, alphas, images, labels) -> tally`; a label below 0 does not count."""
  frozen = network.with_batch_norm("running")

  def step(params, batch_stats, alphas, images, labels):
    logits = frozen.logits(params, normalise(images, mean, std), alphas, stats=batch_stats)
    losses = jnp.where(labels >= 0, cross_entropy(logits, labels, 0.0), 0)
    return Tally(losses.sum(), (logits.argmax(-1) == labels).sum(dtype=jnp.int32))

  return step


def cross_entropy(logits: Float[Array, "N K"], labels: Int[Array, " N"], smoothing: float) -> Float[Array, " N"]:
  """Of each sample, against its smoothed label."""
  log_p = jax.nn.log_softmax(logits)
  target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * (1 - smoothing) + smoothing / logits.shape[-1]
  return -(target * log_p).sum(-1)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def _times(mask: Array, leaf: Array) -> Array:
  """Of a parameter, what `mask` (its first axes or none) keeps."""
  return leaf * mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))
