"""One step of training and one batch of evaluation, as pure functions of arrays.

Loss: cross-entropy against (1 - s) one_hot(y) + s / K, with the label smoothing s (Szegedy et al., CVPR 2016, section
7). Running statistics follow PyTorch's rule, 0.9 old + 0.1 new with the unbiased variance of the mini-batch.

Where the architecture is data of the network, one compiled step serves all of them. Weights of operations that it does
not execute have no gradient, and no weight decay here: they keep their values. A step reads its whole batch and folds
its number into the key, so it may be sharded over devices as it is. Tokens, int32 [N, T, 3], are neither changed nor
normalised.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int, Int32, Integer, PyTree

from jaxnas.base import TrainableNetwork
from jaxnas.train.augment import cut_out, flip_and_crop, flip_and_resize, jitter_colors, middle, normalise
from jaxnas.train.recipe import TrainConfig, drop_probability, optimizer

_KEPT = 0.9  # share of the old running statistics (PyTorch's momentum 0.1)
_CUT, _DROP, _JITTER = (
  2,
  3,
  4,
)  # purposes of a step's key; `flip_and_crop` and `flip_and_resize` split it, which are 0 and 1


class State(NamedTuple):
  """What a step changes: all of it is in a checkpoint.

  Attributes:
    params: of the network, float32.
    batch_stats: running (mean, variance) of every BN, see `base.TrainableNetwork.init_stats`; those of operations that
      the architecture does not execute mean nothing.
    optimizer: its momenta.
    step: the number of updates done.
  """

  params: PyTree
  batch_stats: PyTree
  optimizer: Any
  step: Int32[Array, ""]


class Tally(NamedTuple):
  """Sums over a batch: of the loss (without the auxiliary one), of right answers, of labels among the five best."""

  loss: Float32[Array, ""]
  right: Int32[Array, ""]
  in_five: Int32[Array, ""]


def initial_state(
  network: TrainableNetwork, arch: Array, config: TrainConfig, steps: int, key: Array, images: tuple[int, ...]
) -> State:
  """Fresh parameters, running means 0 and variances 1, momentum 0; `images` is the shape of one, or of tokens.

  Raises:
    JaxnasError: images that the network cannot take, or drop path of a network that has none.
  """
  check_step(network, arch, config, images)
  params = network.start(network.init(key), arch)
  return State(params, network.init_stats(), optimizer(config, steps).init(params), jnp.zeros((), jnp.int32))


def check_step(network: TrainableNetwork, arch: Array, config: TrainConfig, images: tuple[int, ...]) -> None:
  """Refuses what a step of training would refuse, and computes nothing; `images` is the shape of one, or of tokens.

  Raises:
    JaxnasError: see `initial_state`.
  """
  _trace_step(network, (arch.shape, str(arch.dtype)), config.drop_path > 0, images)


@functools.lru_cache(maxsize=4)
def _trace_step(
  network: TrainableNetwork, arch: tuple[tuple[int, ...], str], drops: bool, images: tuple[int, ...]
) -> None:
  params = jax.eval_shape(network.init, jax.random.key(0))
  dtype = jnp.float32 if len(images) == 3 else jnp.int32
  like = [jax.ShapeDtypeStruct((1, *images), dtype), jax.ShapeDtypeStruct(*arch)]
  key = jax.random.key(0) if drops else None

  def logits(p, x, a):
    return network.train(p, network.embed(p, x), a, jnp.float32(0.5), key).logits

  jax.eval_shape(logits, params, *like)


def train_step(
  network: TrainableNetwork, mean: Array, std: Array, config: TrainConfig, steps: int
) -> Callable[[State, Array, Integer[Array, "N ..."], Int[Array, " N"], Array], tuple[State, Tally]]:
  """`step(state, arch, images, labels, key) -> (state, tally)`; the tally is of the parameters before the update.

  `mean` and `std` [3] are the data set's, in 0..1 units; `steps` are those of the whole training; `key` is the same
  for every step. The network has an auxiliary head exactly if `config.auxiliary` is positive.
  """
  dtype = jnp.bfloat16 if config.bf16 else jnp.float32
  update = optimizer(config, steps).update

  def loss(params, arch, images, labels, *drop):
    params, images = _cast((params, images), dtype)
    output = _cast(network.train(params, network.embed(params, images), arch, *drop), jnp.float32)
    value = total = cross_entropy(output.logits, labels, config.label_smoothing).mean()
    if output.auxiliary is not None:
      total += config.auxiliary * cross_entropy(output.auxiliary, labels, config.label_smoothing).mean()
    return total, (value, output.stats, output.logits)

  def step(state, arch, images, labels, key):
    key = jax.random.fold_in(key, state.step)
    images = images if images.ndim == 3 else _changed(key, images, mean, std, config)
    drop = 0.0, None
    if config.drop_path:
      drop = drop_probability(config, steps, state.step), jax.random.fold_in(key, _DROP)
    gradient = jax.value_and_grad(loss, has_aux=True)
    (_, (value, moments, logits)), grads = gradient(state.params, arch, images, labels, *drop)
    decayed = jax.tree.map(_times, network.executed(arch), state.params)
    updates, momentum = update(grads, state.optimizer, decayed)
    batch_stats = jax.tree.map(lambda old, new: _KEPT * old + (1 - _KEPT) * new, state.batch_stats, moments)
    tally = Tally(value * images.shape[0], *right_answers(logits, labels))
    return State(optax.apply_updates(state.params, updates), batch_stats, momentum, state.step + 1), tally

  return step


def eval_step(
  network: TrainableNetwork, mean: Array, std: Array, image_size: int = 0
) -> Callable[[PyTree, PyTree, Array, Integer[Array, "N ..."], Int[Array, " N"]], Tally]:
  """`step(params, batch_stats, arch, images, labels) -> tally`; a label below 0 does not count.

  With `image_size` the network sees the images' middle.
  """
  logits_of = predictor(network, mean, std, image_size)

  def step(params, batch_stats, arch, images, labels):
    logits = logits_of(params, batch_stats, arch, images)
    losses = jnp.where(labels >= 0, cross_entropy(logits, labels, 0.0), 0)
    return Tally(losses.sum(), *right_answers(logits, labels))

  return step


def predictor(
  network: TrainableNetwork, mean: Array, std: Array, image_size: int = 0
) -> Callable[[PyTree, PyTree, Array, Integer[Array, "N ..."]], Float32[Array, "N K"]]:
  """`logits(params, batch_stats, arch, images)` by running statistics; arguments as of `eval_step`."""

  def logits(params, batch_stats, arch, images):
    if images.ndim == 4:
      images = normalise(middle(images, image_size) if image_size else images, mean, std)
    return network.apply(params, network.embed(params, images), arch, "running", stats=batch_stats).logits

  return logits


def right_answers(logits: Float[Array, "N K"], labels: Int[Array, " N"]) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
  """How many labels have the largest output, and how many one of the five largest; of equal ones the first counts.

  A label below 0 does not count.
  """
  own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], 1)
  earlier = jnp.arange(logits.shape[1])[None] < labels[:, None]
  rank = ((logits > own) | ((logits == own) & earlier)).sum(1, dtype=jnp.int32)
  right = (logits.argmax(-1) == labels).sum(dtype=jnp.int32)
  return right, ((rank < 5) & (labels >= 0)).sum(dtype=jnp.int32)


def cross_entropy(logits: Float[Array, "N K"], labels: Int[Array, " N"], smoothing: float) -> Float[Array, " N"]:
  """Of each sample, against its smoothed label."""
  log_p = jax.nn.log_softmax(logits)
  target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) * (1 - smoothing) + smoothing / logits.shape[-1]
  return -(target * log_p).sum(-1)


def _changed(key: Array, images: Array, mean: Array, std: Array, config: TrainConfig) -> Array:
  """Normalised images of the size that the network sees, by the augmentation if there is one."""
  images = _augmented(key, images, config)
  if config.color_jitter:
    images = jitter_colors(jax.random.fold_in(key, _JITTER), images, config.color_jitter)
  images = normalise(images, mean, std)
  return cut_out(jax.random.fold_in(key, _CUT), images, config.cutout) if config.cutout else images


def _augmented(key: Array, images: Array, config: TrainConfig) -> Array:
  if not config.augmentation:
    return middle(images, config.image_size) if config.image_size else images
  return flip_and_resize(key, images, config.image_size) if config.image_size else flip_and_crop(key, images)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
  """Numbers of another type; whole ones, such as tokens, stay."""
  return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree)


def _times(mask: Array, leaf: Array) -> Array:
  """Of a parameter, what `mask` (its first axes or none) keeps."""
  return leaf * mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))
