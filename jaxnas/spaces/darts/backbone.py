"""The DARTS network that GenNAS trains on signals: it is tapped before each reduction cell and after the last cell.

The published searches of GenNAS do not have this space; stages and heads are as in NAS-Bench-201.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.errors import ConfigError
from jaxnas.gennas.heads import MOMENTUM
from jaxnas.spaces.darts import encoding
from jaxnas.spaces.darts.layout import NetworkConfig
from jaxnas.spaces.darts.plain import PlainNetwork


@dataclasses.dataclass(frozen=True)
class Backbone:
  """Pure functions of parameters, images and one-hot alphas, as `SignalNetwork` takes them.

  Attributes:
    channels: C of the first cell.
    cells: how many, at least 3: there are then two reduction cells, and three taps.
  """

  channels: int = 16
  cells: int = 8

  encode = staticmethod(encoding.alphas)

  def __post_init__(self):
    if self.cells < 3:
      raise ConfigError(f"cells={self.cells} must be at least 3: the taps are three stages of cells")

  @property
  def network(self) -> PlainNetwork:
    """The network without its classifier's meaning."""
    return PlainNetwork(NetworkConfig(channels=self.channels, cells=self.cells))

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Channels of the three taps: a cell concatenates four nodes."""
    return 4 * self.channels, 8 * self.channels, 16 * self.channels

  def init_params(self, key: Array) -> PyTree:
    """Fresh float32 parameters, Kaiming normal by the fan out."""
    return self.network.init_params(key)

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: means 0, variances 1."""
    return self.network.init_stats()

  def start(self, params: PyTree, alphas: Array) -> PyTree:
    """Initial values of one architecture: as drawn."""
    del alphas
    return params

  def variants(self) -> tuple["Backbone", ...]:
    """One network serves all architectures."""
    return (self,)

  def variant(self, alphas: Array) -> Int[Array, ""]:
    """Place in `variants()`."""
    del alphas
    return jnp.int32(0)

  def parameter_count(self, alphas: Float[Array, "2 14 8"]) -> Float[Array, ""]:
    """Parameters of the architecture, without classifier and heads; float32."""
    classifier = jax.eval_shape(self.init_params, jax.random.key(0))["classifier"]
    return self.network.parameter_count(alphas) - float(sum(leaf.size for leaf in jax.tree.leaves(classifier)))

  def taps(
    self, params: PyTree, stats: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "2 14 8"], train: bool
  ) -> tuple[tuple[Array, ...], PyTree]:
    """The taps [N, H, W, 4C], [N, H/2, W/2, 8C], [N, H/4, W/4, 16C], and the new statistics.

    Args:
      train: normalise by the batch and move the running statistics; else normalise by the latter, which stay.
    """
    if not train:
      return self.network.with_batch_norm("running").taps(params, images, alphas, stats=stats)[0], stats
    taps, seen = self.network.taps(params, images, alphas)
    return taps, jax.tree.map(lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * new, stats, seen)
