"""A picture of a NAS-Bench-NLP recipe: nodes are operations, arrows what they read."""

import pathlib

import numpy as np

from jaxnas.base import Code, Picture
from jaxnas.spaces import cell_drawing
from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import FIRST, OPS, PREVIOUS, X


def draw(code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the graph of one step, see `base.Space.draw`; sources that no node reads are left out.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  recipe = encoding.unpack(code)
  names = {X: "x"} | {PREVIOUS + i: f"h{i} before" for i in range(len(recipe.states))}
  for k, node in enumerate(recipe.nodes):
    state = f"h{recipe.states.index(k)}: " if k in recipe.states else ""
    names[FIRST + k] = state + OPS[node.op].removeprefix("activation_").removeprefix("elementwise_")
  read = {source for node in recipe.nodes for source in node.sources}
  vertices = [source for source in names if source in read or source >= FIRST]
  matrix = np.zeros((len(vertices), len(vertices)), np.int64)
  for k, node in enumerate(recipe.nodes):
    for source in node.sources:
      matrix[vertices.index(source), vertices.index(FIRST + k)] = 1
  cell_drawing.draw_vertex_cell(matrix, [names[v] for v in vertices], folder / "recipe.png")
  text = encoding.format(code)
  return (Picture("recipe.png", f"{text}: one step; h0 is the output, and is read by the next step as its h0 before."),)
