"""A space of stages as one object."""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int16, Integer

from jaxnas import base
from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.nds import benchmark
from jaxnas.spaces.nds.blocks import costs, drawing, encoding, sampling
from jaxnas.spaces.nds.blocks.costs import Staged
from jaxnas.spaces.nds.blocks.module import NDSBlockModule
from jaxnas.spaces.nds.blocks.network import NDSBlockNetwork
from jaxnas.spaces.nds.tables import BlockTable, Variant
from jaxnas.tabular import Benchmark

_DEFAULT = NetworkConfig(classes=1000, init="kaiming_fan_out", stem="imagenet")


@dataclasses.dataclass(frozen=True)
class BlockSpace:
  """A `base.Space`, `base.Tapped` and `base.Tabulated`; an architecture is an int16 array, see `encoding`.

  Networks have the sizes of their architecture. The channels of a config are those of the stem, to which all others
  keep their ratio, and its cells are the most blocks of a stage. `variant` is "trained", the networks of the published
  table (with the stem that a config asks for), or "code", those that GenNAS builds of the same lists, see `costs`.
  """

  table: BlockTable

  @property
  def name(self) -> str:
    """As in --space."""
    return self.table.name

  @property
  def ops(self) -> tuple[str, ...]:
    """The kind of block."""
    return (self.table.block,)

  @property
  def default_config(self) -> NetworkConfig:
    """ImageNet's networks at their own sizes."""
    return _DEFAULT

  def __len__(self) -> int:
    return sampling.count(self.table)

  def as_codes(self, codes: Any) -> Int16[np.ndarray, "*A L"]:
    """See `encoding.as_codes`."""
    return encoding.as_codes(self.table, codes)

  def parse(self, text: str) -> Int16[np.ndarray, " L"]:
    """See `encoding.parse`."""
    return encoding.parse(self.table, text)

  def format(self, code: Any) -> str:
    """See `encoding.format`."""
    return encoding.format(self.table, code)

  def from_net(self, net: Any) -> Int16[np.ndarray, " L"]:
    """See `encoding.from_net`."""
    return encoding.from_net(self.table, net)

  def sample(self, key: jax.Array, n: int, unique: bool = True) -> Int16[np.ndarray, "n L"]:
    """See `sampling.sample`."""
    return sampling.sample(self.table, key, n, unique)

  def mutate(self, key: jax.Array, code: Any) -> Int16[np.ndarray, " L"]:
    """See `sampling.mutate`."""
    return sampling.mutate(self.table, key, code)

  def resample(self, key: jax.Array, code: Any, changes: float = 1.0) -> Int16[np.ndarray, " L"]:
    """GenNAS's mutation in all of the space, see `sampling.nearest`, which knows no number of changes."""
    del changes
    return sampling.nearest(self.table, key, code)

  def nearest(self, key: jax.Array, code: Any, among: Integer[np.ndarray, "A L"]) -> Int16[np.ndarray, " L"]:
    """GenNAS's mutation among the architectures of a benchmark, see `sampling.nearest`."""
    return sampling.nearest(self.table, key, code, among)

  def neighbours(self, code: Any) -> Int16[np.ndarray, "n L"]:
    """See `sampling.neighbours`."""
    return sampling.neighbours(self.table, code)

  def is_connected(self, code: Any) -> bool:
    """True.

    Raises:
      ArchitectureError: not one architecture.
    """
    return encoding.as_code(self.table, code).size > 0

  def canonical(self, code: Any) -> Hashable:
    """Its integers.

    Raises:
      ArchitectureError: not one architecture.
    """
    return tuple(encoding.as_code(self.table, code).tolist())

  def shape(self, code: Any) -> Hashable:
    """All of it: as good as no two networks have stages of equal shapes."""
    return self.canonical(code)

  def costs(
    self,
    code: Any,
    config: NetworkConfig | None = None,
    image_size: int | None = None,
    variant: Variant = "trained",
  ) -> base.Costs:
    """See `base.Space.costs`."""
    config = config or _DEFAULT
    small = config.stem == "cifar" or variant == "code"
    side = (32 if small else 224) if image_size is None else image_size
    params, macs, _ = costs.count(self._staged(code, config, variant), config.classes, side)
    return base.Costs(params, macs)

  def costs_on(self, code: Any, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the table's network, of ImageNet at 224 pixels whatever the side of its images."""
    side = None if source.name == "imagenet2012" else source.image_shape[0]
    return self.costs(code, dataclasses.replace(_DEFAULT, classes=source.classes), side)

  def published_costs(self, code: Any) -> base.Costs:
    """Parameters, and in place of the multiply-adds `flops`, as the published table counts them, see `costs`."""
    params, _, flops = costs.count(self._staged(code, _DEFAULT, "trained"), _DEFAULT.classes, 224)
    return base.Costs(params, flops)

  def network(self, config: NetworkConfig, variant: Variant = "trained") -> NDSBlockNetwork:
    """The network of one architecture, the config's shape.

    Raises:
      ConfigError: no shape, or sizes that do not fit.
    """
    if config.shape is None:
      raise ConfigError(f"shape=None: networks of {self.name} have sizes of their own; give shape=space.shape(code)")
    code = tuple(encoding.as_code(self.table, config.shape).tolist())
    plain = dataclasses.replace(config, channels=None, cells=None, shape=None)
    return NDSBlockNetwork(plain, self.table, code, self._staged(code, config, variant))

  def backbone(self, config: NetworkConfig, variant: Variant | None = None) -> NDSBlockNetwork:
    """The network that GenNAS trains: by default the one of its code where it has one, else the one of the table.

    Raises:
      ConfigError: as `network`.
    """
    variant = variant or ("code" if self.table.has_code else "trained")
    return self.network(dataclasses.replace(config, init="kaiming_fan_out"), variant)

  def module(self, code: Any, config: NetworkConfig, variant: Variant = "trained") -> NDSBlockModule:
    """See `blocks.module`."""
    return NDSBlockModule(self._staged(code, config, variant), config.classes)

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def draw(self, code: Any, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the stages of an architecture as a PNG file into `folder`."""
    return drawing.draw(self.table, code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `nds.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path, self.table, self.from_net, self.format, self.canonical)

  def _staged(self, code: Any, config: NetworkConfig, variant: Variant) -> Staged:
    if config.channels is not None and config.channels % 2:
      raise ConfigError(f"channels={config.channels} must be even: stems halve them")
    net = costs.resized(encoding.to_net(self.table, code), config.channels, config.cells)
    return costs.staged(net, variant, config.stem)
