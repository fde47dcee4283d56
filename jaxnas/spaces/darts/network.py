"""The network of one genotype: every slot computes its own operation and no other.

The architecture is data (`switch`), read from its code, so that one compilation serves all genotypes; parameters then
exist for every operation of every slot, and an architecture costs what its operations cost. Or it is given with the
network (`static`): parameters exist for its own operations, as a user trains it. GenNAS trains the former on signals,
tapped before each reduction cell and after the last cell; the published searches of GenNAS do not have this space.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, model.py (no BN after pooling and at the end); the taps:
Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output, Selections
from jaxnas.errors import ConfigError
from jaxnas.nets import parameters
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.one_network import OneNetwork, parameter_shapes
from jaxnas.nets.passes import Chain, Pass, Seen, begin, check_images, linear, together, unit_moments, with_gates
from jaxnas.spaces.darts import auxiliary, blocks, costs, encoding, layout, operations
from jaxnas.spaces.darts.costs import EvaluationNetwork
from jaxnas.spaces.darts.layout import SLOTS, STAGE, TARGETS
from jaxnas.spaces.darts.stages import Chosen, Given, reduction, stage

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "taps", "observation", "patterns", "correlation")


@dataclasses.dataclass(frozen=True)
class DARTSNetwork(OneNetwork, SampleGrams):
  """Pure functions of parameters, images and codes, int32 [32].

  A `Single`, `CellNetwork`, `GraphNetwork`, `SampleGram`, `TappedNetwork` and `TrainableNetwork`.

  Attributes:
    config: cells L // 3 and 2 L // 3 are reduction cells, which double the channels.
    genotype: the architecture as 32 integers, then static (codes are not read); None: it is data.
  """

  config: NetworkConfig
  genotype: layout.Genotype | None = None
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  def __post_init__(self):
    layout.evaluation(self.config)
    parameters.check_init(self.config.init)
    if self.genotype is not None:
      object.__setattr__(self, "genotype", tuple(encoding.as_code(self.genotype).tolist()))

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  @property
  def auxiliary(self) -> bool:
    """Whether there is an auxiliary head, which only training uses."""
    return self.config.auxiliary

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Channels of the three taps: a cell concatenates four nodes."""
    channels, _ = self.config.size
    return 4 * channels, 8 * channels, 16 * channels

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A 32"]) -> Int32[np.ndarray, "A 32"]:
    """The codes, checked."""
    return np.asarray(encoding.as_codes(codes), np.int32)

  def choices(self, archs: Int32[np.ndarray, "A 32"]) -> list[Selections]:
    """As `base.Dispatched`: of normal cells, and of reduction cells, where what reads an input counts apart."""
    slots = archs.reshape(-1, 2, len(SLOTS), 2)
    normal, reduction, sources = slots[:, 0, :, 0], slots[:, 1, :, 0], slots[:, 1, :, 1]
    reduction = reduction + encoding.NUM_OPS * (sources < encoding.FIRST_NODE)
    free = (encoding.NONE,)
    return [
      Selections(normal, encoding.NUM_OPS, free),
      Selections(reduction, 2 * encoding.NUM_OPS, (*free, encoding.NUM_OPS + encoding.NONE)),
    ]

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters (`parameters.draw`); those of a stage's cells are stacked, see `layout`."""
    shapes = layout.shapes(layout.evaluation(self.config), self.genotype, self.config.auxiliary)
    return parameters.draw(shapes, self.config.init, key)

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: means 0, variances 1."""
    side = {"imagenet": 224, "cifar": 32}[self.config.stem] if self.config.auxiliary else 8
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    arch = jax.ShapeDtypeStruct((encoding.LENGTH,), jnp.int32)
    run = functools.partial(self.train, drop_path=0.0, key=None)
    return unit_moments(jax.eval_shape(lambda *args: run(*args).stats, parameter_shapes(self), images, arch))

  def executed(self, arch: Int[Array, " 32"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to an operation of this architecture, [] or [cells] each."""
    cells = [self._chosen(arch, cell_type) for cell_type in range(2)]

    @functools.cache  # an operation has several parameters
    def used(cell_type, slot, op, lead):
      chosen = cells[cell_type]
      own = jnp.asarray(chosen.ops[slot] == encoding.OPS.index(op))
      if cell_type and op == "skip_connect":
        own &= jnp.asarray(chosen.sources[slot] < encoding.FIRST_NODE)
      return jnp.full(lead, own, jnp.float32)

    def mask(path, leaf):
      names = [p.key for p in path]
      lead = leaf.shape[:1] if layout.is_stacked(names) else ()
      if names[1] not in SLOTS:
        return jnp.ones(lead, jnp.float32)
      return used(int(not names[0].startswith(STAGE)), SLOTS.index(names[1]), names[2], lead)

    return jax.tree_util.tree_map_with_path(mask, parameter_shapes(self))

  def is_stacked(self, path: list[str]) -> bool:
    """See `layout.is_stacked`."""
    return layout.is_stacked(path)

  def costs(self, arch: Int[Array, " 32"], image_size: int = 32) -> Costs:
    """As `costs` counts them: what every architecture has, and what the operations of its slots cost.

    Raises:
      ConfigError: an image size that the network does not halve exactly.
    """
    evaluation = layout.evaluation(self.config, image_size)
    return Costs(*(self._cost(arch, kind, evaluation) for kind in Costs._fields))

  def effective_costs(self, arch: Int[Array, " 32"], image_size: int = 32) -> Costs:
    """As `costs`: all nodes are concatenated, so every operation lies on a path."""
    return self.costs(arch, image_size)

  def skip_length(self, arch: Int[Array, " 32"]) -> Float[Array, ""]:
    """As `base.GraphNetwork`, of the slots with `skip_connect` of both cells; at stride 2 as well."""
    lengths, skips = [], []
    for chosen in (self._chosen(arch, cell_type) for cell_type in range(2)):
      skips.append(jnp.asarray(chosen.ops) == encoding.OPS.index("skip_connect"))
      lengths.append(np.array(TARGETS, np.int32) - 1 - jnp.asarray(chosen.sources))
    skip, over = jnp.concatenate(skips), jnp.concatenate(lengths).astype(jnp.float32)
    return jnp.where(skip, over, 0).sum() / jnp.maximum(skip.sum(dtype=jnp.float32), 1)

  # Outputs

  def cell_outputs(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Int[Array, " 32"],
    mode: Mode = "batch",
    shifts: Sequence[Array] | None = None,
  ) -> tuple[Array, ...]:
    """As `base.CellNetwork`: the stem, the cells of the first stage, a reduction cell, ...

    A cell also reads the output of the cell before the last one; with shifts that is a constant.
    """
    run = begin(mode, (), None, able=(), axis=0)
    own = None if shifts is None else [shift.transpose(0, 4, 1, 2, 3) for shift in shifts]
    chain = Chain(True, own)
    self._forward(params, inputs, arch, run, None, None, chain)
    return tuple(outputs.transpose(0, 2, 3, 4, 1) for outputs in chain.outputs)

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Int[Array, " 32"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass; an `arch` of zeros is a network whose nodes give 0.

    A ReLU precedes each convolution and none ends the network. The taps enter the reduction cells and leave the last
    cell, [N, H, W, 4C], [N, H/2, W/2, 8C], ... With "running_stats", images must have a size that the auxiliary head
    can take, if there is one.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    del rows  # the backward pass is made for many cotangents
    run = begin(mode, collect, stats, able=ABLE, axis=0)
    return self._forward(with_gates(params, gates), inputs, arch, run, stats, None, Chain())

  def train(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Int[Array, " 32"],
    drop_path: Float[Array, ""] | float,
    key: Array | None,
  ) -> Output:
    """A pass in mode `batch` with "running_stats" and, if there is one, the auxiliary head.

    Each slot but the identity is left out with probability `drop_path`, for each sample on its own, and the others are
    divided by 1 - drop_path. A `key` of None leaves nothing out.

    Raises:
      ConfigError, DatasetError: as `apply`.
    """
    drop = None
    if key is not None:
      kept = 1 - jnp.asarray(drop_path, jnp.float32)
      there = jax.random.uniform(key, (self.config.size[1], len(SLOTS), len(inputs)), jnp.float32) < kept
      drop = (there.astype(jnp.float32) / kept).astype(inputs.dtype)
    run = begin("batch", ("running_stats",), None, able=ABLE, axis=0)
    return self._forward(params, inputs, arch, run, None, drop, Chain())

  # The pass

  def _chosen(self, arch, cell_type: int) -> Chosen:
    """The operations of a cell."""
    if self.genotype is not None:
      return Chosen(*zip(*layout.slots(self.genotype, cell_type), strict=True))
    if arch.shape != (encoding.LENGTH,):
      raise ConfigError(f"arch of shape {arch.shape}: expected ({encoding.LENGTH},), a row of what encode() returned")
    slots = arch.reshape(2, len(SLOTS), 2)[cell_type]
    return Chosen(slots[:, 0], slots[:, 1])

  def _forward(self, params, images, arch, run: Pass, stats, drop, chain: Chain) -> Output:
    check_images(images)
    seen: dict[str, Seen] = {}
    taps, side = [], None
    chosen = [self._chosen(arch, cell_type) for cell_type in range(2)]
    inputs, seen["stem"] = self._stem(operations.to_maps(images), params["stem"], stats and stats["stem"], run)
    inputs = inputs[0], chain.link(inputs[1])
    parts = layout.parts(layout.evaluation(self.config))
    last_reduction = [p.name for p in parts if p.cell_type][-1]
    for part in parts:
      own = slice(part.first, part.first + len(part.shapes))
      given = Given(params[part.name], stats and stats[part.name], None if drop is None else drop[own], chain.shift)
      cells = reduction if part.cell_type else stage
      if part.cell_type:
        taps.append(inputs[1])
      inputs, seen[part.name], outputs = cells(part, given, inputs, chosen[part.cell_type], run, chain.keeps)
      chain.keep(outputs)
      if part.name == last_reduction and self.config.auxiliary and "running_stats" in run.collect:
        norm, found = blocks.collecting(run, None)
        side = auxiliary.logits(inputs[1], params["auxiliary"], norm, 3 if self.config.stem == "cifar" else 2)
        seen["auxiliary"] = together(found)._replace(observed=None)
    last = inputs[1]
    taps = tuple(tap.transpose(1, 2, 3, 0) for tap in (*taps, last))
    all_seen = together(seen)
    return Output(
      logits=linear(last.mean((2, 3)).T, params["classifier"]),
      stats=all_seen.stats if run.keeps_stats else None,
      taps=taps if "taps" in run.collect else None,
      observation=None if all_seen.observed is None else Observation(taps[-1], *all_seen.observed),
      patterns=all_seen.patterns,
      correlation=all_seen.correlation,
      auxiliary=side,
    )

  def _stem(self, x, params, stats, run: Pass):
    """(the two inputs of the first cell, what is shown)."""
    norm, found = blocks.collecting(run, stats and jax.lax.stop_gradient(stats))

    def layer(place, x, own, stride):
      z = blocks.convolved(functools.partial(operations.convolve, stride=stride), x, own["conv"])
      return norm(place, z, own["bn"])

    if self.config.stem == "cifar":
      y = layer("a", x, params, 1)
      return (y, y), blocks.seen_of(run, found, x, ())
    half = layer("a", x, params["a"], 2)
    quarter = layer("b", blocks.relu(half), params["b"], 2)
    eighth = layer("c", blocks.relu(quarter), params["c"], 2)
    return (quarter, eighth), blocks.seen_of(run, found, x, (half, quarter))

  def _cost(self, arch, kind: str, evaluation: EvaluationNetwork) -> Float[Array, ""]:
    """What every architecture has, and for each slot the sum of its operation's cost over the cells of its type."""
    skips = encoding.from_cells(*2 * ([("skip_connect", i) for _ in encoding.NODES for i in range(2)],))
    table = np.zeros((2, 2, encoding.NUM_OPS), np.int64)  # cell type, whether from an input, op
    for shape in costs.cell_shapes(evaluation):
      for from_input in range(2):
        stride = 1 + shape.cell_type * from_input
        side = shape.side if from_input else shape.side // (1 + shape.cell_type)
        for op, name in enumerate(encoding.OPS):
          table[shape.cell_type, from_input, op] += getattr(costs.op_cost(name, shape.channels, stride, side), kind)
    rest = getattr(costs, kind)(skips, evaluation) - len(SLOTS) * int(
      table[:, 1, encoding.OPS.index("skip_connect")].sum()
    )
    total = jnp.asarray(rest, jnp.float32)
    for cell_type in range(2):
      chosen = self._chosen(arch, cell_type)
      from_input = (jnp.asarray(chosen.sources) < encoding.FIRST_NODE).astype(jnp.int32)
      total += jnp.asarray(table, jnp.float32)[cell_type, from_input, jnp.asarray(chosen.ops)].sum()
    return total
