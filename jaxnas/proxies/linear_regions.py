"""Number of linear regions that a sample of inputs falls into, TE-NAS's expressivity indicator.

The pattern of a sample is the sign of every executed ReLU's output (1 where positive); the score is the number of
distinct patterns. Higher is better. Exact: the official code obtains the same count, up to rounding, from half
precision matrix products. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.2.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from jaxnas import registry
from jaxnas.base import Batch, Evaluated, Inputs, Network, NetworkConfig, Proxy, Reading, Source, Space, Status
from jaxnas.data.batches import region_crops
from jaxnas.proxies.indicators import IndicatorConfig, supernets_of

SATURATED = 0.95  # share of samples with a pattern of their own beyond which the count says little


def activation_patterns(
  network: Network, params: PyTree, arch: Array, batches: Float[Array, "B n H W C"]
) -> UInt8[Array, "rows bytes"]:
  """Packed patterns [B * n, bytes] of mini-batches of inputs, each of which has its own BN statistics."""

  def patterns(batch):
    return jnp.asarray(
      network.apply(params, network.embed(params, batch), arch, "batch", collect=("patterns",)).patterns
    )

  bits = jax.vmap(patterns)(batches)
  return jnp.packbits(bits.reshape(batches.shape[0] * batches.shape[1], -1), axis=1)


@registry.register("proxy", "linear_regions")
@dataclasses.dataclass(frozen=True)
class LinearRegions(Proxy[IndicatorConfig]):
  """The proxy. A batch is [B, n, H, W, C]: B mini-batches of n inputs, normalised apart, counted together.

  A network whose output does not depend on its input has one region. The count cannot exceed B * n; within 5 % of
  that its status is `saturated`.
  """

  name: str = "linear_regions"
  worst: ClassVar[float] = 1.0
  needs: ClassVar[type] = Network
  Settings: ClassVar[type | None] = IndicatorConfig

  def prepare(self, space: Space, source: Source, settings: IndicatorConfig, key: jax.Array) -> Inputs:
    """The space's network for regions, at C=1 without stem, and fresh 3x3 crops.

    The crops take the second of the two keys that `key` splits into; the first is for the weights.
    """
    _, batch_key = jax.random.split(key)
    config = NetworkConfig(classes=source.classes, init=settings.drawn("kaiming_fan_in"))
    network = supernets_of(space, self.name).region_network(config)
    crops = region_crops(source, batch_key, batches=settings.region_batches, batch_size=settings.region_samples)
    return Inputs(network, Batch(crops))

  def measure(self, evaluation: Evaluated) -> UInt8[Array, "rows bytes"]:
    e = evaluation
    return activation_patterns(e.network, e.params, e.arch, e.inputs)

  def finish(self, measured: np.ndarray) -> Reading:
    rows = np.ascontiguousarray(measured).view(np.dtype((np.void, measured.shape[1]))).ravel()
    count = len(np.unique(rows))
    return Reading(float(count), Status.SATURATED if count >= SATURATED * len(rows) else Status.OK)
