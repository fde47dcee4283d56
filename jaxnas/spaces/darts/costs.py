"""Parameters and multiply-adds of the networks that DARTS genotypes are evaluated with, from their layer shapes.

Two networks, of the same cells:
  - CIFAR: stem 3x3 convolution to 3C channels and BN; cells; global average pool; linear layer (20 cells, C = 36).
  - ImageNet, mobile: stem of three 3x3 convolutions with stride 2 (to C/2, C, C channels) and BN, ReLU between them, so
    the first two cell inputs have strides 4 and 8; cells; pool; linear layer (14 cells, C = 48, 224 x 224).
Cells L // 3 and 2 L // 3 are reduction cells: they double the channels and halve the side. A cell of c channels first
brings both of its inputs to c: ReLU, 1x1 convolution, BN, or for the first input, if the cell before was a reduction
(and in cell 0 of the ImageNet network), a factorised reduction. It concatenates 4 nodes, 4 c channels. Operations at c:
  - sep_conv_k: twice ReLU, depthwise k x k, 1x1, BN. The first one has the stride.
  - dil_conv_k: once ReLU, depthwise k x k with dilation 2, 1x1, BN.
  - skip_connect: free at stride 1, a factorised reduction (ReLU, two 1x1 halves, BN) at stride 2.
  - pooling: no parameters. The evaluation network has no BN after pooling; where a code has one it is not affine.
All BN have scale and shift. The auxiliary head hangs on the second reduction cell and is used in training only: it is
counted apart.

Published counts. Parameters are reached exactly: DARTS_V2 has 3,349,342 on CIFAR (3.3 M; 3.349 in the released code's
notes) and 4,718,752 on ImageNet (4.7 M; 4.719), P-DARTS and PC-DARTS have theirs. Multiply-adds: the 574 M of the DARTS
paper are not reached, the released network has 529.9 M. P-DARTS and PC-DARTS publish 557, 586 and 597 M: these are
`operations`, with BN, ReLU and pooling. DARTS_V2 has 544.59 M of them, as users of the released code report too.
TE-NAS: the cells released as the ImageNet ones have the published 5.4 M there, and on CIFAR the 3.8 M that the paper
gives for its CIFAR cells; the cells released as those have 4.1 M.

Source: Liu et al., "DARTS", ICLR 2019, section 3 and appendix, and the released code.
"""

import dataclasses
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from jaxnas.base import Costs, NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.settings import setting
from jaxnas.spaces.darts import encoding

_IMAGE_CHANNELS: Final = 3
_STEM_MULTIPLIER: Final = 3
_SIDES: Final = {"cifar": 4, "imagenet": 32}  # image sizes must be multiples: every halving is then exact


def _check_size(name: str, value: Any) -> None:
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
    raise ConfigError(f"{name} is {value!r}; use an integer >= 1")


@dataclasses.dataclass(frozen=True)
class EvaluationNetwork:
  """An evaluation network; the default is that of CIFAR-10."""

  channels: int = setting(36, "C, channels of the first cell")
  cells: int = setting(20, "L, number of cells")
  classes: int = setting(10, "outputs of the linear layer")
  image_size: int = setting(32, "side of the square image")
  stem: Literal["cifar", "imagenet"] = setting("cifar", "stem: cifar (stride 1) or imagenet (stride 8)")

  def __post_init__(self) -> None:
    for name in ("channels", "cells", "classes", "image_size"):
      _check_size(name, getattr(self, name))
    if self.stem not in _SIDES:
      raise ConfigError(f"stem={self.stem!r} is not known; use one of {', '.join(_SIDES)}")
    if self.image_size % _SIDES[self.stem]:
      raise ConfigError(
        f"image_size={self.image_size} must be a multiple of {_SIDES[self.stem]} for the {self.stem} stem"
      )
    if self.stem == "imagenet" and self.channels % 2:
      raise ConfigError(f"channels={self.channels} must be even: the imagenet stem begins with half of them")


CIFAR10: Final = EvaluationNetwork()
IMAGENET: Final = EvaluationNetwork(channels=48, cells=14, classes=1000, image_size=224, stem="imagenet")


class Cost(NamedTuple):
  """What a part of a network costs for one image.

  Attributes:
    params: trainable parameters, BN's scale and shift included.
    macs: multiply-adds of convolutions and linear layers, the bias included.
    elementwise: BN twice and ReLU once per element, pooling once per element it reads.
  """

  params: int = 0
  macs: int = 0
  elementwise: int = 0


