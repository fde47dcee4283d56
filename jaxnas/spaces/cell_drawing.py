"""A cell as a graph: nodes on a line, inputs on the left, one arrow an edge; operations on edges or on vertices."""

import dataclasses
import graphlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from jaxnas.errors import ArchitectureError
from jaxnas.figures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, new_figure, save_png

if TYPE_CHECKING:
  from matplotlib.axes import Axes

Node = int | str
Edge = tuple[Node, Node, str]

_RADIUS, _LEVEL, _MARGIN = 0.24, 0.62, 0.45  # Inches, as all lengths here.
_FLAT_LEVEL = 0.3  # of arrows that carry no label
_KINDS = (("skip", GREEN), ("pool", ORANGE), ("1x1", SKY), ("dil", PURPLE), ("conv", BLUE))


@dataclasses.dataclass(frozen=True)
class _Arc:
  """An edge from `left` to `right` (positions on the line) with its middle at `height`.

  It passes over `level` others, and leaves its nodes the more steeply.
  """

  left: float
  right: float
  height: float
  level: int
  op: str


def draw_cell(edges: Sequence[Edge], path: str | os.PathLike[str], *, title: str = "") -> pathlib.Path:
  """Draws a cell as a directed acyclic graph from left to right.

  Args:
    edges: (source, target, op name) each; nodes are numbers (source < target) or names. Edges
      whose op is "none" are dotted and faint.
    path: the PNG file to write.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ArchitectureError: there are no edges, or they run in a circle.
    WorkdirError: the file cannot be written.
  """
  nodes = _ordered(edges)
  longest = max(len(op) for _, _, op in edges)
  spacing = max(1.6, 0.095 * longest + 2 * _RADIUS + 0.6)
  at = {node: i * spacing for i, node in enumerate(nodes)}
  straight, arcs = _bend(edges, nodes, at)

  ends = max(0.0, *(0.085 * len(str(node)) - 2 * _RADIUS for node in nodes)) / 2
  left, right = -1.1 - ends, at[nodes[-1]] + 1.1 + ends
  top = max([_RADIUS, *(arc.height for arc in arcs)]) + _MARGIN + (0.35 if title else 0)
  bottom = min([-_RADIUS, *(arc.height for arc in arcs)]) - _MARGIN
  figure = new_figure(right - left, top - bottom, layout=None)
  axis = figure.add_axes((0, 0, 1, 1))
  axis.set(xlim=(left, right), ylim=(bottom, top))
  axis.set_axis_off()

  for source, target, op in straight:
    _draw_edge(axis, _Arc(at[source], at[target], 0.0, 0, op))
  for arc in arcs:
    _draw_edge(axis, arc)
  for node in nodes:
    _draw_node(axis, at[node], str(node))
  for x, side, text in ((0.0, -1, "input"), (at[nodes[-1]], 1, "output")):
    if isinstance(nodes[0], int):  # Named nodes say themselves what they are.
      axis.text(
        x + side * (_RADIUS + 0.12), 0, text, ha="right" if side < 0 else "left", va="center",
        fontsize=10, color=INK,
      )  # fmt: skip
  if title:
    size = min(12.0, 72 * (right - left - 0.3) / (0.62 * len(title)))  # Architecture strings fit.
    axis.text((left + right) / 2, top - 0.15, title, ha="center", va="top", fontsize=size, color=INK)
  return save_png(figure, path)


