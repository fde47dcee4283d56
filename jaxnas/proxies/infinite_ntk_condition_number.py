"""Condition number of the neural tangent kernel of infinitely many channels: TE-NAS's indicator without its draws.

    kappa = lambda_max(Theta) / lambda_min(Theta),   Theta [N, N] in closed form (`base.InfiniteWidth`)

Nothing is initialised, so a score depends on the images only. Networks have no batch normalisation; images are shrunk
to 8 x 8, since the covariances between all of their pixels must be kept. Lower is better. Source of the kernel: Jacot,
Gabriel, Hongler, NeurIPS 2018; of convolutions: Arora et al., "On Exact Computation with an Infinitely Wide Neural
Net", NeurIPS 2019. Nobody has published this proxy; what it finds is in `experiments/results/infinite_width.md`.
"""

import dataclasses
from typing import ClassVar, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas import registry
from jaxnas.base import Batch, Evaluated, InfiniteWidth, Inputs, Proxy, Reading, Source, Space, lacking
from jaxnas.data.batches import plain_batch
from jaxnas.errors import ConfigError
from jaxnas.proxies.ntk_condition_number import WORST, reading
from jaxnas.settings import setting

SIDE = 8  # pixels of an image's side
MOST = 16  # images


@dataclasses.dataclass(frozen=True)
class InfiniteConfig:
  """Settings of the proxy."""

  infinite_batch: int = setting(MOST, f"images of the kernel of infinite width, {MOST} at most")

  def __post_init__(self):
    if not 2 <= self.infinite_batch <= MOST:
      raise ConfigError(f"--infinite_batch={self.infinite_batch} must lie in [2, {MOST}]")


@dataclasses.dataclass(frozen=True)
class InfiniteNetwork:
  """The networks of a space with infinitely many channels; `base.Parametrised`, without parameters."""

  space: InfiniteWidth

  def encode(self, codes: Int[np.ndarray, "A L"]) -> np.ndarray:
    """The codes themselves, int32."""
    return codes.astype(np.int32)

  def init(self, key: Array) -> PyTree:
    """No parameters."""
    del key
    return {}

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """No parameters."""
    del arch
    return params


@registry.register("proxy", "infinite_ntk_condition_number")
@dataclasses.dataclass(frozen=True)
class InfiniteNTKConditionNumber(Proxy[InfiniteConfig]):
  """The proxy. The value is the raw ratio, with the statuses of `ntk_condition_number`."""

  name: str = "infinite_ntk_condition_number"
  higher_is_better: ClassVar[bool] = False
  worst: ClassVar[float] = WORST
  needs: ClassVar[type] = InfiniteNetwork
  Settings: ClassVar[type | None] = InfiniteConfig

  def prepare(self, space: Space, source: Source, settings: InfiniteConfig, key: jax.Array) -> Inputs:
    """No weights; images as they are, shrunk."""
    if lacking(space, InfiniteWidth):
      raise ConfigError(
        f"proxy {self.name!r}: networks of --space={space.name} have no kernel of infinite width; take "
        "ntk_condition_number_frozen"
      )
    infinite = cast(InfiniteWidth, space)
    try:
      infinite.infinite_width(space.sample(key, 1)[0])
    except ImportError as error:
      raise ConfigError(f"proxy {self.name!r}: {error}") from error
    images, _ = plain_batch(source, key, settings.infinite_batch, "--infinite_batch")
    shrunk = jax.image.resize(images, (len(images), SIDE, SIDE, 3), "linear")  # an average over the pixels left out
    return Inputs(InfiniteNetwork(infinite), Batch(np.asarray(shrunk)))

  def measure(self, evaluation: Evaluated) -> Float[Array, "N N"]:
    network = cast(InfiniteNetwork, evaluation.network)
    return network.space.infinite_width(evaluation.arch)(evaluation.inputs)

  def finish(self, measured: np.ndarray) -> Reading:
    return reading(measured)
