"""How TE-NAS's two indicators are measured: the settings of both, and the space's supernets that they are for."""

import dataclasses
from typing import Literal, cast

from jaxnas.base import Init, Prunable, Source, Space, lacking
from jaxnas.errors import ConfigError
from jaxnas.settings import filled, setting


@dataclasses.dataclass(frozen=True)
class IndicatorConfig:
  """Defaults are the official settings of each space.

  Fields that are None take the space's published value (`base.Space.published` of "tenas").
  """

  ntk_batch: int | None = setting(
    None, "images in the NTK's batch (default: as published for the space, nb201 72, darts 14, on ImageNet 24)"
  )
  ntk_channels: int | None = setting(
    None, "channels C of the NTK's network in its first stage (default: as published, nb201 3, darts 1)"
  )
  ntk_cells: int | None = setting(
    None, "cells of the NTK's network: nb201 per stage, darts in all (default: as published, nb201 1, darts 2)"
  )
  region_batches: int = setting(3, "mini-batches of 3x3 crops for counting linear regions")
  region_samples: int = setting(1000, "crops in each of these mini-batches")
  init: Literal["kaiming", "torch_default"] = setting(
    "kaiming",
    "initialisation: 'kaiming' normal, as in the paper (fan out for the NTK, fan in for regions), or "
    "'torch_default', what the published code does in effect",
  )

  def __post_init__(self):
    if self.init not in ("kaiming", "torch_default"):
      raise ConfigError(f"--init={self.init!r} must be one of kaiming, torch_default")
    if self.ntk_batch is not None and self.ntk_batch < 2:
      raise ConfigError(f"--ntk_batch={self.ntk_batch} must be at least 2: a condition number needs two samples")
    for name in ("ntk_channels", "ntk_cells", "region_batches", "region_samples"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")

  def published(self, space: Space, source: Source) -> "IndicatorConfig":
    """These settings with the published values of TE-NAS in this space where they are None.

    Raises:
      ConfigError: a setting that is not given and that nobody published for this space.
    """
    found = filled(self, space.published("tenas", source.name))
    for name in ("ntk_batch", "ntk_channels", "ntk_cells"):
      if getattr(found, name) is None:
        raise ConfigError(f"--{name}: TE-NAS has no published value for --space={space.name}; give one")
    return found

  def drawn(self, fan: Init) -> Init:
    """How parameters are drawn: normal by this fan, or as the published code does."""
    return "torch_default" if self.init == "torch_default" else fan


def supernets_of(space: Space, proxy: str) -> Prunable:
  """The space, if it has supernets.

  Raises:
    ConfigError: it has none.
  """
  if lacking(space, Prunable):
    raise ConfigError(
      f"proxy {proxy!r} is measured on supernets, which --space={space.name} has not; take another proxy, such as "
      "ntk_condition_number_frozen"
    )
  return cast(Prunable, space)
