"""TE-NAS's two indicators, ready to be measured: with network, weights and inputs, for any algorithm."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from jaxnas.base import Batch, Parametrised, Proxy
from jaxnas.data import ImageSource
from jaxnas.proxies.indicators import IndicatorConfig
from jaxnas.proxies.linear_regions import LinearRegions
from jaxnas.proxies.ntk_condition_number import SupernetConditionNumber
from jaxnas.settings import filled, setting

__all__ = ["Indicator", "IndicatorConfig", "condition_number", "regions", "resolve", "setting"]


def resolve(config: Any, space: Any) -> Any:
  """`config`, and the configs in it, with the space's published values where they are None."""
  return filled(config, space.published("tenas", ""))


class Indicator(NamedTuple):
  """A proxy with the network, weights and batch it is to see."""

  proxy: Proxy
  network: Parametrised
  params: PyTree
  batch: Batch


def condition_number(space: Any, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """NTK condition number with fresh weights and a fresh augmented batch of images."""
  return _prepared(SupernetConditionNumber(batch_norm=config.batch_norm), space, source, config, key)


def regions(space: Any, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  """Linear regions with fresh weights and fresh 3x3 crops."""
  return _prepared(LinearRegions(), space, source, config, key)


def _prepared(proxy: Proxy, space: Any, source: ImageSource, config: IndicatorConfig, key: Array) -> Indicator:
  inputs = proxy.prepare(space, source, config, key)
  init_key, _ = jax.random.split(key)
  return Indicator(proxy, inputs.network, inputs.network.init(init_key), inputs.batch)
