"""NAS-Bench-BERT: 10,621,440 encoders of two or four layers of attention, transforms or dynamic span convolutions.

Source: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and Transformers", ACL 2023; the space
is a part of that of Tuli et al., "FlexiBERT", JAIR 2023.
"""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

from jaxnas import base, registry
from jaxnas.base import NetworkConfig
from jaxnas.spaces.flexibert import benchmark, costs, drawing, encoding
from jaxnas.spaces.flexibert.module import FlexiBERTModule
from jaxnas.spaces.flexibert.network import FlexiBERTNetwork
from jaxnas.tabular import Benchmark

__all__ = ["FlexiBERT", "FlexiBERTNetwork", "costs", "encoding"]


@registry.register("space", "flexibert")
@dataclasses.dataclass(frozen=True)
class FlexiBERT:
  """The space as one object: encoding, costs and network (see the modules of this package).

  An architecture is an int8 array [17], a batch of them [A, 17]. Networks read tokens, int32 [N, T, 3]. Where the
  contract speaks of images' sides, a sequence's length is meant, and of cells there is always one.
  """

  name: str = "flexibert"
  ops: tuple[str, ...] = encoding.OPS
  dataset: str = "tokens"
  default_config: NetworkConfig = costs.PUBLISHED

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(encoding.parse)
  format = staticmethod(encoding.format)
  sample = staticmethod(encoding.sample)
  neighbours = staticmethod(encoding.neighbours)
  mutate = staticmethod(encoding.mutate)
  canonical = staticmethod(encoding.canonical)

  def costs(self, code: base.Code, config: NetworkConfig | None = None, image_size: int | None = None) -> base.Costs:
    """See `base.Space.costs`; `image_size` is the length of a sequence, without a config there is no classifier."""
    return costs.count(code, config, image_size)

  def costs_on(self, code: base.Code, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: the benchmark's network, whatever the text."""
    del source
    return costs.count(code)

  def draw(self, code: base.Code, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the layers of an architecture as a PNG file into `folder`."""
    return drawing.draw(code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `flexibert.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path)

  def __len__(self) -> int:
    return encoding.NUM_ARCHS

  def is_connected(self, code: Any) -> bool:
    """True: every layer leads on.

    Raises:
      ArchitectureError: not one architecture.
    """
    return encoding.as_code(code).size > 0

  def shape(self, code: Any) -> Hashable:
    """The hidden size and the number of layers."""
    return encoding.hidden_of(code), len(encoding.layers_of(code))

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`: nothing."""
    del method, dataset
    return {}

  def network(self, config: NetworkConfig) -> FlexiBERTNetwork:
    """The network of single architectures of `config.shape`.

    Raises:
      ConfigError: a setting that encoders do not have, or no shape.
    """
    return FlexiBERTNetwork(config.filled(self.default_config))

  def module(self, code: base.Code, config: NetworkConfig) -> FlexiBERTModule:
    """See `flexibert.module`."""
    own = costs.checked(config.filled(self.default_config))
    return FlexiBERTModule(encoding.format(code), own.size[0], own.classes)
