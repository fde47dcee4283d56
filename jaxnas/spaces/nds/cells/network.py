"""The network of one genotype with its own concat sets; the architecture is data.

One program serves all genotypes of a space of one width and depth. Parameters exist for every operation of every slot,
and an architecture costs what its operations cost.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and its code; the taps and the
form `code`: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
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
from jaxnas.nets.passes import Pass, Seen, begin, check_images, linear, together, unit_moments, with_gates
from jaxnas.spaces.darts import blocks
from jaxnas.spaces.darts import operations as darts
from jaxnas.spaces.nds.cells import costs, encoding, layout
from jaxnas.spaces.nds.cells.costs import CellInput, CellSize, Form
from jaxnas.spaces.nds.cells.stages import ChosenCell, LastCells, Own, chosen_cell, reduction, stage
from jaxnas.spaces.nds.tables import CellTable

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "taps", "observation")


@dataclasses.dataclass(frozen=True)
class NDSCellNetwork(OneNetwork, SampleGrams):
  """Pure functions of parameters, images and codes, int32 [L].

  A `Single`, `SampleGram`, `Dispatched` and `TappedNetwork`. The width and depth are those of the config, whatever the
  codes say.

  Attributes:
    config: with its channels and cells; cells L // 3 and 2 L // 3 are reduction cells, which double the channels. Its
      stem is not read.
    table: the space.
    form: the stem, see `costs`.
  """

  config: NetworkConfig
  table: CellTable
  form: Form = "imagenet"
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  def __post_init__(self):
    channels, _ = self.config.size
    if channels < 2:
      raise ConfigError(f"channels={channels} must be at least 2: stems and factorised reductions halve them")
    if self.config.auxiliary:
      raise ConfigError(f"auxiliary=True: networks of {self.table.name} have no auxiliary head; drop it")
    parameters.check_init(self.config.init)

  def size(self, image_size: int = 32) -> CellSize:
    """What `costs` and `layout` take."""
    return CellSize(*self.config.size, self.config.classes, self.form, image_size)

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Of what enters each reduction cell and leaves the last cell; a genotype uses the first of them.

    Raises:
      ConfigError: fewer than three cells.
    """
    if self.config.size[1] < 3:
      raise ConfigError(f"cells={self.config.cells} must be at least 3: the taps are three stages of cells")
    cells = costs.plan(self.size())
    firsts = [cells[i].inputs[1] for i in encoding.reductions(len(cells))]
    one, two = (layout.room(own, self.table.nodes) for own in firsts)
    return one, two, self.table.nodes * cells[-1].channels

  def used_taps(self, arch: Int[Array, " L"]) -> Int[Array, "3"] | None:
    """As many states as the genotype concatenates."""
    if self.table.all_nodes:
      return None
    counts, cells = self._counts(arch), costs.plan(self.size())
    sources = [cells[i].inputs[1] for i in encoding.reductions(len(cells))]
    sources.append(CellInput(cells[-1].kind, cells[-1].channels))
    return jnp.stack([jnp.asarray(source.channels(counts), jnp.int32) for source in sources])

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A L"]) -> Int32[np.ndarray, "A L"]:
    """The codes, checked."""
    return np.asarray(encoding.as_codes(self.table, codes), np.int32)

  def choices(self, archs: Int32[np.ndarray, "A L"]) -> list[Selections]:
    """As `base.Dispatched`: of normal cells, and of reduction cells, where what reads an input counts apart."""
    ops, nodes = len(self.table.ops), self.table.nodes
    cells = archs[:, 2:].reshape(len(archs), 2, 5 * nodes)[:, :, : 4 * nodes].reshape(len(archs), 2, 2 * nodes, 2)
    normal, reduction, states = cells[:, 0, :, 0], cells[:, 1, :, 0], cells[:, 1, :, 1]
    free = tuple(i for i, op in enumerate(self.table.ops) if op == "none")
    twice = (*free, *(ops + i for i in free))
    reduction = reduction + ops * (states < encoding.FIRST_NODE)
    return [Selections(normal, ops, free), Selections(reduction, 2 * ops, twice)]

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters (`parameters.draw`); those of a stage's cells are stacked, see `layout`."""
    return parameters.draw(layout.shapes(self.table, self.size()), self.config.init, key)

  def start(self, params: PyTree, arch: Int[Array, " L"]) -> PyTree:
    """See `layout.fitted`: kernels read as many states as the genotype concatenates."""
    return layout.fitted(params, self._used(arch), self.config.init)

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: means 0, variances 1."""
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    arch = jax.ShapeDtypeStruct((encoding.length(self.table),), jnp.int32)
    run = functools.partial(self.apply, collect=("running_stats",))
    return unit_moments(jax.eval_shape(lambda *args: run(*args).stats, parameter_shapes(self), images, arch))

  def executed(self, arch: Int[Array, " L"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to an operation of this architecture, [] or [cells] each."""
    cells, slots = self._cells(arch), layout.slot_names(self.table.nodes)

    @functools.cache  # an operation has several parameters
    def used(kind, slot, op, lead):
      own = cells[kind].ops[slot] == self.table.ops.index(op)
      if kind and op == "skip_connect":
        own &= cells[kind].states[slot] < encoding.FIRST_NODE
      return jnp.full(lead, own, jnp.float32)

    def mask(path, leaf):
      names = [p.key for p in path]
      lead = leaf.shape[:1] if self.is_stacked(names) else ()
      if names[1] not in slots:
        return jnp.ones(lead, jnp.float32)
      return used(int(not self.is_stacked(names)), slots.index(names[1]), names[2], lead)

    return jax.tree_util.tree_map_with_path(mask, parameter_shapes(self))

  def used_channels(self, arch: Int[Array, " L"]) -> PyTree | None:
    """Always all where each cell concatenates all of its nodes, but for kernels that read the stem."""
    return layout.used_channels(parameter_shapes(self), self._used(arch))

  def is_stacked(self, path: list[str]) -> bool:
    """See `layout.is_stacked`."""
    return layout.is_stacked(path)

  def costs(self, arch: Int[Array, " L"], image_size: int = 32) -> Costs:
    """As `costs` counts them."""
    size, nodes = self.size(image_size), self.table.nodes
    cells = self._cells(arch)
    empty = costs.frame(size, (0, 0))
    per_state = [costs.frame(size, counts) for counts in ((1, 0), (0, 1))]
    total = []
    for kind in Costs._fields:
      value = jnp.float32(getattr(empty, kind))
      for cell, own in zip(cells, per_state, strict=True):
        value += jnp.asarray(nodes - cell.empty, jnp.float32) * jnp.float32(getattr(own, kind) - getattr(empty, kind))
      table = jnp.asarray(self._slot_costs(size, kind), jnp.float32)
      for number, cell in enumerate(cells):
        from_input = (cell.states < encoding.FIRST_NODE).astype(jnp.int32)
        value += table[number, from_input, cell.ops].sum()
      total.append(value)
    return Costs(*total)

  # Outputs

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Int[Array, " L"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass.

    A ReLU precedes each convolution of a cell and none ends the network. The taps enter the reduction cells and leave
    the last cell; zeros stand behind the channels that a genotype's cells have.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    del rows  # the backward pass is made for many cotangents
    run = begin(mode, collect, stats, able=ABLE, axis=0)
    check_images(inputs)
    return self._forward(with_gates(params, gates), inputs, self._cells(arch), run, stats)

  def _cells(self, arch: Int[Array, " L"]) -> tuple[ChosenCell, ChosenCell]:
    length, half = encoding.length(self.table), 5 * self.table.nodes
    if arch.shape != (length,):
      raise ConfigError(f"arch of shape {arch.shape}: expected ({length},), a row of what encode() returned")
    return chosen_cell(self.table, arch[2 : 2 + half]), chosen_cell(self.table, arch[2 + half :])

  def _used(self, arch: Int[Array, " L"]) -> dict[tuple[str, ...], Array]:
    return layout.used_rows(self.table, self.size(), self._counts(arch))

  def _counts(self, arch: Int[Array, " L"]) -> tuple[Array, Array]:
    """How many states the normal and the reduction cell concatenate."""
    normal, reduction = (jnp.asarray(self.table.nodes - cell.empty, jnp.int32) for cell in self._cells(arch))
    return normal, reduction

  def _forward(self, params, images, cells: tuple[ChosenCell, ChosenCell], run: Pass, stats) -> Output:
    seen: dict[str, Seen] = {}
    taps = []
    states, seen["stem"] = self._stem(darts.to_maps(images), params["stem"], stats and stats["stem"], run)
    flow = LastCells(states, (0, 0))
    for part in layout.parts(self.size()):
      own = Own(params[part.name], stats and stats[part.name])
      if part.kind:
        taps.append(flow.states[1])
      run_part = reduction if part.kind else stage
      flow, seen[part.name] = run_part(self.table, part, own, flow, cells[part.kind], run)
    last = flow.states[1]
    all_seen = together(seen)
    taps = tuple(tap.transpose(1, 2, 3, 0) for tap in (*taps, last))
    return Output(
      logits=linear(last.mean((2, 3)).T, params["classifier"]),
      log_scale=0.0 if all_seen.log_scale is None else all_seen.log_scale,
      stats=all_seen.stats if run.keeps_stats else None,
      taps=taps if "taps" in run.collect else None,
      observation=None if all_seen.observed is None else Observation(taps[-1], *all_seen.observed),
    )

  def _stem(self, x, params, stats, run: Pass) -> tuple[tuple[Array, Array], Seen]:
    """(the two states that the first cell reads, what is shown)."""
    norm, found = blocks.collecting(run, stats and jax.lax.stop_gradient(stats))

    def layer(place, x, own):
      stride = 2 if self.form == "imagenet" else 1
      z = blocks.convolved(functools.partial(darts.convolve, stride=stride), x, own["conv"])
      return norm(place, z, own["bn"])

    if self.form == "cifar":
      y = layer("a", x, params)
      return (y, y), blocks.seen_of(run, found, x, ())
    half = layer("a", x, params["a"])
    quarter = layer("b", blocks.relu(half), params["b"])
    eighth = layer("c", blocks.relu(quarter), params["c"])
    return (quarter, eighth), blocks.seen_of(run, found, x, (half, quarter))

  def _slot_costs(self, size: CellSize, kind: str) -> np.ndarray:
    """The sum over the cells of a kind, [kind of cell, whether from an input, op]."""
    table = np.zeros((2, 2, len(self.table.ops)), np.int64)
    for cell in costs.plan(size):
      for state, from_input in ((encoding.FIRST_NODE, 0), (0, 1)):
        own = [costs.slot_cost(op, state, cell.body) for op in self.table.ops]
        table[cell.kind, from_input] += [getattr(one, kind) for one in own]
    return table
