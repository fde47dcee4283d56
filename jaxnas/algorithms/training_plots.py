"""Pictures of trainings as PNG files: loss and accuracy of every epoch, and what is taken for what."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxnas.errors import ConfigError
from jaxnas.figures import (
  BLACK,
  BLUE,
  GREEN,
  INK,
  ORANGE,
  PURPLE,
  SKY,
  VERMILION,
  Path,
  log_scale,
  new_figure,
  plain_frame,
  save_png,
)

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
_MOST = len(_COLOURS)
_SHORT = 30  # epochs up to which each has a mark

Records = Sequence[Mapping[str, Any]]


def plot_training(histories: Mapping[str, Sequence[Records]], path: Path, *, title: str = "") -> pathlib.Path:
  """Draws the loss (left) and the accuracy (right) against the epoch, a colour an architecture.

  Full lines are held-out images, dashed ones training images (in the loss they include label smoothing). With several
  seeds the line is the mean of those that reached the epoch, and a band spans the lowest to the highest. Values that
  are not finite are left out; the legend counts trainings that diverged.

  Args:
    histories: label -> one history a seed, see `jaxnas.train.Result`; at most seven labels.
    path: the PNG file to write.
    title: drawn on top.

  Returns:
    The file's path.

  Raises:
    ConfigError: no training, one without an epoch, or more than seven labels.
    WorkdirError: the file cannot be written.
  """
  if not histories or not all(seeds and all(seeds) for seeds in histories.values()):
    raise ConfigError("histories: got no training or one without an epoch; give at least one epoch of each")
  if len(histories) > _MOST:
    raise ConfigError(f"histories: got {len(histories)} labels; at most {_MOST} can be told apart")
  from matplotlib.ticker import MaxNLocator

  figure = new_figure(9.6, 3.9 + 0.2 * len(histories))
  left, right = figure.subplots(1, 2)
  for (label, seeds), colour in zip(histories.items(), _COLOURS, strict=False):
    lost = sum(history[-1]["status"] == "diverged" for history in seeds)
    note = f" ({lost} of {len(seeds)} diverged)" if lost else ""
    for axis, name in ((left, "loss"), (right, "accuracy")):
      _draw(axis, seeds, f"train_{name}", colour, "--")
      _draw(axis, seeds, f"valid_{name}", colour, "-", label + note)
  log_scale(left)
  for axis, name in ((left, "Cross-entropy"), (right, "Accuracy (%)")):
    plain_frame(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("Epoch")
    axis.set_ylabel(name)
  left.set_title("dashed: training images, full: held-out images", fontsize=8, color=INK)
  handles, labels = right.get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=8)
  if title:
    figure.suptitle(title, fontsize=12)
  return save_png(figure, path)


def plot_confusion(matrix: Int[np.ndarray, "K K"], names: Sequence[str], path: Path) -> pathlib.Path:
  """Draws a confusion matrix: a row a class, a column an answer, shaded by the share of the row.

  Raises:
    WorkdirError: the file cannot be written.
  """
  count = len(names)
  figure = new_figure(2.6 + 0.5 * count, 1.8 + 0.4 * count)
  axis = figure.add_subplot()
  shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
  axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
  for i in range(count):
    for j in range(count):
      colour = "white" if shares[i, j] > 0.6 else INK
      axis.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color=colour)
  axis.set_xticks(range(count), names, rotation=30 if count > 3 else 0)
  axis.set_yticks(range(count), names)
  axis.set_xlabel("Answer")
  axis.set_ylabel("Class")
  return save_png(figure, path)


def _draw(axis: Any, seeds: Sequence[Records], key: str, colour: str, style: str, label: str = "_") -> None:
  epochs = sorted({record["epoch"] for history in seeds for record in history})
  values = {epoch: [] for epoch in epochs}
  for history in seeds:
    for record in history:
      if math.isfinite(record[key]):
        values[record["epoch"]].append(record[key])
  mean, low, high = (
    np.array([fn(values[e]) if values[e] else math.nan for e in epochs]) for fn in (np.mean, np.min, np.max)
  )
  marks = {"marker": "o", "markersize": 3} if len(epochs) <= _SHORT else {}
  axis.plot(epochs, mean, color=colour, linestyle=style, linewidth=1.4, label=label, **marks)
  if len(seeds) > 1:
    axis.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
