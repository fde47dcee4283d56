"""Parameters and multiply-adds of networks of cells, exactly, and the count that the published tables have.

    stem       cifar:     conv 3x3 (to 3C), BN; both inputs of the first cell
               imagenet:  conv 3x3 stride 2 (to C/2), BN, ReLU, conv 3x3 stride 2 (to C), BN: the first input;
                          ReLU, conv 3x3 stride 2 (C to C), BN: the second
               code:      as imagenet without strides, as GenNAS's code builds it for small images
    cells      D of them, D // 3 and 2D // 3 reduce: they double the width c, and halve the side
    classifier average over pixels, linear layer with bias

A cell brings both inputs to c channels by ReLU, conv 1x1, BN, or the first one, where it has twice the side, by a
factorised reduction: ReLU, two conv 1x1 with stride 2 and c/2 outputs each, BN. In a reduction cell operations on the
inputs have stride 2.

The tables' `flops` are the multiply-adds, and one for each element that a ReLU reads or the average over pixels, and
k^2 for each output of a k x k pooling. They charge a dilated depthwise convolution as one that is not dilated but has
the same padding, so for more outputs than it has.

Source: Radosavovic et al., ICCV 2019, and its code; the count was fitted to the tables, which it meets in every row.
"""

import collections
from typing import Any, Literal, NamedTuple

from jaxnas.spaces.nds.cells.encoding import FIRST_NODE, Genotype, reductions
from jaxnas.spaces.nds.cells.operations import kind_and_size

Form = Literal["cifar", "imagenet", "code"]
Counts = tuple[Any, Any]  # states that a normal and a reduction cell concatenate, ints or int32 []


class CellCost(NamedTuple):
  """Parameters, multiply-adds, and what the tables count besides."""

  params: int = 0
  macs: int = 0
  more: int = 0

  def plus(self, *others: "CellCost") -> "CellCost":
    """The sum."""
    return CellCost(*(sum(column) for column in zip(self, *others, strict=True)))

  @property
  def flops(self) -> int:
    """As in the tables."""
    return self.macs + self.more


class CellInput(NamedTuple):
  """What a cell reads.

  Attributes:
    kind: 0 or 1, the kind of the cell that made it; None: the stem.
    width: channels of each state that it concatenates, or all of the stem's.
  """

  kind: int | None
  width: int

  def channels(self, counts: Counts) -> Any:
    """An int, or int32 [] if the counts are."""
    return self.width * (1 if self.kind is None else counts[self.kind])


