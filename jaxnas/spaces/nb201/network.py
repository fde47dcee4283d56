"""The NAS-Bench-201 network in Flax, for one architecture, a pruned supernet or a soft mixture.

`alphas` of shape (1, 6, 5) are the weights with which every edge mixes its operations: one-hot rows are an
architecture, rows of equal weights a (pruned) supernet. They are data, so one compilation serves all of them.

A cell is computed node by node: all convolutions that enter a node, of all edges and kernel sizes, are one fused
layer (`layers.conv_bn_sum`), because the cotangent that they pull back is the same.

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020, section 2; TE-NAS's reduced supernets: Chen et al., ICLR 2021.
"""

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import layers, numerics
from jaxnas.nets.numerics import BatchNormMode, Init
from jaxnas.nets.supernet import EXECUTED
from jaxnas.spaces.nb201.encoding import EDGES, OPS

SKIP, POOL = OPS.index("skip_connect"), OPS.index("avg_pool_3x3")
CONVS = {OPS.index("nor_conv_1x1"): 1, OPS.index("nor_conv_3x3"): 3}  # op column -> kernel size
ALL_OPS = (tuple(range(len(OPS))),) * len(EDGES)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """Shape and numerics of the network.

  Attributes:
    channels: C, channels of the first stage (doubled by each of the two reduction blocks).
    cells: N, cells per stage. The benchmark trains C=16, N=5.
    classes: outputs of the classifier.
    stem: whether a 3x3 convolution to C channels precedes the cells; without it images must have C channels.
    first_cell_only: stop after the first cell (TE-NAS's network for linear regions).
    batch_norm: `batch` (mini-batch statistics, differentiated through), `batch_frozen` (the same, as constants),
      `running` (the `batch_stats` collection) or `identity` (mean 0, variance 1).
    init: `kaiming_fan_out` or `kaiming_fan_in` (normal, gain sqrt 2, biases 0), or `torch_default`
      (uniform within 1 / sqrt(fan in), classifier bias included).
    ops: for each edge, the columns of the operations that exist; the default, all, is the supernet.
    fused: compute `batch` mode by `layers.conv_bn_sum`; off, by plain autodiff of the same formulas.
  """

  channels: int = 16
  cells: int = 5
  classes: int = 10
  stem: bool = True
  first_cell_only: bool = False
  batch_norm: BatchNormMode = "batch"
  init: Init = "kaiming_fan_out"
  ops: tuple[tuple[int, ...], ...] = ALL_OPS
  fused: bool = True

  def __post_init__(self):
    numerics.check(self, channels=1, cells=1, classes=1)
    if len(self.ops) != len(EDGES) or any(o not in range(len(OPS)) for row in self.ops for o in row):
      raise ConfigError(f"ops={self.ops} must list op columns 0..{len(OPS) - 1} for each of {len(EDGES)} edges")


def _kernel_init(config: NetworkConfig):
  """Initialiser of HWIO and (in, out) kernels: fan in = k k Cin, fan out = k k Cout."""

  def init(key, shape, dtype):
    window = math.prod(shape[:-2])
    if config.init == "torch_default":
      bound = (window * shape[-2]) ** -0.5
      return _draw(jax.random.uniform, key, shape, dtype) * (2 * bound) - bound
    fan = window * (shape[-1] if config.init == "kaiming_fan_out" else shape[-2])
    return _draw(jax.random.normal, key, shape, dtype) * (2 / fan) ** 0.5

  return init


def _draw(distribution, key, shape, dtype):
  """Values cut from a draw of a round length: XLA compiles a draw once per length, about a second each."""
  size = math.prod(shape)
  length = max(1024, 1 << (size - 1).bit_length())
  return distribution(key, (length,), dtype)[:size].reshape(shape)


