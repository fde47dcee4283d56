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
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, PyTree

from jaxnas.base import Collect, Mode, NetworkConfig, Output
from jaxnas.errors import ConfigError
from jaxnas.nets import parameters
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.node import take
from jaxnas.nets.one_network import OneNetwork
from jaxnas.nets.parameters import bn_shapes
from jaxnas.nets.passes import Pass, Seen, begin, check_images, linear, together
from jaxnas.nets.supernet import EXECUTED
from jaxnas.spaces.darts import blocks, operations
from jaxnas.spaces.darts.encoding import EDGES, FIRST_NODE, NODES, NUM_NODES, NUM_OPS, OPS, alphas
from jaxnas.spaces.darts.operations import Maps

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "patterns")
SOURCES = tuple(range(NODES[-1]))  # nodes that edges leave
GROUPS = {"inputs": SOURCES[:FIRST_NODE], "nodes": SOURCES[FIRST_NODE:]}  # edges that leave the one or the other
CONVS = (*blocks.SEPARABLE, *blocks.DILATED)


def leaving(source: int) -> list[int]:
  """Rows of the edges that leave a node, by ascending target."""
  return [e for e, (_, s) in enumerate(EDGES) if s == source]


@dataclasses.dataclass(frozen=True)
class DARTSSupernet(OneNetwork, SampleGrams):
  """Pure functions of parameters, images and mixing weights [2, 14, 8] (normal and reduction cell, edges, ops).

  Attributes:
    config: each reduction cell doubles the channels.
    reductions: which cells are reduction cells.
    stem_multiplier: channels before the first cell, in units of C.
    stem: whether a 3x3 convolution and BN precede the cells; without it images have `stem_multiplier` * C channels.
  """

  config: NetworkConfig
  reductions: tuple[int, ...]
  stem_multiplier: int = 1
  stem: bool = True
  rows_on_cpu: ClassVar[int] = 7  # cotangents that go back together on a CPU

  def __post_init__(self):
    c, (_, cells) = self.config, self.config.size
    parameters.check_init(c.init)
    if any(not 0 <= cell < cells for cell in self.reductions):
      raise ConfigError(f"reductions={self.reductions} must be cells 0..{cells - 1}")
    if self.stem_multiplier < 1:
      raise ConfigError(f"stem_multiplier={self.stem_multiplier} must be at least 1")
    if c.stem != "cifar" or c.auxiliary:
      raise ConfigError(
        f"stem={c.stem!r}, auxiliary={c.auxiliary}: a supernet has the cifar stem and no auxiliary head"
      )

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  def encode(self, codes: Int[np.ndarray, "A 32"]) -> Float32[np.ndarray, "A 2 14 8"]:
    """Weights 1 of the operations that the architectures have, 0 of all others."""
    return alphas(codes)

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters. Those of the edges that leave a node are stacked: [edges, ...]."""
    return parameters.draw(self._shapes(), self.config.init, key)

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path have the edges that leave a node as their first axis."""
    return len(path) > 1 and path[1].startswith("from")

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W C"],
    arch: Float[Array, "2 14 8"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass. It can be differentiated in the weights too, to second order, also through given `stats`.

    Raises:
      ConfigError: weights of another shape, gates, or as `base.Network.apply`.
      DatasetError: images of another number of channels, or smaller than the cells can halve.
    """
    del rows  # the backward pass is made for many cotangents
    run = begin(mode, collect, stats, able=ABLE, axis=0)
    if gates is not None:
      raise ConfigError("gates: a supernet has none, give them to a network of single architectures")
    if arch.shape != (2, len(EDGES), NUM_OPS):
      raise ConfigError(f"weights of shape {arch.shape}: expected (2, {len(EDGES)}, {NUM_OPS})")
    channels = 3 if self.stem else self.stem_multiplier * self.config.size[0]
    check_images(inputs, channels, 1 + (1 << len(self.reductions)) // 2)
    return self._forward(params, inputs, arch, run, stats)

  def _shapes(self) -> PyTree:
    width, cells = self.config.size
    before = last = self.stem_multiplier * width
    shapes: dict[str, Any] = {}
    if self.stem:
      shapes["stem"] = {"conv": {"kernel": (3, 3, 3, last)}, "bn": bn_shapes(last)}
    for i in range(cells):
      reduction = i in self.reductions
      width *= 1 + reduction
      first = blocks.reduction_shapes if i - 1 in self.reductions else blocks.relu_conv_bn_shapes
      cell = {"preprocess0": first(before, width), "preprocess1": blocks.relu_conv_bn_shapes(last, width)}
      for source in SOURCES:
        stride = 2 if reduction and source < FIRST_NODE else 1
        ops = {op: blocks.op_shapes(op, width, stride) for op in OPS}
        own = {op: shape for op, shape in ops.items() if shape}
        cell[f"from{source}"] = parameters.stacked(own, len(leaving(source)))
      shapes[f"cell_{i}"] = cell
      before, last = last, NUM_NODES * width
    classifier = {"kernel": (last, self.classes), "bias": (self.classes,)}
    return {**shapes, "last": {"bn": bn_shapes(last)}, "classifier": classifier}

  def _forward(self, params, images, weights, run: Pass, stats) -> Output:
    found: dict[str, Seen] = {}
    signs: list[Array] = []
    x = operations.to_maps(images)
    if self.stem:
      z = blocks.convolved(operations.convolve, x, params["stem"]["conv"])
      x, found["stem"] = run.normalise(z, params["stem"]["bn"], stats and stats["stem"])
    s0 = s1 = x
    for i in range(self.config.size[1]):
      name, reduction = f"cell_{i}", i in self.reductions
      cell = functools.partial(_cell, reduction=reduction, halve=i - 1 in self.reductions, run=run)
      y, found[name], own = cell(s0, s1, params[name], weights[int(reduction)], stats and stats[name])
      signs += own
      s0, s1 = s1, y
    x, found["last"] = run.normalise(s1, params["last"]["bn"], stats and stats["last"])
    signs.append(_signs(x))
    logits = linear(jax.nn.relu(x).mean((2, 3)).T, params["classifier"])
    return Output(
      logits,
      stats=together(found).stats if run.keeps_stats else None,
      patterns=jnp.concatenate(signs, axis=1) if "patterns" in run.collect else None,
    )


def _cell(s0, s1, params, weights, stats, *, reduction: bool, halve: bool, run: Pass):
  """(output, what is shown, signs of what ReLUs read) of one cell; `weights` [edges, ops]."""
  found, states, signs = {}, [], [_signs(s0), _signs(s1)]
  first = blocks.factorised_reduction if halve else blocks.relu_conv_bn
  for name, x, block in (("preprocess0", s0, first), ("preprocess1", s1, blocks.relu_conv_bn)):
    norm, seen = blocks.collecting(run, stats and stats[name])
    states.append(block(x, params[name], norm))
    found[name] = together(seen)
  inputs = jnp.stack(states)
  size = tuple(-(-n // (1 + reduction)) for n in inputs.shape[-2:])
  nodes = jnp.zeros((NUM_NODES, *inputs.shape[1:-2], *size), inputs.dtype)
  for name, sources in GROUPS.items():
    rows = [row for source in sources for row in leaving(source)]
    own = jax.tree.map(lambda *edges: jnp.concatenate(edges), *(params[f"from{source}"] for source in sources))
    given = own, weights[np.array(rows)], stats and stats[name]
    read, stride = (inputs, 1 + reduction) if name == "inputs" else (None, 1)
    nodes, found[name], own = _edges(read, nodes, rows, *given, stride, run)
    signs += own
  return jnp.concatenate(list(nodes)), together(found), signs


def _edges(inputs, nodes, rows, params, weights, stats, stride, run: Pass) -> tuple[Array, Seen, list[Array]]:
  """The nodes with what these edges bring, one after the other, from the inputs or, if there are none, from nodes."""
  targets, sources = np.array([EDGES[row] for row in rows], np.int32).T
  first = 0 if inputs is not None else FIRST_NODE
  reading = [*CONVS] if stride == 1 else [*CONVS, "skip_connect"]  # operations that begin with a ReLU

  def body(nodes, edge):
    source, target, own, weight, given = edge
    x = take(nodes if inputs is None else inputs, source)
    y, found, signs = _mixed(reading, x, own, weight, given, stride, run)
    return lax.dynamic_update_index_in_dim(nodes, take(nodes, target) + y, target, 0), (found, signs)

  edges = (sources - first, targets - FIRST_NODE, params, weights, stats)
  nodes, (found, signs) = lax.scan(jax.checkpoint(body), nodes, edges)
  read = jnp.any(jnp.stack([weights[:, OPS.index(op)] for op in reading]) > EXECUTED, 0)
  for source in sorted(set(sources)):
    x = (nodes if inputs is None else inputs)[source - first]
    signs.append((_signs(x) & jnp.any(read[sources == source]))[None])
  return nodes, found, [bits for own in signs for bits in own]


def _mixed(reading, x, params, weights, stats, stride, run: Pass) -> tuple[Maps, Seen, list[Array]]:
  """What an edge brings: its operations on x, mixed by `weights` [ops]; what they show; signs of the second ReLUs."""
  total: Any = 0.0
  found, signs = {}, []
  for op in reading:
    weight = weights[OPS.index(op)]
    norm, seen = blocks.collecting(run, stats and stats[op])
    y, (_, *middle) = blocks.apply(op, x, params[op], norm, stride)
    found[op] = together(seen)
    total = total + weight * y
    signs += [_signs(maps) & (weight > EXECUTED) for maps in middle]
  free = {"avg_pool_3x3": operations.avg_pool(x, stride), "max_pool_3x3": operations.max_pool(x, stride)}
  if stride == 1:
    free["skip_connect"] = x
  for op, y in free.items():
    total = total + weights[OPS.index(op)] * y
  return total, together(found), signs


def _signs(x: Maps) -> Bool[Array, "N bits"]:
  """Where x is positive."""
  return (x > 0).transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
