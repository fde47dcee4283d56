"""A picture of a NAS-Bench-201 cell: nodes are feature maps, edges operations."""

import pathlib

from jaxnas.base import Code, Picture
from jaxnas.spaces import cell_drawing
from jaxnas.spaces.nb201 import encoding


def draw(code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the cell of an architecture, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  ops = encoding.as_code(code).tolist()
  edges = [(source, target, encoding.OPS[op]) for (target, source), op in zip(encoding.EDGES, ops, strict=True)]
  cell_drawing.draw_cell(edges, folder / "cell.png")
  return (Picture("cell.png", f"{encoding.format(code)}: nodes are feature maps, edges operations."),)
