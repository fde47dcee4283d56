"""The layers of `module.DARTSModule` in plain Flax: what ends with a batch normalisation, and the auxiliary head.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, operations.py and model.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Maps = Float[Array, "N H W C"]

_HIGHEST = jax.lax.Precision.HIGHEST
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
conv = functools.partial(nn.Conv, use_bias=False, precision=_HIGHEST, kernel_init=_uniform)
dense = functools.partial(nn.Dense, precision=_HIGHEST, kernel_init=_uniform)
norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


class ReLUConvBN(nn.Module):
  """ReLU (if `relu`), a dense convolution padded symmetrically, batch normalisation."""

  channels: int
  size: int = 1
  stride: int = 1
  relu: bool = True

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 D"]:
    x = nn.relu(x) if self.relu else x
    x = conv(self.channels, (self.size, self.size), self.stride, (self.size - 1) // 2, name="conv")(x)
    return norm(use_running_average=not train, name="bn")(x)


class FactorizedReduce(nn.Module):
  """ReLU, half of the channels from every second pixel and half from the ones down-right of them, BN."""

  channels: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 D"]:
    x = nn.relu(x)
    shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    half = self.channels // 2
    first = conv(half, (1, 1), 2, name="conv0")(x)
    second = conv(self.channels - half, (1, 1), 2, name="conv1")(shifted)
    return norm(use_running_average=not train, name="bn")(jnp.concatenate([first, second], -1))


class DepthwiseSeparable(nn.Module):
  """ReLU, a depthwise convolution, a 1x1 convolution, BN; the channels stay."""

  size: int
  stride: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 C"]:
    channels, padding = x.shape[-1], self.dilation * (self.size - 1) // 2
    window = (self.size, self.size)
    depthwise = functools.partial(conv, kernel_dilation=self.dilation, feature_group_count=channels)
    x = depthwise(channels, window, self.stride, padding, name="dw")(nn.relu(x))
    x = conv(channels, (1, 1), name="pw")(x)
    return norm(use_running_average=not train, name="bn")(x)


class SeparableTwice(nn.Module):
  """The operation `sep_conv`: two of `DepthwiseSeparable`, the first with the stride."""

  size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 C"]:
    x = DepthwiseSeparable(self.size, self.stride, name="a")(x, train)
    return DepthwiseSeparable(self.size, name="b")(x, train)


class AuxiliaryHead(nn.Module):
  """A small classifier on the second reduction cell's output, which only training uses.

  Attributes:
    classes: outputs.
    stem: of the network. The 5x5 pool, which must leave 2x2, has stride 3 for "cifar" and 2 for "imagenet", and there
      the second BN is missing, as in the released code.
  """

  classes: int
  stem: str

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N K"]:
    stride = {"cifar": 3, "imagenet": 2}[self.stem]
    x = nn.avg_pool(nn.relu(x), (5, 5), (stride, stride), count_include_pad=False)  # none; x keeps its type
    x = conv(128, (1, 1), name="conv_a")(x)
    x = nn.relu(norm(use_running_average=not train, name="bn_a")(x))
    x = conv(768, (2, 2), padding="VALID", name="conv_b")(x)
    if self.stem == "cifar":
      x = norm(use_running_average=not train, name="bn_b")(x)
    return dense(self.classes, name="classifier")(nn.relu(x).reshape(len(x), -1))
