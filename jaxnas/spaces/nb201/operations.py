"""What the parts of a NAS-Bench-201 network compute in one pass: the operations of an edge, and convolution with BN.

There are three forms of the same functions:

  single        convolution and BN with the pull-backs that are fastest for one backward pass (`plain_layers`)
  many          for many cotangents through a mixture: all convolutions into a node are one layer (`layers.conv_bn_sum`)
  second_order  plain formulas, for the derivative of a derivative: through the closed forms it costs twice as much and
                takes several times as long to compile
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.nets import grams, layers, passes, plain_layers
from jaxnas.nets.node import Branch
from jaxnas.nets.passes import Moments, Pass, Seen
from jaxnas.spaces.nb201.encoding import OPS
from jaxnas.spaces.nb201.parameters import CONVS

Form = Literal["single", "many", "second_order"]
Maps = Float[Array, "N H W C"]
Read = Float[Array, "N H1 W1 Cin"]  # what a convolution reads
NONE, SKIP, POOL = (OPS.index(name) for name in ("none", "skip_connect", "avg_pool_3x3"))


class NodeOutput(NamedTuple):
  """A node as the edges of a mixture read it: as it is, after the ReLU, and pooled."""

  x: Maps
  positive: Maps
  pooled: Maps


@dataclasses.dataclass(frozen=True)
class Operations:
  """`nets.node.Choosable` of one pass. An edge is given {"params": its own, "stats": those of its BN or None}.

  Attributes:
    run: how BN normalises, and what is collected.
    form: see above.
  """

  run: Pass
  form: Form

  @functools.cached_property
  def branches(self) -> Sequence[Branch]:
    """As `nets.node.Choosable`: maps -> maps."""
    return [functools.partial(self._edge, op) for op in range(len(OPS))]

  def mix(
    self, sources: Sequence[NodeOutput], weights: Float[Array, "e 5"], given: Sequence[PyTree]
  ) -> tuple[Maps, list]:
    """As `nets.node.Choosable`, of nodes as `NodeOutput`."""
    mixed = self._fused if self.form == "many" else self._apart
    y, stats = mixed(sources, weights, given)
    for source, row in zip(sources, weights, strict=True):
      y = y + row[POOL] * source.pooled + row[SKIP] * source.x
    return y, [Seen(own) for own in stats]

  def conv_bn(self, x: Read, layer: PyTree, given: Moments | None, stride: int = 1) -> tuple[Maps, Seen]:
    """BN(conv(x)); x has had its ReLU. A layer without `bn` normalises by the batch, without scale and bias."""
    run, kernel = self.run, layer["conv"]["kernel"]
    if "bn" not in layer:
      z = self.convolve(x, layer["conv"], stride)
      return layers.normalise(z, *layers.batch_moments(z)), Seen()
    bn = layer["bn"]
    if self._fuses:
      return layers.conv_bn_sum((x,), ((_branch(layer, jnp.ones_like(bn["scale"])),),), stride), Seen()
    if run.mode in ("running", "identity") and "gate" not in layer:
      mean, variance = self._constants(bn, given)
      gain = bn["scale"] * lax.rsqrt(variance + jnp.asarray(layers.BN_EPSILON, variance.dtype))
      y = self.convolve(x, {"kernel": kernel * gain[None, None, None]}, stride)
      return y + (bn["bias"] - gain * mean)[None, None, None], Seen()
    return self.normalise(passes.gated(self.convolve(x, layer["conv"], stride), layer), bn, given)

  def normalise(self, z: Maps, bn: PyTree, given: Moments | None) -> tuple[Maps, Seen]:
    """BN(z)."""
    moments = self.run.statistics(z, given)
    if self.form == "single" and self.run.mode == "batch":
      y = plain_layers.batch_norm(z, bn["scale"], bn["bias"])
    elif "gram" in bn:
      y = self.run.affine(z, moments, bn)
    else:
      y = layers.normalise(z, *moments) * bn["scale"][None, None, None] + bn["bias"][None, None, None]
    return y, self.run.of_bn(z, moments)

  def convolve(self, x: Read, conv: PyTree, stride: int = 1) -> Maps:
    """A convolution whose pull-back is made for as many cotangents as there will be."""
    many = self.form == "many" or (self.form == "single" and self.run.rows)
    return grams.convolve(x, conv, stride, fn=layers.conv if many else plain_layers.convolve)

  @property
  def _fuses(self) -> bool:
    return self.form == "many" and self.run.mode == "batch" and not self.run.keeps_stats

  def _edge(self, op: int, x: Maps, given: PyTree) -> tuple[Maps, Seen]:
    """An operation, and what it shows but for patterns, which edges from one node share."""
    params = given["params"]
    if op in CONVS:
      gate = {"gate": params["gate"]} if "gate" in params else {}
      y, seen = self.conv_bn(jax.nn.relu(x), {**params[OPS[op]], **gate}, given["stats"])
      return y, seen.plus(self.run.of_relu(x))._replace(patterns=None)
    y = {NONE: jnp.zeros_like, SKIP: lambda x: x, POOL: layers.avg_pool}[op](x)
    zeros = jnp.zeros(x.shape[-1:], x.dtype)
    keeps = self.run.keeps_stats and "bn" in params[OPS[min(CONVS)]]
    return y, self.run.of_nothing(x)._replace(stats=(zeros, zeros) if keeps else None, patterns=None)

  def _fused(self, sources, weights, given) -> tuple[Maps, list]:
    """The convolutions that enter a node as one layer, and the moments of each edge's BN."""
    xs, mixes, moments, stats = [s.positive for s in sources], [], [], []
    for x, row, own in zip(xs, weights, given, strict=True):
      parts = {op: own["params"][OPS[op]] for op in CONVS}
      mixes.append(
        tuple(_branch(layer, jnp.broadcast_to(row[op], layer["bn"]["bias"].shape)) for op, layer in parts.items())
      )
      seen = None
      if not self._fuses:
        used = {OPS[op]: self._moments(x, layer, own["stats"] and own["stats"][OPS[op]]) for op, layer in parts.items()}
        moments.append(list(used.values()))
        seen = used if self.run.keeps_stats else None
      stats.append(seen)
    if self._fuses:
      return layers.conv_bn_sum(tuple(xs), tuple(mixes), 1), stats
    return layers.conv_affine_sum(xs, mixes, moments, 1), stats

  def _apart(self, sources, weights, given) -> tuple[Maps, list]:
    """The same, convolution by convolution."""
    total: Any = 0.0
    stats = []
    for source, row, own in zip(sources, weights, given, strict=True):
      seen = {}
      for op in CONVS:
        of_op = own["stats"] and own["stats"][OPS[op]]
        y, shown = self.conv_bn(source.positive, own["params"][OPS[op]], of_op)
        total = total + row[op] * y
        seen[OPS[op]] = shown.stats
      stats.append(seen if self.run.keeps_stats else None)
    return total, stats

  def _moments(self, x: Maps, layer: PyTree, given: Moments | None) -> Moments:
    if self.run.mode in ("running", "identity"):
      return self._constants(layer["bn"], given)
    return self.run.statistics(layers.conv(x, layer["conv"]["kernel"], 1), None)

  def _constants(self, bn: PyTree, given: Moments | None) -> Moments:
    """What does not depend on the batch: the running moments, or mean 0 and variance 1."""
    return given if self.run.mode == "running" and given else (jnp.zeros_like(bn["bias"]), jnp.ones_like(bn["scale"]))


def source_of(x: Maps) -> NodeOutput:
  """A node for the edges of a mixture, which share its ReLU and its pooling."""
  return NodeOutput(x, jax.nn.relu(x), layers.avg_pool(x))


def _branch(layer: PyTree, weight: Float[Array, " C"]) -> layers.Branch:
  return layer["conv"]["kernel"], layer["bn"]["scale"], layer["bn"]["bias"], weight
