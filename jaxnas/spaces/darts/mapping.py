"""Where the parameters and running statistics of `DARTSModule` are in the trees of the fast network (see `layout`).

There the normal cells between two reductions are stacked, [cells, ...]; the kernels that read a cell's inputs in groups
of cells with one kind of input. Statistics of a network whose genotype is data are also stacked by slots.
"""

from collections.abc import Iterator

from jaxnas.spaces.darts import costs, encoding, genotypes, layout
from jaxnas.spaces.darts.module import DARTSModule
from jaxnas.spaces.mapping import Parts, Where, layer, moments

_BN = ("scale", "bias")


def parameters(module: DARTSModule) -> Parts:
  """Of the collection `params`; the fast network's genotype may be static or data."""
  parts = layer(("classifier",), ("classifier",), leaves=("kernel", "bias"))
  for own, path in _stem(module):
    parts |= layer((own, "conv"), (*path, "conv"), leaves=("kernel",)) | layer((own, "bn"), (*path, "bn"), leaves=_BN)
  if module.auxiliary:
    for place in ("a", "b"):
      parts |= layer(("auxiliary", f"conv_{place}"), ("auxiliary", place, "conv"), leaves=("kernel",))
    for place in _auxiliary_norms(module):
      parts |= layer(("auxiliary", f"bn_{place}"), ("auxiliary", place, "bn"), leaves=_BN)
    parts |= layer(("auxiliary", "classifier"), ("auxiliary", "classifier"), leaves=("kernel", "bias"))
  for cell, part, i in _cells(module):
    where = _at(part, i)
    for place, name in enumerate(layout.INPUTS):
      parts |= layer((cell, name, "bn"), (part.name, name, "bn"), where, _BN)
      group, own = _group(part, place, i)
      for kernel in ("conv0", "conv1") if place == 0 and part.shapes[i].halve_0 else ("conv",):
        parts |= layer((cell, name, kernel), (part.name, name, *group, kernel), own, ("kernel",))
    for _, name, op, stride in _slots(module, part):
      parts |= _operation((cell, name), (part.name, name, op), where, stride)
  return parts


def statistics(module: DARTSModule, genotype_is_data: bool = False) -> Parts:
  """Of the collection `batch_stats`, in the fast network's `moments` with the genotype static, or else data."""
  parts: Parts = {}
  for own, path in _stem(module):
    parts |= moments((own, "bn"), ("stem", path[-1] if len(path) > 1 else "a"))
  for place in _auxiliary_norms(module) if module.auxiliary else ():
    parts |= moments(("auxiliary", f"bn_{place}"), ("auxiliary", place))
  for cell, part, i in _cells(module):
    where = _at(part, i)
    for name in layout.INPUTS:
      parts |= moments((cell, name, "bn"), (part.name, name, "a"), where)
    for number, name, op, stride in _slots(module, part):
      path, own = (part.name, name), where
      if genotype_is_data:
        path, own = (part.name, "slots"), (*where, number)
      for place, inner in _norms(op, stride):
        parts |= moments((cell, name, *inner, "bn"), (*path, place), own)
  return parts


def _stem(module: DARTSModule) -> list[tuple[str, tuple[str, ...]]]:
  """(name, path in the fast network's parameters) of the stem's convolutions."""
  if module.stem == "cifar":
    return [("stem", ("stem",))]
  return [(f"stem_{place}", ("stem", place)) for place in ("a", "b", "c")]


def _auxiliary_norms(module: DARTSModule) -> tuple[str, ...]:
  return ("a", "b") if module.stem == "cifar" else ("a",)


def _cells(module: DARTSModule) -> Iterator[tuple[str, layout.CellGroup, int]]:
  """(name, part of the fast network, its number in it) of every cell."""
  side = {"cifar": 32, "imagenet": 224}[module.stem]
  network = costs.EvaluationNetwork(module.channels, module.cells, module.classes, side, module.stem)
  for part in layout.parts(network):
    for i in range(len(part.shapes)):
      yield f"cell_{part.first + i}", part, i


def _at(part: layout.CellGroup, i: int) -> Where:
  """Where the cell is in what its part stacks."""
  return () if part.cell_type else (i,)


def _group(part: layout.CellGroup, place: int, i: int) -> tuple[tuple[str, ...], Where]:
  """(name of the group of kernels that the cell's is in, its place there); both empty in a reduction cell."""
  if part.cell_type:
    return (), ()
  return next(((name,), (i - cells.start,)) for name, cells in layout.groups(part, place) if i in cells)


def _slots(module: DARTSModule, part: layout.CellGroup) -> list[tuple[int, str, str, int]]:
  """(number, name, operation, stride) of the eight slots of a cell."""
  pairs = encoding.to_cells(genotypes.lookup(module.arch))[part.cell_type]
  rows = enumerate(zip(layout.SLOTS, pairs, strict=True))
  return [(number, name, op, layout.stride_of(part.cell_type, source)) for number, (name, (op, source)) in rows]


def _norms(op: str, stride: int) -> list[tuple[str, tuple[str, ...]]]:
  """(place in the fast network, path in the operation) of an operation's batch normalisations."""
  if op.startswith("sep_conv"):
    return [("a", ("a",)), ("b", ("b",))]
  return [("a", ())] if op.startswith("dil_conv") or (op == "skip_connect" and stride == 2) else []


def _operation(own: tuple[str, ...], path: tuple[str, ...], where: Where, stride: int) -> Parts:
  """Of the parameters, whose names in an operation are the same."""
  parts: Parts = {}
  for _, inner in _norms(path[-1], stride):
    for kernel in ("conv0", "conv1") if path[-1] == "skip_connect" else ("dw", "pw"):
      parts |= layer((*own, *inner, kernel), (*path, *inner, kernel), where, ("kernel",))
    parts |= layer((*own, *inner, "bn"), (*path, *inner, "bn"), where, _BN)
  return parts
