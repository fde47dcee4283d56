"""The parameters of a network of stages: their tree and shapes.

Of a stage the first block (`cell_0`) stands alone, the others (`cell_1`), which are alike, are side by side: [blocks -
1, ...]. A block has its convolutions by name, see `costs.block_convolutions`, each {"conv", "bn"}.
"""

from typing import Any

from jaxtyping import PyTree

from jaxnas.nets.parameters import bn_shapes, stacked
from jaxnas.spaces.nds.blocks.costs import Convolution, Staged, convolutions

FIRST, OTHERS = "cell_0", "cell_1"


def shapes(net: Staged, classes: int) -> PyTree:
  """Shapes of all parameters, as `parameters.draw` takes them."""
  tree: dict[str, Any] = {"stem": {}}
  for part, block, name, one in convolutions(net, 32):
    own = {"conv": {"kernel": kernel_shape(one)}, "bn": bn_shapes(one.channels)}
    if part == "stem":
      tree[part][name] = own
    elif block == 0:
      tree.setdefault(part, {}).setdefault(FIRST, {})[name] = own
    elif block == 1:
      others = net.stages[int(part.removeprefix("stage_"))].blocks - 1
      tree[part].setdefault(OTHERS, {})[name] = stacked(own, others)
  return tree | {"classifier": {"kernel": (net.stages[-1].channels, classes), "bias": (classes,)}}


def kernel_shape(one: Convolution) -> tuple[int, int, int, int]:
  """HWIO, of a convolution in groups with the inputs of one group."""
  return one.size, one.size, one.channels_in // one.groups, one.channels


def is_stacked(path: list[str]) -> bool:
  """Whether the parameter of this name (its keys) has blocks as its first axis."""
  return OTHERS in path[1:2]
