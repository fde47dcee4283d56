"""The NAS-Bench-101 network of one cell in plain Flax: to read first, and to train in a loop of one's own.

    module = NB101Module("conv3x3:0|maxpool3x3:01|output:12", channels=128, cells=3, classes=10)
    variables = module.init(jax.random.key(0), images)  # {"params": ..., "batch_stats": ...}
    logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])

The network: a 3x3 convolution; three stacks of cells at C, 2C and 4C channels, a 2x2 max-pool before the second and the
third; global average pooling, linear layer. In a cell the vertices that lead to the output share its channels and are
concatenated there; every other vertex has as many as the widest that it leads to, which reads the first channels of it.
A vertex applies its operation to the sum of its inputs, and what comes from the cell's input is first projected to its
channels. Vertices on no path from input to output are not there.

Kernels start normal with variance 2 / (k k Cout), as in the released code. Running statistics are Flax's, 0.9 old + 0.1
new with the biased variance of the mini-batch. `mapping` translates to and from the fast network.

Source: Ying et al., "NAS-Bench-101", ICML 2019, section 2, and the released code.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.spaces.nb101 import encoding
from jaxnas.spaces.nb101.channels import vertex_channels

Maps = Float[Array, "N H W C"]

_HIGHEST = jax.lax.Precision.HIGHEST
_normal = nn.initializers.variance_scaling(2, "fan_out", "normal")


class ConvBNReLU(nn.Module):
  """A convolution, batch normalisation, ReLU."""

  channels: int
  size: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H W D"]:
    conv = functools.partial(nn.Conv, use_bias=False, precision=_HIGHEST, kernel_init=_normal)
    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    x = conv(self.channels, (self.size, self.size), name="conv")(x)
    return nn.relu(norm(use_running_average=not train, name="bn")(x))


class NB101Cell(nn.Module):
  """One cell.

  Attributes:
    arch: in text form.
    channels: of its output.
  """

  arch: str
  channels: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H W D"]:
    edges, operations = encoding.prune(self.arch)
    widths = vertex_channels(edges, x.shape[-1], self.channels)
    output = len(operations) - 1
    values = {}
    for v in range(1, output):
      inputs = [values[u][..., : widths[v]] for u in values if edges[u, v]]
      if edges[0, v]:
        inputs.append(ConvBNReLU(widths[v], 1, name=f"projection_{v}")(x, train))
      values[v] = self._operation(operations[v], sum(inputs[1:], inputs[0]), f"vertex_{v}", train)
    parts = [values[v] for v in values if edges[v, output]]
    result = [jnp.concatenate(parts, -1)] if parts else []
    if edges[0, output]:
      result.append(ConvBNReLU(self.channels, 1, name=f"projection_{output}")(x, train))
    return sum(result[1:], result[0])

  def _operation(self, operation: int, x: Maps, name: str, train: bool) -> Maps:
    if operation == encoding.POOL:
      return nn.max_pool(x, (3, 3), padding="SAME")
    size = {encoding.CONV3: 3, encoding.CONV1: 1}[operation]
    return ConvBNReLU(x.shape[-1], size, name=name)(x, train)


class NB101Module(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, see `encoding.parse`.
    channels: C, of the first stack. The benchmark trains 128.
    cells: per stack (3 in the benchmark).
    classes: outputs of the linear layer.
  """

  arch: str
  channels: int = 128
  cells: int = 3
  classes: int = 10

  @nn.compact
  def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; with `train`, BN normalises by the mini-batch, and moves `batch_stats` where that is mutable.

    Args:
      images: normalised.

    Raises:
      ArchitectureError: `arch` is not the text form of an architecture.
    """
    x = ConvBNReLU(self.channels, 3, name="stem")(images, train)
    for stack in range(3):
      if stack:
        x = nn.max_pool(x, (2, 2), (2, 2))
      for i in range(self.cells):
        x = NB101Cell(self.arch, self.channels * 2**stack, name=f"stack_{stack}_cell_{i}")(x, train)
    return nn.Dense(self.classes, precision=_HIGHEST, kernel_init=_normal, name="classifier")(x.mean((1, 2)))
