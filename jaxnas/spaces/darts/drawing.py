"""A cell of the DARTS space as a wiring diagram: a line for every feature map, an operation on every branch-off.

The cell's inputs are lines at the top. Below stands a line a node; its two operations come down from the lines they
read and meet in the node, whose line leads to the concatenation on the right.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxnas.base import Code, Picture
from jaxnas.errors import ArchitectureError
from jaxnas.figures import INK, new_figure, save_png
from jaxnas.spaces.cell_drawing import op_colour
from jaxnas.spaces.darts import encoding

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_INPUTS = ("$c_{k-2}$", "$c_{k-1}$")
_ROW, _BRANCH, _COLUMN, _RADIUS = 0.92, 1.42, 3.0, 0.2  # inches, as all lengths here
_LINE = "#8C95A1"


def draw(code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws both cells of an architecture, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: a file cannot be written.
  """
  pictures = []
  for file, kind, cell in zip(
    ("normal.png", "reduce.png"), ("normal", "reduction"), encoding.to_cells(code), strict=True
  ):
    draw_genotype_cell(cell, folder / file)
    caption = f"The {kind} cell. Node i is number i + 2 in the genotype, whose 0 and 1 are inputs."
    pictures.append(Picture(file, caption))
  return tuple(pictures)


def draw_genotype_cell(
  pairs: Sequence[tuple[str, int]],
  path: str | os.PathLike[str],
  *,
  title: str = "",
  concat: Sequence[int] | None = None,
) -> pathlib.Path:
  """Draws a cell.

  Args:
    pairs: (op name, source), two a node in order; sources are 0 and 1, the inputs, or 2 and up, earlier nodes.
    path: the PNG file to write.
    title: drawn on top.
    concat: the nodes that the cell concatenates, 2 and up; default: all.

  Returns:
    The file's path.

  Raises:
    ArchitectureError: an odd number of pairs or none, or a source that is not an earlier node.
    WorkdirError: the file cannot be written.
  """
  nodes = len(pairs) // 2
  if not pairs or len(pairs) % 2:
    raise ArchitectureError(f"pairs: got {len(pairs)}; a cell has two for each node")
  for i, (_, source) in enumerate(pairs):
    if not 0 <= source < i // 2 + len(_INPUTS):
      raise ArchitectureError(f"pairs[{i}] has the source {source}; node {i // 2} reads 0..{i // 2 + 1}")

  right, bottom = nodes * _COLUMN + 0.35, -(nodes + 1) * _ROW
  left, top = -0.85, 0.35 + (0.4 if title else 0.0)
  figure = new_figure(right + 1.1 - left, top - bottom + 0.4, layout=None)
  axis = figure.add_axes((0, 0, 1, 1))
  axis.set(xlim=(left, right + 1.1), ylim=(bottom - 0.4, top))
  axis.set_axis_off()

  starts = {0: 0.0, 1: 0.0, **{i + 2: (i + 1) * _COLUMN - 0.4 for i in range(nodes)}}
  branches = [(starts[i // 2 + 2] - _BRANCH * (1 - i % 2), source) for i, (_, source) in enumerate(pairs)]
  for state, x in starts.items():
    leaves = state >= len(_INPUTS) if concat is None else state in concat
    last = right if leaves else max([x for x, s in branches if s == state], default=x)
    axis.plot([x, last], [-state * _ROW] * 2, color=_LINE, linewidth=1.6, zorder=1)
  for i, (op, _) in enumerate(pairs):
    _draw_branch(axis, *branches[i], i // 2 + 2, starts[i // 2 + 2], op)
  for state, x in starts.items():
    _draw_state(axis, state, x)
  _draw_output(axis, right, nodes)
  if title:
    axis.text((left + right + 1.1) / 2, top - 0.14, title, ha="center", va="top", fontsize=12, color=INK)
  return save_png(figure, path)


def _draw_branch(axis: "Axes", x: float, source: int, target: int, node: float, op: str) -> None:
  """From the line of `source` down at `x`, through the operation, into the node at `node`."""
  colour = op_colour(op)
  begin, end = -source * _ROW, -target * _ROW
  axis.plot([x], [begin], "o", color=colour, markersize=5.5, zorder=3)
  style = {"arrowstyle": "-|>,head_length=0.5,head_width=0.25", "color": colour, "linewidth": 2.0}
  gap = _RADIUS + 0.02
  if x == node:
    axis.annotate("", (x, end + gap), (x, begin), arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, zorder=2)
  else:
    axis.plot([x, x], [begin, end], color=colour, linewidth=2.0, solid_capstyle="round", zorder=2)
    axis.annotate("", (node - gap, end), (x, end), arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, zorder=2)
  axis.text(
    x, end + 0.57 * _ROW, op, ha="center", va="center", fontsize=9, color=INK, zorder=4,
    bbox={"boxstyle": "round,pad=0.28", "facecolor": "white", "edgecolor": colour, "linewidth": 1.3},
  )  # fmt: skip


def _draw_state(axis: "Axes", state: int, x: float) -> None:
  from matplotlib.patches import Circle

  y = -state * _ROW
  if state < len(_INPUTS):
    axis.text(x - 0.1, y, _INPUTS[state], ha="right", va="center", fontsize=14, color=INK)
    return
  axis.add_patch(Circle((x, y), _RADIUS, facecolor="#F2F4F7", edgecolor=INK, linewidth=1.4, zorder=5))
  axis.text(x, y, str(state - len(_INPUTS)), ha="center", va="center", fontsize=11, color=INK, zorder=6)


def _draw_output(axis: "Axes", x: float, nodes: int) -> None:
  from matplotlib.patches import FancyBboxPatch

  low, high = -(nodes + 1) * _ROW - 0.24, -len(_INPUTS) * _ROW + 0.24
  axis.add_patch(
    FancyBboxPatch(
      (x + 0.06, low + 0.06), 0.28, high - low - 0.12, boxstyle="round,pad=0.06", facecolor="#F2F4F7",
      edgecolor=INK, linewidth=1.4, zorder=5,
    )
  )  # fmt: skip
  middle = (low + high) / 2
  axis.text(x + 0.2, middle, "concat", rotation=90, ha="center", va="center", fontsize=10, color=INK, zorder=6)
  axis.text(x + 0.52, middle, "$c_k$", ha="left", va="center", fontsize=14, color=INK)
