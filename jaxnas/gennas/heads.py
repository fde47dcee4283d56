"""GenNAS's regression heads on the taps of any backbone.

A head takes every (H / 8)-th pixel of its tap (nearest neighbour), normalises the batch and maps the channels to those
of its target by a 1x1 convolution with bias.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, PyTree

from jaxnas.base import Costs, Dispatched, Selections, TappedNetwork
from jaxnas.errors import ConfigError
from jaxnas.nets import layers
from jaxnas.nets.initialise import torch_uniform
from jaxnas.nets.products import matmul

SIDE = 8  # pixels of a target's side
MOMENTUM = 0.1  # of running statistics: the new batch's share


class Learner:
  """What GenNAS's regression trains: a `SignalNetwork` on images, or a `sequences.SequenceLearner`."""


@dataclasses.dataclass(frozen=True)
class SignalNetwork(Learner):
  """A backbone with a head on each of its taps.

  Where an architecture has only the first channels of a tap, its head has zeros behind theirs, which stay: their
  gradients are zero.

  Attributes:
    backbone: see `TappedNetwork`.
    widths: channels of the three targets.
  """

  backbone: TappedNetwork
  widths: tuple[int, int, int]

  def __post_init__(self):
    if len(self.widths) != 3 or min(self.widths) < 1:
      raise ConfigError(f"widths={self.widths}: give the channels of three targets, each at least 1")

  def encode(self, codes: Int[np.ndarray, "A L"]) -> np.ndarray:
    """As the backbone does."""
    return self.backbone.encode(codes)

  def init(self, key: Array) -> PyTree:
    """{"backbone": ..., "heads": [...]}."""
    own, *keys = jax.random.split(key, 1 + 2 * len(self.widths))
    heads = []
    for i, (channels, width) in enumerate(zip(self.backbone.tap_channels, self.widths, strict=True)):
      kernel = torch_uniform(keys[2 * i], (channels, width), fan_in=channels)
      bias = torch_uniform(keys[2 * i + 1], (width,), fan_in=channels)
      norm = {"scale": jnp.ones((channels,), jnp.float32), "bias": jnp.zeros((channels,), jnp.float32)}
      heads.append({"bn": norm, "conv": {"kernel": kernel, "bias": bias}})
    return {"backbone": self.backbone.init(own), "heads": heads}

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: mean 0, variance 1."""
    heads = [
      (jnp.zeros((channels,), jnp.float32), jnp.ones((channels,), jnp.float32))
      for channels in self.backbone.tap_channels
    ]
    return {"backbone": self.backbone.init_stats(), "heads": heads}

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """The initial values of one architecture, from what was drawn: heads are uniform within its own fan in."""
    used = self.backbone.used_taps(arch)
    heads = params["heads"] if used is None else [_narrowed(head, used[i]) for i, head in enumerate(params["heads"])]
    return {"backbone": self.backbone.start(params["backbone"], arch), "heads": heads}

  def variants(self) -> tuple["SignalNetwork", ...]:
    """Networks that are faster for some architectures each; `variant(arch)` says which one to take."""
    return tuple(dataclasses.replace(self, backbone=own) for own in self.backbone.variants())

  def variant(self, arch: Array) -> Int[Array, ""]:
    """Place in `variants()`, int32."""
    return self.backbone.variant(arch)

  def costs(self, arch: Array, image_size: int = 32) -> Costs:
    """Those of the backbone and the heads' parameters, float32."""
    own, used = self.backbone.costs(arch, image_size), self.backbone.used_taps(arch)
    channels = jnp.asarray(self.backbone.tap_channels if used is None else used, jnp.float32)
    widths = jnp.asarray(self.widths, jnp.float32)
    return own._replace(params=own.params + (channels * (2 + widths) + widths).sum())

  def predict(
    self, params: PyTree, stats: PyTree, images: Float[Array, "N H W 3"], arch: Array, train: bool
  ) -> tuple[tuple[Float[Array, "N 8 8 _"], ...], PyTree]:
    """What the heads predict, one [N, 8, 8, width] each, and the new running statistics.

    Args:
      train: normalise by the batch's statistics and move the running ones a tenth towards them (variances of n - 1);
        else normalise by the running ones, which stay.
    """
    tail = params["backbone"], images, arch
    if train:
      out = self.backbone.apply(*tail, "batch", collect=("taps", "running_stats"))
      backbone = _moved(stats["backbone"], out.stats)
    else:
      out, backbone = (
        self.backbone.apply(*tail, "running", stats=stats["backbone"], collect=("taps",)),
        stats["backbone"],
      )
    assert out.taps is not None
    predicted, heads = [], []
    for tap, head, running in zip(out.taps, params["heads"], stats["heads"], strict=True):
      x, seen = _normalised(_resized(tap), head["bn"], running, train)
      y = matmul(x, head["conv"]["kernel"])
      predicted.append(y + head["conv"]["bias"][None, None, None])
      heads.append(seen)
    return tuple(predicted), {"backbone": backbone, "heads": heads}


@dataclasses.dataclass(frozen=True)
class DispatchedSignalNetwork(SignalNetwork):
  """The same on a backbone that is `base.Dispatched`, and so it is."""

  def choices(self, archs: Num[np.ndarray, "A ..."]) -> Sequence[Selections]:
    """Those of the backbone."""
    return cast(Dispatched, self.backbone).choices(archs)

  def by_program(
    self, archs: Num[np.ndarray, "A ..."]
  ) -> list[tuple["DispatchedSignalNetwork", Int[np.ndarray, " a"]]]:
    """As the backbone does."""
    parts = cast(Dispatched, self.backbone).by_program(archs)
    return [(dataclasses.replace(self, backbone=backbone), rows) for backbone, rows in parts]


def signal_network(backbone: TappedNetwork, widths: tuple[int, int, int]) -> SignalNetwork:
  """The backbone with its heads."""
  return (DispatchedSignalNetwork if isinstance(backbone, Dispatched) else SignalNetwork)(backbone, widths)


def _narrowed(head: PyTree, used: Int[Array, ""]) -> PyTree:
  """The head of a tap of which only the first channels are in use."""
  kernel, bias = head["conv"]["kernel"], head["conv"]["bias"]
  there = np.arange(len(kernel), dtype=np.int32) < used
  gain = jnp.sqrt(len(kernel) / used.astype(kernel.dtype))
  return {**head, "conv": {"kernel": jnp.where(there, gain, 0)[:, None] * kernel, "bias": gain * bias}}


def _resized(x: Array) -> Array:
  """Nearest neighbour: row floor(i H / 8), column floor(j W / 8)."""
  rows, columns = (np.arange(SIDE) * size // SIDE for size in x.shape[1:3])
  return x if x.shape[1:3] == (SIDE, SIDE) else x[:, rows][:, :, columns]


def _normalised(x: Array, bn: PyTree, stats: PyTree, train: bool) -> tuple[Array, PyTree]:
  """Normalised, scaled and shifted x, and the new running statistics."""
  mean, var = layers.batch_moments(x) if train else stats
  new = stats
  if train:
    count = x.size // x.shape[-1]
    new = _moved(stats, lax.stop_gradient((mean, var * (count / max(1, count - 1)))))
  return layers.normalise(x, mean, var) * bn["scale"][None, None, None] + bn["bias"][None, None, None], new


def _moved(old: PyTree, seen: PyTree) -> PyTree:
  return jax.tree.map(lambda running, now: (1 - MOMENTUM) * running + MOMENTUM * now, old, seen)
