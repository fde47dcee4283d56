"""The stages of networks of blocks in both readings, their parameters and multiply-adds, and the tables' own count.

`trained` is what the published accuracies belong to: entry 0 of the lists is the stem, `num_gs` are groups. The tables'
numbers determine the stem's convolutions, their strides, and that something without parameters halves the side in a
ResNet's; taken here are ReLUs after each BN and a 3x3 max pool.

    stride 8  three conv 3x3 stride 2 (3, w / 2, w, w), each with BN and ReLU
    stride 4  conv 7x7 stride 2 (3, w), BN, ReLU, max pool 3x3 stride 2
    cifar     conv 3x3 (3, w), BN, ReLU: not in the tables, for images of CIFAR's size

`code` is what GenNAS's code builds of the same lists: a stem conv 3x3 (3, 12), BN, ReLU, then all entries as stages,
a first stride of 8 as 1, `num_gs` channels a group, `bot_muls[0]` of 0 as 1.

    double_plain_block    conv 3x3, BN, ReLU, conv 3x3, BN, ReLU
    res_basic_block       conv 3x3, BN, ReLU, conv 3x3, BN, plus shortcut, ReLU
    res_bottleneck_block  conv 1x1, BN, ReLU, conv 3x3 in groups, BN, ReLU, conv 1x1, BN, plus shortcut, ReLU

The first 3x3 of a stage has its stride. The shortcut is the identity, or conv 1x1 with the stride and BN where width or
stride change. Then the average over pixels and a linear layer with bias.

The tables' `flops` are the multiply-adds and five for each output of a BN.

Source: Radosavovic et al., ICCV 2019, and its code; the count was fitted to the tables, which it meets in every row;
`code`: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nds.blocks.encoding import QUARTERS
from jaxnas.spaces.nds.tables import BLOCKS, BOTTLENECK, PLAIN, Variant

Stem = Literal["eighth", "quarter", "cifar"]
CODE_STEM = 12
_STEMS: dict[int, Stem] = {8: "eighth", 4: "quarter"}


class Stage(NamedTuple):
  """Equal blocks.

  Attributes:
    blocks: how many.
    channels: of its output.
    stride: of the first block.
    inner: channels between a block's convolutions.
    groups: of a bottleneck's 3x3 convolution.
  """

  blocks: int
  channels: int
  stride: int
  inner: int
  groups: int


class Staged(NamedTuple):
  """A network of stages.

  Attributes:
    block: the kind of its blocks.
    stem: which one, of `stem_width` channels.
    stages: in order.
  """

  block: str
  stem: Stem
  stem_width: int
  stages: tuple[Stage, ...]


class Convolution(NamedTuple):
  """A convolution without bias and the BN behind it; `side` is that of its output."""

  size: int
  channels_in: int
  channels: int
  groups: int
  stride: int
  side: int


def staged(net: dict[str, Any], variant: Variant, stem: Literal["cifar", "imagenet"] = "imagenet") -> Staged:
  """The network of the field `net` of a published table.

  Args:
    variant: in which reading.
    stem: of `trained`; `code` has its own, whatever this says.

  Raises:
    ArchitectureError: an unknown block, or groups that do not divide the inner channels.
    ConfigError: an unknown variant; `code` of a network whose lists have not four entries.
  """
  if net["block_type"] not in BLOCKS:
    raise ArchitectureError(f"block_type is {net['block_type']!r}; use one of {', '.join(BLOCKS)}")
  rows = list(zip(net["ds"], net["ws"], net["ss"], *_bottlenecks(net), strict=True))
  if variant == "trained":
    stages = tuple(_stage(i, *row) for i, row in enumerate(rows) if i)
    return Staged(net["block_type"], _STEMS[rows[0][2]] if stem == "imagenet" else "cifar", rows[0][1], stages)
  if variant != "code":
    raise ConfigError(f"variant={variant!r} must be one of trained, code")
  if len(rows) != 4 or net["block_type"] == PLAIN:
    raise ConfigError(f"variant='code': GenNAS's code builds residual networks of four entries, not {net}")
  found = []
  for i, (depth, width, stride, bot_mul, per_group) in enumerate(rows):
    bot_mul = 1.0 if i == 0 and bot_mul == 0 else bot_mul
    inner = round(width * bot_mul)
    groups = inner // per_group if net["block_type"] == BOTTLENECK else 1
    if groups < 1:
      raise ArchitectureError(f"stage {i}: {inner} inner channels have no group of {per_group}")
    found.append(_stage(i, depth, width, 1 if i == 0 and stride == 8 else stride, bot_mul, groups))
  return Staged(net["block_type"], "cifar", CODE_STEM, tuple(found))


def _bottlenecks(net: dict[str, Any]) -> tuple[list[float], list[int]]:
  entries = len(net["ds"])
  if net["block_type"] == BOTTLENECK:
    return net["bot_muls"], net["num_gs"]
  return [1.0] * entries, [1] * entries


def _stage(i: int, depth: int, width: int, stride: int, bot_mul: float, groups: int) -> Stage:
  inner = round(width * bot_mul)
  if inner % groups:
    raise ArchitectureError(f"stage {i}: {inner} inner channels (width x bot_mul) are not divided by {groups} groups")
  return Stage(depth, width, stride, inner, groups)


def resized(net: dict[str, Any], channels: int | None, cells: int | None) -> dict[str, Any]:
  """A network like this one, smaller or larger.

  Args:
    channels: of the stem; all others keep their ratio to it, rounded up to what bottlenecks and groups divide.
    cells: the most blocks of a stage.
  """
  depths, widths = list(net["ds"]), list(net["ws"])
  if channels is not None:
    units = [_unit(bot_mul, groups) for bot_mul, groups in zip(*_bottlenecks(net), strict=True)]
    scaled = [-(-width * channels // (net["ws"][0] * unit)) * unit for width, unit in zip(widths, units, strict=True)]
    widths = [channels, *scaled[1:]]
  if cells is not None:
    depths = [min(depth, cells) for depth in depths]
  return {**net, "ds": depths, "ws": widths}


def _unit(bot_mul: float, groups: int) -> int:
  """The least width of which a bottleneck's share is divided by its groups."""
  quarters = round(QUARTERS * bot_mul)
  return QUARTERS * groups // math.gcd(quarters, QUARTERS * groups)