def draw_vertex_cell(
  matrix: Sequence[Sequence[int]] | Int[np.ndarray, "V V"],
  labels: Sequence[str],
  path: str | os.PathLike[str],
  *,
  title: str = "",
) -> pathlib.Path:
  """Draws a cell whose operations sit on its vertices, such as one of NAS-Bench-101, from left to right.

  Args:
    matrix: adjacency, [V, V] of 0 and 1, row to column, strictly upper triangular.
    labels: V names, drawn inside the vertices.
    path: the PNG file to write.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ArchitectureError: another shape, a number of labels other than V, no edges, or an edge to itself or backwards.
    WorkdirError: the file cannot be written.
  """
  edges = _vertex_edges(matrix, labels)
  half = max(0.36, 0.045 * max(map(len, labels)) + 0.12)
  at: dict[Node, float] = {v: v * (2 * half + 0.45) for v in range(len(labels))}
  straight, arcs = _bend(edges, list(at), at)
  arcs = [
    dataclasses.replace(arc, height=math.copysign(_RADIUS + _FLAT_LEVEL * (1 + arc.level), arc.height)) for arc in arcs
  ]

  left, right = -half - 0.25, at[len(labels) - 1] + half + 0.25
  top = max([_RADIUS, *(arc.height for arc in arcs)]) + 0.2 + (0.35 if title else 0)
  bottom = min([-_RADIUS, *(arc.height for arc in arcs)]) - 0.2
  figure = new_figure(right - left, top - bottom, layout=None)
  axis = figure.add_axes((0, 0, 1, 1))
  axis.set(xlim=(left, right), ylim=(bottom, top))
  axis.set_axis_off()

  for source, target, _ in straight:
    _draw_arrow(axis, [(at[source] + half, 0), (at[target] - half, 0)])
  for arc in arcs:
    foot = math.copysign(_RADIUS, arc.height)
    peak = (4 * arc.height - foot) / 3  # A cubic passes through a quarter of its ends and three of its inner points.
    begin, end = arc.left + 0.4 * half, arc.right - 0.4 * half  # Arrows in and out of a vertex stand apart.
    _draw_arrow(axis, [(begin, foot), (begin + 0.15, peak), (end - 0.15, peak), (end, foot)])
  for v, label in enumerate(labels):
    _draw_box(axis, at[v], half, label)
  if title:
    size = min(12.0, 72 * (right - left - 0.3) / (0.62 * len(title)))
    axis.text((left + right) / 2, top - 0.12, title, ha="center", va="top", fontsize=size, color=INK)
  return save_png(figure, path)


def _vertex_edges(matrix: Sequence[Sequence[int]] | np.ndarray, labels: Sequence[str]) -> list[Edge]:
  try:
    array = np.asarray(matrix)
  except ValueError as error:
    raise ArchitectureError("matrix is ragged; use V rows of V zeros and ones") from error
  if array.shape != (len(labels), len(labels)):
    raise ArchitectureError(f"matrix has shape {list(array.shape)} for {len(labels)} labels; give one a vertex")
  edges: list[Edge] = [(int(source), int(target), "") for source, target in np.argwhere(array)]
  wrong = next(((s, t) for s, t in np.argwhere(array) if s >= t), None)
  if wrong is not None:
    raise ArchitectureError(f"matrix has an edge from {wrong[0]} to {wrong[1]}; a cell's edges lead to later vertices")
  if not edges:
    raise ArchitectureError("matrix: got no edge; a cell has at least one")
  return edges


def _ordered(edges: Sequence[Edge]) -> list[Node]:
  """The nodes from left to right: by number, or else so that all edges point to the right."""
  if not edges:
    raise ArchitectureError("edges: got none; a cell has at least one edge (source, target, op)")
  sources: dict[Node, list[Node]] = {}
  for source, target, _ in edges:
    sources.setdefault(source, [])
    sources.setdefault(target, []).append(source)
  numbers = [node for node in sources if isinstance(node, int)]
  if len(numbers) == len(sources) and all(source < target for source, target, _ in edges):  # type: ignore[operator]
    return sorted(sources)  # type: ignore[type-var]
  try:
    return list(graphlib.TopologicalSorter(sources).static_order())
  except graphlib.CycleError as error:
    raise ArchitectureError(
      f"edges: got a circle {error.args[1]}; a cell's edges run from its input to its output"
    ) from error


def _bend(edges: Sequence[Edge], nodes: list[Node], at: dict[Node, float]) -> tuple[list[Edge], list[_Arc]]:
  """Splits edges into straight ones, between neighbours, and arcs above and below the line.

  Long arcs choose their side first, the one where they cross fewer; short arcs then choose their
  height first, so that a longer one passes over them.
  """
  straight: list[Edge] = []
  bent: list[tuple[float, float, str]] = []
  taken = set()
  for source, target, op in edges:
    if nodes.index(target) - nodes.index(source) == 1 and (source, target) not in taken:
      straight.append((source, target, op))
      taken.add((source, target))
    else:
      bent.append((at[source], at[target], op))
  bent.sort(key=lambda edge: edge[0] - edge[1])

  sides: tuple[list[tuple[float, float, str]], ...] = ([], [])
  for edge in bent:
    costs = [(sum(_cross(edge, other) for other in side), len(side)) for side in sides]
    sides[costs.index(min(costs))].append(edge)
  arcs = []
  for side, sign in zip(sides, (1, -1), strict=True):
    placed: list[_Arc] = []
    for left, right, op in reversed(side):
      below = [arc for arc in placed if arc.left < right and left < arc.right]
      level = 1 + max((arc.level for arc in below), default=-1)
      placed.append(_Arc(left, right, _RADIUS + _LEVEL * (1 + level), level, op))
    arcs += [dataclasses.replace(arc, height=sign * arc.height) for arc in placed]
  return straight, arcs


