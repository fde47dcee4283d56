"""The network of one choice of stages in plain Flax: to read first, and to train in a loop of one's own.

    space = spaces.get("nds_resnext_a")
    module = space.module(space.parse("Network(block_type='res_bottleneck_block', ...)"), space.default_config)
    variables = module.init(jax.random.key(0), images)  # {"params": ..., "batch_stats": ...}
    logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])

Kernels start normal with variance 2 / (k k Cout), as in the released code. Running statistics are Flax's, 0.9 old + 0.1
new with the biased variance of the mini-batch. `mapping` translates to and from the fast network.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and its code.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxnas.spaces.nds.blocks.costs import Stage, Staged
from jaxnas.spaces.nds.tables import BOTTLENECK, PLAIN

Maps = Float[Array, "N H W C"]
Convolved = Float[Array, "N H2 W2 D"]

_HIGHEST = jax.lax.Precision.HIGHEST
_normal = nn.initializers.variance_scaling(2, "fan_out", "normal")


class GroupedConvBN(nn.Module):
  """A convolution in groups, padded symmetrically also at stride 2, and batch normalisation."""

  channels: int
  size: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Convolved:
    conv = functools.partial(nn.Conv, use_bias=False, precision=_HIGHEST, kernel_init=_normal)
    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)
    window, padding = (self.size, self.size), (self.size - 1) // 2
    x = conv(self.channels, window, self.stride, padding, feature_group_count=self.groups, name="conv")(x)
    return norm(use_running_average=not train, name="bn")(x)


class NDSBlock(nn.Module):
  """One block, without the ReLU that ends it.

  Attributes:
    block: which.
    stage: of its stage.
    stride: of its first 3x3 convolution.
  """

  block: str
  stage: Stage
  stride: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Convolved:
    channels, stride = self.stage.channels, self.stride
    if self.block == BOTTLENECK:
      y = nn.relu(GroupedConvBN(self.stage.inner, 1, name="a")(x, train))
      y = nn.relu(GroupedConvBN(self.stage.inner, 3, stride, self.stage.groups, name="b")(y, train))
      y = GroupedConvBN(channels, 1, name="c")(y, train)
    else:
      y = nn.relu(GroupedConvBN(channels, 3, stride, name="a")(x, train))
      y = GroupedConvBN(channels, 3, name="b")(y, train)
    if self.block == PLAIN:
      return y
    if x.shape[-1] != channels or stride > 1:
      x = GroupedConvBN(channels, 1, stride, name="shortcut")(x, train)
    return x + y


class NDSBlockModule(nn.Module):
  """The whole network.

  Attributes:
    net: its stem and stages.
    classes: outputs of the linear layer.
  """

  net: Staged
  classes: int = 1000

  @nn.compact
  def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; with `train`, BN normalises by the mini-batch, and moves `batch_stats` where that is mutable.

    Args:
      images: normalised.
    """
    x = self._stem(images, train)
    for number, stage in enumerate(self.net.stages):
      for i in range(stage.blocks):
        block = NDSBlock(self.net.block, stage, 1 if i else stage.stride, name=f"stage_{number}_block_{i}")
        x = nn.relu(block(x, train))
    return nn.Dense(self.classes, precision=_HIGHEST, kernel_init=_normal, name="classifier")(x.mean((1, 2)))

  def _stem(self, x: Maps, train: bool) -> Convolved:
    w = self.net.stem_width
    padding: Any = ((1, 1), (1, 1))  # Flax declares a string and takes this too
    match self.net.stem:
      case "eighth":
        for name, channels in (("a", w // 2), ("b", w), ("c", w)):
          x = nn.relu(GroupedConvBN(channels, 3, 2, name=f"stem_{name}")(x, train))
        return x
      case "quarter":
        x = nn.relu(GroupedConvBN(w, 7, 2, name="stem_a")(x, train))
        return nn.max_pool(x, (3, 3), (2, 2), padding)
      case _:
        return nn.relu(GroupedConvBN(w, 3, name="stem_a")(x, train))
