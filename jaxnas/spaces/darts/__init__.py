"""The DARTS space: a normal and a reduction cell of four nodes, two inputs a node, seven operations an input.

Source: Liu, Simonyan & Yang, "DARTS: Differentiable Architecture Search", ICLR 2019.
"""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int8, PyTree

from jaxnas import base, registry
from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.darts import benchmark, costs, derivation, drawing, encoding, genotypes, mapping
from jaxnas.spaces.darts.module import DARTSModule
from jaxnas.spaces.darts.network import DARTSNetwork
from jaxnas.spaces.darts.supernet import DARTSSupernet
from jaxnas.spaces.mapping import gather
from jaxnas.tabular import Benchmark

__all__ = ["DARTS", "DARTSNetwork", "DARTSSupernet", "costs", "encoding", "genotypes"]

_GROUPS = tuple(tuple(e for e, (target, _) in enumerate(encoding.EDGES) if target == node) for node in encoding.NODES)
_TENAS = {"ntk_batch": 14, "ntk_channels": 1, "ntk_cells": 2, "prune_number": 3}
_TENAS_IMAGENET = _TENAS | {"ntk_batch": 24, "prune_number": 2}


_DEFAULT = NetworkConfig(16, 8, init="kaiming_fan_out")


@registry.register("space", "darts")
@dataclasses.dataclass(frozen=True)
class DARTS:
  """The space as one object: encoding, alphas, costs and networks (see the modules of this package).

  An architecture is an int8 array [32], a batch of them [A, 32]; `alphas` are [A, 2, 14, 8]. The text form is the
  literature's genotype.

  Attributes:
    edge_groups: edges of which TE-NAS keeps `edges_kept` in the end: those into one node.
  """

  name: str = "darts"
  ops: tuple[str, ...] = encoding.OPS
  edges: tuple[tuple[int, int], ...] = encoding.EDGES  # (target, source)
  cell_types: int = len(encoding.CELLS)
  cell_names: tuple[str, ...] = ("normal", "reduction")
  default_config: NetworkConfig = _DEFAULT
  none_op: int = encoding.NONE
  edge_groups: tuple[tuple[int, ...], ...] = _GROUPS
  edges_kept: int = 2
  op_order: tuple[int, ...] = tuple(encoding.OPS.index(op) for op in encoding.TENAS_OPS)
  ranked_by: tuple[str, ...] = ("naswot",)  # Spearman .61 on 300 (experiments/results/proxies_darts.md)

  as_codes = staticmethod(encoding.as_codes)
  parse = staticmethod(genotypes.lookup)
  format = staticmethod(encoding.format)
  to_cells = staticmethod(encoding.to_cells)
  from_nb301 = staticmethod(encoding.from_nb301)
  sample = staticmethod(encoding.sample)
  mutate = staticmethod(encoding.mutate)
  neighbours = staticmethod(encoding.neighbours)
  alphas = staticmethod(encoding.alphas)
  from_weights = staticmethod(derivation.from_weights)
  choices = staticmethod(derivation.choices)
  derive = staticmethod(derivation.derive)
  canonical = staticmethod(encoding.canonical)

  def costs(self, code: base.Code, config: NetworkConfig | None = None, image_size: int | None = None) -> base.Costs:
    """See `base.Space.costs`."""
    filled = None if config is None else config.filled(self.default_config)
    return costs.count(code, filled, image_size)

  def costs_on(self, code: base.Code, source: base.Source) -> base.Costs:
    """See `base.Space.costs_on`: of ImageNet the mobile setting, whatever the side of the images, else CIFAR-10's."""
    if source.name == "imagenet2012":
      return costs.count(
        code, NetworkConfig(costs.IMAGENET.channels, costs.IMAGENET.cells, source.classes, stem="imagenet")
      )
    return costs.count(code, NetworkConfig(classes=source.classes), source.image_shape[0])

  def draw(self, code: base.Code, folder: pathlib.Path) -> tuple[base.Picture, ...]:
    """Draws the cells of an architecture as PNG files into `folder`."""
    return drawing.draw(code, folder)

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Benchmark:
    """See `darts.benchmark.read`; there are no pickles."""
    del trust_pickle
    return benchmark.read(path)

  def __len__(self) -> int:
    return encoding.NUM_ARCHS

  def resample(self, key: jax.Array, code: Any, changes: float = 1.0) -> Int8[np.ndarray, "32"]:
    """`changes` mutations in a row, rounded, at least one; a later one may undo an earlier one."""
    child = encoding.as_code(code)
    for one in jax.random.split(key, max(1, round(changes))):
      child = encoding.mutate(one, child)
    return child

  def is_connected(self, code: Any) -> bool:
    """True: every node of a legal cell has two inputs.

    Raises:
      ArchitectureError: not one architecture.
    """
    return encoding.as_code(code).size > 0

  def shape(self, code: Any) -> Hashable:
    """None: one program serves all architectures."""
    del code

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """See `base.Space.published`; ImageNet's are for that, CIFAR-10's for every other data set."""
    if method != "tenas":
      return {}
    return _TENAS_IMAGENET if dataset == "imagenet2012" else _TENAS

  def network(self, config: NetworkConfig) -> DARTSNetwork:
    """The network of single architectures, the architecture being data."""
    return DARTSNetwork(config.filled(self.default_config))

  def trained_network(self, config: NetworkConfig, code: base.Code | None = None) -> DARTSNetwork:
    """See `base.Trainable`; a network made for one architecture has its parameters only and is quicker to compile."""
    return DARTSNetwork(config.filled(self.default_config), None if code is None else tuple(code.tolist()))

  def module(self, code: base.Code, config: NetworkConfig) -> DARTSModule:
    """See `darts.module`."""
    size = config.filled(self.default_config).size
    return DARTSModule(encoding.format(code), *size, config.classes, config.stem, config.auxiliary)

  def module_variables(self, module: DARTSModule, params: PyTree, stats: PyTree) -> PyTree:
    """See `base.Trainable`."""
    return {
      "params": gather(mapping.parameters(module), params),
      "batch_stats": gather(mapping.statistics(module), stats),
    }

  def backbone(self, config: NetworkConfig) -> DARTSNetwork:
    """The network that GenNAS trains, drawn as its code draws: normal by the fan out.

    Raises:
      ConfigError: fewer than three cells, which is fewer than three taps.
    """
    config = config.filled(self.default_config)
    if config.size[1] < 3:
      raise ConfigError(f"cells={config.cells} must be at least 3: the taps are three stages of cells")
    return DARTSNetwork(dataclasses.replace(config, init="kaiming_fan_out"))

  def supernet(self, config: NetworkConfig) -> DARTSSupernet:
    """TE-NAS's network for the NTK: `config.cells` is its depth, 2 in the published search.

    With N = ceil(cells / 3) the cells are N of C channels, a reduction and N - 1 of 2 C, a reduction and N - 1 of 4 C,
    cut to the depth.
    """
    config = config.filled(self.default_config)
    cells = config.size[1]
    stage = -(-cells // 3)
    return DARTSSupernet(config, reductions=tuple(i for i in (stage, 2 * stage) if i < cells))

  def region_network(self, config: NetworkConfig) -> DARTSSupernet:
    """TE-NAS's network for linear regions: one normal and one reduction cell on one-channel 3 x 3 crops, no stem."""
    return DARTSSupernet(dataclasses.replace(config, channels=1, cells=2), reductions=(1,), stem=False)

  def mixture(self, config: NetworkConfig) -> DARTSSupernet:
    """DARTS's search network: reductions at one and two thirds of the cells, a stem of 3 C channels."""
    config = config.filled(self.default_config)
    cells = config.size[1]
    return DARTSSupernet(config, reductions=tuple(sorted({cells // 3, 2 * cells // 3})), stem_multiplier=3)
