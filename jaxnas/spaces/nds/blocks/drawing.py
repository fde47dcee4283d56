"""The stages of a network as a row of blocks: as many as there are, as high as they have channels."""

import math
import pathlib
from typing import TYPE_CHECKING

from jaxnas.base import Code, Picture
from jaxnas.figures import BLUE, INK, ORANGE, SKY, new_figure, save_png
from jaxnas.spaces.nds.blocks import costs, encoding
from jaxnas.spaces.nds.tables import BOTTLENECK, BlockTable

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_WIDTH, _GAP, _BETWEEN, _DOUBLING = 0.22, 0.05, 0.35, 0.22  # inches, as all lengths here; the last one a doubling


def draw(table: BlockTable, code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
  """Draws the network of an architecture, see `base.Space.draw`.

  Raises:
    ArchitectureError: not one architecture.
    WorkdirError: the file cannot be written.
  """
  net = costs.staged(encoding.to_net(table, code), "trained")
  right = _span(1) + sum(_span(stage.blocks) for stage in net.stages)
  top = _height(max(net.stem_width, *(stage.channels for stage in net.stages)))
  figure = new_figure(right + 0.4, top + 1.2, layout=None)
  axis = figure.add_axes((0, 0, 1, 1))
  axis.set(xlim=(-0.2, right + 0.2), ylim=(-0.85, top + 0.35))
  axis.set_axis_off()
  x = _draw_stage(axis, 0.0, 1, net.stem_width, f"stem\n{net.stem_width}", ORANGE)
  for stage in net.stages:
    text = f"{stage.blocks} x {stage.channels}\nstride {stage.stride}"
    if table.block == BOTTLENECK:
      text += f"\ninner {stage.inner}, groups {stage.groups}"
    x = _draw_stage(axis, x, stage.blocks, stage.channels, text, BLUE if stage.stride > 1 else SKY)
  save_png(figure, folder / "stages.png")
  caption = f"Stem and stages of {table.block}: a bar a block, its height the channels (a step a doubling)."
  return (Picture("stages.png", caption),)


def _height(channels: int) -> float:
  return _DOUBLING * (1 + math.log2(channels))


def _span(blocks: int) -> float:
  """Of a stage with the gap behind it; there is room for its text."""
  return max(blocks * (_WIDTH + _GAP) + _BETWEEN, 1.3)


def _draw_stage(axis: "Axes", x: float, blocks: int, channels: int, text: str, colour: str) -> float:
  """Returns where the next one begins; the first block of a stage with a stride is darker."""
  from matplotlib.patches import Rectangle

  for i in range(blocks):
    corner, own = (x + i * (_WIDTH + _GAP), 0), colour if i == 0 else SKY
    axis.add_patch(Rectangle(corner, _WIDTH, _height(channels), facecolor=own, edgecolor=INK, linewidth=0.8))
  axis.text(x, -0.08, text, ha="left", va="top", fontsize=7, color=INK, linespacing=1.25)
  return x + _span(blocks)
