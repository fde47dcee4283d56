"""The network of one genotype: every slot computes its own operation and no other.

With `config.genotype` the architecture is static: parameters exist for its own operations, as a user trains it. Else it
is data, read from `alphas`, so that one compilation serves all genotypes; parameters then exist for every operation of
every slot, and an architecture costs what its operations cost.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, model.py (no BN after pooling and at the end).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import parameters, single
from jaxnas.nets.single import Observation
from jaxnas.spaces.darts import auxiliary, costs, encoding, layout, operations
from jaxnas.spaces.darts.blocks import gated, relu
from jaxnas.spaces.darts.layout import SLOTS, STAGE, NetworkConfig
from jaxnas.spaces.darts.observation import Pass, total, unit_moments
from jaxnas.spaces.darts.stages import Chosen, Given, chosen_of, reduction, stage

__all__ = ["NetworkConfig", "PlainNetwork"]


@dataclasses.dataclass(frozen=True)
class PlainNetwork:
  """Pure functions of parameters, images and one-hot alphas [2, 14, 8] (ignored where the genotype is static)."""

  config: NetworkConfig
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass
  shape: ClassVar[tuple[int, int, int]] = (len(encoding.CELLS), encoding.NUM_EDGES, encoding.NUM_OPS)  # of alphas

  def with_batch_norm(self, mode: str) -> "PlainNetwork":
    """The same network with another `batch_norm` mode; parameters are the same."""
    return PlainNetwork(dataclasses.replace(self.config, batch_norm=mode))

  def for_rows(self) -> "PlainNetwork":
    """This network: its backward pass is made for many cotangents."""
    return self

  # Parameters

  def init_params(self, key: Array) -> PyTree:
    """Fresh float32 parameters (`parameters.draw`); those of a stage's cells are stacked, see `layout`."""
    return parameters.draw(layout.shapes(self.config), self.config.init, key)

  def init_stats(self) -> PyTree:
    """Statistics as `moments` returns them, means 0 and variances 1: where running ones start."""
    side = {"imagenet": 224, "cifar": 32}[self.config.stem] if self.config.auxiliary else 8
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    params = jax.eval_shape(self.init_params, jax.random.key(0))
    return unit_moments(jax.eval_shape(self.moments, params, images, jnp.zeros(self.shape)))

  def executed(self, alphas: Float[Array, "2 14 8"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to an operation of this architecture, [] or [cells] each."""
    cells = [self._chosen(alphas, cell_type) for cell_type in range(2)]

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

    return jax.tree_util.tree_map_with_path(mask, jax.eval_shape(self.init_params, jax.random.key(0)))

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " L"]:
    """See `single.by_layer`."""
    return single.by_layer(fn, trees, layout.is_stacked)

  def gates(self, samples: int) -> PyTree:
    """Ones for each convolution, [N, Cout] or [cells, N, Cout]: the parameters' tree down to what holds a kernel."""

    def ones(node, names):
      if "kernel" in node:
        *_, width = node["kernel"].shape
        lead = node["kernel"].shape[:1] if layout.is_stacked(names) else ()
        return jnp.ones((*lead, samples, width))
      inner = {name: ones(own, [*names, name]) for name, own in node.items() if isinstance(own, dict)}
      return {name: own for name, own in inner.items() if not isinstance(own, dict) or own}

    params = jax.eval_shape(self.init_params, jax.random.key(0))
    return {name: ones(own, [name]) for name, own in params.items() if name not in ("classifier", "auxiliary")}

  # Outputs

  def logits(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    alphas: Float[Array, "2 14 8"],
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
  ) -> Float[Array, "N K"]:
    """The outputs of the architecture; all-zero `alphas` are a network whose nodes give 0.

    Args:
      stats: what `moments` returned; needed in mode `running`.
      gates: factors on the output of every convolution, see `gates`.

    Raises:
      ConfigError: alphas of another shape, or `stats` missing.
      DatasetError: images of another shape.
    """
    return self._forward(_with_gates(params, gates), images, alphas, stats)[0]

  def logits_and_moments(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    alphas: Float[Array, "2 14 8"],
    *,
    unbiased: bool = False,
    drop_path: Float[Array, ""] | float | None = None,
    key: Array | None = None,
  ) -> tuple[Any, PyTree]:
    """One pass for the outputs in mode `batch` and for `moments`: what a step of training needs.

    Args:
      unbiased: variances are of n - 1 and the moments are constants, as running statistics need them.
      drop_path: probability, below 1, with which each slot but the identity is left out, for each sample on its own;
        the others are divided by 1 - drop_path. None: nothing is left out.
      key: typed, for drop path.

    Returns:
      (logits, moments), or with the auxiliary head ((logits, its logits), moments).

    Raises:
      ConfigError: drop_path without a key, or as `logits`.
      DatasetError: as `logits`, or images whose size the auxiliary head cannot take.
    """
    drop = None
    if drop_path is not None:
      if key is None:
        raise ConfigError("key=None: drop_path draws; give a key")
      kept = 1 - jnp.asarray(drop_path, jnp.float32)
      shape = (self.config.cells, len(SLOTS), len(images))
      there = jax.random.uniform(key, shape, jnp.float32) < kept
      drop = (there.astype(jnp.float32) / kept).astype(images.dtype)
    network, collect = self.with_batch_norm("batch"), "unbiased" if unbiased else "moments"
    logits, seen, _, side = network._forward(params, images, alphas, None, collect, drop)
    return (logits, side) if self.config.auxiliary else logits, seen

  def moments(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "2 14 8"]) -> PyTree:
    """(mean, variance) of this batch at every BN, for mode `running`; of an operation without BN, 0."""
    return self.logits_and_moments(params, images, alphas)[1]

  def observe(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "2 14 8"]) -> Observation:
    """See `Observation`; here a ReLU precedes each convolution and none ends the network. No auxiliary head."""
    logits, seen, taps, _ = self._forward(params, images, alphas, None, "observation")
    return Observation(logits, taps[-1].transpose(1, 2, 3, 0), *seen)

  def taps(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    alphas: Float[Array, "2 14 8"],
    *,
    stats: PyTree | None = None,
  ) -> tuple[tuple[Array, ...], PyTree]:
    """What enters the reduction cells and leaves the last cell, [N, H, W, 4C], [N, H/2, W/2, 8C], ...; and moments.

    In mode `batch` these are those of the batch, with variances of n - 1 and as constants; in mode `running`, with the
    `stats` given, there are none.
    """
    collect = "unbiased" if self.config.batch_norm == "batch" else ""
    _, seen, taps, _ = self._forward(params, images, alphas, stats, collect)
    return tuple(tap.transpose(1, 2, 3, 0) for tap in taps), seen

  # Costs

  def parameter_count(self, alphas: Float[Array, "2 14 8"]) -> Float[Array, ""]:
    """Trainable parameters without the auxiliary head, as `costs.params` counts them; float32, rounded above 2^24."""
    return self._cost(alphas, "params", self.config.evaluation())

  def mac_count(self, alphas: Float[Array, "2 14 8"], image_size: int = 32) -> Float[Array, ""]:
    """Multiply-adds of one image, as `costs.macs` counts them; float32.

    Raises:
      ConfigError: an image size that the network does not halve exactly.
    """
    return self._cost(alphas, "macs", self.config.evaluation(image_size))

  def _cost(self, alphas, kind, evaluation):
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
    chosen = [self._chosen(alphas, cell_type) for cell_type in range(2)]
    costs_of = jnp.asarray(table, jnp.float32)
    found = [
      costs_of[i, (jnp.asarray(c.sources) < encoding.FIRST_NODE).astype(jnp.int32), jnp.asarray(c.ops)].sum()
      for i, c in enumerate(chosen)
    ]
    return sum(found, jnp.asarray(rest, jnp.float32))

  # The pass

  def _chosen(self, alphas, cell_type: int) -> Chosen:
    static = self.config.slots(cell_type)
    if static is not None:
      return Chosen(*zip(*static, strict=True))
    if alphas.shape != self.shape:
      raise ConfigError(f"alphas of shape {alphas.shape}: expected {self.shape}")
    return chosen_of(alphas[cell_type])

  def _forward(self, params, images, alphas, stats, collect="", drop=None) -> tuple[Any, Any, Any, Any]:
    """(logits, what was collected, taps, the auxiliary head's logits or None)."""
    c = self.config
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 4:
      raise DatasetError(f"images of shape {images.shape}: expected (N, H, W, 3) with H and W of at least 4")
    if c.batch_norm == "running" and stats is None:
      raise ConfigError("batch_norm='running' needs stats: give what moments() returned")
    run, seen, taps, side = Pass(c.batch_norm, collect), {}, [], None
    chosen = [self._chosen(alphas, cell_type) for cell_type in range(2)]
    inputs, seen["stem"] = self._stem(operations.to_maps(images), params["stem"], stats and stats["stem"], run)
    parts = layout.parts(c)
    last_reduction = [p.name for p in parts if p.cell_type][-1]
    for part in parts:
      own = slice(part.first, part.first + len(part.shapes))
      given = Given(params[part.name], stats and stats[part.name], None if drop is None else drop[own])
      cells = reduction if part.cell_type else stage
      if part.cell_type:
        taps.append(inputs[1])
      inputs, seen[part.name] = cells(part, given, inputs, chosen[part.cell_type], run)
      if part.name == last_reduction and c.auxiliary and collect in ("moments", "unbiased"):
        norm = run.norm(None, seen.setdefault("auxiliary", {}))
        side = auxiliary.logits(inputs[1], params["auxiliary"], norm, 3 if c.stem == "cifar" else 2)
    taps.append(inputs[1])
    logits = auxiliary.linear(inputs[1].mean((2, 3)), params["classifier"])
    return logits, total(list(seen.values())) if collect == "observation" else seen, taps, side

  def _stem(self, x, params, stats, run):
    """(the two inputs of the first cell, what was collected)."""
    found: dict[str, Any] = {}
    norm = run.norm(stats, found)

    def layer(name, x, own, stride):
      return norm(name, gated(operations.convolve(x, own["conv"]["kernel"], stride), own["conv"]), own["bn"])

    if self.config.stem == "cifar":
      y = layer("a", x, params, 1)
      return (y, y), run.finish(found, x)
    half = layer("a", x, params["a"], 2)
    quarter = layer("b", relu(half), params["b"], 2)
    eighth = layer("c", relu(quarter), params["c"], 2)
    seen = run.finish(found, x, half, quarter)
    return (quarter, eighth), seen


def _with_gates(params: PyTree, gates: PyTree | None) -> PyTree:
  """The parameters with each gate beside its kernel."""
  if gates is None:
    return params
  if not isinstance(gates, dict):
    return {**params, "gate": gates}
  return {name: _with_gates(own, gates.get(name)) for name, own in params.items()}
