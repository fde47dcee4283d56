"""A picture of a NAS-Bench-101 cell: nodes are operations, edges feature maps."""

import pathlib

from jaxnas.base import Code, Picture
from jaxnas.spaces import cell_drawing
from jaxnas.spaces.nb101 import encoding


def draw(code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the cell of an architecture, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  cell_drawing.draw_vertex_cell(*encoding.to_cell(code), folder / "cell.png")
  return (Picture("cell.png", f"{encoding.format(code)}: nodes are operations, edges feature maps."),)
