"""The network in its roles: of single architectures, as a supernet, as GenNAS's backbone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.base import Collect, Costs, Mode, Output
from jaxnas.errors import ConfigError
from jaxnas.nets import passes
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.node import Choices
from jaxnas.nets.one_network import parameter_shapes
from jaxnas.nets.passes import Pass, Seen
from jaxnas.spaces.nb201 import costs, encoding
from jaxnas.spaces.nb201.encoding import EDGES, NUM_EDGES, NUM_OPS, OPS
from jaxnas.spaces.nb201.network import Arch, Classified, NB201Network, effective
from jaxnas.spaces.nb201.operations import NONE, SKIP, Form, Maps, Operations
from jaxnas.spaces.nb201.parameters import CONVS, STAGES, draw, draw_backbone, edge_name


@dataclasses.dataclass(frozen=True)
class SingleNetwork(Classified, SampleGrams):
  """A network of single architectures; one is data, or (as a tuple of ints) a constant.

  `base.Single`, `CellNetwork`, `GraphNetwork`, `SampleGram` and `TrainableNetwork`.
  """

  rows_on_cpu: ClassVar[int] = 16  # each chunk of cotangents repeats the forward pass

  @property
  def auxiliary(self) -> bool:
    """As `base.TrainableNetwork`."""
    return False

  def init_stats(self) -> PyTree:
    """As `base.TrainableNetwork`."""
    return _first_stats(self)

  def executed(self, arch: Arch) -> PyTree:
    """As `base.Single`."""
    operations = jnp.asarray(arch)

    def mask(path, leaf):
      names = [p.key for p in path]
      if names[0] not in STAGES:
        return jnp.ones(())
      edge = [edge_name(e) for e in EDGES].index(names[1])
      return jnp.full((leaf.shape[0],), operations[edge] == OPS.index(names[2]), jnp.float32)

    return jax.tree_util.tree_map_with_path(mask, parameter_shapes(self))

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path have the cells of a stage as their first axis."""
    return path[0] in STAGES

  def gates(self, samples: int) -> PyTree:
    """Ones, [N, Cout] for each convolution outside the cells, [cells, N, Cout] for each edge (it has one at most)."""
    ones: PyTree = {"stem": jnp.ones((samples, self.channels))}
    for stage, name in enumerate(STAGES):
      width = self.channels * 2**stage
      if stage:
        parts = ("conv_a", "conv_b", "downsample")
        ones[f"reduce_{stage}"] = {part: jnp.ones((samples, width)) for part in parts}
      ones[name] = {edge_name(e): jnp.ones((self.cells, samples, width)) for e in EDGES}
    return ones

  def costs(self, arch: Arch, image_size: int = 32) -> Costs:
    """As `base.Single`."""
    size = self.channels, self.cells, self.classes
    return Costs(
      _sum_over_edges(arch, lambda code: costs.params(code, *size)),
      _sum_over_edges(arch, lambda code: costs.macs(code, image_size, *size)),
    )

  def effective_costs(self, arch: Arch, image_size: int = 32) -> Costs:
    """As `base.GraphNetwork`."""
    operations, connected = effective(jnp.asarray(arch))
    whole = self.costs(operations, image_size)
    return Costs(*(jnp.where(connected, cost, jnp.zeros_like(cost)) for cost in whole))

  def skip_length(self, arch: Arch) -> Float[Array, ""]:
    """As `base.GraphNetwork`, of the edges with `skip_connect`."""
    skips = jnp.asarray(arch) == SKIP
    over = np.array([target - 1 - source for target, source in EDGES], np.float32)
    return jnp.where(skips, over, 0).sum() / jnp.maximum(skips.sum(dtype=jnp.float32), 1)

  def cell_outputs(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Arch,
    mode: Mode = "batch",
    shifts: Sequence[Array] | None = None,
  ) -> tuple[Array, ...]:
    """As `base.CellNetwork`: stem, first stage, reduction, second stage, reduction, third stage."""
    run = passes.begin(mode, (), None, able=())
    self._check(inputs)
    chain = passes.Chain(True, shifts)
    self._stages(Operations(run, self.form), params, inputs, self._choices(arch, run), {}, chain)
    return tuple(chain.outputs)

  def train(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Arch,
    drop_path: Float[Array, ""] | float,
    key: Array | None,
  ) -> Output:
    """As `base.TrainableNetwork`; this network has no drop path."""
    if key is not None:
      raise ConfigError("drop_path: networks of nb201 have none; leave it out")
    return self.apply(params, inputs, arch, collect=("running_stats",))


