"""Network Design Spaces on ImageNet: seven of cells, four of stages of blocks, registered as `nds_darts` and so on.

Two kinds of space serve all: `cells` (an architecture is data in one network a width and depth) and `blocks` (a network
an architecture). What tells the eleven apart is in `tables`; `benchmark` reads their published accuracies.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019.
"""

from collections.abc import Callable

from jaxnas import registry
from jaxnas.spaces.nds.blocks.network import NDSBlockNetwork
from jaxnas.spaces.nds.blocks.space import BlockSpace
from jaxnas.spaces.nds.cells.network import NDSCellNetwork
from jaxnas.spaces.nds.cells.space import CellSpace
from jaxnas.spaces.nds.tables import BLOCK_TABLES, CELL_TABLES, BlockTable, CellTable

__all__ = [
  "BLOCK_TABLES",
  "CELL_TABLES",
  "BlockSpace",
  "BlockTable",
  "CellSpace",
  "CellTable",
  "NDSBlockNetwork",
  "NDSCellNetwork",
]


def _cells(table: CellTable) -> Callable[[], CellSpace]:
  return lambda: CellSpace(table)


def _blocks(table: BlockTable) -> Callable[[], BlockSpace]:
  return lambda: BlockSpace(table)


for _table in CELL_TABLES:
  registry.register("space", _table.name, _cells(_table))
for _table in BLOCK_TABLES:
  registry.register("space", _table.name, _blocks(_table))
