"""The recipe of a training: its settings, learning rate, optimiser and drop-path ramp.

Defaults: NAS-Bench-201 (Dong & Yang, ICLR 2020, table 1): SGD with Nesterov momentum 0.9, batch 256, learning rate 0.1
falling to 0 along a cosine, weight decay 5e-4, random flips and crops. The epochs are 12, the short training of
NATS-Bench (Dong et al., TPAMI 2021); the long one has 200.

The DARTS space's recipe (Liu et al., ICLR 2019, and the released code: momentum without Nesterov, gradients clipped,
cutout, drop-path, auxiliary head) is in the presets train_darts_*. There the learning rate changes from epoch to
epoch; here from step to step, along the same curve.

Fine-tuning of pre-trained encoders (Devlin et al., NAACL 2019, appendix A.3: AdamW, warm-up, linear fall) is in the
presets train_encoder_*. Departures: no dropout, and an epoch's last, partial batch is dropped.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int, PyTree

from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.settings import setting

SHAPES = ("cosine", "linear")
OPTIMIZERS = ("sgd", "adamw")
STEMS = ("cifar", "imagenet")
INITS = ("torch_default", "kaiming_fan_out", "kaiming_fan_in")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Everything that a training depends on, but for architecture, data and seed."""

  train_epochs: int = setting(12, "epochs of training; NAS-Bench-201's published figures are of 200")
  train_batch: int = setting(256, "images in a mini-batch of training; an epoch drops its last, partial one")
  learning_rate: float = setting(0.1, "learning rate at the start; it falls to --final_learning_rate, step by step")
  final_learning_rate: float = setting(0.0, "learning rate at the end")
  learning_rate_shape: Literal["cosine", "linear"] = setting("cosine", "how the learning rate falls")
  warmup_epochs: float = setting(
    0, "epochs at the start, or parts of one, whose learning rate is scaled from about 0 up to 1, linearly"
  )
  optimizer: Literal["sgd", "adamw"] = setting(
    "sgd",
    "'sgd' with --momentum, or 'adamw', which scales the decay by the learning rate alone and spares biases and scales",
    later=True,
  )
  momentum: float = setting(0.9, "momentum of SGD, and beta_1 of AdamW (whose beta_2 is 0.999)")
  nesterov: bool = setting(True, "Nesterov's form of the momentum (DARTS trains without)")
  weight_decay: float = setting(5e-4, "coefficient of the L2 penalty's gradient, on all parameters")
  clip_norm: float = setting(
    0.0, "scale gradients down to this norm over all parameters, before weight decay; 0: never"
  )
  label_smoothing: float = setting(0.0, "share of a training label that is spread over all classes")
  auxiliary: float = setting(0.0, "weight of the auxiliary head's loss (--space=darts); 0: no head")
  drop_path: float = setting(
    0.0, "largest probability of drop-path (--space=darts): in epoch e of E it is e/E of this, e from 0; 0: off"
  )
  augmentation: bool = setting(True, "flip training images at random and crop them from a frame of an eighth")
  color_jitter: float = setting(
    0.0,
    "largest change of brightness, contrast and saturation of training images, as a share, and half of it of the hue's "
    "circle (the published ImageNet recipe: 0.4); 0: none",
    later=True,
  )
  cutout: int = setting(0, "side in pixels of a square of zeros anywhere in a normalised training image; 0: none")
  image_size: int = setting(
    0, "side that larger images are cut to: random parts in training, the middle in evaluation; 0: as they are"
  )
  bf16: bool = setting(False, "train in bfloat16; parameters, statistics, loss and evaluation stay float32")
  data_parallel: bool = setting(False, "share every mini-batch among all devices; the result is that of one device")
  train_init: Literal["torch_default", "kaiming_fan_out", "kaiming_fan_in"] = setting(
    "torch_default", "initial weights of the trained network"
  )
  train_stem: Literal["cifar", "imagenet"] = setting(
    "cifar", "first layers of the trained network; 'imagenet' (--space=darts) has stride 8"
  )
  train_channels: int = setting(16, "channels C of the trained network in its first stage")
  train_cells: int | None = setting(
    None, "cells N of the trained network (default: as the space's networks have, nb201 5 per stage, darts 8 in all)"
  )
  eval_batch: int = setting(500, "images in a batch of evaluation")
  checkpoint_every: int = setting(1, "epochs from one checkpoint of a training to the next; the last has one always")

  def __post_init__(self):
    for name in ("train_epochs", "train_batch", "train_channels", "train_cells", "eval_batch", "checkpoint_every"):
      value = getattr(self, name)
      self._refuse(name, value is None or value >= 1, "at least 1")
    self._refuse("learning_rate", 0 < self.learning_rate < math.inf, "positive and finite")
    for name in ("weight_decay", "clip_norm", "auxiliary"):
      self._refuse(name, 0 <= getattr(self, name) < math.inf, "finite and not negative")
    for name in ("momentum", "label_smoothing", "drop_path", "color_jitter"):
      self._refuse(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
    for name in ("cutout", "image_size"):
      self._refuse(name, getattr(self, name) >= 0, "at least 0")
    choices = {"learning_rate_shape": SHAPES, "optimizer": OPTIMIZERS, "train_init": INITS, "train_stem": STEMS}
    for name, allowed in choices.items():
      self._refuse(name, getattr(self, name) in allowed, f"one of {', '.join(allowed)}")
    fits = 0 <= self.final_learning_rate <= self.learning_rate
    self._refuse("final_learning_rate", fits, f"from 0 to --learning_rate={self.learning_rate}")
    fits = 0 <= self.warmup_epochs < self.train_epochs
    self._refuse("warmup_epochs", fits, f"at least 0 and below --train_epochs={self.train_epochs}")

  def network(self, classes: int) -> NetworkConfig:
    """What `space.trained_network` takes."""
    return NetworkConfig(
      self.train_channels, self.train_cells, classes, self.train_init, self.train_stem, self.auxiliary > 0
    )

  def _refuse(self, name: str, fits: bool, wanted: str) -> None:
    if not fits:
      raise ConfigError(f"--{name}={getattr(self, name)} must be {wanted}")


def schedule(config: TrainConfig, steps: int) -> optax.Schedule:
  """Learning rate at step t = 0 .. steps-1: cosine, last + (first - last) (1 + cos(pi t / steps)) / 2, or linear,
  last + (first - last) (1 - t / steps).

  The w steps of the warm-up multiply it by (t + 1) / w.
  """
  warm = round(config.warmup_epochs * (steps // config.train_epochs))
  first, last = config.learning_rate, config.final_learning_rate

  def rate(step):  # optax's own mixes integers with floats, which JAX's strict promotion refuses
    t = jnp.asarray(step, jnp.float32)
    if config.learning_rate_shape == "cosine":
      value = (first - last) / 2 * (1 + jnp.cos(t * (math.pi / steps)))
    else:
      value = (first - last) * (1 - t / steps)
    value = value + last if last else value
    return value * jnp.minimum((t + 1) / warm, 1) if warm else value

  return rate


def drop_probability(config: TrainConfig, steps: int, step: Int[Array, ""]) -> Float32[Array, ""]:
  """Of drop-path, at this step: constant over an epoch, 0 in the first (Liu et al., released code)."""
  epoch = jnp.asarray(step // (steps // config.train_epochs), jnp.float32)
  return config.drop_path / config.train_epochs * epoch


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
  """PyTorch's SGD: g = clip(g) + wd p; v = m v + g, with v = 0 at first; p -= lr (g + m v) (Nesterov) or p -= lr v.

  Or AdamW (Loshchilov & Hutter, ICLR 2019): p -= lr (Adam(clip(g)) + wd p), without wd for biases and scales.
  """
  clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  if config.optimizer == "adamw":
    return optax.chain(
      *clip,
      _adam(config.momentum),
      optax.add_decayed_weights(config.weight_decay, mask=_decays),
      optax.scale_by_learning_rate(schedule(config, steps)),
    )
  return optax.chain(
    *clip,
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule(config, steps), momentum=config.momentum, nesterov=config.nesterov),
  )


def _adam(momentum: float) -> optax.GradientTransformation:
  adam = optax.scale_by_adam(b1=momentum, b2=0.999, eps=1e-8)

  def update(updates, state, params=None):
    with jax.numpy_dtype_promotion("standard"):  # it raises a float to the power of an integer
      return adam.update(updates, state, params)

  return optax.GradientTransformation(adam.init, update)


def _decays(params: PyTree) -> PyTree:
  """Whether AdamW's decay is for a parameter: not for biases and scales."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)
