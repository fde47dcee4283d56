"""Where the parameters and running statistics of `NB101Module` are in the trees of the fast network.

There the cells of a stack are stacked ([modules, ...]), every slot has every operation, and kernels have the full
width of the stack, of which a vertex uses the first channels. The vertices of a pruned cell are in the last slots, the
output in the very last (`encoding.alphas`).
"""

from collections.abc import Iterator

from jaxnas.spaces.mapping import Parts, Where, layer, moments
from jaxnas.spaces.nb101 import encoding
from jaxnas.spaces.nb101.channels import vertex_channels
from jaxnas.spaces.nb101.module import NB101Module

_BN = ("scale", "bias")


def parameters(module: NB101Module) -> Parts:
  """Of the collection `params`."""
  parts = layer(("stem", "conv"), ("stem", "conv"), leaves=("kernel",)) | layer(("stem", "bn"), ("stem", "bn"), (), _BN)
  for own, stack, slot, op, cell, channels_in, channels in _convolutions(module):
    where = (cell, slice(None), slice(None), slice(channels_in), slice(channels))
    parts |= layer((*own, "conv"), (stack, slot, op), where, ("kernel",))
    parts |= layer((*own, "bn"), (stack, slot, "bn"), (cell, slice(channels)), _BN)
  return parts | layer(("classifier",), ("classifier",), leaves=("kernel", "bias"))


def statistics(module: NB101Module) -> Parts:
  """Of the collection `batch_stats`."""
  parts = moments(("stem", "bn"), ("stem",))
  for own, stack, slot, _, cell, _, channels in _convolutions(module):
    where: Where = (cell, slice(channels))
    parts |= moments((*own, "bn"), (stack, slot), where)
  return parts


def _convolutions(module: NB101Module) -> Iterator[tuple[tuple[str, str], str, str, str, int, int, int]]:
  """(path in the module, stack, slot, operation, number of the cell in the stack, channels in, channels out)."""
  edges, operations = encoding.prune(module.arch)
  shift = encoding.MAX_VERTICES - len(operations)
  width = module.channels
  for stack in range(3):
    for cell in range(module.cells):
      name, full = f"stack_{stack}", module.channels * 2**stack
      own = vertex_channels(edges, width, full)
      for v, op in enumerate(operations):
        if v and edges[0, v]:
          path = (f"{name}_cell_{cell}", f"projection_{v}")
          yield path, name, f"projection_{v + shift}", "conv", cell, width, own[v]
        if op in (encoding.CONV3, encoding.CONV1):
          path = (f"{name}_cell_{cell}", f"vertex_{v}")
          yield path, name, f"vertex_{v + shift}", encoding.OPS[op], cell, own[v], own[v]
      width = full