def _cross(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
  first, second = sorted((one[:2], other[:2]))
  return first[0] < second[0] < first[1] < second[1]


def op_colour(op: str) -> str:
  """The colour of an operation's kind."""
  if op == "none":
    return FAINT
  return next((colour for kind, colour in _KINDS if kind in op), PURPLE)


def _curve(arc: _Arc) -> Float[np.ndarray, "4 2"]:
  """The cubic Bézier curve of an arc, cut where it leaves one node's circle and meets the other's.

  A cubic whose inner control points lie at 4/3 of a height passes through that height.
  """
  from matplotlib.bezier import inside_circle, split_bezier_intersecting_with_closedpath

  peak = arc.height / 0.75
  lead = (arc.right - arc.left) / 2
  if peak:
    lead = min(lead, abs(peak) / math.tan(math.radians(min(34 + 26 * arc.level, 78))))
  points = np.array([(arc.left, 0), (arc.left + lead, peak), (arc.right - lead, peak), (arc.right, 0)])
  gap = _RADIUS + 0.02
  for centre in (arc.left, arc.right):
    inside = inside_circle(centre, 0, gap)
    first, second = split_bezier_intersecting_with_closedpath(points, inside, tolerance=1e-3)
    points = np.asarray(second if centre == arc.left else first)
  return points


def _draw_edge(axis: "Axes", arc: _Arc) -> None:
  from matplotlib.patches import FancyArrowPatch
  from matplotlib.path import Path

  colour, faint = op_colour(arc.op), arc.op == "none"
  codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
  axis.add_patch(
    FancyArrowPatch(
      path=Path(_curve(arc), codes), arrowstyle="-|>", mutation_scale=13, facecolor=colour,
      edgecolor=colour, linewidth=1.0 if faint else 2.0, linestyle=":" if faint else "-", zorder=1,
    )
  )  # fmt: skip
  axis.text(
    (arc.left + arc.right) / 2, arc.height, arc.op, ha="center", va="center", fontsize=9.5,
    color="#8A8A8A" if faint else INK, zorder=2,
    bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour,
          "linewidth": 0.6 if faint else 1.0, "linestyle": ":" if faint else "-"},
  )  # fmt: skip


def _draw_node(axis: "Axes", x: float, name: str) -> None:
  from matplotlib.patches import Circle, FancyBboxPatch

  style = {"facecolor": "#F2F4F7", "edgecolor": INK, "linewidth": 1.4, "zorder": 3}
  extra = max(0.0, 0.085 * len(name) - 2 * _RADIUS + 0.16)
  if extra:
    half = _RADIUS + extra / 2
    shape = FancyBboxPatch(
      (x - half + 0.1, -_RADIUS + 0.1), 2 * half - 0.2, 2 * _RADIUS - 0.2,
      boxstyle="round,pad=0.1", **style,
    )  # fmt: skip
  else:
    shape = Circle((x, 0), _RADIUS, **style)
  axis.add_patch(shape)
  axis.text(x, 0, name, ha="center", va="center", fontsize=11, color=INK, zorder=4)


def _draw_arrow(axis: "Axes", points: Sequence[tuple[float, float]]) -> None:
  """An arrow along a line of two points or a cubic Bézier curve of four."""
  from matplotlib.patches import FancyArrowPatch
  from matplotlib.path import Path

  codes = [Path.MOVETO, *[Path.LINETO if len(points) == 2 else Path.CURVE4] * (len(points) - 1)]
  style = {"arrowstyle": "-|>", "mutation_scale": 11, "facecolor": INK, "edgecolor": INK, "linewidth": 1.2}
  axis.add_patch(FancyArrowPatch(path=Path(points, codes), zorder=1, **style))


def _draw_box(axis: "Axes", x: float, half: float, name: str) -> None:
  from matplotlib.patches import FancyBboxPatch

  colour = next((colour for kind, colour in _KINDS if kind in name), INK)
  axis.add_patch(
    FancyBboxPatch(
      (x - half + 0.08, -_RADIUS + 0.08), 2 * half - 0.16, 2 * _RADIUS - 0.16, boxstyle="round,pad=0.08",
      facecolor="#F2F4F7", edgecolor=colour, linewidth=1.8, zorder=3,
    )
  )  # fmt: skip
  axis.text(x, 0, name, ha="center", va="center", fontsize=9.5, color=INK, zorder=4)
