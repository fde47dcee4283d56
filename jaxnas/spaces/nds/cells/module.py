"""The network of one genotype of a space of cells in plain Flax: to read first, and to train in a loop of one's own.

    space = spaces.get("nds_enas")
    module = space.module(space.parse("Genotype(normal=[...], ..., width=32, depth=14)"), space.default_config)
    variables = module.init(jax.random.key(0), images)  # {"params": ..., "batch_stats": ...}
    logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])

A cell brings the outputs of the two cells before it to C channels, adds two operations in each of its nodes, and
concatenates some of these. The cells at one and two thirds of the network are reduction cells, in which operations on
the inputs have stride 2 and C doubles. No ReLU ends a cell or the network.

Kernels start as PyTorch's do, uniform within 1 / sqrt(fan in). Running statistics are Flax's, 0.9 old + 0.1 new with
the biased variance of the mini-batch. `mapping` translates to and from the fast network.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and its code.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.spaces.darts.module_layers import (
  DepthwiseSeparable,
  FactorizedReduce,
  Maps,
  ReLUConvBN,
  SeparableTwice,
  conv,
  dense,
  norm,
)
from jaxnas.spaces.nds.cells import encoding
from jaxnas.spaces.nds.cells.costs import Form
from jaxnas.spaces.nds.cells.operations import kind_and_size
from jaxnas.spaces.nds.tables import CellTable


class DilatedTwice(nn.Module):
  """The operation `dil_sep_conv`: twice ReLU, depthwise with dilation 2, 1x1, BN; the first has the stride."""

  size: int
  stride: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 C"]:
    x = DepthwiseSeparable(self.size, self.stride, 2, name="a")(x, train)
    return DepthwiseSeparable(self.size, 1, 2, name="b")(x, train)


class Lines(nn.Module):
  """The operation `conv_kx1_1xk`: ReLU, 1 x k with the stride along rows, k x 1 with that along columns, BN."""

  size: int
  stride: int

  @nn.compact
  def __call__(self, x: Maps, train: bool = False) -> Float[Array, "N H2 W2 C"]:
    channels, k, pad = x.shape[-1], self.size, self.size // 2
    x = conv(channels, (1, k), (1, self.stride), ((0, 0), (pad, pad)), name="row")(nn.relu(x))
    x = conv(channels, (k, 1), (self.stride, 1), ((pad, pad), (0, 0)), name="column")(x)
    return norm(use_running_average=not train, name="bn")(x)


class NDSCell(nn.Module):
  """One cell.

  Attributes:
    slots: (operation, state) of each, two a node.
    concat: the states that it concatenates.
    channels: C of each node.
    reduction: whether operations on the inputs have stride 2.
    halve: whether the first input has twice the height and width of the second.
  """

  slots: tuple[tuple[str, int], ...]
  concat: tuple[int, ...]
  channels: int
  reduction: bool
  halve: bool

  @nn.compact
  def __call__(self, x0: Float[Array, "N H0 W0 C0"], x1: Maps, train: bool = False) -> Float[Array, "N H2 W2 D"]:
    """The output, from those of the cells before it."""
    entry = FactorizedReduce if self.halve else ReLUConvBN
    x0 = entry(self.channels, name="input_0")(x0, train)
    states = [x0, ReLUConvBN(self.channels, name="input_1")(x1, train)]
    for node in range(encoding.FIRST_NODE, encoding.FIRST_NODE + len(self.slots) // 2):
      terms = []
      for i in range(2):
        operation, state = self.slots[2 * (node - encoding.FIRST_NODE) + i]
        stride = 2 if self.reduction and state < encoding.FIRST_NODE else 1
        terms.append(self._operation(operation, states[state], stride, f"node{node}_input{i}", train))
      states.append(terms[0] + terms[1])
    return jnp.concatenate([states[state] for state in self.concat], -1)

  def _operation(self, operation: str, x: Maps, stride: int, name: str, train: bool) -> Float[Array, "N H2 W2 C"]:
    kind, size = kind_and_size(operation)
    window, strides, pad = (size, size), (stride, stride), size // 2
    padding: Any = ((pad, pad), (pad, pad))  # Flax declares a string and takes this too
    match kind:
      case "max_pool":
        return nn.max_pool(x, window, strides, padding)
      case "avg_pool":
        return nn.avg_pool(x, window, strides, padding, count_include_pad=False)
      case "sep_conv":
        return SeparableTwice(size, stride, name=name)(x, train)
      case "dil_conv":
        return DepthwiseSeparable(size, stride, dilation=2, name=name)(x, train)
      case "dil_sep_conv":
        return DilatedTwice(size, stride, name=name)(x, train)
      case "conv":
        return ReLUConvBN(self.channels, size, stride, name=name)(x, train)
      case "lines":
        return Lines(size, stride, name=name)(x, train)
      case "skip_connect":
        return x if stride == 1 else FactorizedReduce(self.channels, name=name)(x, train)
      case _:  # none
        return jnp.zeros_like(x[:, ::stride, ::stride])


class NDSCellModule(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, see `encoding.parse`; its width and depth are not read.
    table: the space.
    channels: C of the first cell.
    cells: L; cells L // 3 and 2 L // 3 are the reduction cells.
    classes: outputs of the linear layer.
    form: the stem, see `costs`.
  """

  arch: str
  table: CellTable
  channels: int
  cells: int
  classes: int = 1000
  form: Form = "imagenet"

  @nn.compact
  def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; with `train`, BN normalises by the mini-batch, and moves `batch_stats` where that is mutable.

    Args:
      images: normalised.

    Raises:
      ArchitectureError: `arch` is no genotype of the space.
    """
    own = encoding.genotype(self.table, self.arch)
    slots = [tuple((self.table.ops[op], state) for op, state in cell) for cell in own.slots]
    x0, x1 = self._stem(images, train)
    width, halve = self.channels, self.form == "imagenet"
    for i in range(self.cells):
      kind = int(i in encoding.reductions(self.cells))
      width *= 1 + kind
      cell = NDSCell(slots[kind], own.concat[kind], width, bool(kind), halve, name=f"cell_{i}")
      x0, x1, halve = x1, cell(x0, x1, train), bool(kind)
    return dense(self.classes, name="classifier")(x1.mean((1, 2)))

  def _stem(self, images: Maps, train: bool) -> tuple[Float[Array, "N H0 W0 D"], Float[Array, "N H1 W1 D"]]:
    """The two inputs of the first cell."""
    c, stride = self.channels, 2 if self.form == "imagenet" else 1
    if self.form == "cifar":
      x = ReLUConvBN(3 * c, 3, relu=False, name="stem")(images, train)
      return x, x
    half = ReLUConvBN(c // 2, 3, stride=stride, relu=False, name="stem_a")(images, train)
    quarter = ReLUConvBN(c, 3, stride=stride, name="stem_b")(half, train)
    return quarter, ReLUConvBN(c, 3, stride=stride, name="stem_c")(quarter, train)
