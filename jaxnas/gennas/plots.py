"""Plots of GenNAS as PNG files: what is regressed on, how the losses fall, how a search goes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxnas.errors import ConfigError
from jaxnas.figures import (
  BLACK,
  BLUE,
  FAINT,
  GREEN,
  INK,
  ORANGE,
  PURPLE,
  SKY,
  VERMILION,
  Path,
  new_figure,
  save_png,
)
from jaxnas.figures import log_scale as log_scale
from jaxnas.figures import plain_frame as plain_frame

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_STYLES = tuple(zip((BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK), "osD^vPX", strict=True))
_NAMED = 14  # curves in a legend: each colour twice, with a full and a dashed line
_WIDE = 20.0  # ratio of the largest to the smallest loss from which an axis is logarithmic


def plot_targets(
  targets: Sequence[Float[Any, "N H W C"]], channels: Sequence[int], path: Path, *, title: str = "", count: int = 8
) -> pathlib.Path:
  """Draws the first target channels of the first image, a row of small images a stage.

  A row shares one colour scale, symmetric about 0. Values that are not finite are grey.

  Args:
    targets: three stages' targets, first stage first; channels beyond the task's are not drawn.
    channels: how many channels each stage's task has, three numbers.
    path: the PNG file to write.
    title: drawn on top.
    count: how many channels to draw, at most.

  Returns:
    The file's path.

  Raises:
    ConfigError: no stage, not one number of channels a stage, a stage without images or channels, or `count` below 1.
    WorkdirError: the file cannot be written.
  """
  from matplotlib import colormaps
  from matplotlib.ticker import MaxNLocator

  if count < 1:
    raise ConfigError(f"count={count} must be at least 1")
  stages = [_shown(stage, targets[stage], channels, count) for stage in range(len(targets))]
  if not stages or len(channels) != len(stages):
    raise ConfigError(f"targets: got {len(stages)} stages and {len(channels)} numbers of channels; give one of each")
  columns = max(len(maps) for maps in stages)
  figure = new_figure(max(4.0, 1.6 + 1.05 * columns), 0.6 + 1.2 * len(stages))
  axes = figure.subplots(len(stages), columns, squeeze=False)
  colours = colormaps["RdBu_r"].with_extremes(bad=FAINT)
  for stage, (maps, row) in enumerate(zip(stages, axes, strict=True)):
    limit = float(np.abs(maps[np.isfinite(maps)]).max(initial=0)) or 1.0
    style = {"cmap": colours, "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    images = [axis.imshow(np.ma.masked_invalid(values), **style) for axis, values in zip(row, maps, strict=False)]
    for axis in row:
      axis.set(xticks=[], yticks=[])
    for axis in row[len(maps) :]:
      axis.set_axis_off()
    row[0].set_ylabel(f"Stage {stage + 1}\n{channels[stage]} channels", fontsize=9, color=INK)
    bar = figure.colorbar(images[0], ax=list(row), pad=0.01, aspect=12)
    bar.locator = MaxNLocator(3, symmetric=True)
    bar.ax.tick_params(labelsize=8)
    bar.update_ticks()
  if title:
    figure.suptitle(title, fontsize=12)
  return save_png(figure, path)


def plot_loss_curves(
  curves: Mapping[str, Sequence[float]], interval: int, path: Path, *, title: str = ""
) -> pathlib.Path:
  """Draws evaluation losses against the step, one line an architecture, on a logarithmic axis.

  Losses that are not positive and finite have no place on the axis; the legend counts them. Beyond 14 architectures
  only the 14 with the lowest last losses are named, the others are grey.

  Args:
    curves: architecture -> its losses, after `interval` steps, twice as many, and so on.
    interval: steps from one evaluation to the next.
    path: the PNG file to write.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ConfigError: no architecture, one without losses, or `interval` below 1.
    WorkdirError: the file cannot be written.
  """
  if not curves or any(np.size(losses) == 0 for losses in curves.values()):
    raise ConfigError("curves: got no architecture or one without losses; give at least one loss of each")
  if interval < 1:
    raise ConfigError(f"interval={interval} must be at least 1")
  lines = [(label, _positive(losses)) for label, losses in curves.items()]
  named = sorted(range(len(lines)), key=lambda i: np.nan_to_num(lines[i][1][-1], nan=np.inf))[:_NAMED]
  figure = new_figure(7.2, 4.2 + 0.19 * (len(named) + (len(named) < len(lines))))
  axis = figure.subplots()
  others = f"{len(lines) - len(named)} others"
  for i, (_, losses) in enumerate(lines):
    if i not in named:
      steps = interval * np.arange(1, losses.size + 1)
      axis.plot(steps, losses, color=FAINT, marker=".", markersize=3, linewidth=0.8, zorder=1, label=others)
      others = "_"  # One entry in the legend stands for all.
  for place, i in enumerate(named):
    label, losses = lines[i]
    colour, marker = _STYLES[place % len(_STYLES)]
    missing = int(np.isnan(losses).sum())
    axis.plot(
      interval * np.arange(1, losses.size + 1), losses, color=colour, marker=marker, markersize=4, linewidth=1.3,
      linestyle="-" if place < len(_STYLES) else "--", alpha=0.9, zorder=2,
      label=label + (f" ({missing} of {losses.size} left out)" if missing else ""),
    )  # fmt: skip
  log_scale(axis)
  plain_frame(axis)
  axis.set_xlim(0, interval * (max(losses.size for _, losses in lines) + 0.5))
  axis.set_xlabel("Step")
  axis.set_ylabel("Evaluation loss")
  figure.legend(loc="outside lower center", frameon=False, fontsize=7.5)
  if title:
    axis.set_title(title, fontsize=12)
  return save_png(figure, path)


def plot_evolution(
  losses: Sequence[float] | np.ndarray,
  population: int,
  path: Path,
  *,
  title: str = "",
  ylabel: str = "Loss",
  maximise: bool = False,
) -> pathlib.Path:
  """Draws every individual's fitness in order of birth as a dot, and the best so far as a line.

  Those that are not finite are crosses on the upper edge. Positive losses of a wide range get a logarithmic axis.

  Args:
    losses: fitness of each individual, oldest first.
    population: how many of them were the first population; it has a grey ground.
    path: the PNG file to write.
    title: drawn on top.
    ylabel: what the fitness is.
    maximise: whether a high fitness is good.

  Returns:
    The file's path.

  Raises:
    ConfigError: no individual, or `population` below 1.
    WorkdirError: the file cannot be written.
  """
  from matplotlib.ticker import MaxNLocator

  values = np.asarray(losses, np.float64).ravel()
  if not values.size:
    raise ConfigError("losses: got no individual; give the fitness of at least one")
  if population < 1:
    raise ConfigError(f"population={population} must be at least 1")
  born, good = np.arange(1, values.size + 1), np.isfinite(values)
  figure = new_figure(7.2, 4.2)
  axis = figure.subplots()
  axis.axvspan(0.5, min(population, values.size) + 0.5, color=FAINT, alpha=0.3, linewidth=0, label="first population")
  axis.plot(born[good], values[good], ".", color=BLUE, markersize=5, alpha=0.6, label="individual")
  bad = int((~good).sum())
  if bad:
    axis.plot(
      born[~good], np.full(bad, 0.985), "x", color=VERMILION, markersize=4.5, label=f"not finite ({bad})",
      transform=axis.get_xaxis_transform(), clip_on=False,
    )  # fmt: skip
  axis.plot(born, _best_so_far(values, maximise), color=INK, linewidth=1.6, drawstyle="steps-post", label="best so far")
  _scale_fitness(axis, values[good], maximise)
  plain_frame(axis)
  axis.set_xlim(0.5, values.size + 0.5)
  axis.xaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set_xlabel("Individual (in order of birth)")
  axis.set_ylabel(ylabel)
  figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
  if title:
    axis.set_title(title, fontsize=12)
  return save_png(figure, path)


def _shown(stage: int, target: Any, channels: Sequence[int], count: int) -> Float[np.ndarray, "shown H W"]:
  values = np.asarray(target, np.float64)
  if values.ndim != 4 or 0 in values.shape[:3]:
    raise ConfigError(f"targets[{stage}] has shape {list(values.shape)}; give [N, H, W, C] with at least one image")
  number = channels[stage] if stage < len(channels) else 0
  if not 1 <= number <= values.shape[3]:
    raise ConfigError(f"channels: got {list(channels)}; targets[{stage}] has {values.shape[3]}, give 1 to that many")
  return np.moveaxis(values[0, :, :, : min(count, number)], -1, 0)


def _positive(losses: Sequence[float] | np.ndarray) -> Float[np.ndarray, " V"]:
  """The losses, nan where a logarithmic axis has no place for them."""
  values = np.asarray(losses, np.float64).ravel()
  return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _best_so_far(values: Float[np.ndarray, " n"], maximise: bool) -> Float[np.ndarray, " n"]:
  """The best finite value up to each place, nan before the first."""
  finite = np.where(np.isfinite(values), values, np.nan)
  return np.fmax.accumulate(finite) if maximise else np.fmin.accumulate(finite)


def _scale_fitness(axis: "Axes", values: Float[np.ndarray, " n"], maximise: bool) -> None:
  if not values.size:
    axis.set_ylim(0, 1)  # All are on the edge; the axis must have some range all the same.
    axis.set_yticks([])
  elif not maximise and values.min() > 0 and values.max() / values.min() > _WIDE:
    log_scale(axis)
