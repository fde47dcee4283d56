"""NAS-Bench-101: 423,624 cells of up to seven vertices and nine edges, three operations.

Source: Ying et al., "NAS-Bench-101: Towards Reproducible NAS", ICML 2019.
"""

import dataclasses
import pathlib
from typing import Any

from jaxnas import registry
from jaxnas.spaces.nb101 import benchmark, channels, costs, encoding, isomorphism
from jaxnas.spaces.nb101.network import PlainNetwork
from jaxnas.spaces.nb101.parameters import NetworkConfig
from jaxnas.tabular import Benchmark

__all__ = ["NB101", "NetworkConfig", "PlainNetwork", "channels", "costs", "encoding", "isomorphism"]


@registry.register("space", "nb101")
@dataclasses.dataclass(frozen=True)
class NB101:
  """The space as one object: encoding, alphas, costs and network (see the modules of this package).

  An architecture is an int8 array [28] of edges and op columns, a batch of them [A, 28]; `alphas` are [A, 1, 7, 11].
  """

  name: str = "nb101"
  ops: tuple[str, ...] = encoding.OPS
  edges: tuple[tuple[int, int], ...] = encoding.EDGES  # (target, source)
  cell_types: int = 1
  cells: int = 3  # modules per stack, in the benchmark

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(encoding.parse)
  format = staticmethod(encoding.format)
  from_cell = staticmethod(encoding.from_cell)
  to_cell = staticmethod(encoding.to_cell)
  prune = staticmethod(encoding.prune)
  sample = staticmethod(encoding.sample)
  mutate = staticmethod(encoding.mutate)
  resample = staticmethod(encoding.mutate)
  alphas = staticmethod(encoding.alphas)
  is_connected = staticmethod(encoding.is_connected)
  canonical = staticmethod(isomorphism.canonical)
  index_of = staticmethod(isomorphism.index_of)
  params = staticmethod(costs.params)
  macs = staticmethod(costs.macs)

  def read_benchmark(self, path: pathlib.Path) -> Benchmark:
    """See `nb101.benchmark.read`."""
    return benchmark.read(path)

  def __len__(self) -> int:
    return isomorphism.NUM_UNIQUE

  def plain_network(self, config: NetworkConfig | None = None) -> PlainNetwork:
    """The network of single architectures, with 16 channels by default (the benchmark trains 128)."""
    return PlainNetwork(config or NetworkConfig())

  def single_network(self, channels: int, cells: int, classes: int, init: Any) -> PlainNetwork:
    """`plain_network` of these settings; `init` is for spaces that have a choice."""
    del init
    return PlainNetwork(NetworkConfig(channels, cells, classes))

  def backbone(self, channels: int = 16, cells: int = 3) -> PlainNetwork:
    """The network that GenNAS trains."""
    return PlainNetwork(NetworkConfig(channels, cells))
