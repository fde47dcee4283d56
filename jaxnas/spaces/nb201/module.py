"""The NAS-Bench-201 network of one architecture in plain Flax: to read first, and to train in a loop of one's own.

    module = NB201Module("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    variables = module.init(jax.random.key(0), images)  # {"params": ..., "batch_stats": ...}
    logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])

The network: a 3x3 convolution; three stages of N cells at C, 2C and 4C channels, a residual block of stride 2 before
the second and the third; batch normalisation, ReLU, global average pooling, linear layer. In a cell of four nodes, each
edge applies its operation to an earlier node, and a node is the sum of its edges. Operations that reach no output have
parameters all the same, as the benchmark counts them.

Kernels start as PyTorch's do, uniform within 1 / sqrt(fan in), with which the benchmark was trained. Running statistics
are Flax's, 0.9 old + 0.1 new with the biased variance of the mini-batch; PyTorch, and so our trainer, takes the
unbiased one, larger by n / (n - 1) over n samples and pixels. `mapping` translates to and from the fast network.

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020, section 2.1.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.spaces.nb201 import encoding

Maps = Float[Array, "N H W C"]

_HIGHEST = jax.lax.Precision.HIGHEST
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_conv = functools.partial(nn.Conv, use_bias=False, precision=_HIGHEST, kernel_init=_uniform)
_norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


class ConvBN(nn.Module):
  """A convolution, padded symmetrically also at stride 2, and batch normalisation."""

  channels: int
  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 D"]:
    padding = (self.size - 1) // 2
    x = _conv(self.channels, (self.size, self.size), self.stride, padding, name="conv")(x)
    return _norm(use_running_average=not train, name="bn")(x)


class ReductionBlock(nn.Module):
  """A residual block that halves the maps; `channels` are those of its output."""

  channels: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 D"]:
    y = ConvBN(self.channels, 3, stride=2, name="conv_a")(nn.relu(x), train)
    y = ConvBN(self.channels, 3, name="conv_b")(nn.relu(y), train)
    pooled = nn.avg_pool(
      x, (2, 2), (2, 2), count_include_pad=False
    )  # there is no padding; Flax then divides in x's type
    return y + _conv(self.channels, (1, 1), name="downsample")(pooled)


class NB201Cell(nn.Module):
  """One cell: four nodes, of which the first is the input and the last the output.

  Attributes:
    arch: in text form.
  """

  arch: str

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Maps:
    operations = dict(zip(encoding.EDGES, encoding.parse(self.arch), strict=True))
    nodes = [x]
    for target in range(1, encoding.NUM_NODES):
      total = jnp.zeros_like(x)
      for source in range(target):
        operation = encoding.OPS[operations[target, source]]
        total += self._edge(operation, nodes[source], f"edge{target}_{source}", train)
      nodes.append(total)
    return nodes[-1]

  def _edge(self, operation: str, x: Maps, name: str, train: bool) -> Maps:
    match operation:
      case "none":
        return jnp.zeros_like(x)
      case "skip_connect":
        return x
      case "avg_pool_3x3":
        return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
      case _:
        size = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[operation]
        return ConvBN(x.shape[-1], size, name=name)(nn.relu(x), train)


class NB201Module(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, see `encoding.parse`.
    channels: C, of the first stage.
    cells: N, cells per stage. The benchmark trains C = 16, N = 5.
    classes: outputs of the linear layer.
  """

  arch: str
  channels: int = 16
  cells: int = 5
  classes: int = 10

  @nn.compact
  def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; with `train`, BN normalises by the mini-batch, and moves `batch_stats` where that is mutable.

    Args:
      images: normalised; H and W multiples of 4.

    Raises:
      ArchitectureError: `arch` is not the text form of an architecture.
    """
    x = ConvBN(self.channels, 3, name="stem")(images, train)
    for stage in range(3):
      if stage:
        x = ReductionBlock(self.channels * 2**stage, name=f"reduce_{stage}")(x, train)
      for i in range(self.cells):
        x = NB201Cell(self.arch, name=f"stage_{stage}_cell_{i}")(x, train)
    x = nn.relu(_norm(use_running_average=not train, name="last")(x))
    return nn.Dense(self.classes, precision=_HIGHEST, kernel_init=_uniform, name="classifier")(x.mean((1, 2)))