@dataclasses.dataclass(frozen=True)
class Supernet(Classified):
  """The network of weights of the operations [1, 6, 5]; all of them are computed on every edge.

  Attributes:
    order: of the derivatives that it is made for: 1, of many cotangents at once (TE-NAS's kernel); 2, in parameters and
      weights (NASI).
  """

  order: Literal[1, 2] = 1

  rows_on_cpu: ClassVar[int] = 4
  able: ClassVar[tuple[Collect, ...]] = ("stats", "taps", "patterns")
  unrolls: ClassVar[bool] = True

  @property
  def form(self) -> Form:
    return "many" if self.order == 1 else "second_order"

  def encode(self, codes: Int[np.ndarray, "A 6"]) -> np.ndarray:
    """As `base.Network`: one-hot weights, float32 [A, 1, 6, 5]."""
    return np.eye(NUM_OPS, dtype=np.float32)[encoding.as_codes(codes)][..., None, :, :]

  def _choices(self, arch: Arch, run: Pass) -> Choices:
    del run
    shape = np.shape(arch)
    if shape != (1, NUM_EDGES, NUM_OPS):
      raise ConfigError(f"weights of shape {shape}: expected (1, {NUM_EDGES}, {NUM_OPS})")
    return jnp.asarray(arch)[0]


@dataclasses.dataclass(frozen=True)
class RegionNetwork(Supernet):
  """TE-NAS's network for linear regions: one cell on images of C channels, no stem."""

  channels: int = 1
  cells: int = 1

  def init(self, key: Array) -> PyTree:
    """As `base.Network`."""
    return draw(self.channels, 1, self.classes, self.initialisation, key, region=True)

  def _check(self, images: Array) -> None:
    passes.check_images(images, self.channels, 1)


@dataclasses.dataclass(frozen=True)
class Backbone(NB201Network):
  """`base.TappedNetwork`: the network as GenNAS trains it. It has no classifier; its logits are the pooled last tap.

  The batch normalisations of its cells have no scale, bias or running statistics: they always see the batch. The cells'
  convolutions have biases in the published code; the normalisation behind them takes them out again, so they are not
  computed, only counted.

  Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
  """

  rows_on_cpu: ClassVar[int] = 16
  able: ClassVar[tuple[Collect, ...]] = ("stats", "running_stats", "taps")
  unrolls: ClassVar[bool] = True  # what the backward pass needs of a cell is not copied into a stack and out of it

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """As `base.TappedNetwork`."""
    return self.channels, 2 * self.channels, 4 * self.channels

  def init(self, key: Array) -> PyTree:
    """As `base.Network`: kernels uniform within 1 / sqrt(fan in)."""
    return draw_backbone(self.channels, self.cells, key)

  @property
  def classes(self) -> int:
    """The width of the logits."""
    return 4 * self.channels

  def init_stats(self) -> PyTree:
    """As `base.TappedNetwork`: of the stem and the reductions."""
    return _first_stats(self)

  def costs(self, arch: Arch, image_size: int = 32) -> Costs:
    """As `base.TappedNetwork`, without heads; the convolutions' idle biases are parameters."""
    size = self.channels, self.cells, 1
    head = 2 * 4 * self.channels + 4 * self.channels + 1  # BN and the classifier of one class

    def params(code):  # a convolution of a cell has a bias instead of scale and bias of its BN
      biases = sum(op in CONVS for op in code) * self.cells * sum(self.tap_channels)
      return costs.params(code, *size) - head - biases

    return Costs(
      _sum_over_edges(arch, params),
      _sum_over_edges(arch, lambda code: costs.macs(code, image_size, *size) - 4 * self.channels - 1),
    )

  def _head(self, operations: Operations, params: PyTree, x: Maps, given: PyTree) -> tuple[Array, Maps, Seen]:
    return x.mean((1, 2)), x, Seen()


def _first_stats(network: SingleNetwork | Backbone) -> PyTree:
  """Means 0 and variances 1 where the network keeps running statistics."""
  arch, images = (NONE,) * NUM_EDGES, jnp.zeros((1, 4, 4, 3), jnp.float32)
  params = parameter_shapes(network)
  return passes.unit_moments(
    jax.eval_shape(lambda p: network.apply(p, images, arch, collect=("running_stats",)).stats, params)
  )


def _sum_over_edges(arch: Arch, count: Callable[[list[int]], int]) -> Float[Array, ""]:
  """A cost that is a sum over edges, from its value for the empty cell and for each operation alone; float32."""
  empty = count([NONE] * NUM_EDGES)
  added = [count([op, *[NONE] * (NUM_EDGES - 1)]) - empty for op in range(NUM_OPS)]
  return empty + jnp.asarray(added, jnp.float32)[jnp.asarray(arch)].sum()
