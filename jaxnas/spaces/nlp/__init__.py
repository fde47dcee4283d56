"""NAS-Bench-NLP: recurrent cells as graphs of up to 24 nodes, of seven operations; 14,322 of them were trained.

Its networks read sequences of numbers, such as `--dataset=signals`, not images.

Source: Klyuchnikov et al., "NAS-Bench-NLP: Neural Architecture Search Benchmark for Natural Language Processing", 2020.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from jaxnas import base, registry
from jaxnas.base import NetworkConfig
from jaxnas.spaces.nlp import benchmark, costs, drawing, encoding, isomorphism, program, sampling
from jaxnas.spaces.nlp.module import NLPModule
from jaxnas.spaces.nlp.network import NLPNetwork
from jaxnas.tabular import Benchmark

__all__ = ["NLP", "NLPNetwork", "costs", "encoding", "isomorphism", "program"]


_DEFAULT = NetworkConfig(costs.CHANNELS, costs.CELLS, classes=48)


@registry.register("space", "nlp")
@dataclasses.dataclass(frozen=True)
class NLP:
  """The space as one object (see the modules of this package); an architecture is an int8 array [99]."""

  name: str = "nlp"
  ops: tuple[str, ...] = encoding.OPS
  dataset: str = "signals"
  default_config: NetworkConfig = _DEFAULT

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(encoding.parse)
  format = staticmethod(encoding.format)
  from_recipe = staticmethod(encoding.from_recipe)
  to_recipe = staticmethod(encoding.to_recipe)
  is_connected = staticmethod(encoding.is_connected)
  canonical = staticmethod(isomorphism.canonical)
  sample = staticmethod(sampling.sample)
  neighbours = staticmethod(sampling.neighbours)
  mutate = staticmethod(sampling.mutate)
  resample = staticmethod(sampling.resample)
  shape = staticmethod(program.size_of)

  def __len__(self) -> int:
    return sys.maxsize  # `len` can say no more: the paper counts 10^53

  def costs(self, code: base.Code, config: NetworkConfig | None = None, image_size: int | None = None) -> base.Costs:
    """See `costs.count`; `image_size` is the length of the sequence."""
    return costs.count(code, None if config is None else config.filled(self.default_config), image_size)

  def costs_on(self, code: base.Code, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the benchmark's network on Penn Treebank, of one word, whatever the sequences."""
    del source
    return costs.count(code)

  def network(self, config: NetworkConfig) -> NLPNetwork:
    """See `base.Space.network`; there is one initialisation, whatever `config.init` says."""
    return NLPNetwork(dataclasses.replace(config.filled(self.default_config), init="torch_default"))

  def backbone(self, config: NetworkConfig) -> NLPNetwork:
    """The network that GenNAS trains: the same."""
    return self.network(config)

  def module(self, code: base.Code, config: NetworkConfig) -> NLPModule:
    """See `nlp.module`."""
    return NLPModule(encoding.format(code), *config.filled(self.default_config).size, config.classes)

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def draw(self, code: base.Code, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the graph of a recipe as a PNG file into `folder`."""
    return drawing.draw(code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `nlp.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path)
