"""Proxies over architectures, for any algorithm: each on the network and inputs that it asks for."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxnas import scoring
from jaxnas.base import Batch, Context, NetworkConfig, Proxy, Single, Space
from jaxnas.data.batches import plain_batch
from jaxnas.errors import ConfigError, naming
from jaxnas.scoring import Engine, Score
from jaxnas.settings import setting

CHANNELS = 16  # of scored networks of spaces whose architectures have no sizes of their own


@dataclasses.dataclass(frozen=True)
class UsualInputs:
  """The network and the batch of all proxies that prepare none of their own."""

  score_batch: int = setting(32, "images N in the batch that architectures are scored on")
  score_channels: int | None = setting(
    None,
    "channels C of the scored networks in their first stage; default: 16, or (nds) an architecture's own",
    later=True,
  )
  score_cells: int | None = setting(
    None,
    "cells of the scored networks (default: per stage as in the benchmark, nb201 5, nb101 3; in all as in the search, "
    "darts 8; nds: an architecture's own)",
  )
  score_side: int | None = setting(
    None,
    "side of the images of a data set whose own have many sizes (imagenet2012), their middle; default: 32, all of it",
    later=True,
  )
  score_init: Literal["torch_default", "kaiming_fan_out", "kaiming_fan_in"] = setting(
    "torch_default", "initialisation of the scored networks"
  )

  def __post_init__(self):
    for name, least in (("score_channels", 1), ("score_cells", 1), ("score_side", 8)):
      value = getattr(self, name)
      if value is not None and value < least:
        raise ConfigError(f"--{name}={value} must be at least {least}")
    if self.score_batch < 2:
      raise ConfigError(f"--score_batch={self.score_batch} must be at least 2: kernels compare samples")

  def networks(self, space: Space, classes: int) -> Callable[[Hashable], Single]:
    """Makes the network of a shape: with the stem of the space's default, and a size of its own where that has none."""
    default = space.default_config
    own = default.channels is None
    channels = CHANNELS if self.score_channels is None and not own else self.score_channels
    return networks(space, NetworkConfig(channels, self.score_cells, classes, self.score_init, default.stem), "score")


def networks(space: Space, config: NetworkConfig, flags: str) -> Callable[[Hashable], Single]:
  """Makes the network of a shape; what it refuses names --FLAGS_channels and --FLAGS_cells."""

  def made(shape: Hashable) -> Single:
    with naming(flags):
      return space.network(dataclasses.replace(config, shape=shape))

  return made


def passes(proxies: Sequence[Proxy]) -> int:
  """How often `measure` visits an architecture in a repeat."""
  own = sum(proxy.Settings is not None for proxy in proxies)
  return own + (own < len(proxies))


def unable(context: Context, proxy: Proxy, inputs: UsualInputs) -> str:
  """Why a proxy cannot be measured in this context, "" if it can."""
  if proxy.Settings is None and inputs.score_batch < proxy.least_inputs:
    return f"needs --score_batch={proxy.least_inputs}"
  try:
    if proxy.Settings is not None:
      proxy.prepare(context.space, context.source, context.settings_of(proxy), jax.random.key(0))
      return ""
    shape = context.space.shape(context.space.sample(jax.random.key(0), 1)[0])
    network = inputs.networks(context.space, context.source.classes)(shape)
    needs = proxy.needs
    return "" if isinstance(network, needs) else f"its networks are no {needs.__module__}.{needs.__qualname__}"
  except ConfigError as error:
    return str(error)


def measure(
  context: Context,
  proxies: Sequence[Proxy],
  inputs: UsualInputs,
  archs: Int[np.ndarray, "A L"],
  seed: int,
  *,
  repeats: int = 1,
  share_weights: bool = True,
) -> list[Score]:
  """Scores of every architecture by every proxy.

  Proxies without `Settings` share passes through the usual network; each of the others has its own, with what
  `Proxy.prepare` gives.

  Args:
    context: of the search; its settings are not read.
    share_weights: one initialisation for all architectures of a repeat, of proxies that do not insist on own ones.

  Raises:
    JaxnasError: as `scoring.score` and `Proxy.prepare`, those of the latter before anything is measured.
  """
  engine = context.engine or Engine()
  usual = [proxy for proxy in proxies if proxy.Settings is None]
  own = [proxy for proxy in proxies if proxy.Settings is not None]

  def prepare(proxy: Proxy, key: Array):
    return proxy.prepare(context.space, context.source, context.settings_of(proxy), key)

  def score(some: Sequence[Proxy], batches, network, shared: bool) -> list[Score]:
    return scoring.score(
      some,
      context.space,
      archs,
      batches,
      seed,
      network=network,
      repeats=repeats,
      share_weights=shared,
      engine=engine,
      records=context.records,
      keep=context.keep,
      advance=context.advance,
    )

  prepared = [prepare(proxy, jax.random.key(seed)) for proxy in own]
  lines: list[Score] = []
  if usual:

    def images(repeat: int, key: Array) -> Batch:
      del repeat
      return Batch(*plain_batch(context.source, key, inputs.score_batch, "--score_batch"))

    lines += score(usual, images, inputs.networks(context.space, context.source.classes), share_weights)
  for proxy, first in zip(own, prepared, strict=True):

    def batch(repeat: int, key: Array, proxy: Proxy = proxy) -> Batch:
      del repeat
      return prepare(proxy, key).batch

    lines += score([proxy], batch, first.network, share_weights and not first.own_weights)
  return lines