class BatchNorm(nn.Module):
  """Scale and bias, and the statistics: `batch_stats` (running) and, when asked for, `moments` (this batch's)."""

  features: int
  config: NetworkConfig

  def setup(self):
    self.scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
    self.bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    if self.config.batch_norm == "running" or self.is_mutable_collection("batch_stats"):
      self.mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,), jnp.float32)
      self.var = self.variable("batch_stats", "var", jnp.ones, (self.features,), jnp.float32)

  def declare(self):
    """Creates the parameters."""

  def collecting(self) -> bool:
    """Whether the caller of `apply` asked for this batch's statistics."""
    return self.is_mutable_collection("batch_stats") or self.is_mutable_collection("moments")

  def statistics(self, z: Array | None) -> tuple[Array, Array]:
    """(mean, variance) [features] that the mode prescribes; `z` [N, H, W, features] is the layer's input."""
    mode = self.config.batch_norm
    if mode == "identity":
      return jnp.zeros_like(self.bias), jnp.ones_like(self.scale)
    if mode == "running":
      return self.mean.value, self.var.value
    assert z is not None
    mean, var = layers.batch_moments(z)
    if self.is_mutable_collection("moments"):
      self.put_variable("moments", "mean", mean)
      self.put_variable("moments", "var", var)
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      count = z.size // z.shape[-1]
      unbiased = var * (count / max(1, count - 1))
      self.mean.value = 0.9 * self.mean.value + 0.1 * lax.stop_gradient(mean)
      self.var.value = 0.9 * self.var.value + 0.1 * lax.stop_gradient(unbiased)
    return (mean, var) if mode == "batch" else (lax.stop_gradient(mean), lax.stop_gradient(var))

  def __call__(self, z: Array) -> Array:
    return layers.normalise(z, *self.statistics(z)) * self.scale[None, None, None] + self.bias[None, None, None]


class Kernel(nn.Module):
  """The HWIO kernel of a convolution without bias."""

  size: int
  channels_in: int
  channels_out: int
  config: NetworkConfig

  @nn.compact
  def __call__(self) -> Array:
    shape = (self.size, self.size, self.channels_in, self.channels_out)
    return self.param("kernel", _kernel_init(self.config), shape, jnp.float32)


class ConvBN(nn.Module):
  """Convolution and batch normalisation of an input that has had its ReLU."""

  size: int
  channels_in: int
  channels_out: int
  config: NetworkConfig
  stride: int = 1

  def setup(self):
    self.conv = Kernel(self.size, self.channels_in, self.channels_out, self.config)
    self.bn = BatchNorm(self.channels_out, self.config)

  def declare(self):
    """Creates the parameters."""
    self.conv()
    self.bn.declare()

  def __call__(self, x: Array) -> Array:
    ones = jnp.ones((self.channels_out,), x.dtype)
    return mixed_conv_bn([x], [[self]], [[ones]], self.config, self.stride)


def mixed_conv_bn(
  xs: list[Float[Array, "N H W C"]],
  branches: list[list[ConvBN]],
  weights: list[list[Array]],
  config: NetworkConfig,
  stride: int,
) -> Float[Array, "N H2 W2 Cout"]:
  """The sum over inputs s and branches o of `weights[s][o] * branches[s][o](xs[s])`, weights per channel.

  Every mode of batch normalisation goes through here, so all see the same order of operations.
  """
  mixes = []
  for row, row_weights in zip(branches, weights, strict=True):
    mixes.append(tuple((m.conv(), m.bn.scale, m.bn.bias, w) for m, w in zip(row, row_weights, strict=True)))
  if config.batch_norm == "batch" and config.fused and not branches[0][0].bn.collecting():
    return layers.conv_bn_sum(tuple(xs), tuple(mixes), stride)
  moments = []
  for x, row, mix in zip(xs, branches, mixes, strict=True):
    seen: list[Any] = [None] * len(row)
    if config.batch_norm in ("batch", "batch_frozen"):
      seen = [layers.conv(x, branch[0], stride) for branch in mix]
    moments.append([m.bn.statistics(z) for m, z in zip(row, seen, strict=True)])
  return layers.conv_affine_sum(xs, mixes, moments, stride)


class Edge(nn.Module):
  """The parameters of one edge's operations."""

  channels: int
  ops: tuple[int, ...]
  config: NetworkConfig

  def setup(self):
    args = (self.channels, self.channels, self.config)
    self.convs = {o: ConvBN(CONVS[o], *args, name=OPS[o]) for o in self.ops if o in CONVS}

  def declare(self):
    """Creates the parameters."""
    for module in self.convs.values():
      module.declare()


