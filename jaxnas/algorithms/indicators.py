"""How TE-NAS's two indicators are measured: networks, initialisations and inputs, for any algorithm."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxnas import data, proxies
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.settings import setting
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb201 import NB201


@dataclasses.dataclass(frozen=True)
class IndicatorConfig:
  """Defaults are the official settings of each space, except for `batch_norm` (the code has `batch`).

  Fields that are 0 take the space's published value, see `resolve`.
  """

  batch_norm: Literal["batch_frozen", "batch"] = setting(
    "batch_frozen",
    "batch normalisation in the NTK: 'batch' differentiates through the mini-batch statistics, exactly as the "
    "published code does; 'batch_frozen' takes them as constants and is about 11 times cheaper",
  )
  ntk_batch: int = setting(0, "images in the NTK's batch; 0: as published for the space (nb201 72, darts 14)")
  ntk_channels: int = setting(
    0, "channels C of the NTK's network in its first stage; 0: as published (nb201 3, darts 1)"
  )
  ntk_cells: int = setting(
    0, "cells of the NTK's network: nb201 per stage, darts in all; 0: as published (nb201 1, darts 2)"
  )
  region_batches: int = setting(3, "mini-batches of 3x3 crops for counting linear regions")
  region_samples: int = setting(1000, "crops in each of these mini-batches")
  init: Literal["kaiming", "torch_default"] = setting(
    "kaiming",
    "initialisation: 'kaiming' normal, as in the paper (fan out for the NTK, fan in for regions), or "
    "'torch_default', what the published code does in effect",
  )

  def __post_init__(self):
    choices = {"batch_norm": ("batch_frozen", "batch"), "init": ("kaiming", "torch_default")}
    for name, allowed in choices.items():
      if getattr(self, name) not in allowed:
        raise ConfigError(f"--{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
    if self.ntk_batch == 1 or self.ntk_batch < 0:
      raise ConfigError(f"--ntk_batch={self.ntk_batch} must be at least 2: a condition number needs two samples")
    for name, least in (("ntk_channels", 0), ("ntk_cells", 0), ("region_batches", 1), ("region_samples", 1)):
      if getattr(self, name) < least:
        raise ConfigError(
          f"--{name}={getattr(self, name)} must be at least {least or '1, or 0 for the published value'}"
        )


def resolve(config: Any, space: Any) -> Any:
  """`config`, and the configs in it, with the space's published values (`space.tenas`) where they say 0.

  A space that TE-NAS has no settings for changes nothing.
  """
  published = getattr(space, "tenas", None)
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      changes[field.name] = resolve(value, space)
    elif value == 0 and hasattr(published, field.name):
      changes[field.name] = getattr(published, field.name)
  return dataclasses.replace(config, **changes)


class Indicator(NamedTuple):
  """A proxy with the network, weights and batch it is to see."""

  proxy: proxies.Proxy
  network: Any
  params: PyTree
  batch: np.ndarray


def condition_number(space: NB201 | DARTS, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """NTK condition number with fresh weights and a fresh augmented batch of images."""
  config = resolve(config, space)
  init_key, batch_key = jax.random.split(key)
  fan = "torch_default" if config.init == "torch_default" else "kaiming_fan_out"
  network = space.supernet(config.ntk_channels, config.ntk_cells, source.classes, fan)
  images = data.augmented_batch(source, batch_key, config.ntk_batch)
  proxy = proxies.ntk_condition_number(config.batch_norm)
  return Indicator(proxy, network, network.init_params(init_key), images)


def regions(space: NB201 | DARTS, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """Linear regions of the space's network for them, at C=1 without stem, with fresh weights and fresh 3x3 crops."""
  init_key, batch_key = jax.random.split(key)
  fan = "torch_default" if config.init == "torch_default" else "kaiming_fan_in"
  network = space.region_supernet(source.classes, fan)
  crops = data.region_crops(source, batch_key, batches=config.region_batches, batch_size=config.region_samples)
  return Indicator(proxies.linear_regions(), network, network.init_params(init_key), crops)
