"""Where the parameters and running statistics of `NB201Module` are in the trees of the fast network.

There the cells of a stage are stacked ([cells, ...]), and every edge has both convolutions. Statistics of an edge that
reaches no output are kept by the module and mean nothing in the fast network, which does not compute it.
"""

from jaxnas.spaces.mapping import Parts, Where, layer, moments
from jaxnas.spaces.nb201 import encoding
from jaxnas.spaces.nb201.module import NB201Module

_CONVS = ("nor_conv_1x1", "nor_conv_3x3")


def parameters(module: NB201Module) -> Parts:
  """Of the collection `params`."""
  parts = _conv_bn(("stem",), ("stem",))
  for stage in (1, 2):
    block = f"reduce_{stage}"
    parts |= _conv_bn((block, "conv_a"), (block, "conv_a")) | _conv_bn((block, "conv_b"), (block, "conv_b"))
    parts |= layer((block, "downsample"), (block, "downsample", "conv"), leaves=("kernel",))
  for stage, cell, edge, operation in _convolutions(module):
    parts |= _conv_bn((f"{stage}_cell_{cell}", edge), (stage, edge, operation), (cell,))
  parts |= layer(("last",), ("last", "bn"), leaves=("scale", "bias"))
  return parts | layer(("classifier",), ("classifier",), leaves=("kernel", "bias"))


def statistics(module: NB201Module) -> Parts:
  """Of the collection `batch_stats`."""
  parts = moments(("stem", "bn"), ("stem",)) | moments(("last",), ("last",))
  for block in ("reduce_1", "reduce_2"):
    for name in ("conv_a", "conv_b"):
      parts |= moments((block, name, "bn"), (block, name))
  for stage, cell, edge, _ in _convolutions(module):
    parts |= moments((f"{stage}_cell_{cell}", edge, "bn"), (stage, edge), (cell,))
  return parts


def _convolutions(module: NB201Module) -> list[tuple[str, int, str, str]]:
  """(stage, place of the cell in it, edge, operation) of every edge of every cell that has a convolution."""
  operations = [encoding.OPS[op] for op in encoding.parse(module.arch)]
  edges = [f"edge{target}_{source}" for target, source in encoding.EDGES]
  own = [(edge, op) for edge, op in zip(edges, operations, strict=True) if op in _CONVS]
  return [(f"stage_{s}", cell, edge, op) for s in range(3) for cell in range(module.cells) for edge, op in own]


def _conv_bn(own: tuple[str, ...], path: tuple[str, ...], where: Where = ()) -> Parts:
  parts = layer((*own, "conv"), (*path, "conv"), where, ("kernel",))
  return parts | layer((*own, "bn"), (*path, "bn"), where, ("scale", "bias"))