class CellShape(NamedTuple):
  """A cell of an evaluation network: its type (0 normal, 1 reduction) and the shapes of what enters it.

  Attributes:
    cell_type: 0 or 1.
    channels_0, channels_1: of the two inputs.
    channels: of each node.
    side: of input 1, and of input 0 unless `halve_0`.
    halve_0: whether input 0 has twice that side.
  """

  cell_type: int
  channels_0: int
  channels_1: int
  channels: int
  side: int
  halve_0: bool


def count(code: Any, config: NetworkConfig | None = None, image_size: int | None = None) -> Costs:
  """Parameters and multiply-adds of the network that a config describes, without the auxiliary head.

  Args:
    code: one architecture, [32] or text.
    config: with its channels and cells; None: the CIFAR-10 evaluation network, C=36 and 20 cells.
    image_size: side of the square image; None: 32, or 224 with the stem of ImageNet.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: an image size that does not fit the stem or the auxiliary head.
  """
  config = (config or NetworkConfig()).filled(NetworkConfig(CIFAR10.channels, CIFAR10.cells))
  assert config.channels is not None and config.cells is not None
  default = {"cifar": CIFAR10, "imagenet": IMAGENET}[config.stem].image_size
  side = default if image_size is None else image_size
  network = EvaluationNetwork(config.channels, config.cells, config.classes, side, config.stem)
  if config.auxiliary:
    auxiliary_cost(network)  # refuses sizes that its pooling cannot take
  return Costs(params(code, network), macs(code, network))


def params(code: Any, network: EvaluationNetwork = CIFAR10) -> int:
  """Number of trainable parameters, without the auxiliary head.

  Raises:
    ArchitectureError: not one architecture ([32] or text).
  """
  return total([cost for _, cost in breakdown(code, network)]).params


def macs(code: Any, network: EvaluationNetwork = CIFAR10) -> int:
  """Multiply-adds of one image's forward pass: convolutions, linear layer and its bias; no auxiliary head.

  Raises:
    ArchitectureError: not one architecture ([32] or text).
  """
  return total([cost for _, cost in breakdown(code, network)]).macs


def operations(code: Any, network: EvaluationNetwork = CIFAR10) -> int:
  """`macs` plus BN, ReLU and pooling (see `Cost`): what part of the literature publishes as multiply-adds.

  Raises:
    ArchitectureError: not one architecture ([32] or text).
  """
  cost = total([cost for _, cost in breakdown(code, network)])
  return cost.macs + cost.elementwise


def breakdown(code: Any, network: EvaluationNetwork = CIFAR10) -> list[tuple[str, Cost]]:
  """(name, cost) of the stem, every cell in order and the classifier; the auxiliary head is not in it.

  Raises:
    ArchitectureError: not one architecture ([32] or text).
  """
  cells = encoding.slots(encoding.as_code(code))
  rows = [("stem", stem_cost(network))]
  for i, shape in enumerate(cell_shapes(network)):
    rows.append((f"cell {i}, {encoding.CELLS[shape.cell_type]}", cell_cost(cells[shape.cell_type], shape)))
  return [*rows, ("classifier", _classifier(network))]


