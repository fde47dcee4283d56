"""NAS-Bench-101: 423,624 cells of up to seven vertices and nine edges, three operations.

Source: Ying et al., "NAS-Bench-101: Towards Reproducible NAS", ICML 2019.
"""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

from jaxnas import base, registry
from jaxnas.base import NetworkConfig
from jaxnas.spaces.nb101 import benchmark, channels, costs, drawing, encoding, isomorphism, sampling
from jaxnas.spaces.nb101.module import NB101Module
from jaxnas.spaces.nb101.network import NB101Network
from jaxnas.tabular import Benchmark

__all__ = ["NB101", "NB101Network", "channels", "costs", "encoding", "isomorphism"]


_DEFAULT = NetworkConfig(16, 3, init="kaiming_fan_out")


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
  default_config: NetworkConfig = _DEFAULT  # the benchmark trains C=128
  # Spearman .60 on the half where it was not chosen (experiments/results/combinations_darts_nb101.md);
  # signal_regression has .90 on 30 cells, but a thousand would take hours (gennas.md).
  ranked_by: tuple[str, ...] = ("naswot", "meco")

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(encoding.parse)
  format = staticmethod(encoding.format)
  from_cell = staticmethod(encoding.from_cell)
  to_cell = staticmethod(encoding.to_cell)
  prune = staticmethod(encoding.prune)
  sample = staticmethod(sampling.sample)
  neighbours = staticmethod(sampling.neighbours)
  mutate = staticmethod(sampling.mutate)
  resample = staticmethod(sampling.resample)
  alphas = staticmethod(encoding.alphas)
  is_connected = staticmethod(encoding.is_connected)
  canonical = staticmethod(isomorphism.canonical)
  index_of = staticmethod(isomorphism.index_of)

  def costs(self, code: base.Code, config: NetworkConfig | None = None, image_size: int | None = None) -> base.Costs:
    """See `base.Space.costs`."""
    filled = None if config is None else config.filled(self.default_config)
    return costs.count(code, filled, image_size)

  def costs_on(self, code: base.Code, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the benchmark's network."""
    return costs.count(code, NetworkConfig(classes=source.classes), source.image_shape[0])

  def draw(self, code: base.Code, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the cells of an architecture as PNG files into `folder`."""
    return drawing.draw(code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `nb101.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path)

  def __len__(self) -> int:
    return isomorphism.NUM_UNIQUE

  def shape(self, code: Any) -> Hashable:
    """None: one program serves all architectures."""
    del code

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def network(self, config: NetworkConfig) -> NB101Network:
    """The network of single architectures, of which there is one initialisation, whatever `config.init` says."""
    return NB101Network(dataclasses.replace(config.filled(self.default_config), init=_DEFAULT.init))

  def module(self, code: base.Code, config: NetworkConfig) -> NB101Module:
    """See `nb101.module`."""
    return NB101Module(encoding.format(code), *config.filled(self.default_config).size, config.classes)

  def backbone(self, config: NetworkConfig) -> NB101Network:
    """The network that GenNAS trains: the same."""
    return self.network(config)
