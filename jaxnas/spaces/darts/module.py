"""The network of one DARTS genotype in plain Flax: to read first, and to train in a loop of one's own.

    module = DARTSModule("DARTS_V2", channels=36, cells=20, classes=10, auxiliary=True)
    variables = module.init(jax.random.key(0), images)  # {"params": ..., "batch_stats": ...}
    (logits, side), updates = module.apply(
      variables, images, train=True, drop_path=0.1, rngs={"drop_path": key}, mutable=["batch_stats"]
    )

A cell brings the outputs of the two cells before it to C channels, adds two operations in each of four nodes, and
concatenates these. The cells at one and two thirds of the network are reduction cells, in which operations on the
inputs have stride 2 and C doubles. As in the released code there is no BN after pooling and no ReLU at the end.

Kernels start as PyTorch's do, uniform within 1 / sqrt(fan in). Running statistics are Flax's, 0.9 old + 0.1 new with
the biased variance of the mini-batch; PyTorch, and so our trainer, takes the unbiased one, larger by n / (n - 1) over n
samples and pixels. `mapping` translates to and from the fast network.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, model.py and operations.py.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.errors import ConfigError
from jaxnas.spaces.darts import encoding, genotypes
from jaxnas.spaces.darts.module_layers import (
  AuxiliaryHead,
  DepthwiseSeparable,
  FactorizedReduce,
  Maps,
  ReLUConvBN,
  SeparableTwice,
  dense,
)

Logits = Float[Array, "N K"]
Rate = Float[Array, ""] | float


class DARTSCell(nn.Module):
  """One cell.

  Attributes:
    pairs: (operation, source) of its eight slots, two a node; sources 0 and 1 are the inputs.
    channels: C of each node; the output has 4 C.
    reduction: whether operations on the inputs have stride 2.
    halve: whether the first input has twice the height and width of the second.
  """

  pairs: tuple[tuple[str, int], ...]
  channels: int
  reduction: bool
  halve: bool

  @nn.compact
  def __call__(
    self, x0: Float[Array, "N H0 W0 C0"], x1: Maps, train: bool = False, drop_path: Rate | None = None
  ) -> Float[Array, "N H2 W2 D"]:
    """The output, from those of the cells before it."""
    entry = FactorizedReduce if self.halve else ReLUConvBN
    x0 = entry(self.channels, name="input_0")(x0, train)
    states = [x0, ReLUConvBN(self.channels, name="input_1")(x1, train)]
    for node in encoding.NODES:
      terms = []
      for i in range(2):
        operation, source = self.pairs[2 * (node - encoding.FIRST_NODE) + i]
        stride = 2 if self.reduction and source < encoding.FIRST_NODE else 1
        y = self._operation(operation, states[source], stride, f"node{node}_input{i}", train)
        if train and drop_path is not None and not (operation == "skip_connect" and stride == 1):
          kept = jax.random.bernoulli(self.make_rng("drop_path"), 1 - drop_path, (len(y), 1, 1, 1))
          y = y * kept.astype(y.dtype) / (1 - drop_path)
        terms.append(y)
      states.append(terms[0] + terms[1])
    return jnp.concatenate(states[encoding.FIRST_NODE :], -1)

  def _operation(self, operation: str, x: Maps, stride: int, name: str, train: bool) -> Float[Array, "N H2 W2 C"]:
    strides = (stride, stride)
    padding: Any = ((1, 1), (1, 1))  # Flax declares a string and takes this too
    match operation.rsplit("_", 1):
      case ["max_pool", _]:
        return nn.max_pool(x, (3, 3), strides, padding)
      case ["avg_pool", _]:
        return nn.avg_pool(x, (3, 3), strides, padding, count_include_pad=False)
      case ["sep_conv", size]:
        return SeparableTwice(int(size[0]), stride, name=name)(x, train)
      case ["dil_conv", size]:
        return DepthwiseSeparable(int(size[0]), stride, dilation=2, name=name)(x, train)
      case _:  # skip_connect
        return x if stride == 1 else FactorizedReduce(self.channels, name=name)(x, train)


class DARTSModule(nn.Module):
  """The whole network.

  Attributes:
    arch: a published name, such as DARTS_V2, or a genotype in text form.
    channels: C of the first cell.
    cells: L; cells L // 3 and 2 L // 3 are the reduction cells.
    classes: outputs of the linear layer.
    stem: "cifar" (a 3x3 convolution to 3 C channels) or "imagenet" (three of stride 2, to C channels).
    auxiliary: whether training has the auxiliary head.
  """

  arch: str
  channels: int = 36
  cells: int = 20
  classes: int = 10
  stem: Literal["cifar", "imagenet"] = "cifar"
  auxiliary: bool = False

  @nn.compact
  def __call__(
    self, images: Float[Array, "N H W 3"], train: bool = False, drop_path: Rate | None = None
  ) -> Logits | tuple[Logits, Logits]:
    """Logits [N, K], in training with the auxiliary head (logits, its logits).

    Args:
      images: normalised.
      train: BN normalises by the mini-batch, and moves `batch_stats` where that is mutable.
      drop_path: in training, the probability, below 1, with which each operation of each cell but the identity is left
        out, for each sample on its own; the others are divided by 1 - drop_path. Draws from the RNG `drop_path`.

    Raises:
      ArchitectureError: `arch` is no genotype.
      ConfigError: another `stem`.
    """
    normal, reduce = encoding.to_cells(genotypes.lookup(self.arch))
    x0, x1 = self._stem(images, train)
    width, halve, side = self.channels, self.stem == "imagenet", None
    for i in range(self.cells):
      reduction = i in (self.cells // 3, 2 * self.cells // 3)
      width *= 1 + reduction
      cell = DARTSCell(tuple(reduce if reduction else normal), width, reduction, halve, name=f"cell_{i}")
      x0, x1, halve = x1, cell(x0, x1, train, drop_path), reduction
      if i == 2 * self.cells // 3 and self.auxiliary and (train or self.is_initializing()):
        side = AuxiliaryHead(self.classes, self.stem, name="auxiliary")(x1, train)
    logits = dense(self.classes, name="classifier")(x1.mean((1, 2)))
    return (logits, side) if train and side is not None else logits

  def _stem(self, images: Maps, train: bool) -> tuple[Float[Array, "N H0 W0 D"], Float[Array, "N H1 W1 D"]]:
    """The two inputs of the first cell."""
    c = self.channels
    if self.stem == "cifar":
      x = ReLUConvBN(3 * c, 3, relu=False, name="stem")(images, train)
      return x, x
    if self.stem != "imagenet":
      raise ConfigError(f"stem={self.stem!r} must be one of cifar, imagenet")
    half = ReLUConvBN(c // 2, 3, stride=2, relu=False, name="stem_a")(images, train)
    quarter = ReLUConvBN(c, 3, stride=2, name="stem_b")(half, train)
    return quarter, ReLUConvBN(c, 3, stride=2, name="stem_c")(quarter, train)
