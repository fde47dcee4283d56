"""Where the parameters and running statistics of `NDSBlockModule` are in the fast network's trees (see `layout`)."""

from collections.abc import Iterator

from jaxnas.spaces.mapping import Parts, Where, layer, moments
from jaxnas.spaces.nds.blocks.costs import convolutions
from jaxnas.spaces.nds.blocks.layout import FIRST, OTHERS
from jaxnas.spaces.nds.blocks.module import NDSBlockModule

_BN = ("scale", "bias")


def parameters(module: NDSBlockModule) -> Parts:
  """Of the collection `params`."""
  parts = layer(("classifier",), ("classifier",), leaves=("kernel", "bias"))
  for own, path, where in _layers(module):
    parts |= layer((*own, "conv"), (*path, "conv"), where, ("kernel",)) | layer((*own, "bn"), (*path, "bn"), where, _BN)
  return parts


def statistics(module: NDSBlockModule) -> Parts:
  """Of the collection `batch_stats`."""
  parts: Parts = {}
  for own, path, where in _layers(module):
    parts |= moments((*own, "bn"), path, where)
  return parts


def _layers(module: NDSBlockModule) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Where]]:
  """(path in the module, path in the fast network, place there) of every convolution with its BN."""
  for part, block, name, _ in convolutions(module.net, 32):
    if part == "stem":
      yield (f"stem_{name}",), (part, name), ()
    else:
      own = (f"{part}_block_{block}", name)
      yield own, (part, OTHERS if block else FIRST, name), (block - 1,) if block else ()
