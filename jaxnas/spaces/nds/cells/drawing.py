"""The two cells of a genotype as wiring diagrams."""

import pathlib

from jaxnas.base import Code, Picture
from jaxnas.spaces.darts.drawing import draw_genotype_cell
from jaxnas.spaces.nds.cells import encoding
from jaxnas.spaces.nds.tables import CellTable


def draw(table: CellTable, code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws both cells of an architecture, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: a file cannot be written.
  """
  own = encoding.genotype(table, code)
  pictures = []
  for name, slots, concat in zip(encoding.CELLS, own.slots, own.concat, strict=True):
    file, kind = f"{name}.png", "reduction" if name == "reduce" else name
    pairs = [(table.ops[op], state) for op, state in slots]
    draw_genotype_cell(pairs, folder / file, concat=concat, title=f"{kind} cell, C={own.width}, {own.depth} cells")
    caption = f"The {kind} cell. Node i is number i + 2 in the genotype, whose 0 and 1 are inputs."
    pictures.append(Picture(file, caption))
  return tuple(pictures)
