"""The layout of the network of one genotype: its stages, and the shapes of its parameters.

The cells follow one another as in `costs`. Here they are grouped: the normal cells between two reductions are a stage,
whose parameters are stacked ([cells of the stage, ...]) because all of them run through one piece of code. Where cells
of a stage read inputs of different widths (the stem's, or those of a reduction cell), the kernels that read them are
stacked in groups of equal shape, each called after its first cell.
"""

from typing import Any, NamedTuple

from jaxtyping import PyTree

from jaxnas.base import NetworkConfig
from jaxnas.nets.parameters import bn_shapes, stacked
from jaxnas.spaces.darts import auxiliary, blocks, costs, encoding
from jaxnas.spaces.darts.costs import CellShape, EvaluationNetwork

STAGE, REDUCE = "stage_", "reduce_"  # beginnings of the parts' names
SLOTS = tuple(f"node{node}_input{i}" for node in encoding.NODES for i in range(2))
TARGETS = tuple(node for node in encoding.NODES for _ in range(2))  # the node that each slot is added to
INPUTS = ("input_0", "input_1")

Genotype = tuple[int, ...]  # an architecture as 32 integers, see `encoding`


def evaluation(config: NetworkConfig, image_size: int | None = None) -> EvaluationNetwork:
  """What `costs` takes; `image_size` is 32, or 224 with the ImageNet stem, if not given.

  Raises:
    ConfigError: settings out of range, or open ones.
  """
  channels, cells = config.size
  size = (224 if config.stem == "imagenet" else 32) if image_size is None else image_size
  return EvaluationNetwork(channels, cells, config.classes, size, config.stem)


def slots(genotype: Genotype, cell_type: int) -> list[tuple[int, int]]:
  """(op, source) of each slot of an architecture."""
  rows = encoding.slots(genotype)[cell_type].reshape(-1, 2).tolist()
  return [(op, source) for op, source in rows]


class CellGroup(NamedTuple):
  """A stage (normal cells, at least one) or a reduction cell.

  Attributes:
    name: stage_0, reduce_1, stage_1, ...
    first: the number of its first cell.
    shapes: of its cells.
  """

  name: str
  first: int
  shapes: tuple[CellShape, ...]

  @property
  def cell_type(self) -> int:
    """0 or 1: which cell of the genotype it is made of."""
    return self.shapes[0].cell_type


def parts(network: EvaluationNetwork) -> list[CellGroup]:
  """The network's parts in order."""
  found: list[CellGroup] = []
  reductions = 0
  for i, shape in enumerate(costs.cell_shapes(network)):
    if shape.cell_type:
      reductions += 1
      found.append(CellGroup(f"{REDUCE}{reductions}", i, (shape,)))
    elif found and found[-1].name.startswith(STAGE):
      found[-1] = found[-1]._replace(shapes=(*found[-1].shapes, shape))
    else:
      found.append(CellGroup(f"{STAGE}{reductions}", i, (shape,)))
  return found


def is_stacked(path: list[str]) -> bool:
  """Whether the parameter of this name (its keys) has the cells of a stage as its first axis."""
  return path[0].startswith(STAGE)


def shapes(network: EvaluationNetwork, genotype: Genotype | None, with_auxiliary: bool) -> PyTree:
  """Shapes of all parameters, as `parameters.draw` takes them.

  Args:
    genotype: the architecture, whose own operations have parameters; None: every operation of every slot has.
    with_auxiliary: whether there is an auxiliary head.
  """
  layout = parts(network)
  tree: dict[str, Any] = {"stem": _stem(network)}
  for part in layout:
    tree[part.name] = _stage(genotype, part) if part.name.startswith(STAGE) else _reduction(genotype, part)
  width = encoding.NUM_NODES * layout[-1].shapes[-1].channels
  if with_auxiliary:
    head = [p for p in layout if p.cell_type][-1].shapes[0]
    # in the released code the head of ImageNet has no second BN
    tree["auxiliary"] = auxiliary.shapes(encoding.NUM_NODES * head.channels, network.classes, network.stem == "cifar")
  return {**tree, "classifier": {"kernel": (width, network.classes), "bias": (network.classes,)}}


def groups(part: CellGroup, place: int) -> list[tuple[str, range]]:
  """Cells of a stage whose kernels for this input (0 or 1) have one shape: (name, their places in the stage)."""
  found: list[tuple[str, range]] = []
  kinds = [_input(shape, place) for shape in part.shapes]
  for i, kind in enumerate(kinds):
    if i and kind == kinds[i - 1]:
      found[-1] = (found[-1][0], range(found[-1][1].start, i + 1))
    else:
      found.append((f"cell_{part.first + i}", range(i, i + 1)))
  return found


def _input(shape: CellShape, place: int) -> PyTree:
  """Of what brings an input of a cell to its channels."""
  if place == 0 and shape.halve_0:
    return blocks.reduction_shapes(shape.channels_0, shape.channels)
  return blocks.relu_conv_bn_shapes(shape.channels_1 if place else shape.channels_0, shape.channels)


def _stage(genotype: Genotype | None, part: CellGroup) -> PyTree:
  count, channels = len(part.shapes), part.shapes[0].channels
  tree = {}
  for place, name in enumerate(INPUTS):
    tree[name] = {"bn": stacked(bn_shapes(channels), count)}
    for group, cells in groups(part, place):
      kernels = {k: v for k, v in _input(part.shapes[cells.start], place).items() if k != "bn"}
      tree[name][group] = stacked(kernels, len(cells))
  return {**tree, **stacked(_slots(genotype, part), count)}


def _reduction(genotype: Genotype | None, part: CellGroup) -> PyTree:
  inputs = {name: _input(part.shapes[0], place) for place, name in enumerate(INPUTS)}
  return {**inputs, **_slots(genotype, part)}


def _slots(genotype: Genotype | None, part: CellGroup) -> PyTree:
  """The operations of each slot that have parameters."""
  channels, chosen = part.shapes[0].channels, None if genotype is None else slots(genotype, part.cell_type)
  tree = {}
  for number, name in enumerate(SLOTS):
    if chosen is None:
      stride, names = 1 + part.cell_type, encoding.OPS
    else:
      op, source = chosen[number]
      stride, names = stride_of(part.cell_type, source), (encoding.OPS[op],)
    own = {op: blocks.op_shapes(op, channels, stride) for op in names}
    tree[name] = {op: shape for op, shape in own.items() if shape}
  return tree


def stride_of(cell_type: int, source: int) -> int:
  """2 from the inputs of a reduction cell."""
  return 2 if cell_type and source < encoding.FIRST_NODE else 1


def _stem(network: EvaluationNetwork) -> PyTree:
  c = network.channels

  def layer(channels_in, channels_out):
    return {"conv": {"kernel": (3, 3, channels_in, channels_out)}, "bn": bn_shapes(channels_out)}

  if network.stem == "cifar":
    return layer(3, 3 * c)
  return {"a": layer(3, c // 2), "b": layer(c // 2, c), "c": layer(c, c)}
