"""A picture of an encoder: nodes are states, edges what the layers make of them."""

import pathlib

from jaxnas.base import Code, Picture
from jaxnas.spaces import cell_drawing
from jaxnas.spaces.flexibert import encoding
from jaxnas.spaces.flexibert.encoding import DCT, DEPTHS, DFT, HEADS, OPS


def draw(code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the layers of an encoder, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  edges: list[cell_drawing.Edge] = []
  for i, (op, heads, _, depth) in enumerate(encoding.layers_of(code).tolist()):
    first, middle, last = 2 * i, 2 * i + 1, 2 * i + 2
    edges.append((first, middle, f"{OPS[op]}, {HEADS[heads]} heads"))
    if op not in (DFT, DCT):
      edges.append((first, middle, "skip"))
    edges += [(middle, last, f"feed-forward x {DEPTHS[depth]}"), (middle, last, "skip")]
  cell_drawing.draw_cell(edges, folder / "encoder.png", title=encoding.format(code))
  caption = "each layer has an operation and a feed-forward part; skips are added and normalised."
  return (Picture("encoder.png", f"{encoding.format(code)}: {caption}"),)
