"""A space of cells as one object."""

import dataclasses
import pathlib
import sys
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int16

from jaxnas import base
from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.nds import benchmark
from jaxnas.spaces.nds.cells import costs, drawing, encoding, sampling
from jaxnas.spaces.nds.cells.costs import CellSize, Form
from jaxnas.spaces.nds.cells.module import NDSCellModule
from jaxnas.spaces.nds.cells.network import NDSCellNetwork
from jaxnas.spaces.nds.tables import CellTable, Variant
from jaxnas.tabular import Benchmark

_DEFAULT = NetworkConfig(classes=1000, stem="imagenet")


@dataclasses.dataclass(frozen=True)
class CellSpace:
  """A `base.Space` and `base.Tapped`; an architecture is an int16 array, see `encoding`.

  Networks have the width and depth of their architecture, unless a config says otherwise. `variant` is "trained", the
  networks of the published table (with the stem that a config asks for), or "code": with GenNAS's stem, see `costs`.
  """

  table: CellTable

  @property
  def name(self) -> str:
    """As in --space."""
    return self.table.name

  @property
  def ops(self) -> tuple[str, ...]:
    """Names of the operations."""
    return self.table.ops

  @property
  def default_config(self) -> NetworkConfig:
    """ImageNet's networks at their own sizes."""
    return _DEFAULT

  def __len__(self) -> int:
    return min(sampling.count(self.table), sys.maxsize)  # more than Python lets a length be

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
    """`changes` mutations in a row, rounded, at least one; a later one may undo an earlier one."""
    child = encoding.as_code(self.table, code)
    for one in jax.random.split(key, max(1, round(changes))):
      child = sampling.mutate(self.table, one, child)
    return child

  def neighbours(self, code: Any) -> Int16[np.ndarray, "n L"]:
    """See `sampling.neighbours`."""
    return sampling.neighbours(self.table, code)

  def is_connected(self, code: Any) -> bool:
    """See `encoding.is_connected`."""
    return encoding.is_connected(self.table, code)

  def canonical(self, code: Any) -> Hashable:
    """See `encoding.canonical`."""
    return encoding.canonical(self.table, code)

  def shape(self, code: Any) -> Hashable:
    """(width, depth)."""
    own = encoding.genotype(self.table, code)
    return own.width, own.depth

  def costs(
    self,
    code: Any,
    config: NetworkConfig | None = None,
    image_size: int | None = None,
    variant: Variant = "trained",
  ) -> base.Costs:
    """See `base.Space.costs`."""
    config = self._sized(config or _DEFAULT, self.shape(code))
    form = _form(config, variant)
    side = (224 if form == "imagenet" else 32) if image_size is None else image_size
    own = encoding.genotype(self.table, code)
    found = costs.count(own, self.table.ops, CellSize(*config.size, config.classes, form, side))
    return base.Costs(found.params, found.macs)

  def costs_on(self, code: Any, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the table's network, of ImageNet at 224 pixels whatever the side of its images."""
    side = None if source.name == "imagenet2012" else source.image_shape[0]
    return self.costs(code, dataclasses.replace(_DEFAULT, classes=source.classes), side)

  def published_costs(self, code: Any) -> base.Costs:
    """Parameters, and in place of the multiply-adds `flops`, as the published table counts them, see `costs`."""
    own = encoding.genotype(self.table, code)
    found = costs.count(own, self.table.ops, CellSize(own.width, own.depth, _DEFAULT.classes))
    return base.Costs(found.params, found.flops)

  def network(self, config: NetworkConfig, variant: Variant = "trained") -> NDSCellNetwork:
    """The network of all architectures of a shape.

    Raises:
      ConfigError: neither a shape nor both channels and cells.
    """
    return NDSCellNetwork(self._sized(config, config.shape), self.table, _form(config, variant))

  def backbone(self, config: NetworkConfig, variant: Variant = "code") -> NDSCellNetwork:
    """The network that GenNAS trains.

    Raises:
      ConfigError: as `network`; fewer than three cells, which is fewer than three taps.
    """
    network = self.network(dataclasses.replace(config, init="torch_default"), variant)
    _ = network.tap_channels  # refuses them
    return network

  def module(self, code: Any, config: NetworkConfig, variant: Variant = "trained") -> NDSCellModule:
    """See `cells.module`."""
    sized = self._sized(config, self.shape(code))
    return NDSCellModule(self.format(code), self.table, *sized.size, config.classes, _form(config, variant))

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def draw(self, code: Any, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the cells of an architecture as PNG files into `folder`."""
    return drawing.draw(self.table, code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `nds.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path, self.table, self.from_net, self.format, self.canonical)

  def _sized(self, config: NetworkConfig, shape: Hashable) -> NetworkConfig:
    """With channels and cells, those of a shape where the config leaves them open, and without the shape."""
    own = shape if isinstance(shape, tuple) and len(shape) == 2 else (None, None)
    sized = dataclasses.replace(config.filled(NetworkConfig(*own)), shape=None)
    if None in (sized.channels, sized.cells):
      raise ConfigError(
        f"channels={config.channels}, cells={config.cells}, shape={config.shape!r}: networks of {self.name} have sizes "
        "of their own; give shape=space.shape(code), or both channels and cells"
      )
    return sized


def _form(config: NetworkConfig, variant: Variant) -> Form:
  """Which stem.

  Raises:
    ConfigError: an unknown variant or stem.
  """
  if variant not in ("trained", "code") or config.stem not in ("cifar", "imagenet"):
    raise ConfigError(f"variant={variant!r}, stem={config.stem!r}: use one of trained, code; one of cifar, imagenet")
  return "code" if variant == "code" else config.stem
