"""A picture of a variant: nodes are states, edges what leads from one to the next."""

import pathlib

from jaxnas.base import Code, Picture
from jaxnas.spaces import cell_drawing
from jaxnas.spaces.encoder import encoding


def draw(code: Code, layers: int, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the layers that a variant executes, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  edges: list[cell_drawing.Edge] = []
  for i, (source, parallel, earlier) in enumerate(encoding.rows_of(code, layers).tolist()):
    edges.append((i, i + 1, f"layer {source + 1}{', in parallel' if parallel else ''}"))
    edges.append((max(0, i - earlier), i + 1, "skip"))
  text = encoding.format(code, layers)
  cell_drawing.draw_cell(edges, folder / "encoder.png", title=text)
  caption = "states from the embeddings to the pooler; a layer is named for the one whose weights it takes."
  return (Picture("encoder.png", f"{text}: {caption}"),)
