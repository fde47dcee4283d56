"""Pictures of many proxies at once: how they correlate with one another, and what they cost against how they rank."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from jaxnas.errors import ConfigError
from jaxnas.figures import BLACK, BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, VERMILION, Path, new_figure, save_png

if TYPE_CHECKING:
  import pathlib

_CONTROLS = (BLUE, GREEN, PURPLE, BLACK)
_NAME = 0.16  # inches from one name to the next
_WRITTEN = 16  # rows up to which every cell of the matrix has its number


def plot_correlations(names: Sequence[str], matrix: Float[np.ndarray, "P P"], path: Path) -> "pathlib.Path":
  """Draws a matrix of rank correlations, blue where two agree and red where they are opposed.

  Args:
    names: of rows and columns; the last is the accuracy and set apart by a line.
    matrix: Spearman's rho, -1 to 1; nan is left grey.
    path: the PNG file to write.

  Returns:
    The file's path.

  Raises:
    ConfigError: another number of names than rows.
    WorkdirError: the file cannot be written.
  """
  if matrix.shape != (len(names), len(names)):
    raise ConfigError(f"a matrix of shape {matrix.shape} for {len(names)} names: give a row and a column each")
  size = len(names)
  figure = new_figure(3.2 + 0.42 * size, 2.6 + 0.42 * size)
  axis = figure.subplots()
  axis.set_facecolor(FAINT)
  image = axis.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
  axis.set_xticks(range(size), [name.partition(":")[0] for name in names], rotation=90)
  axis.set_yticks(range(size), names)
  axis.tick_params(length=0, labelsize=9)
  axis.spines[:].set_visible(False)
  for edge in (axis.axhline, axis.axvline):
    edge(size - 1.5, color=INK, linewidth=1)
  if size <= _WRITTEN:
    for i, j in np.argwhere(np.isfinite(matrix)):
      strong = abs(matrix[i, j]) > 0.6
      axis.text(
        j, i, f"{matrix[i, j]:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7,
        color="white" if strong else INK,
      )  # fmt: skip
  figure.colorbar(image, ax=axis, shrink=0.6)
  return save_png(figure, path)


def plot_cost(
  points: Mapping[str, tuple[float, float, float]],
  path: Path,
  *,
  dataset: str,
  controls: Collection[str] = (),
  combinations: Collection[str] = (),
  seconds: str = "wall; proxies of one pass have the pass's",
) -> "pathlib.Path":
  """Draws what each proxy costs against how well it ranks; what is above and left of all others is worth its time.

  Args:
    points: proxy -> (seconds an architecture, Spearman's rho, its standard error); one without seconds or without a rho
      is left out.
    path: the PNG file to write.
    dataset: of the accuracies, for the axis.
    controls: proxies that are drawn as controls.
    combinations: those that are drawn as combinations.
    seconds: which seconds they are, for the axis.

  Returns:
    The file's path.

  Raises:
    ConfigError: nothing is left to draw.
    WorkdirError: the file cannot be written.
  """
  drawn = {name: point for name, point in points.items() if point[0] > 0 and np.isfinite(point[:2]).all()}
  if not drawn:
    raise ConfigError("points: got none with seconds and a correlation; give one a proxy")
  crowds = _crowds({name: point[0] for name, point in drawn.items()})
  height = max(5.6, 1.4 + _NAME * max(map(len, crowds)))
  figure = new_figure(8.4, height)
  axis = figure.subplots()
  for kind, colour, marker in (("proxy", BLUE, "o"), ("control", ORANGE, "s"), ("combination", VERMILION, "D")):
    own = [p for name, p in drawn.items() if _kind(name, controls, combinations) == kind]
    if own:
      x, rho, error = np.array(own, np.float64).T
      axis.errorbar(
        x, rho, yerr=np.where(np.isfinite(error), error, 0), label=kind, color=colour, marker=marker,
        markersize=5, linestyle="none", elinewidth=1, capsize=2,
      )  # fmt: skip
  axis.set_xscale("log")
  low, high = axis.get_ylim()
  for crowd in crowds:
    beside = 1.5 * max(drawn[name][0] for name in crowd)
    axis.set_xlim(right=max(axis.get_xlim()[1], beside))
    places = _apart([drawn[name][1] for name in crowd], low, high, (high - low) * _NAME / (height - 1.4))
    for name, place in zip(crowd, places, strict=True):
      axis.annotate(
        name, drawn[name][:2], (beside, place), fontsize=8, color=INK, va="center",
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "relpos": (0, 0.5)},
      )  # fmt: skip
  axis.set_ylim(low, high)
  axis.set_xlabel(f"Seconds an architecture ({seconds})")
  axis.set_ylabel(f"Spearman's ρ with accuracy, {dataset} (bar: standard error)")
  axis.spines[["top", "right"]].set_visible(False)
  axis.grid(color=FAINT, linewidth=0.5, alpha=0.6)
  axis.set_axisbelow(True)
  figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
  return save_png(figure, path)


def plot_picks(
  rows: Sequence[Mapping[str, object]], groups: tuple[str, str], key: str, path: Path, *, titles: tuple[str, str]
) -> "pathlib.Path":
  """Draws the accuracy of what rules found against how much they were given: the mean over seeds ± standard deviation.

  Args:
    rows: one a rule, amount and seed.
    groups: fields of the rule, a line each, and of the amount, a number.
    key: the field of the accuracy in per cent; rows in which it is nan are left out.
    path: the PNG file to write.
    titles: of the amount's axis and of the accuracy's.

  Returns:
    The file's path.

  Raises:
    ConfigError: no row has an accuracy.
    WorkdirError: the file cannot be written.
  """
  found: dict[str, dict[float, list[float]]] = {}
  for row in rows:
    value = float(str(row[key]))
    if math.isfinite(value):
      found.setdefault(str(row[groups[0]]), {}).setdefault(float(str(row[groups[1]])), []).append(value)
  if not found:
    raise ConfigError(f"rows: none has a {key}; give a benchmark that has the architectures")
  amounts = sorted({amount for own in found.values() for amount in own})
  figure = new_figure(8.0, 4.6)
  axis = figure.subplots()
  for place, (rule, own) in enumerate(found.items()):
    at = np.array([amounts.index(amount) for amount in own]) + 0.09 * (place - (len(found) - 1) / 2)
    means = [float(np.mean(values)) for values in own.values()]
    errors = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in own.values()]
    control = {"color": _CONTROLS[(place - 1) % len(_CONTROLS)], "linewidth": 1, "linestyle": "--"}
    style = control if place else {"color": VERMILION, "linewidth": 2}
    axis.errorbar(at, means, yerr=errors, marker="o", markersize=4, capsize=2, label=rule, **style)
  axis.set_xticks(range(len(amounts)), [f"{amount:g}" for amount in amounts])
  axis.set_xlabel(titles[0])
  axis.set_ylabel(titles[1])
  axis.spines[["top", "right"]].set_visible(False)
  axis.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
  axis.set_axisbelow(True)
  figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
  return save_png(figure, path)


def _kind(name: str, controls: Collection[str], combinations: Collection[str]) -> str:
  return "combination" if name in combinations else "control" if name in controls else "proxy"


def _crowds(seconds: Mapping[str, float]) -> list[list[str]]:
  """Names whose costs follow on one another within half a decade; their names stand in one column."""
  found: list[list[str]] = []
  for name in sorted(seconds, key=lambda name: seconds[name]):
    near = found and math.log10(seconds[name] / seconds[found[-1][-1]]) < 0.5
    found[-1].append(name) if near else found.append([name])
  return found


def _apart(heights: Sequence[float], low: float, high: float, least: float) -> Float[np.ndarray, " P"]:
  """Places of names: near to their points' heights as a whole, in their order, `least` apart, from low to high."""
  order = np.argsort(heights, kind="stable")
  steps = least * np.arange(len(order))
  nearest = isotonic_regression(np.asarray(heights)[order] - steps).x
  places = np.empty(len(order))
  places[order] = np.clip(nearest, low, max(low, high - steps[-1])) + steps
  return places
