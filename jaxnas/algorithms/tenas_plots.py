"""How TE-NAS's search went, as PNG files: what was pruned when, and spectra of kernels."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxnas.figures import (
  BLACK,
  BLUE,
  GREEN,
  INK,
  ORANGE,
  PURPLE,
  SKY,
  VERMILION,
  Colour,
  Path,
  log_scale,
  new_figure,
  plain_frame,
  save_png,
)

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_EARLY, _LATE = np.array([0.89, 0.93, 0.97]), np.array([0.20, 0.42, 0.68])
_EDGE_GONE = (0.97, 0.80, 0.58)
_MARKERS = "osD^vP"


def plot_pruning_history(
  history: Sequence[Mapping[str, Any]],
  path: Path,
  *,
  edge_names: Sequence[str],
  op_names: Sequence[str],
  cell_names: Sequence[str] | None = None,
  title: str = "",
) -> pathlib.Path:
  """Draws which op of which edge was pruned when, and how the supernet's two scores moved.

  Args:
    history: one dict a round, in order: "round" (from 1), "candidates" and "pruned" (lists of
      [cell, edge, op]), "cond_before" and "regions_before" (one value a repeat). Rounds with a
      "group" pruned whole edges.
    path: the PNG file to write.
    edge_names: E names, by edge index.
    op_names: O names, by op index. Ops that were never up for pruning get no column.
    cell_names: one name a cell type; none are shown if there is only one type.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ValueError: the history is empty.
    WorkdirError: the file cannot be written.
  """
  if not history:
    raise ValueError("history: got no round; a pruning history has at least one")
  pruned = _pruned_in(history)
  with_edge = {int(entry["round"]) for entry in history if "group" in entry}
  cells = 1 + max((cell for cell, _, _ in pruned), default=0)
  ops = sorted({op for _, _, op in pruned})
  rounds = [int(entry["round"]) for entry in history]
  shades = [r for r in rounds if r not in with_edge]
  colours = {**{r: _shade(i, len(shades)) for i, r in enumerate(shades)}, **dict.fromkeys(with_edge, _EDGE_GONE)}

  map_width = 0.8 + 0.68 * len(ops)
  figure = new_figure(cells * map_width + 5.0, max(5.2, 1.8 + 0.42 * len(edge_names)))
  figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
  grid = figure.add_gridspec(2, cells + 1, width_ratios=[map_width] * cells + [4.2])
  for cell in range(cells):
    axis = figure.add_subplot(grid[:, cell])
    _draw_map(axis, {key[1:]: r for key, r in pruned.items() if key[0] == cell}, ops, colours)
    axis.set_xticks(range(len(ops)), [op_names[op] for op in ops], rotation=35, ha="right")
    axis.set_yticks(range(len(edge_names)), edge_names if cell == 0 else [])
    axis.set_ylim(len(edge_names) - 0.5, -0.5)
    gone = "; orange: with its edge" if with_edge else ""
    axis.set_xlabel(f"Operation (number: round that pruned it{gone})")
    if cell == 0:
      axis.set_ylabel("Edge (target←source)", labelpad=8)
    if cells > 1:
      axis.set_title(f"{cell_names[cell].capitalize()} cell" if cell_names else f"Cell type {cell}", fontsize=11)

  upper = figure.add_subplot(grid[0, cells])
  lower = figure.add_subplot(grid[1, cells], sharex=upper)
  _draw_repeats(upper, rounds, [entry["cond_before"] for entry in history], VERMILION, log=True)
  _draw_repeats(lower, rounds, [entry["regions_before"] for entry in history], BLUE, log=False)
  log_scale(upper)
  upper.set_title("Dots: each repeat; line: their median", fontsize=9, color=INK)
  upper.set_ylabel("NTK condition number")
  upper.tick_params(labelbottom=False)
  lower.set_ylabel("Linear regions (count)")
  lower.set_ylim(bottom=0)
  lower.set_xlabel("Round (supernet before its pruning)")
  lower.set_xticks(rounds)
  lower.set_xlim(min(rounds) - 0.35, max(rounds) + 0.35)
  if title:
    figure.suptitle(title, fontsize=12)
  return save_png(figure, path)


def plot_spectrum(
  eigenvalues_by_label: Mapping[str, Float[np.ndarray, " N"]], path: Path, *, title: str = ""
) -> pathlib.Path:
  """Draws NTK eigenvalues, largest first, on a logarithmic axis.

  Args:
    eigenvalues_by_label: what each spectrum is of -> its N eigenvalues in any order. Those that
      are not positive and finite have no place on the axis; the legend counts them.
    path: the PNG file to write.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ValueError: there is no spectrum.
    WorkdirError: the file cannot be written.
  """
  from matplotlib.ticker import MaxNLocator

  if not eigenvalues_by_label:
    raise ValueError("eigenvalues_by_label: got no spectrum to draw")
  figure = new_figure(6.4, 4.2)
  axis = figure.subplots()
  colours = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
  for i, (label, values) in enumerate(eigenvalues_by_label.items()):
    values = np.asarray(values, np.float64).ravel()
    shown = np.sort(values[np.isfinite(values) & (values > 0)])[::-1]
    if shown.size < values.size:
      label += f" ({values.size - shown.size} of {values.size} not positive)"
    elif shown.size:
      label += f" (κ = {shown[0] / shown[-1]:.3g})"
    axis.plot(
      np.arange(1, shown.size + 1), shown, color=colours[i % len(colours)], label=label,
      marker=_MARKERS[i % len(_MARKERS)], markersize=4.5, linewidth=1.4, alpha=0.9,
    )  # fmt: skip
  log_scale(axis)
  plain_frame(axis)
  axis.set_xlabel("Eigenvalue index (largest first)")
  axis.set_ylabel("NTK eigenvalue")
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set_xlim(0.5, max(2, *(np.size(v) for v in eigenvalues_by_label.values())) + 0.5)
  axis.legend(frameon=False, fontsize=9)
  if title:
    axis.set_title(title, fontsize=12)
  return save_png(figure, path)


def _pruned_in(history: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int, int], int | None]:
  """(cell, edge, op) -> the round that pruned it, None if it was kept, for every candidate."""
  found: dict[tuple[int, int, int], int | None] = {}
  for entry in history:
    for cell, edge, op in [*entry["candidates"], *entry["pruned"]]:
      found.setdefault((int(cell), int(edge), int(op)), None)
    for cell, edge, op in entry["pruned"]:
      found[int(cell), int(edge), int(op)] = int(entry["round"])
  return found


def _shade(index: int, count: int) -> Colour:
  red, green, blue = _EARLY + (_LATE - _EARLY) * (index / max(count - 1, 1))
  return float(red), float(green), float(blue)


def _draw_map(
  axis: "Axes",
  pruned: dict[tuple[int, int], int | None],
  ops: list[int],
  colours: dict[int, Colour],
) -> None:
  from matplotlib.patches import Rectangle

  for (edge, op), r in pruned.items():
    column = ops.index(op)
    face = VERMILION if r is None else colours[r]
    axis.add_patch(Rectangle((column - 0.46, edge - 0.44), 0.92, 0.88, facecolor=face))
    dark = r is None or sum(colours[r]) < 2
    axis.text(
      column, edge, "kept" if r is None else str(r), ha="center", va="center", fontsize=9,
      color="white" if dark else INK, fontweight="bold" if r is None else "normal",
    )  # fmt: skip
  axis.set_xlim(-0.5, len(ops) - 0.5)
  axis.tick_params(length=0, labelsize=9, colors=INK)
  axis.spines[:].set_visible(False)


def _draw_repeats(axis: "Axes", rounds: list[int], values: list[Sequence[float]], colour: str, *, log: bool) -> None:
  """Each repeat as a dot, their median as a line; a note counts those without a place."""
  medians = []
  for r, repeats in zip(rounds, values, strict=True):
    repeats = np.asarray(repeats, np.float64).ravel()
    good = repeats[np.isfinite(repeats) & ((repeats > 0) | (not log))]
    offsets = np.linspace(-0.07, 0.07, good.size) if good.size > 1 else np.zeros(good.size)
    axis.scatter(r + offsets, good, s=24, color=colour, alpha=0.6, linewidths=0, zorder=3)
    medians.append(np.median(good) if good.size else math.nan)
    if good.size < repeats.size:
      axis.text(
        r, 0.98, f"{repeats.size - good.size} of {repeats.size}\nsingular",
        transform=axis.get_xaxis_transform(), ha="center", va="top", fontsize=8, color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5}, zorder=4,
      )  # fmt: skip
  axis.plot(rounds, medians, color=colour, linewidth=1.5, marker="_", markersize=17, markeredgewidth=2)
  plain_frame(axis)
