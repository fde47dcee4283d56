"""The NAS-Bench-201 network as GenNAS trains it: no classifier, three taps, one architecture whose operations are data.

It differs from the benchmark's own network in the cells, whose batch normalisations have no scale, bias or running
statistics (they always see the batch), and in the taps: the outputs of the cells of each stage. The cells'
convolutions have biases in the published code; the normalisation behind them takes them out again, so they are not
computed, only counted.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.gennas.heads import batch_norm, new_batch_norm, new_statistics, torch_uniform
from jaxnas.nets import layers
from jaxnas.nets.plain_layers import convolve
from jaxnas.nets.single import choose
from jaxnas.spaces.nb201 import encoding
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import CONVS
from jaxnas.spaces.nb201.plain import operations_of, useful
from jaxnas.spaces.nb201.plain_cell import edge_name

SIZES = {OPS[op]: size for op, size in CONVS.items()}


@dataclasses.dataclass(frozen=True)
class Backbone:
  """Pure functions of parameters, running statistics, images and one-hot alphas.

  Attributes:
    channels: C of the first stage, doubled by each of the two reductions.
    cells: N, cells per stage.
  """

  channels: int = 16
  cells: int = 5
  shape: ClassVar[tuple[int, int, int]] = (1, len(EDGES), len(OPS))  # of alphas

  encode = staticmethod(encoding.alphas)

  def __post_init__(self):
    for name in ("channels", "cells"):
      if getattr(self, name) < 1:
        raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    return self.channels, 2 * self.channels, 4 * self.channels

  def init_params(self, key: Array) -> PyTree:
    """Kernels uniform within 1 / sqrt(fan in); kernels of a stage's cells are stacked, [cells, k, k, C, C]."""
    count = 1 + 3 * len(EDGES) * len(SIZES) + 2 * 3
    keys = iter(jax.random.split(key, count))

    def kernel(*shape, repeat=()):
      return {"kernel": torch_uniform(next(keys), (*repeat, *shape), fan_in=shape[0] * shape[1] * shape[2])}

    params: dict[str, PyTree] = {}
    for stage, width in enumerate(self.tap_channels):
      half = width // 2
      if not stage:
        params["stem"] = {"conv": kernel(3, 3, 3, width), "bn": new_batch_norm(width)}
      else:
        params[f"reduce_{stage}"] = {
          "conv_a": kernel(3, 3, half, width),
          "bn_a": new_batch_norm(width),
          "conv_b": kernel(3, 3, width, width),
          "bn_b": new_batch_norm(width),
          "shortcut": kernel(1, 1, half, width),
        }
      params[f"stage_{stage}"] = {
        edge_name(e): {op: kernel(k, k, width, width, repeat=(self.cells,)) for op, k in SIZES.items()} for e in EDGES
      }
    return params

  def init_stats(self) -> PyTree:
    """Running statistics: mean 0 and variance 1 where the network keeps them."""
    stats: dict[str, PyTree] = {"stem": new_statistics(self.channels)}
    for stage in (1, 2):
      width = self.tap_channels[stage]
      stats[f"reduce_{stage}"] = {"bn_a": new_statistics(width), "bn_b": new_statistics(width)}
    return stats

  def start(self, params: PyTree, alphas: Array) -> PyTree:
    """Initial values of one architecture: as drawn."""
    del alphas
    return params

  def variants(self) -> tuple["Backbone", ...]:
    """One network is fast for all architectures."""
    return (self,)

  def variant(self, alphas: Array) -> Array:
    """Place in `variants()`."""
    del alphas
    return jnp.int32(0)

  def parameter_count(self, alphas: Float[Array, "1 6 5"]) -> Float[Array, ""]:
    """Parameters of the architecture without heads, the convolutions' idle biases included."""
    operations, total = operations_of(alphas), 0
    for width in self.tap_channels:
      sizes = jnp.asarray([SIZES[op] ** 2 * width**2 + width if op in SIZES else 0 for op in OPS], jnp.float32)
      total += self.cells * sizes[operations].sum()
    shapes = jax.eval_shape(self.init_params, jax.random.key(0))
    fixed = {name: tree for name, tree in shapes.items() if not name.startswith("stage")}
    return total + jnp.float32(sum(leaf.size for leaf in jax.tree.leaves(fixed)))

  def taps(
    self, params: PyTree, stats: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 6 5"], train: bool
  ) -> tuple[tuple[Array, Array, Array], PyTree]:
    """Outputs of the three stages, [N, H, W, C], [N, H/2, W/2, 2C], [N, H/4, W/4, 4C], and the new statistics.

    Args:
      train: normalise by the batch and update the running statistics; else normalise by the latter (the cells always
        use the batch).
    """
    operations, new, found = useful(operations_of(alphas)), {}, []
    x = convolve(images, params["stem"]["conv"]["kernel"])
    x, new["stem"] = batch_norm(x, params["stem"]["bn"], stats["stem"], train)
    for stage in range(3):
      if stage:
        name = f"reduce_{stage}"
        x, new[name] = _reduction(x, params[name], stats[name], train)
      x = _stage(x, params[f"stage_{stage}"], operations)
      found.append(x)
    return (found[0], found[1], found[2]), new


def _reduction(x, params, stats, train):
  y = convolve(jax.nn.relu(x), params["conv_a"]["kernel"], 2)
  y, stats_a = batch_norm(y, params["bn_a"], stats["bn_a"], train)
  y = convolve(jax.nn.relu(y), params["conv_b"]["kernel"])
  y, stats_b = batch_norm(y, params["bn_b"], stats["bn_b"], train)
  return y + convolve(layers.avg_pool_2x2(x), params["shortcut"]["kernel"]), {"bn_a": stats_a, "bn_b": stats_b}


def _stage(x, params, operations):
  def cell(x, own):
    nodes = [x]
    for target in (1, 2, 3):
      values = []
      for e, edge in enumerate(EDGES):
        if edge[0] == target:
          kernels = {op: own[edge_name(edge)][op]["kernel"] for op in SIZES}
          values.append(choose(_BRANCHES, operations[e], nodes[edge[1]], kernels))
      nodes.append(sum(values[1:], values[0]))
    return nodes[-1], None

  # Unrolled: what the backward pass needs of a cell is not copied into a stack and out of it.
  return lax.scan(cell, x, params, unroll=True)[0]


def _conv_bn(op, x, kernels):
  z = convolve(jax.nn.relu(x), kernels[op])
  return layers.normalise(z, *layers.batch_moments(z))


_PLAIN = {"none": jnp.zeros_like, "skip_connect": lambda x: x, "avg_pool_3x3": layers.avg_pool}
_BRANCHES = [
  functools.partial(_conv_bn, op) if op in SIZES else functools.partial(lambda f, x, kernels: f(x), _PLAIN[op])
  for op in OPS
]
