"""The network that is trained for an architecture of a space, and what it costs."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxnas.base import Code, Sequences, Source, Space, Trainable, TrainableNetwork, lacking
from jaxnas.errors import ConfigError, naming
from jaxnas.train.recipe import TrainConfig
from jaxnas.train.steps import check_step

_SIDES = {"cifar": 32, "imagenet": 224}  # of images, by stem
_EXTRAS = {"drop_path": 0, "auxiliary": 0, "train_stem": "cifar"}  # that not every space has, and their defaults


def trained_network(space: Space, config: TrainConfig, classes: int, code: Code | None = None) -> TrainableNetwork:
  """The network of the recipe; its weights are drawn as PyTorch does by default, unless the recipe says otherwise.

  Args:
    code: the only architecture that it will be trained for; some spaces' networks are then quicker to compile.

  Raises:
    ConfigError: a space without networks to train, or a setting that its networks do not have.
  """
  if lacking(space, Trainable):
    raise ConfigError(f"--space={space.name} has no networks to train; take another")
  try:
    with naming("train"):
      network = cast(Trainable, space).trained_network(config.network(classes), code)
    if config.drop_path and not lacking(space, Sequences):
      raise ConfigError("networks of sequences have no drop path; drop it")
    if config.drop_path:
      codes = space.sample(jax.random.key(0), 1) if code is None else code[None]
      side = _SIDES[config.train_stem]
      check_step(network, jnp.asarray(network.encode(codes)[0]), config, (side, side, 3))
  except ConfigError as error:
    extras = [f"--{name}={getattr(config, name)}" for name, usual in _EXTRAS.items() if getattr(config, name) != usual]
    raise ConfigError(f"{', '.join(extras)}: {error}" if extras else str(error)) from error
  return network


def trained_costs(space: Space, arch: Any, config: TrainConfig, classes: int, image_size: int) -> tuple[int, int]:
  """Parameters and multiply-adds per image of the trained network, without the auxiliary head.

  Raises:
    ArchitectureError: `arch` is none of the space.
    ConfigError: an image size that the network's stem cannot take.
  """
  with naming("train"):
    return tuple(space.costs(space.as_codes(arch), config.network(classes), image_size))


def refuse_source(space: Space, source: Source) -> None:
  """Refuses images where a space's networks read sequences, and sequences where they read images.

  Raises:
    ConfigError: it is so.
  """
  kinds, images = ("sequences", "images"), len(source.image_shape) == 3
  if images == bool(lacking(space, Sequences)):
    return
  got, wanted = kinds[images], kinds[not images]
  raise ConfigError(
    f"--dataset={source.name} has {got}, and --space={space.name} reads {wanted}; give a set of {wanted}"
  )