def block_convolutions(block: str, channels_in: int, stage: Stage, first: bool, side: int) -> dict[str, Convolution]:
  """The convolutions of one block by name, in order; `side` is the input's."""
  stride = stage.stride if first else 1
  out, inner, channels = -(-side // stride), stage.inner, stage.channels
  if block == BOTTLENECK:
    found = {
      "a": Convolution(1, channels_in, inner, 1, 1, side),
      "b": Convolution(3, inner, inner, stage.groups, stride, out),
      "c": Convolution(1, inner, channels, 1, 1, out),
    }
  else:
    found = {
      "a": Convolution(3, channels_in, channels, 1, stride, out),
      "b": Convolution(3, channels, channels, 1, 1, out),
    }
  if block != PLAIN and first and (channels_in != channels or stride > 1):
    found["shortcut"] = Convolution(1, channels_in, channels, 1, stride, out)
  return found


def stem_convolutions(net: Staged, image_size: int) -> dict[str, Convolution]:
  """Of the stem by name, in order."""
  w, (half, quarter, eighth) = net.stem_width, (-(-image_size // factor) for factor in (2, 4, 8))
  if net.stem == "eighth":
    return {
      "a": Convolution(3, 3, w // 2, 1, 2, half),
      "b": Convolution(3, w // 2, w, 1, 2, quarter),
      "c": Convolution(3, w, w, 1, 2, eighth),
    }
  if net.stem == "quarter":
    return {"a": Convolution(7, 3, w, 1, 2, half)}
  return {"a": Convolution(3, 3, w, 1, 1, image_size)}


def convolutions(net: Staged, image_size: int) -> Iterator[tuple[str, int, str, Convolution]]:
  """(part, number of the block, name, convolution) of all, in order; the stem is a part of one block."""
  side = {"eighth": -(-image_size // 8), "quarter": -(-image_size // 4), "cifar": image_size}[net.stem]
  for name, one in stem_convolutions(net, image_size).items():
    yield "stem", 0, name, one
  channels = net.stem_width
  for number, stage in enumerate(net.stages):
    for block in range(stage.blocks):
      for name, one in block_convolutions(net.block, channels, stage, block == 0, side).items():
        yield f"stage_{number}", block, name, one
      channels, side = stage.channels, -(-side // (1 if block else stage.stride))


def count(net: Staged, classes: int, image_size: int) -> tuple[int, int, int]:
  """(parameters, multiply-adds, the tables' flops)."""
  params = macs = outputs = 0
  for *_, one in convolutions(net, image_size):
    weights = one.size**2 * one.channels_in // one.groups * one.channels
    params += weights + 2 * one.channels
    macs += weights * one.side**2
    outputs += one.channels * one.side**2
  linear = net.stages[-1].channels * classes + classes
  return params + linear, macs + linear, macs + linear + 5 * outputs