class CellBody(NamedTuple):
  """What the operations of a cell depend on.

  Attributes:
    kind: 0 for a normal, 1 for a reduction cell.
    channels: c.
    side: of its inputs.
  """

  kind: int
  channels: int
  side: int

  @property
  def side_out(self) -> int:
    """Of its output."""
    return -(-self.side // (1 + self.kind))


class CellPlan(NamedTuple):
  """One cell of a network.

  Attributes:
    body: its operations.
    inputs: what it reads.
    halve: whether the first input has about twice the side of the second.
    side_0: of the first input.
  """

  body: CellBody
  inputs: tuple[CellInput, CellInput]
  halve: bool
  side_0: int

  @property
  def kind(self) -> int:
    """Of the body."""
    return self.body.kind

  @property
  def channels(self) -> int:
    """Of the body."""
    return self.body.channels


class CellSize(NamedTuple):
  """The size of a network."""

  channels: int
  cells: int
  classes: int
  form: Form = "imagenet"
  image_size: int = 224


def plan(size: CellSize) -> list[CellPlan]:
  """The cells of a network in order."""
  c, side = size.channels, size.image_size
  stem = CellInput(None, 3 * c if size.form == "cifar" else c)
  before, last, halve = stem, stem, size.form == "imagenet"
  side_0, side = (-(-side // 4), -(-side // 8)) if halve else (side, side)
  found = []
  for i in range(size.cells):
    kind = int(i in reductions(size.cells))
    c *= 1 + kind
    body = CellBody(kind, c, side)
    found.append(CellPlan(body, (before, last), halve, side_0))
    before, last, halve = last, CellInput(kind, c), bool(kind)
    side_0, side = side, body.side_out
  return found


def count(own: Genotype, ops: tuple[str, ...], size: CellSize) -> CellCost:
  """Of one network; the genotype's width and depth are not read."""
  total = frame(size, (len(own.concat[0]), len(own.concat[1])))
  for cell, copies in collections.Counter(cell.body for cell in plan(size)).items():
    slots = [slot_cost(ops[op], state, cell) for op, state in own.slots[cell.kind]]
    total = total.plus(*slots * copies)
  return total


def effective_params(own: Genotype, ops: tuple[str, ...], size: CellSize) -> int:
  """The parameters of one network without those of cells' operations and entries that no path leads through."""
  cells, counts = plan(size), (len(own.concat[0]), len(own.concat[1]))
  alive, reached = [True, True], []  # states that a path leads to: of the stem, then of cells
  for cell in cells:
    nodes, slots = alive[-2:], own.slots[cell.kind]
    for place in range(0, len(slots), 2):
      nodes.append(any(nodes[state] and ops[op] != "none" for op, state in slots[place : place + 2]))
    reached.append(nodes)
    alive.append(any(nodes[state] for state in own.concat[cell.kind]))
  needed = [False] * (len(cells) + 1) + [True]  # states that a path leads on from
  idle = 0
  for i, cell in reversed(list(enumerate(cells))):
    wanted = [needed[i + 2] and state in own.concat[cell.kind] for state in range(len(reached[i]))]
    for place, (op, state) in reversed(list(enumerate(own.slots[cell.kind]))):
      if wanted[place // 2 + FIRST_NODE] and ops[op] != "none" and reached[i][state]:
        wanted[state] = True
      else:
        idle += slot_cost(ops[op], state, cell.body).params
    for place in range(FIRST_NODE):
      needed[i + place] = needed[i + place] or wanted[place]
      if not wanted[place]:
        entry = factorised_reduction if cell.halve and place == 0 else relu_conv_bn
        idle += entry(cell.inputs[place].channels(counts), cell.channels, cell.side_0).params
  return count(own, ops, size).params - idle


def frame(size: CellSize, counts: Counts) -> CellCost:
  """All but the operations of slots; it is linear in the two counts, see `CellInput.channels`."""
  cells = plan(size)
  entries = []
  for cell in cells:
    first, second = (own.channels(counts) for own in cell.inputs)
    entry = factorised_reduction if cell.halve else relu_conv_bn
    entries += [entry(first, cell.channels, cell.side_0), relu_conv_bn(second, cell.channels, cell.body.side)]
  features = CellInput(cells[-1].kind, cells[-1].channels).channels(counts)
  linear = features * size.classes + size.classes
  classifier = CellCost(linear, linear, features * cells[-1].body.side_out ** 2)
  return _stem(size).plus(*entries, classifier)


def slot_cost(op: str, state: int, cell: CellBody) -> CellCost:
  """The operation of one slot of a cell."""
  from_input = state < FIRST_NODE
  stride = 2 if cell.kind and from_input else 1
  return op_cost(op, cell.channels, stride, cell.side if from_input else cell.side_out)


def op_cost(op: str, channels: int, stride: int, side: int) -> CellCost:
  """An operation on [side, side, channels], whose output has the side ceil(side / stride)."""
  (kind, size), out = kind_and_size(op), -(-side // stride)
  if kind == "sep_conv":
    return _depthwise(size, channels, stride, side, 1).plus(_depthwise(size, channels, 1, out, 1))
  if kind == "dil_sep_conv":
    return _depthwise(size, channels, stride, side, 2).plus(_depthwise(size, channels, 1, out, 2))
  if kind == "dil_conv":
    return _depthwise(size, channels, stride, side, 2)
  if kind == "conv":
    return _relu(channels, side).plus(_conv_bn(size, channels, channels, out))
  if kind == "lines":
    weights = size * channels * channels
    return _relu(channels, side).plus(CellCost(2 * weights + 2 * channels, weights * out * (side + out)))
  if kind in ("avg_pool", "max_pool"):
    return CellCost(more=size * size * channels * out * out)
  if kind == "skip_connect" and stride > 1:
    return factorised_reduction(channels, channels, side)
  return CellCost()


def relu_conv_bn(channels_in: int, channels_out: int, side: int) -> CellCost:
  """ReLU, conv 1x1, BN."""
  return _relu(channels_in, side).plus(_conv_bn(1, channels_in, channels_out, side))


def factorised_reduction(channels_in: int, channels_out: int, side: int) -> CellCost:
  """`side` is the input's."""
  return _relu(channels_in, side).plus(_conv_bn(1, channels_in, channels_out, -(-side // 2)))


def _stem(size: CellSize) -> CellCost:
  c, side = size.channels, size.image_size
  if size.form == "cifar":
    return _conv_bn(3, 3, 3 * c, side)
  sides = [-(-side // factor) for factor in ((2, 4, 8) if size.form == "imagenet" else (1, 1, 1))]
  convolutions = [_conv_bn(3, *ends, s) for ends, s in zip(((3, c // 2), (c // 2, c), (c, c)), sides, strict=True)]
  return _relu(c // 2, sides[0]).plus(_relu(c, sides[1]), *convolutions)


def _depthwise(size: int, channels: int, stride: int, side: int, dilation: int) -> CellCost:
  """ReLU, depthwise, conv 1x1, BN; `side` is the input's."""
  out, pad, weights = -(-side // stride), dilation * (size - 1) // 2, size * size * channels
  charged = (side + 2 * pad - size) // stride + 1  # outputs of the tables' convolution, which is not dilated
  wide = CellCost(weights, weights * out * out, weights * (charged * charged - out * out))
  return _relu(channels, side).plus(wide, _conv_bn(1, channels, channels, out))


def _conv_bn(size: int, channels_in: int, channels_out: int, side: int) -> CellCost:
  """`side` is the output's."""
  weights = size * size * channels_in * channels_out
  return CellCost(weights + 2 * channels_out, weights * side * side)


def _relu(channels: int, side: int) -> CellCost:
  return CellCost(more=channels * side * side)