def cell_shapes(network: EvaluationNetwork = CIFAR10) -> list[CellShape]:
  """The shapes of every cell of the network, in order."""
  mobile, width = network.stem == "imagenet", network.channels
  side = network.image_size // (8 if mobile else 1)
  before = last = width if mobile else _STEM_MULTIPLIER * width
  halve, shapes = mobile, []
  for i in range(network.cells):
    cell_type = int(i in (network.cells // 3, 2 * network.cells // 3))
    width *= 1 + cell_type
    shapes.append(CellShape(cell_type, before, last, width, side, halve))
    before, last, halve, side = last, encoding.NUM_NODES * width, bool(cell_type), side // (1 + cell_type)
  return shapes


def stem_cost(network: EvaluationNetwork = CIFAR10) -> Cost:
  """All layers before the first cell."""
  side, width = network.image_size, network.channels
  if network.stem == "cifar":
    return _conv_norm(3, _IMAGE_CHANNELS, _STEM_MULTIPLIER * width, side)
  half = _conv_norm(3, _IMAGE_CHANNELS, width // 2, side // 2)
  quarter = _conv_norm(3, width // 2, width, side // 4)
  return total(
    [half, _relu(width // 2, side // 2), quarter, _relu(width, side // 4), _conv_norm(3, width, width, side // 8)]
  )


def cell_cost(cell: np.ndarray, shape: CellShape) -> Cost:
  """One cell: the preprocessing of its two inputs and its eight operations.

  Args:
    cell: rows (op, source) of its nodes, [4, 2, 2], of `encoding.slots`.
    shape: where it stands in the network.
  """
  reshape = factorised_reduction if shape.halve_0 else relu_conv_norm
  side_0 = shape.side * (1 + shape.halve_0)
  parts = [
    reshape(shape.channels_0, shape.channels, side_0),
    relu_conv_norm(shape.channels_1, shape.channels, shape.side),
  ]
  for op, source in cell.reshape(-1, 2).tolist():
    from_input = source < encoding.FIRST_NODE
    stride = 1 + (shape.cell_type and from_input)
    side = shape.side if from_input else shape.side // (1 + shape.cell_type)
    parts.append(op_cost(encoding.OPS[op], shape.channels, stride, side))
  return total(parts)


def op_cost(op: str, channels: int, stride: int, side: int) -> Cost:
  """One operation of a cell on `channels` x `side` x `side`, which it leaves with side ceil(side / stride)."""
  kernel, out = int(op[-1]) if "conv" in op else 0, -(-side // stride)
  if op.startswith("sep_conv"):
    parts = [_relu(channels, side), _depthwise(kernel, channels, out), _relu(channels, out)]
    return total([*parts, _depthwise(kernel, channels, out)])
  if op.startswith("dil_conv"):
    return total([_relu(channels, side), _depthwise(kernel, channels, out)])
  if op == "skip_connect" and stride > 1:
    return factorised_reduction(channels, channels, side)
  return Cost(elementwise=channels * side * side) if "pool" in op else Cost()


def relu_conv_norm(channels_in: int, channels_out: int, side: int) -> Cost:
  """ReLU, 1x1 convolution, BN."""
  return total([_relu(channels_in, side), _conv_norm(1, channels_in, channels_out, side)])


def factorised_reduction(channels_in: int, channels_out: int, side: int) -> Cost:
  """ReLU, two 1x1 convolutions with stride 2 (half of the outputs each, the second shifted by a pixel), BN.

  `side` is the input's, the output's is ceil(side / 2).
  """
  return total([_relu(channels_in, side), _conv_norm(1, channels_in, channels_out, -(-side // 2))])


def auxiliary_cost(network: EvaluationNetwork = CIFAR10) -> Cost:
  """The auxiliary head: ReLU, 5x5 average pool, 1x1 to 128, BN, ReLU, 2x2 to 768, BN, ReLU, linear layer.

  The pool has stride 3 on CIFAR and 2 on ImageNet, and must leave 2x2. On ImageNet the second BN is missing, as in the
  released code.

  Raises:
    ConfigError: an image size that does not leave 2x2.
  """
  mobile = network.stem == "imagenet"
  head = cell_shapes(network)[2 * network.cells // 3]
  width, side = encoding.NUM_NODES * head.channels, head.side // 2
  if (side - 5) // (2 if mobile else 3) + 1 != 2:
    raise ConfigError(f"image_size={network.image_size} gives the auxiliary head {side}x{side}; it must pool to 2x2")
  last = _conv_norm(2, 128, 768, 1, norm=not mobile)
  parts = [_relu(width, side), Cost(elementwise=width * side * side), _conv_norm(1, width, 128, 2), _relu(128, 2)]
  return total([*parts, last, _relu(768, 1), _linear(768, network.classes)])


def total(parts: list[Cost]) -> Cost:
  """The sum of costs."""
  return Cost(*(sum(column) for column in zip(*parts, strict=True)))


def _classifier(network: EvaluationNetwork) -> Cost:
  last = cell_shapes(network)[-1]
  width, side = encoding.NUM_NODES * last.channels, last.side // (1 + last.cell_type)
  return total([Cost(elementwise=width * side * side), _linear(width, network.classes)])


def _depthwise(kernel: int, channels: int, side: int) -> Cost:
  """Depthwise k x k, 1x1, BN; `side` is the output's."""
  weights = kernel * kernel * channels
  return total([Cost(weights, weights * side * side), _conv_norm(1, channels, channels, side)])


def _conv_norm(kernel: int, channels_in: int, channels_out: int, side: int, norm: bool = True) -> Cost:
  """A convolution without bias, whose output is side x side, and its BN."""
  weights, outputs = kernel * kernel * channels_in * channels_out, channels_out * side * side
  scales = 2 * channels_out if norm else 0
  return Cost(weights + scales, weights * side * side, 2 * outputs if norm else 0)


def _relu(channels: int, side: int) -> Cost:
  return Cost(elementwise=channels * side * side)


def _linear(channels_in: int, channels_out: int) -> Cost:
  size = channels_in * channels_out + channels_out
  return Cost(size, size)
