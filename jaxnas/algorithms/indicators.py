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
from jaxnas.spaces import NB201, NetworkConfig


@dataclasses.dataclass(frozen=True)
class IndicatorConfig:
  """Defaults are the official settings for NAS-Bench-201, except for `batch_norm` (the code has `batch`)."""

  batch_norm: Literal["batch_frozen", "batch"] = setting(
    "batch_frozen",
    "batch normalisation in the NTK: 'batch' differentiates through the mini-batch statistics, exactly as the "
    "published code does; 'batch_frozen' takes them as constants and is about 11 times cheaper",
  )
  ntk_batch: int = setting(72, "images in the NTK's batch")
  ntk_channels: int = setting(3, "channels C of the NTK's network in its first stage")
  ntk_cells: int = setting(1, "cells N per stage of the NTK's network")
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
    if self.ntk_batch < 2:
      raise ConfigError(f"--ntk_batch={self.ntk_batch} must be at least 2: a condition number needs two samples")
    for name in ("ntk_channels", "ntk_cells", "region_batches", "region_samples"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")


class Indicator(NamedTuple):
  """A proxy with the network, weights and batch it is to see."""

  proxy: proxies.Proxy
  network: Any
  params: PyTree
  batch: np.ndarray


def condition_number(space: NB201, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """NTK condition number with fresh weights and a fresh augmented batch of images."""
  init_key, batch_key = jax.random.split(key)
  fan = "torch_default" if config.init == "torch_default" else "kaiming_fan_out"
  network = space.network(
    NetworkConfig(channels=config.ntk_channels, cells=config.ntk_cells, classes=source.classes, init=fan)
  )
  images = data.augmented_batch(source, batch_key, config.ntk_batch)
  proxy = proxies.ntk_condition_number(config.batch_norm)
  return Indicator(proxy, network, network.init_params(init_key), images)


def regions(space: NB201, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """Linear regions of the first cell at C=1, without stem, with fresh weights and fresh 3x3 crops."""
  init_key, batch_key = jax.random.split(key)
  fan = "torch_default" if config.init == "torch_default" else "kaiming_fan_in"
  network = space.network(
    NetworkConfig(channels=1, cells=1, classes=source.classes, stem=False, first_cell_only=True, init=fan)
  )
  crops = data.region_crops(source, batch_key, batches=config.region_batches, batch_size=config.region_samples)
  return Indicator(proxies.linear_regions(), network, network.init_params(init_key), crops)
