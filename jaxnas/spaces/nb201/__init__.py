"""NAS-Bench-201: 15,625 cells of four nodes, five operations on each of six edges.

Source: Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible NAS", ICLR 2020.
"""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

from jaxnas import base, registry
from jaxnas.spaces import adapter
from jaxnas.spaces.nb201 import benchmark, costs, encoding, isomorphism
from jaxnas.spaces.nb201.backbone import Backbone
from jaxnas.spaces.nb201.mixture import Mixture
from jaxnas.spaces.nb201.network import Network, NetworkConfig
from jaxnas.spaces.nb201.plain import PlainNetwork
from jaxnas.tabular import Benchmark

__all__ = [
  "NB201",
  "Backbone",
  "Mixture",
  "Network",
  "NetworkConfig",
  "PlainNetwork",
  "costs",
  "encoding",
  "isomorphism",
]

_PUBLISHED = {"tenas": {"ntk_batch": 72, "ntk_channels": 3, "ntk_cells": 1, "prune_number": 1}}


_DEFAULT = base.NetworkConfig(16, 5, init="kaiming_fan_out")


@registry.register("space", "nb201")
@dataclasses.dataclass(frozen=True)
class NB201:
  """The space as one object: encoding, alphas, costs and network (see the modules of this package).

  An architecture is an int8 array [6] of op columns, a batch of them [A, 6]; `alphas` are [A, 1, 6, 5].
  """

  name: str = "nb201"
  ops: tuple[str, ...] = encoding.OPS
  edges: tuple[tuple[int, int], ...] = encoding.EDGES  # (target, source)
  cell_types: int = 1
  cells: int = 5  # per stage, in the benchmark
  none_op: int = encoding.OPS.index("none")
  edge_groups: tuple[tuple[int, ...], ...] = ()  # TE-NAS keeps every edge
  edges_kept: int = 0
  op_order: tuple[int, ...] = tuple(range(len(encoding.OPS)))  # of TE-NAS's code
  default_config: base.NetworkConfig = _DEFAULT

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(encoding.parse)
  format = staticmethod(encoding.format)
  index_of = staticmethod(encoding.index_of)
  from_index = staticmethod(encoding.from_index)
  enumerate_all = staticmethod(encoding.enumerate_all)
  sample = staticmethod(encoding.sample)
  mutate = staticmethod(encoding.mutate)
  resample = staticmethod(encoding.resample)
  neighbours = staticmethod(encoding.neighbours)
  alphas = staticmethod(encoding.alphas)
  from_weights = staticmethod(encoding.from_weights)
  is_connected = staticmethod(encoding.is_connected)
  canonical = staticmethod(isomorphism.canonical)
  params = staticmethod(costs.params)
  macs = staticmethod(costs.macs)

  def read_benchmark(self, path: pathlib.Path) -> Benchmark:
    """See `nb201.benchmark.read`."""
    return benchmark.read(path)

  def __len__(self) -> int:
    return encoding.NUM_ARCHS

  def shape(self, code: Any) -> Hashable:
    """None: one program serves all architectures."""
    del code

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`; the same for all data sets."""
    del dataset
    return _PUBLISHED.get(method, {})

  def network(self, config: base.NetworkConfig) -> base.Single:
    """The network of single architectures, with the benchmark's C=16 and N=5 by default."""
    return adapter.AdaptedSingle(PlainNetwork(self._sized(config)), encoding.alphas)

  def trained_network(self, config: base.NetworkConfig, code: base.Code | None = None) -> base.TrainableNetwork:
    """See `base.Trainable`: one network serves all architectures."""
    del code
    shape = (1, len(encoding.EDGES), len(encoding.OPS))
    return adapter.AdaptedTrainable(PlainNetwork(self._sized(config)), encoding.alphas, shape)

  def supernet(self, config: base.NetworkConfig) -> base.Network:
    """TE-NAS's network for the NTK: N = `config.cells` cells a stage."""
    return adapter.Adapted(Network(self._sized(config)), encoding.alphas)

  def region_network(self, config: base.NetworkConfig) -> base.Network:
    """TE-NAS's network for linear regions: the first cell at C = 1, on one-channel 3 x 3 crops, no stem."""
    own = NetworkConfig(1, 1, config.classes, stem=False, first_cell_only=True, init=config.init)
    return adapter.Adapted(Network(own), encoding.alphas)

  def _sized(self, config: base.NetworkConfig) -> NetworkConfig:
    own = adapter.plain_config(config, self.default_config, self.name)
    return NetworkConfig(*own, init=config.init)

  def mixture(self, channels: int, cells: int, classes: int, init: Any) -> Mixture:
    """The supernet whose mixing weights NASI differentiates."""
    return Mixture(NetworkConfig(channels, cells, classes, init=init))

  def backbone(self, channels: int = 16, cells: int = 5) -> Backbone:
    """The network that GenNAS trains."""
    return Backbone(channels, cells)
