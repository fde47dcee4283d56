"""Where the parameters and running statistics of `NDSCellModule` are in the trees of the fast network (see `layout`).

There the normal cells between two reductions are stacked, [cells, ...], kernels that read a cell have rows for all
nodes, and statistics are also stacked by slots.
"""

from collections.abc import Iterator

from jaxnas.spaces.mapping import Parts, Where, layer, moments
from jaxnas.spaces.nds.cells import encoding, layout, operations
from jaxnas.spaces.nds.cells.costs import CellInput, CellSize
from jaxnas.spaces.nds.cells.module import NDSCellModule

_BN = ("scale", "bias")


def parameters(module: NDSCellModule) -> Parts:
  """Of the collection `params`."""
  counts = _counts(module)
  cells = layout.parts(_size(module))
  last = CellInput(cells[-1].kind, cells[-1].channels).channels(counts)
  parts = layer(("classifier",), ("classifier",), (slice(last),), ("kernel",))
  parts |= layer(("classifier",), ("classifier",), leaves=("bias",))
  for own, path in _stem(module):
    parts |= layer((own, "conv"), (*path, "conv"), leaves=("kernel",)) | layer((own, "bn"), (*path, "bn"), leaves=_BN)
  for part in cells:
    for kernel in layout.kernels(part, module.table.nodes):
      place = layout.INPUTS.index(kernel.path[0])
      for number, i in enumerate(kernel.cells):
        rows = part.cells[i].inputs[place].channels(counts)
        where: Where = (*(() if part.kind else (number,)), slice(None), slice(None), slice(rows))
        own = (f"cell_{part.first + i}", kernel.path[0], kernel.path[-1])
        parts |= layer(own, (part.name, *kernel.path), where, ("kernel",))
    for cell, i in _cells(part):
      for name in layout.INPUTS:
        parts |= layer((cell, name, "bn"), (part.name, name, "bn"), _at(part, i), _BN)
      for _, name, op, stride in _slots(module, part):
        parts |= _operation((cell, name), (part.name, name, op), _at(part, i), stride)
  return parts


def statistics(module: NDSCellModule) -> Parts:
  """Of the collection `batch_stats`."""
  parts: Parts = {}
  for own, path in _stem(module):
    parts |= moments((own, "bn"), ("stem", path[-1] if len(path) > 1 else "a"))
  for part in layout.parts(_size(module)):
    for cell, i in _cells(part):
      for name in layout.INPUTS:
        parts |= moments((cell, name, "bn"), (part.name, name, "a"), _at(part, i))
      for number, name, op, stride in _slots(module, part):
        for place, inner in operations.norms(op, stride):
          parts |= moments((cell, name, *inner, "bn"), (part.name, "slots", place), (*_at(part, i), number))
  return parts


def _size(module: NDSCellModule) -> CellSize:
  return CellSize(module.channels, module.cells, module.classes, module.form)


def _counts(module: NDSCellModule) -> tuple[int, int]:
  normal, reduce = encoding.genotype(module.table, module.arch).concat
  return len(normal), len(reduce)


def _stem(module: NDSCellModule) -> list[tuple[str, tuple[str, ...]]]:
  """(name, path in the fast network's parameters) of the stem's convolutions."""
  if module.form == "cifar":
    return [("stem", ("stem",))]
  return [(f"stem_{place}", ("stem", place)) for place in ("a", "b", "c")]


def _cells(part: layout.CellPart) -> Iterator[tuple[str, int]]:
  """(name, place in its part) of every cell."""
  for i in range(len(part.cells)):
    yield f"cell_{part.first + i}", i


def _at(part: layout.CellPart, i: int) -> Where:
  """Where the cell is in what its part stacks."""
  return () if part.kind else (i,)


def _slots(module: NDSCellModule, part: layout.CellPart) -> list[tuple[int, str, str, int]]:
  """(number, name, operation, stride) of the slots of a cell."""
  slots = encoding.genotype(module.table, module.arch).slots[part.kind]
  names = layout.slot_names(module.table.nodes)
  return [
    (number, name, module.table.ops[op], 2 if part.kind and state < encoding.FIRST_NODE else 1)
    for number, (name, (op, state)) in enumerate(zip(names, slots, strict=True))
  ]


def _operation(own: tuple[str, ...], path: tuple[str, ...], where: Where, stride: int) -> Parts:
  """Of the parameters, whose names in an operation are the same."""
  parts: Parts = {}
  for _, inner in operations.norms(path[-1], stride):
    shapes = operations.op_shapes(path[-1], 2, stride)
    for name in inner:
      shapes = shapes[name]
    for name in shapes:
      leaves = _BN if name == "bn" else ("kernel",)
      parts |= layer((*own, *inner, name), (*path, *inner, name), where, leaves)
  return parts
