"""NAS-Bench-201: 15,625 cells of four nodes, five operations on each of six edges.

Source: Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible NAS", ICLR 2020.
"""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

from jaxtyping import PyTree

from jaxnas import base, registry
from jaxnas.spaces.mapping import gather
from jaxnas.spaces.nb201 import benchmark, costs, drawing, encoding, infinite_width, isomorphism, mapping
from jaxnas.spaces.nb201.module import NB201Module
from jaxnas.spaces.nb201.roles import Backbone, RegionNetwork, SingleNetwork, Supernet
from jaxnas.tabular import Benchmark

__all__ = [
  "NB201",
  "Backbone",
  "RegionNetwork",
  "SingleNetwork",
  "Supernet",
  "costs",
  "encoding",
  "isomorphism",
]

_PUBLISHED = {"tenas": {"ntk_batch": 72, "ntk_channels": 3, "ntk_cells": 1, "prune_number": 1}}

_DEFAULT = base.NetworkConfig(16, 5, init="kaiming_fan_out")  # the benchmark's size


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
  cell_names: tuple[str, ...] = ("cell",)
  default_config: base.NetworkConfig = _DEFAULT
  none_op: int = encoding.OPS.index("none")
  edge_groups: tuple[tuple[int, ...], ...] = ()  # TE-NAS keeps every edge
  edges_kept: int = 0
  op_order: tuple[int, ...] = tuple(range(len(encoding.OPS)))  # of TE-NAS's code
  # Spearman .93 / .92 / .89 on 1,000 architectures (experiments/results/ranked_nb201.md).
  ranked_by: tuple[str, ...] = ("jacob_cov", "effective_params")

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
  choices = staticmethod(encoding.choices)
  derive = staticmethod(encoding.derive)
  is_connected = staticmethod(encoding.is_connected)
  canonical = staticmethod(isomorphism.canonical)
  infinite_width = staticmethod(infinite_width.infinite_width)

  def costs(
    self, code: base.Code, config: base.NetworkConfig | None = None, image_size: int | None = None
  ) -> base.Costs:
    """See `base.Space.costs`."""
    filled = None if config is None else config.filled(self.default_config)
    return costs.count(code, filled, image_size)

  def costs_on(self, code: base.Code, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the benchmark's network."""
    return costs.count(code, base.NetworkConfig(classes=source.classes), source.image_shape[0])

  def draw(self, code: base.Code, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the cells of an architecture as PNG files into `folder`."""
    return drawing.draw(code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `nb201.benchmark.read`."""
    return benchmark.read(path, trust_pickle)

  def __len__(self) -> int:
    return encoding.NUM_ARCHS

  def shape(self, code: Any) -> Hashable:
    """None: one program serves all architectures."""
    del code

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`; the same for all data sets."""
    del dataset
    return _PUBLISHED.get(method, {})

  def network(self, config: base.NetworkConfig) -> SingleNetwork:
    """See `base.Space`."""
    return SingleNetwork(*self._size(config), config.classes, config.init)

  def supernet(self, config: base.NetworkConfig) -> Supernet:
    """See `base.Prunable`."""
    return Supernet(*self._size(config), config.classes, config.init)

  def region_network(self, config: base.NetworkConfig) -> RegionNetwork:
    """See `base.Prunable`: the first cell at C = 1, on one-channel 3 x 3 crops."""
    return RegionNetwork(classes=config.classes, initialisation=config.init)

  def mixture(self, config: base.NetworkConfig) -> Supernet:
    """See `base.Differentiable`."""
    return Supernet(*self._size(config), config.classes, config.init, order=2)

  def backbone(self, config: base.NetworkConfig) -> Backbone:
    """See `base.Tapped`; of the config only `channels` and `cells` are read."""
    return Backbone(*self._size(config))

  def trained_network(self, config: base.NetworkConfig, code: Any = None) -> SingleNetwork:
    """See `base.Trainable`; one network serves all architectures."""
    del code
    return self.network(config)

  def module(self, code: base.Code, config: base.NetworkConfig) -> NB201Module:
    """See `nb201.module`."""
    return NB201Module(encoding.format(code), *self._size(config), config.classes)

  def module_variables(self, module: NB201Module, params: PyTree, stats: PyTree) -> PyTree:
    """See `base.Trainable`."""
    return {
      "params": gather(mapping.parameters(module), params),
      "batch_stats": gather(mapping.statistics(module), stats),
    }

  def _size(self, config: base.NetworkConfig) -> tuple[int, int]:
    """(channels, cells)."""
    return config.plain(self.name).filled(self.default_config).size