class Cell(nn.Module):
  """Four nodes, six edges; a node is the sum over its incoming edges, the output is the last node."""

  channels: int
  config: NetworkConfig

  def setup(self):
    self.edges = {
      (target, source): Edge(self.channels, self.config.ops[e], self.config, name=f"edge{target}_{source}")
      for e, (target, source) in enumerate(EDGES)
    }

  def declare(self):
    """Creates the parameters."""
    for edge in self.edges.values():
      edge.declare()

  def __call__(self, x: Float[Array, "N H W C"], alphas: Float[Array, "E O"]) -> Float[Array, "N H W C"]:
    nodes: list[Array] = [x]
    positive: list[Array] = []
    pooled: list[Array] = []
    for target in range(1, 4):
      positive.append(nn.relu(nodes[-1]))
      pooled.append(layers.avg_pool(nodes[-1]))
      nodes.append(self._node(target, nodes, positive, pooled, alphas))
    self._sow_patterns(nodes, alphas)
    return nodes[-1]

  def _node(self, target: int, nodes: list[Array], positive: list[Array], pooled: list[Array], alphas: Array) -> Array:
    """The sum over the edges that enter `target`: all their convolutions are one layer."""
    rows = [EDGES.index((target, source)) for source in range(target)]
    convs = [[o for o in CONVS if o in self.config.ops[e]] for e in rows]
    values = []
    if any(convs):
      sources = [s for s in range(target) if convs[s]]
      branches = [[self.edges[target, s].convs[o] for o in convs[s]] for s in sources]
      weights = [[jnp.broadcast_to(alphas[rows[s], o], (self.channels,)) for o in convs[s]] for s in sources]
      values.append(mixed_conv_bn([positive[s] for s in sources], branches, weights, self.config, 1))
    for op, inputs in ((POOL, pooled), (SKIP, nodes)):
      values += [alphas[e, op] * inputs[s] for s, e in enumerate(rows) if op in self.config.ops[e]]
    return sum(values[1:], values[0]) if values else jnp.zeros_like(nodes[0])

  def _sow_patterns(self, nodes: list[Array], alphas: Array):
    """Signs of the nodes whose ReLU some convolution of weight above `EXECUTED` reads."""
    for source in range(3):
      leaving = [(e, o) for e, (_, s) in enumerate(EDGES) if s == source for o in CONVS if o in self.config.ops[e]]
      if leaving:
        active = jnp.any(jnp.stack([alphas[e, o] > EXECUTED for e, o in leaving]))
        self.sow("patterns", f"node{source}", (nodes[source] > 0) & active)


class ReductionBlock(nn.Module):
  """C -> 2C at half the size: two ReLU-conv3x3-BN, the first at stride 2, plus pool-conv1x1 of the input."""

  channels_in: int
  config: NetworkConfig

  def setup(self):
    channels = 2 * self.channels_in
    self.conv_a = ConvBN(3, self.channels_in, channels, self.config, stride=2)
    self.conv_b = ConvBN(3, channels, channels, self.config)
    self.downsample = Shortcut(self.channels_in, channels, self.config)

  def declare(self):
    """Creates the parameters."""
    for module in (self.conv_a, self.conv_b):
      module.declare()
    self.downsample.conv()

  def __call__(self, x: Array) -> Array:
    self.sow("patterns", "before_conv_a", x > 0)
    middle = self.conv_a(nn.relu(x))
    self.sow("patterns", "before_conv_b", middle > 0)
    return self.downsample(x) + self.conv_b(nn.relu(middle))


class Shortcut(nn.Module):
  """2x2 average pooling and a 1x1 convolution."""

  channels_in: int
  channels_out: int
  config: NetworkConfig

  def setup(self):
    self.conv = Kernel(1, self.channels_in, self.channels_out, self.config)

  def __call__(self, x: Array) -> Array:
    return layers.conv(layers.avg_pool_2x2(x), self.conv(), 1)


class Classifier(nn.Module):
  """Linear layer with bias."""

  channels: int
  features: int
  config: NetworkConfig

  def setup(self):
    shape = (self.channels, self.features)
    self.kernel = self.param("kernel", _kernel_init(self.config), shape, jnp.float32)
    self.bias = self.param("bias", self._bias_init(), (self.features,), jnp.float32)

  def declare(self):
    """Creates the parameters."""

  def __call__(self, x: Float[Array, "N C"]) -> Float[Array, "N K"]:
    return jnp.matmul(x, self.kernel, precision=lax.Precision.HIGHEST) + self.bias[None]

  def _bias_init(self):
    if self.config.init != "torch_default":
      return nn.initializers.zeros
    bound = self.channels**-0.5
    return lambda key, shape, dtype: _draw(jax.random.uniform, key, shape, dtype) * (2 * bound) - bound


