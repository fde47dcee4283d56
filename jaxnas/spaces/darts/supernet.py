"""The DARTS supernet: every operation on every edge, mixed by weights that are data.

Two layouts are published: TE-NAS's (C = 1, a normal and a reduction cell, stem to C channels, or no stem and images of
one channel, for counting linear regions) and the search network of DARTS (C = 16, 8 cells, stem to 3C), NASI's here.
A cell goes through its edges by ascending source, with all operations of each, whatever their weights are; an edge
whose weights are all 0 contributes nothing. Edges from the two inputs are one loop and edges from the nodes another, so
that few bodies of code are compiled, and a backward pass computes an edge again rather than keep its intermediates.

Source: Liu et al., "DARTS", ICLR 2019; Chen et al. (TE-NAS), ICLR 2021, and the released code, nasnet_super.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import numerics, parameters
from jaxnas.nets.numerics import BatchNormMode, Init
from jaxnas.nets.supernet import EXECUTED
from jaxnas.spaces.darts import blocks, operations
from jaxnas.spaces.darts.encoding import EDGES, FIRST_NODE, NODES, NUM_NODES, NUM_OPS, OPS
from jaxnas.spaces.darts.operations import Maps

SOURCES = tuple(range(NODES[-1]))  # nodes that edges leave
GROUPS = {"inputs": SOURCES[:FIRST_NODE], "nodes": SOURCES[FIRST_NODE:]}  # edges that leave the one or the other
CONVS = (*blocks.SEPARABLE, *blocks.DILATED)


def leaving(source: int) -> list[int]:
  """Rows of the edges that leave a node, by ascending target."""
  return [e for e, (_, s) in enumerate(EDGES) if s == source]


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
  """Shape and numerics; the default is TE-NAS's network for the NTK.

  Attributes:
    channels: C of the first cell; each reduction cell doubles it.
    cells: how many.
    classes: outputs of the classifier.
    reductions: which cells are reduction cells.
    stem: whether a 3x3 convolution and BN precede the cells; without it images have `stem_multiplier` * C channels.
    stem_multiplier: channels before the first cell, in units of C.
    init: see `parameters.draw`.
    batch_norm: `batch` (mini-batch statistics, differentiated through), `batch_frozen` (the same, as constants),
      `running` (given ones) or `identity` (mean 0, variance 1).
  """

  channels: int = 1
  cells: int = 2
  classes: int = 10
  reductions: tuple[int, ...] = (1,)
  stem: bool = True
  stem_multiplier: int = 1
  init: Init = "kaiming_fan_out"
  batch_norm: BatchNormMode = "batch"

  def __post_init__(self):
    numerics.check(self, channels=1, cells=1, classes=1, stem_multiplier=1)
    if any(not 0 <= cell < self.cells for cell in self.reductions):
      raise ConfigError(f"reductions={self.reductions} must be cells 0..{self.cells - 1}")


@dataclasses.dataclass(frozen=True)
class Supernet:
  """Pure functions of parameters, images and mixing weights [2, 14, 8] (normal and reduction cell, edges, ops)."""

  config: SupernetConfig
  rows_on_cpu: ClassVar[int] = 7  # cotangents that go back together on a CPU

  def with_batch_norm(self, mode: str) -> "Supernet":
    """The same network with another `batch_norm` mode; parameters are the same."""
    return Supernet(dataclasses.replace(self.config, batch_norm=mode))

  def for_rows(self) -> "Supernet":
    """This network: its backward pass is made for many cotangents."""
    return self

  def init_params(self, key: Array) -> PyTree:
    """Fresh float32 parameters. Those of the edges that leave a node are stacked: [edges, ...]."""
    return parameters.draw(self._shapes(), self.config.init, key)

  def logits(
    self,
    params: PyTree,
    images: Float[Array, "N H W C"],
    alphas: Float[Array, "2 14 8"],
    *,
    stats: PyTree | None = None,
  ) -> Float[Array, "N K"]:
    """The outputs.

    Args:
      stats: what `moments` returned; needed in mode `running`.

    Raises:
      ConfigError: alphas of another shape, or `stats` missing.
      DatasetError: images of another number of channels, or smaller than the cells can halve.
    """
    return self._forward(params, images, alphas, stats)[0]

  def moments(self, params: PyTree, images: Array, alphas: Array) -> PyTree:
    """Mean and variance of this batch at every BN, for mode `running`."""
    return self.with_batch_norm("batch")._forward(params, images, alphas, None)[1]

  def patterns(self, params: PyTree, images: Array, alphas: Array) -> Bool[Array, "N bits"]:
    """Signs of the outputs of all executed ReLUs, as the mode of BN has them; a ReLU that is not executed shows 0."""
    return jnp.concatenate(self._forward(params, images, alphas, None)[2], axis=1)

  def _shapes(self) -> PyTree:
    c = self.config
    width, before, last = c.channels, *2 * (c.stem_multiplier * c.channels,)
    shapes: dict[str, Any] = {}
    if c.stem:
      shapes["stem"] = {"conv": {"kernel": (3, 3, 3, last)}, "bn": blocks.bn_shapes(last)}
    for i in range(c.cells):
      reduction = i in c.reductions
      width *= 1 + reduction
      first = blocks.reduction_shapes if i - 1 in c.reductions else blocks.relu_conv_bn_shapes
      cell = {"preprocess0": first(before, width), "preprocess1": blocks.relu_conv_bn_shapes(last, width)}
      for source in SOURCES:
        stride = 2 if reduction and source < FIRST_NODE else 1
        ops = {op: blocks.op_shapes(op, width, stride) for op in OPS}
        own = {op: shape for op, shape in ops.items() if shape}
        cell[f"from{source}"] = parameters.stacked(own, len(leaving(source)))
      shapes[f"cell_{i}"] = cell
      before, last = last, NUM_NODES * width
    return {
      **shapes,
      "last": {"bn": blocks.bn_shapes(last)},
      "classifier": {"kernel": (last, c.classes), "bias": (c.classes,)},
    }

  def _forward(self, params, images, alphas, stats) -> tuple[Any, Any, list[Array]]:
    """(logits, moments of every BN, patterns)."""
    self._check(images, alphas, stats)
    c, found, seen = self.config, {}, []
    x = operations.to_maps(images)
    if c.stem:
      z = operations.convolve(x, params["stem"]["conv"]["kernel"])
      x, found["stem"] = self._norm(z, params["stem"]["bn"], stats and stats["stem"])
    s0 = s1 = x
    for i in range(c.cells):
      name, reduction = f"cell_{i}", i in c.reductions
      cell = functools.partial(self._cell, reduction=reduction, halve=i - 1 in c.reductions)
      y, found[name], patterns = cell(s0, s1, params[name], alphas[int(reduction)], stats and stats[name])
      seen += patterns
      s0, s1 = s1, y
    x, found["last"] = self._norm(s1, params["last"]["bn"], stats and stats["last"])
    seen.append(_signs(x))
    features = jax.nn.relu(x).mean((2, 3))  # [C, N]
    head = params["classifier"]
    logits = jnp.tensordot(features, head["kernel"], ((0,), (0,)), precision=lax.Precision.HIGHEST)
    return logits + head["bias"][None], found, seen

  def _cell(self, s0, s1, params, weights, stats, *, reduction: bool, halve: bool):
    """(output, moments, patterns) of one cell; `weights` [edges, ops]."""
    found, states, seen = {}, [], [_signs(s0), _signs(s1)]
    first = blocks.factorised_reduction if halve else blocks.relu_conv_bn
    for name, x, block in (("preprocess0", s0, first), ("preprocess1", s1, blocks.relu_conv_bn)):
      run = functools.partial(block, x, params[name])
      y, found[name] = self._collecting(run, stats and stats[name])
      states.append(y)
    inputs = jnp.stack(states)
    size = tuple(-(-n // (1 + reduction)) for n in inputs.shape[-2:])
    nodes = jnp.zeros((NUM_NODES, *inputs.shape[1:-2], *size), inputs.dtype)
    for name, sources in GROUPS.items():
      rows = [row for source in sources for row in leaving(source)]
      own = jax.tree.map(lambda *edges: jnp.concatenate(edges), *(params[f"from{source}"] for source in sources))
      given = own, weights[np.array(rows)], stats and stats[name]
      read, stride = (inputs, 1 + reduction) if name == "inputs" else (None, 1)
      nodes, found[name], patterns = self._edges(read, nodes, rows, *given, stride)
      seen += patterns
    return jnp.concatenate(list(nodes)), found, seen

  def _edges(self, inputs, nodes, rows, params, weights, stats, stride) -> tuple[Maps, Any, list[Array]]:
    """The nodes with what these edges bring, one after the other, from the inputs or, if there are none, from nodes."""
    targets, sources = np.array([EDGES[row] for row in rows], np.int32).T
    first = 0 if inputs is not None else FIRST_NODE
    reading = [*CONVS] if stride == 1 else [*CONVS, "skip_connect"]  # operations that begin with a ReLU

    def body(nodes, edge):
      source, target, own, weight, given = edge
      x = operations.node(nodes if inputs is None else inputs, source)
      y, found, seen = self._mixed(reading, x, own, weight, given, stride)
      return lax.dynamic_update_index_in_dim(nodes, operations.node(nodes, target) + y, target, 0), (found, seen)

    edges = (sources - first, targets - FIRST_NODE, params, weights, stats)
    nodes, (found, seen) = lax.scan(jax.checkpoint(body), nodes, edges)
    read = jnp.any(jnp.stack([weights[:, OPS.index(op)] for op in reading]) > EXECUTED, 0)
    for source in sorted(set(sources)):
      x = (nodes if inputs is None else inputs)[source - first]
      seen.append((_signs(x) & jnp.any(read[sources == source]))[None])
    return nodes, found, [bits for own in seen for bits in own]

  def _mixed(self, reading, x, params, weights, stats, stride) -> tuple[Maps, Any, list[Array]]:
    """What an edge brings: its operations on x, mixed by `weights` [ops]; moments; signs of the second ReLUs."""
    total: Any = 0.0
    found, seen = {}, []
    for op in reading:
      weight = weights[OPS.index(op)]
      (y, middle), found[op] = self._block(op, x, stride, params[op], stats and stats[op])
      total = total + weight * y
      if middle is not None:
        seen.append(_signs(middle) & (weight > EXECUTED))
    free = {"avg_pool_3x3": operations.avg_pool(x, stride), "max_pool_3x3": operations.max_pool(x, stride)}
    if stride == 1:
      free["skip_connect"] = x
    for op, y in free.items():
      total = total + weights[OPS.index(op)] * y
    return total, found, seen

  def _block(self, op, x, stride, params, stats):
    """((output, what its second ReLU reads or None), moments) of an operation on one edge."""

    def run(norm):
      if op in blocks.SEPARABLE:
        return blocks.separable(x, params, norm, stride)
      return blocks.apply(op, x, params, norm, stride), None

    return self._collecting(run, stats)

  def _collecting(self, run, given):
    """`run(norm=...)` and the moments that its normalisations had; `given`: those to use, by place."""
    found = {}

    def norm(name, z, bn):
      y, found[name] = self._norm(z, bn, given and given[name])
      return y

    return run(norm=norm), found

  def _norm(self, z, bn, given):
    mean, variance = operations.statistics(z, self.config.batch_norm, given)
    return operations.batch_norm(z, mean, variance, bn["scale"], bn["bias"]), (mean, variance)

  def _check(self, images, alphas, stats):
    c = self.config
    if alphas.shape != (2, len(EDGES), NUM_OPS):
      raise ConfigError(f"alphas of shape {alphas.shape}: expected (2, {len(EDGES)}, {NUM_OPS})")
    channels, least = 3 if c.stem else c.stem_multiplier * c.channels, 1 + (1 << len(c.reductions)) // 2
    if images.ndim != 4 or images.shape[-1] != channels or min(images.shape[1:3]) < least:
      raise DatasetError(
        f"images of shape {images.shape}: expected (N, H, W, {channels}) with H and W of at least {least}"
      )
    if c.batch_norm == "running" and stats is None:
      raise ConfigError("batch_norm='running' needs stats: give what moments() returned")


def _signs(x: Maps) -> Bool[Array, "N bits"]:
  """Where x is positive."""
  return (x > 0).transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
