"""Today's networks behind the contracts of `jaxnas.base`, until each space has a network that keeps them itself."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output
from jaxnas.errors import ConfigError

Encoder = Callable[[Any], np.ndarray]  # of a space: codes [A, L] -> alphas [A, cells, E, O]


def plain_config(config: NetworkConfig, default: NetworkConfig, space: str) -> tuple[int, int, int]:
  """(channels, cells, classes) of networks that have one stem and no auxiliary head.

  Raises:
    ConfigError: a setting that they do not have.
  """
  own = config.filled(default)
  if own.stem != "cifar" or own.auxiliary:
    raise ConfigError(f"stem={own.stem!r}, auxiliary={own.auxiliary}: networks of {space} have neither; drop them")
  assert own.channels is not None and own.cells is not None
  return own.channels, own.cells, own.classes


@dataclasses.dataclass(frozen=True)
class Adapted:
  """A supernet as a `base.Network`.

  Attributes:
    old: `init_params`, `with_batch_norm`, `for_rows`, `logits`, `moments` and `patterns`.
    encoder: the space's `alphas`.
  """

  old: Any
  encoder: Encoder

  @property
  def classes(self) -> int:
    return self.old.config.classes

  @property
  def rows_on_cpu(self) -> int:
    return self.old.rows_on_cpu

  def encode(self, codes: np.ndarray) -> np.ndarray:
    return self.encoder(codes)

  def init(self, key: Array) -> PyTree:
    return self.old.init_params(key)

  def start(self, params: PyTree, arch: Array) -> PyTree:
    del arch
    return params

  def embed(self, params: PyTree, inputs: Array) -> Array:
    del params
    return inputs

  def apply(
    self,
    params: PyTree,
    inputs: Array,
    arch: Array,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    if gates is not None or set(collect) - {"stats", "patterns"}:
      raise ConfigError(f"collect={tuple(collect)}: a supernet shows its stats and patterns and takes no gates")
    network = self.old.with_batch_norm(mode)
    found: dict[str, Any] = {}
    if "stats" in collect:
      found["stats"] = self.old.moments(params, inputs, arch)
    if "patterns" in collect:
      found["patterns"] = network.patterns(params, inputs, arch)
    return Output((network.for_rows() if rows else network).logits(params, inputs, arch, stats=stats), **found)


@dataclasses.dataclass(frozen=True)
class AdaptedSingle(Adapted):
  """A network of single architectures as a `base.Single`."""

  def apply(
    self,
    params: PyTree,
    inputs: Array,
    arch: Array,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    network = self.old.with_batch_norm(mode)
    network = network.for_rows() if rows else network
    if set(collect) - {"stats", "observation"}:
      raise ConfigError(f"collect={tuple(collect)}: this network shows its stats and an observation")
    if "observation" in collect:
      seen = network.observe(params, inputs, arch)
      return Output(seen.logits, observation=Observation(seen.features, seen.agreement, seen.log_deviation))
    if "stats" in collect:
      logits, seen = network.logits_and_moments(params, inputs, arch)
      return Output(logits, stats=seen)
    return Output(network.logits(params, inputs, arch, stats=stats, gates=gates))

  def executed(self, arch: Array) -> PyTree:
    return self.old.executed(arch)

  def used_channels(self, arch: Array) -> PyTree | None:
    del arch
    return None

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " layers"]:
    return self.old.by_layer(fn, *trees)

  def gates(self, samples: int) -> PyTree:
    return self.old.gates(samples)

  def costs(self, arch: Array, image_size: int = 32) -> Costs:
    counted = self.old.parameter_count(arch), self.old.mac_count(arch, image_size)
    return Costs(*(jnp.asarray(count, jnp.float32) for count in counted))


@dataclasses.dataclass(frozen=True)
class AdaptedTrainable(AdaptedSingle):
  """A network of single architectures as a `base.TrainableNetwork`.

  Attributes:
    shape: of `encoder`'s result for one architecture.
    drops: whether it has drop path.
    auxiliary: whether it has an auxiliary head.
  """

  shape: tuple[int, ...]
  drops: bool = False
  auxiliary: bool = False

  def init_stats(self) -> PyTree:
    side = {"imagenet": 224, "cifar": 32}[self.old.config.stem] if self.auxiliary else 8
    params = jax.eval_shape(self.old.init_params, jax.random.key(0))
    like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, side, side, 3), self.shape)]
    stats = jax.eval_shape(self.old.moments, params, *like)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.full(leaf.shape, path[-1].idx, jnp.float32), stats)

  def train(
    self, params: PyTree, inputs: Array, arch: Array, drop_path: Float[Array, ""] | float, key: Array | None
  ) -> Output:
    if key is not None and not self.drops:
      raise ConfigError("these networks have no drop path; drop it")
    drop = {} if key is None else {"drop_path": drop_path, "key": key}
    logits, stats = self.old.logits_and_moments(params, inputs, arch, unbiased=True, **drop)
    logits, auxiliary = logits if self.auxiliary else (logits, None)
    return Output(logits, stats=stats, auxiliary=auxiliary)


@dataclasses.dataclass(frozen=True)
class OldMixture:
  """A network on the contracts as NASI asked for it until it reads them itself."""

  new: Any
  mode: Mode = "batch"

  @property
  def config(self) -> Any:
    return self.new

  def init_params(self, key: Array) -> PyTree:
    return self.new.init(key)

  def with_batch_norm(self, mode: Mode) -> "OldMixture":
    return dataclasses.replace(self, mode=mode)

  def logits(self, params: PyTree, images: Array, weights: Array, *, stats: PyTree | None = None) -> Array:
    return self.new.apply(params, images, weights, self.mode, stats=stats).logits

  def moments(self, params: PyTree, images: Array, weights: Array) -> PyTree:
    return self.new.apply(params, images, weights, collect=("stats",)).stats


@dataclasses.dataclass(frozen=True)
class OldTapped:
  """A backbone on the contracts as GenNAS asked for it until it reads them itself."""

  new: Any

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    return self.new.tap_channels

  def encode(self, codes: np.ndarray) -> np.ndarray:
    return self.new.encode(codes)

  def init_params(self, key: Array) -> PyTree:
    return self.new.init(key)

  def init_stats(self) -> PyTree:
    return self.new.init_stats()

  def start(self, params: PyTree, arch: Array) -> PyTree:
    return self.new.start(params, arch)

  def variants(self) -> tuple["OldTapped", ...]:
    return tuple(OldTapped(own) for own in self.new.variants())

  def variant(self, arch: Array) -> Array:
    return self.new.variant(arch)

  def parameter_count(self, arch: Array) -> Array:
    return self.new.costs(arch).params

  def taps(self, params: PyTree, stats: PyTree, images: Array, arch: Array, train: bool) -> tuple[Any, PyTree]:
    if not train:
      return self.new.apply(params, images, arch, "running", stats=stats, collect=("taps",)).taps, stats
    out = self.new.apply(params, images, arch, collect=("taps", "running_stats"))
    return out.taps, jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, out.stats)
