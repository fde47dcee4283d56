"""The recipe of a training, its optimiser, and its network.

Defaults: NAS-Bench-201 (Dong & Yang, ICLR 2020, table 1): SGD with Nesterov momentum 0.9, batch 256, learning rate 0.1
falling to 0 along a cosine, weight decay 5e-4, random flips and crops. The epochs are 12, the short training of
NATS-Bench (Dong et al., TPAMI 2021); the long one has 200.
"""

import dataclasses
import math

import jax.numpy as jnp
import optax

from jaxnas.errors import ConfigError
from jaxnas.settings import setting
from jaxnas.spaces import NB201, NetworkConfig
from jaxnas.spaces.nb201 import PlainNetwork


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Everything that a training depends on, but for architecture, data and seed."""

  train_epochs: int = setting(12, "epochs of training; NAS-Bench-201's published figures are of 200")
  train_batch: int = setting(256, "images in a mini-batch of training; an epoch drops its last, partial one")
  learning_rate: float = setting(0.1, "learning rate at the start; it falls to 0 along a cosine, step by step")
  momentum: float = setting(0.9, "Nesterov momentum of SGD")
  weight_decay: float = setting(5e-4, "coefficient of the L2 penalty's gradient, on all parameters")
  label_smoothing: float = setting(0.0, "share of a training label that is spread over all classes")
  augmentation: bool = setting(True, "flip training images at random and crop them from a frame of an eighth")
  bf16: bool = setting(False, "train in bfloat16; parameters, statistics, loss and evaluation stay float32")
  train_channels: int = setting(16, "channels C of the trained network in its first stage")
  train_cells: int = setting(5, "cells N per stage of the trained network")
  eval_batch: int = setting(500, "images in a batch of evaluation")
  checkpoint_every: int = setting(1, "epochs from one checkpoint of a training to the next; the last has one always")

  def __post_init__(self):
    for name in ("train_epochs", "train_batch", "train_channels", "train_cells", "eval_batch", "checkpoint_every"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if not 0 < self.learning_rate < math.inf:
      raise ConfigError(f"--learning_rate={self.learning_rate} must be positive and finite")
    if not 0 <= self.weight_decay < math.inf:
      raise ConfigError(f"--weight_decay={self.weight_decay} must be finite and not negative")
    for name in ("momentum", "label_smoothing"):
      if not 0 <= getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 0 and below 1")


def trained_network(space: NB201, config: TrainConfig, classes: int) -> PlainNetwork:
  """The network that is trained, for every architecture of `space`; weights are drawn as PyTorch does by default."""
  return space.plain_network(
    NetworkConfig(channels=config.train_channels, cells=config.train_cells, classes=classes, init="torch_default")
  )


def schedule(config: TrainConfig, steps: int) -> optax.Schedule:
  """Learning rate at step t = 0 .. steps-1: lr (1 + cos(pi t / steps)) / 2."""

  def rate(step):  # optax's own mixes integers with floats, which JAX's strict promotion refuses
    return config.learning_rate / 2 * (1 + jnp.cos(jnp.asarray(step, jnp.float32) * (math.pi / steps)))

  return rate


def optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
  """PyTorch's SGD: g += wd p; v = m v + g; p -= lr (g + m v), with v = 0 at first."""
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule(config, steps), momentum=config.momentum, nesterov=True),
  )
