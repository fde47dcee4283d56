"""The network that is trained for an architecture of a space, and what it costs."""

from typing import Any

from jaxnas.errors import ConfigError
from jaxnas.spaces.darts import costs as darts_costs
from jaxnas.spaces.darts.plain import NetworkConfig as DARTSConfig
from jaxnas.spaces.darts.plain import PlainNetwork
from jaxnas.spaces.nb201 import NetworkConfig
from jaxnas.train.protocol import Trainable
from jaxnas.train.recipe import TrainConfig

SPACES = ("nb201", "darts")


def trained_network(space: Any, config: TrainConfig, classes: int, arch: Any | None = None) -> Trainable:
  """The network of the recipe; its weights are drawn as PyTorch does by default, unless the recipe says otherwise.

  Args:
    space: `NB201` or `DARTS`.
    arch: the only architecture that it will be trained for (as `space.as_codes` takes it): in the DARTS space the
      network is then made for it and quicker to compile. In NB201 one network serves all.

  Raises:
    ConfigError: another space, or a setting that the space's networks do not have.
  """
  if space.name not in SPACES:
    raise ConfigError(f"--space={space.name} has no networks to train; take one of {', '.join(SPACES)}")
  size: dict[str, Any] = {"channels": config.train_channels, "cells": config.train_cells, "classes": classes}
  if space.name == "darts":
    genotype = None if arch is None else tuple(space.as_codes(arch).tolist())
    extra = {"stem": config.train_stem, "auxiliary": config.auxiliary > 0, "genotype": genotype}
    return PlainNetwork(DARTSConfig(**size, **extra, init=config.train_init))
  for name, default in (("drop_path", 0), ("auxiliary", 0), ("train_stem", "cifar")):
    if getattr(config, name) != default:
      raise ConfigError(f"--{name}={getattr(config, name)} is for --space=darts; drop it for --space={space.name}")
  return space.plain_network(NetworkConfig(**size, init=config.train_init))


def trained_costs(space: Any, arch: Any, config: TrainConfig, classes: int, image_size: int) -> tuple[int, int]:
  """Parameters and multiply-adds per image of the trained network, without the auxiliary head.

  Raises:
    ArchitectureError: `arch` is none of the space.
    ConfigError: an image size that the network's stem cannot take.
  """
  width, cells = config.train_channels, config.train_cells
  if space.name == "darts":
    network = darts_costs.Evaluation(width, cells, classes, image_size, config.train_stem)
    if config.auxiliary:
      darts_costs.auxiliary_cost(network)  # refuses sizes that its pooling cannot take
    return space.params(arch, network), space.macs(arch, network)
  return space.params(arch, width, cells, classes), space.macs(arch, image_size, width, cells, classes)