class Network(nn.Module):
  """Stem, three stages of cells with reduction blocks between them, BN-ReLU, global pooling, classifier.

  `apply(variables, images [N, H, W, 3], alphas [1, 6, 5])` -> logits [N, classes].
  Collections: `params`; `batch_stats` (running statistics, updated when mutable); `moments` (this batch's
  statistics, when mutable); `patterns` (signs of all ReLU outputs) and `features` (stem, cells, last), both sown.
  """

  config: NetworkConfig
  rows_on_cpu: ClassVar[int] = 4  # cotangents that go back together on a CPU

  @nn.nowrap
  def with_batch_norm(self, mode: str) -> "Network":
    """The same network with another `batch_norm` mode; parameters are the same."""
    return Network(dataclasses.replace(self.config, batch_norm=mode), parent=None)

  @nn.nowrap
  def for_rows(self) -> "Network":
    """This network: its backward pass is made for many cotangents."""
    return self

  @nn.nowrap
  def logits(self, params: PyTree, images: Array, alphas: Array, *, stats: PyTree | None = None) -> Array:
    """`apply`, with the statistics for mode `running`."""
    variables = {"params": params} if stats is None else {"params": params, "batch_stats": stats}
    return jnp.asarray(self.apply(variables, images, alphas))

  @nn.nowrap
  def moments(self, params: PyTree, images: Array, alphas: Array) -> PyTree:
    """Mean and variance of this batch at every BN, for mode `running`."""
    network = self.with_batch_norm("batch")
    return network.apply({"params": params}, images, alphas, mutable=["moments"])[1]["moments"]

  @nn.nowrap
  def patterns(self, params: PyTree, images: Array, alphas: Array) -> Bool[Array, "N bits"]:
    """Signs of the outputs of all executed ReLUs; those that are not executed show 0."""
    _, state = self.apply({"params": params}, images, alphas, mutable=["patterns"])
    return jnp.concatenate([b.reshape(len(images), -1) for b in jax.tree.leaves(state["patterns"])], 1)

  @nn.nowrap
  def init_params(self, key: Array) -> PyTree:
    """Fresh parameters, float32, as `init` draws them but without tracing a forward pass."""
    return self.init(key, method="declare")["params"]

  def setup(self):
    c, n = self.config.channels, self.config.cells
    if self.config.stem:
      self.stem = ConvBN(3, 3, c, self.config)
    stages: list[nn.Module] = []
    for stage in range(3):
      if stage:
        stages.append(ReductionBlock(c * 2 ** (stage - 1), self.config))
      stages += [Cell(c * 2**stage, self.config) for _ in range(n)]
    self.cells = stages[:1] if self.config.first_cell_only else stages
    width = c if self.config.first_cell_only else 4 * c
    self.last = Last(width, self.config)
    self.classifier = Classifier(width, self.config.classes, self.config)

  def __call__(self, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 6 5"]) -> Float[Array, "N K"]:
    self._check(images, alphas)
    x = self.stem(images) if self.config.stem else images
    self.sow("features", "after_stem", x)
    for i, cell in enumerate(self.cells):
      x = cell(x, alphas[0]) if isinstance(cell, Cell) else cell(x)
      self.sow("features", f"after_cell{i}", x)
    x = self.last(x)
    self.sow("patterns", "after_last", x > 0)
    x = nn.relu(x)
    self.sow("features", "after_last", x)
    return self.classifier(x.mean((1, 2)))

  def declare(self):
    """Creates every parameter and computes nothing."""
    if self.config.stem:
      self.stem.declare()
    for cell in self.cells:
      cell.declare()
    self.last.bn.declare()
    self.classifier.declare()

  def _check(self, images: Array, alphas: Array):
    channels = 3 if self.config.stem else self.config.channels
    if images.ndim != 4 or images.shape[-1] != channels:
      raise DatasetError(f"images of shape {images.shape}: expected (N, H, W, {channels})")
    if not self.config.first_cell_only and min(images.shape[1:3]) < 4:
      raise DatasetError(f"images of {images.shape[1]}x{images.shape[2]} pixels: two halvings need at least 4x4")
    if alphas.shape != (1, len(EDGES), len(OPS)):
      raise ConfigError(f"alphas of shape {alphas.shape}: expected (1, {len(EDGES)}, {len(OPS)})")


class Last(nn.Module):
  """The batch normalisation before the global pooling."""

  channels: int
  config: NetworkConfig

  def setup(self):
    self.bn = BatchNorm(self.channels, self.config)

  def __call__(self, x: Array) -> Array:
    return self.bn(x)
