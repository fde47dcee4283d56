"""Plots of how proxies rank architectures: scores against accuracies, and Spearman's rho of all proxies."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Shaped

from jaxnas.errors import ConfigError
from jaxnas.figures import BLACK, BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION, Path, new_figure, save_png
from jaxnas.tabular import metrics

if TYPE_CHECKING:
  import pathlib

  from matplotlib.axes import Axes

_COLUMNS = 4
_LOG_DECADES = 3
_STRIP = 0.12  # share of a panel's width that is set apart for degenerate networks
_DATASET_STYLES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "D"), (PURPLE, "^"), (ORANGE, "v"), (BLACK, "P"))


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
  """One proxy's scores of A architectures.

  Attributes:
    proxy: its name, for the title.
    ranking_values: what it ranks by, higher is better; not finite: degenerate, in the last place.
    accuracies: test accuracies in percent; architectures without one (nan) are not drawn.
    values: what stands on the x axis in place of `ranking_values` (the proxy's own figure, whatever its direction).
  """

  proxy: str
  ranking_values: Shaped[np.ndarray, " A"]
  accuracies: Shaped[np.ndarray, " A"]
  values: Shaped[np.ndarray, " A"] | None = None


def plot_scatter(
  panels: Sequence[Panel],
  path: Path,
  *,
  x: Literal["score", "rank"] = "score",
  lowest_accuracy: float | None = None,
  dataset: str = "",
  title: str = "",
) -> "pathlib.Path":
  """Draws accuracy against every proxy, one small panel each, Spearman's rho in its title.

  The x axis is logarithmic where scores are positive and span more than 3 decades. Degenerate networks stand apart in a
  strip on the left.

  Args:
    panels: one a proxy, drawn in this order.
    path: the PNG file to write.
    x: the score, or the rank by it (1 is worst; equal scores share their average rank).
    lowest_accuracy: where the y axis begins; accuracies below it are drawn on its edge as triangles. None: all fit.
    dataset: named on the y axis.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ConfigError: no panel, a panel's arrays differ in length, or `x` is neither "score" nor "rank".
    WorkdirError: the file cannot be written.
  """
  if not panels:
    raise ConfigError("panels: got none; give one a proxy")
  if x not in ("score", "rank"):
    raise ConfigError(f"x={x!r} must be 'score' or 'rank'")
  columns = min(_COLUMNS, len(panels))
  rows = math.ceil(len(panels) / columns)
  figure = new_figure(max(4.2, 2.9 * columns), 0.5 + 2.7 * rows)
  grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
  for axis in grid.ravel()[len(panels) :]:
    axis.remove()
  for axis, panel in zip(grid.ravel(), panels, strict=False):
    _draw_panel(axis, panel, x, lowest_accuracy)
  figure.supylabel(f"Test accuracy{dataset and f', {dataset}'} (%)", fontsize=10)
  figure.supxlabel("Rank by the proxy (1 is worst)" if x == "rank" else "Score", fontsize=10)
  if title:
    figure.suptitle(title, fontsize=12)
  return save_png(figure, path)


def plot_ranks(
  spearman: Mapping[str, Mapping[str, tuple[float, float]]],
  path: Path,
  *,
  controls: Collection[str] = (),
  title: str = "",
) -> "pathlib.Path":
  """Draws Spearman's rho ± its standard error of every proxy on every data set, the best proxy on top.

  Args:
    spearman: proxy -> data set -> (rho, standard error). A proxy without any rho stands at the bottom as "undefined"; a
      standard error that is nan gets no bar.
    path: the PNG file to write.
    controls: proxies whose names are set in italics (parameter count and the like).
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ConfigError: no proxy, or no data set.
    WorkdirError: the file cannot be written.
  """
  datasets = list(dict.fromkeys(d for found in spearman.values() for d in found))
  if not datasets:
    raise ConfigError("spearman: got no proxy or no data set; give at least one of each")
  proxies = sorted(spearman, key=lambda proxy: _mean_rho(spearman[proxy]), reverse=True)
  figure = new_figure(6.8, 1.5 + 0.38 * len(proxies))
  axis = figure.subplots()
  offsets = np.linspace(-0.22, 0.22, len(datasets)) if len(datasets) > 1 else [0.0]
  for i, dataset in enumerate(datasets):
    colour, marker = _DATASET_STYLES[i % len(_DATASET_STYLES)]
    found = [spearman[proxy].get(dataset, (math.nan, math.nan)) for proxy in proxies]
    rho, error = np.array(found, np.float64).T
    axis.errorbar(
      rho, np.arange(len(proxies)) + offsets[i], xerr=np.where(np.isfinite(error), error, 0), label=dataset,
      color=colour, marker=marker, markersize=5, linestyle="none", elinewidth=1.4, capsize=2,
    )  # fmt: skip
  for row, proxy in enumerate(proxies):
    if not any(math.isfinite(rho) for rho, _ in spearman[proxy].values()):
      axis.text(0, row, "  undefined", va="center", fontsize=9, color=INK)
  axis.axvline(0, color=INK, linewidth=0.8)
  axis.set_ylim(len(proxies) - 0.5, -0.5)
  axis.set_yticks(range(len(proxies)), proxies)
  for label, proxy in zip(axis.get_yticklabels(), proxies, strict=True):
    label.set_fontstyle("italic" if proxy in controls else "normal")
  axis.set_xlim(min(0.0, axis.get_xlim()[0]), max(1.0, axis.get_xlim()[1]))
  axis.set_xlabel("Spearman's ρ with accuracy\n(bar: standard error)")
  axis.spines[["top", "right", "left"]].set_visible(False)
  axis.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.6)
  axis.set_axisbelow(True)
  axis.tick_params(axis="y", length=0)
  figure.legend(loc="outside upper center", ncols=len(datasets), frameon=False, fontsize=9)
  if title:
    axis.set_title(title, fontsize=12)
  return save_png(figure, path)


def _draw_panel(axis: "Axes", panel: Panel, x: str, lowest: float | None) -> None:
  from scipy import stats

  ranking, truths = np.asarray(panel.ranking_values, np.float64), np.asarray(panel.accuracies, np.float64)
  rho = metrics.spearman(ranking, truths)
  values = ranking if panel.values is None else np.asarray(panel.values, np.float64)
  if values.shape != ranking.shape:
    raise ConfigError(f"values of {panel.proxy}: {values.size} for {ranking.size} ranking values; give one of each")
  known = np.isfinite(truths)
  ranking, truths, values = ranking[known], truths[known], values[known]
  if x == "rank":
    values = stats.rankdata(np.where(np.isfinite(ranking), ranking, -np.inf))
  good = np.isfinite(ranking) & np.isfinite(values)
  edge = -np.inf if lowest is None else lowest
  size = float(np.clip(8000 / max(1, len(truths)), 2, 14))
  inside = truths >= edge
  style = {"color": BLUE, "alpha": 0.5, "linewidths": 0}
  axis.scatter(values[good & inside], truths[good & inside], s=size, marker="o", **style)
  below = values[good & ~inside]
  axis.scatter(below, np.full(below.size, edge), s=max(size, 10), marker="v", **style)
  if x == "score" and _spans_decades(values[good]):
    axis.set_xscale("log")
  _tidy(axis, values[good])
  if not good.all():
    _draw_strip(axis, np.maximum(truths[~good], edge))
  if lowest is not None:
    highest = max(truths.max(initial=lowest), axis.get_ylim()[1])
    axis.set_ylim(bottom=lowest - 0.03 * (highest - lowest))
  bad = int((~good).sum())
  counts = f"n = {len(truths):,}" + (f", {bad:,} degenerate (×)" if bad else "")
  axis.set_title(f"{panel.proxy}\nρ = {rho:.3f}, {counts}", fontsize=9)


def _spans_decades(values: Float[np.ndarray, " n"]) -> bool:
  if values.size == 0 or values.min() <= 0:
    return False
  return bool(np.log10(values.max()) - np.log10(values.min()) > _LOG_DECADES)


def _tidy(axis: "Axes", values: Float[np.ndarray, " n"]) -> None:
  from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

  if axis.get_xscale() == "log":
    axis.xaxis.set_major_locator(LogLocator(numticks=5))
    axis.xaxis.set_minor_locator(NullLocator())
  else:
    axis.xaxis.set_major_locator(MaxNLocator(4))
  if not values.size:
    axis.set_xticks([])
  axis.spines[["top", "right"]].set_visible(False)
  axis.grid(color=FAINT, linewidth=0.5, alpha=0.6)
  axis.set_axisbelow(True)
  axis.tick_params(labelsize=8)


def _draw_strip(axis: "Axes", truths: Float[np.ndarray, " n"]) -> None:
  """Degenerate networks as crosses in a strip left of all scores; the strip has no ticks."""
  low, high = axis.get_xlim()
  ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
  left, right = axis.transLimits.inverted().transform([(-_STRIP / (1 - _STRIP), 0), (1, 0)])[:, 0]
  left, right = axis.transScale.inverted().transform([(left, 1), (right, 1)])[:, 0]
  axis.set_xticks(ticks)
  axis.set_xlim(left, right)
  axis.plot([_STRIP, _STRIP], [0, 1], transform=axis.transAxes, color=FAINT, linewidth=1.0, linestyle="--")
  axis.scatter(
    np.full(truths.size, _STRIP / 2), truths, s=16, marker="x", color=VERMILION, alpha=0.7, linewidths=1,
    transform=axis.get_yaxis_transform(),
  )  # fmt: skip


def _mean_rho(found: Mapping[str, tuple[float, float]]) -> float:
  known = [rho for rho, _ in found.values() if math.isfinite(rho)]
  return float(np.mean(known)) if known else -math.inf
