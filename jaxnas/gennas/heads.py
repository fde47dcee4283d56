"""GenNAS's regression heads on the taps of any backbone, and the batch normalisation that they train with.

A head takes every (H / 8)-th pixel of its tap (nearest neighbour), normalises the batch and maps the channels to those
of its target by a 1x1 convolution with bias.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.nets import layers

SIDE = 8  # pixels of a target's side
MOMENTUM = 0.1  # of running statistics: the new batch's share


@dataclasses.dataclass(frozen=True)
class SignalNetwork:
  """A backbone with a head on each of its taps.

  Attributes:
    backbone: `init_params(key)`, `init_stats()`, `start(params, alphas)`, `taps(params, stats, images, alphas, train)`,
      `tap_channels`, `parameter_count(alphas)`, `variants()` and `variant(alphas)`.
    widths: channels of the three targets.
  """

  backbone: Any
  widths: tuple[int, int, int]

  def __post_init__(self):
    if len(self.widths) != 3 or min(self.widths) < 1:
      raise ConfigError(f"widths={self.widths}: give the channels of three targets, each at least 1")

  def init_params(self, key: Array) -> PyTree:
    """{"backbone": ..., "heads": [...]}."""
    own, *keys = jax.random.split(key, 1 + 2 * len(self.widths))
    heads = []
    for i, (channels, width) in enumerate(zip(self.backbone.tap_channels, self.widths, strict=True)):
      kernel = torch_uniform(keys[2 * i], (channels, width), fan_in=channels)
      bias = torch_uniform(keys[2 * i + 1], (width,), fan_in=channels)
      heads.append({"bn": new_batch_norm(channels), "conv": {"kernel": kernel, "bias": bias}})
    return {"backbone": self.backbone.init_params(own), "heads": heads}

  def init(self, key: Array) -> PyTree:
    """`init_params`, as the engine calls it."""
    return self.init_params(key)

  def encode(self, codes: Any) -> np.ndarray:
    """What of architectures enters a program."""
    return self.backbone.encode(codes)

  def init_stats(self) -> PyTree:
    """Running statistics before the first step."""
    heads = [new_statistics(channels) for channels in self.backbone.tap_channels]
    return {"backbone": self.backbone.init_stats(), "heads": heads}

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """The initial values of one architecture, from what was drawn."""
    return params | {"backbone": self.backbone.start(params["backbone"], arch)}

  def variants(self) -> tuple["SignalNetwork", ...]:
    """Networks that are faster for some architectures each; `variant(alphas)` says which one to take."""
    return tuple(dataclasses.replace(self, backbone=own) for own in self.backbone.variants())

  def variant(self, alphas: Array) -> Array:
    """Place in `variants()`, int32 []."""
    return self.backbone.variant(alphas)

  def parameter_count(self, alphas: Array) -> Float[Array, ""]:
    """Parameters that the architecture uses, heads included."""
    heads = jax.eval_shape(self.init_params, jax.random.key(0))["heads"]
    return self.backbone.parameter_count(alphas) + jnp.float32(sum(leaf.size for leaf in jax.tree.leaves(heads)))

  def outputs(
    self, params: PyTree, stats: PyTree, images: Float[Array, "N H W 3"], alphas: Array, train: bool
  ) -> tuple[tuple[Float[Array, "N 8 8 _"], ...], PyTree]:
    """What the heads predict, one [N, 8, 8, width] each, and the new running statistics."""
    taps, backbone = self.backbone.taps(params["backbone"], stats["backbone"], images, alphas, train)
    predicted, heads = [], []
    for tap, head, running in zip(taps, params["heads"], stats["heads"], strict=True):
      x, seen = batch_norm(_resized(tap), head["bn"], running, train)
      y = jnp.matmul(x, head["conv"]["kernel"], precision=lax.Precision.HIGHEST)
      predicted.append(y + head["conv"]["bias"][None, None, None])
      heads.append(seen)
    return tuple(predicted), {"backbone": backbone, "heads": heads}


def _resized(x: Array) -> Array:
  """Nearest neighbour: row floor(i H / 8), column floor(j W / 8)."""
  rows, columns = (np.arange(SIDE) * size // SIDE for size in x.shape[1:3])
  return x if x.shape[1:3] == (SIDE, SIDE) else x[:, rows][:, :, columns]


def new_batch_norm(channels: int) -> PyTree:
  """Scale 1 and bias 0."""
  return {"scale": jnp.ones((channels,), jnp.float32), "bias": jnp.zeros((channels,), jnp.float32)}


def new_statistics(channels: int) -> PyTree:
  """Running mean 0 and variance 1."""
  return {"mean": jnp.zeros((channels,), jnp.float32), "var": jnp.ones((channels,), jnp.float32)}


def batch_norm(x: Array, bn: PyTree, stats: PyTree, train: bool) -> tuple[Array, PyTree]:
  """Normalised, scaled and shifted x, and the new running statistics.

  In training the batch's mean and biased variance normalise; the running variance takes in the unbiased one.
  """
  if train:
    mean, var = layers.batch_moments(x)
    count = x.size // x.shape[-1]
    seen = {"mean": mean, "var": var * (count / max(1, count - 1))}
    new = jax.tree.map(lambda old, now: (1 - MOMENTUM) * old + MOMENTUM * lax.stop_gradient(now), stats, seen)
  else:
    mean, var, new = stats["mean"], stats["var"], stats
  return layers.normalise(x, mean, var) * bn["scale"][None, None, None] + bn["bias"][None, None, None], new


def torch_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
  """Values of PyTorch's default initialisation, uniform within 1 / sqrt(fan in)."""
  bound = fan_in**-0.5
  return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
