"""What all drawings share: colours (Okabe and Ito's, apart for the colour-blind too), figures, axes, PNG files.

Figures are made without pyplot: no global state, no window, no display needed. matplotlib is imported by the functions
that draw, not by importing this module.
"""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxnas.files import write_atomically

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

Path = str | os.PathLike[str]
Colour = tuple[float, float, float]

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, BLACK = "#D55E00", "#56B4E9", "#000000"
INK, FAINT = "#333333", "#B8B8B8"


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
  """What is drawn within looks the same wherever it is drawn: the user's backend and rc files have no say."""
  theirs = os.environ.pop("MPLBACKEND", None)  # one that is not installed here would refuse the import
  try:
    import matplotlib
  finally:
    if theirs is not None:
      os.environ["MPLBACKEND"] = theirs
  with matplotlib.rc_context(matplotlib.rcParamsDefault):
    yield


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
  """A figure of that many inches that belongs to nobody else."""
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")


def save_png(figure: "Figure", path: Path) -> pathlib.Path:
  """Writes a figure as PNG, whole or not at all, the same bytes for the same figure."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
  return write_atomically(path, buffer.getvalue())


def log_scale(axis: "Axes") -> None:
  """A logarithmic y axis with readable labels even where it spans less than a decade."""
  from matplotlib.ticker import LogLocator, MaxNLocator

  if not any(np.isfinite(line.get_ydata()).any() for line in axis.lines):
    axis.set_ylim(1, 10)  # Nothing to draw; a logarithmic axis must have some range all the same.
  axis.set_yscale("log")
  low, high = axis.get_ylim()
  if high / low < 50:
    narrow = MaxNLocator(5) if high / low < 6 else LogLocator(subs=(1, 2, 5))
    axis.yaxis.set_major_locator(narrow)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axis.yaxis.set_minor_formatter(lambda *_: "")


def plain_frame(axis: "Axes") -> None:
  """No frame above and on the right, faint lines across."""
  axis.spines[["top", "right"]].set_visible(False)
  axis.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
  axis.set_axisbelow(True)
  axis.tick_params(labelsize=9)
