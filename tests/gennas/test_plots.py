"""Plots of GenNAS and the drawing of cells with operations on vertices: files, what is drawn, bad input."""

import math

import matplotlib.axes
import numpy as np
import pytest
from helpers import png_size

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.gennas import plots
from jaxnas.spaces import cell_drawing

NAN, INF = math.nan, math.inf
LABELS = ["input", "conv3x3", "maxpool3x3", "output"]
MATRIX = [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def drawn(monkeypatch):
  """label -> y values of every line that is drawn."""
  lines = {}
  plot = matplotlib.axes.Axes.plot

  def spy(axis, x, y, *args, **kwargs):
    lines.setdefault(kwargs.get("label"), []).append((list(x), list(np.asarray(y))))
    return plot(axis, x, y, *args, **kwargs)

  monkeypatch.setattr(matplotlib.axes.Axes, "plot", spy)
  return lines


def targets(*widths):
  rng = np.random.default_rng(0)
  return [rng.normal(size=(2, 8, 8, width)).astype(np.float32) for width in widths]


# Targets.


def test_targets_are_drawn(tmp_path):
  wide = plots.plot_targets(targets(96, 96, 96), (64, 48, 16), tmp_path / "t.png", title="CONF")
  narrow = plots.plot_targets(targets(96, 96, 96), (64, 48, 16), tmp_path / "n.png", title="CONF", count=2)
  assert png_size(wide)[0] > png_size(narrow)[0] >= 500
  assert png_size(wide)[1] == png_size(narrow)[1] >= 500


def test_only_the_first_image_and_the_tasks_channels_are_drawn(tmp_path):
  given = targets(12, 12, 12)
  before = plots.plot_targets(given, (8, 3, 1), tmp_path / "a.png").read_bytes()
  for stage, number in zip(given, (8, 3, 1), strict=True):
    stage[1], stage[..., number:] = 7, NAN
  assert plots.plot_targets(given, (8, 3, 1), tmp_path / "b.png").read_bytes() == before
  given[2][0, 0, 0, 0] += 1
  assert plots.plot_targets(given, (8, 3, 1), tmp_path / "b.png").read_bytes() != before


def test_a_stage_shares_one_symmetric_scale(tmp_path, monkeypatch):
  limits = []
  imshow = matplotlib.axes.Axes.imshow

  def spy(axis, values, **kwargs):
    limits.append((kwargs["vmin"], kwargs["vmax"]))
    return imshow(axis, values, **kwargs)

  monkeypatch.setattr(matplotlib.axes.Axes, "imshow", spy)
  given = [np.zeros((1, 8, 8, 2)) for _ in range(3)]
  given[0][0, 0, 0] = -3, 1
  given[1][0, 0, 0] = INF, 2
  plots.plot_targets(given, (2, 2, 2), tmp_path / "t.png")
  assert limits == [(-3, 3)] * 2 + [(-2, 2)] * 2 + [(-1, 1)] * 2


@pytest.mark.parametrize("value", [0.0, NAN, INF])
def test_targets_without_a_range_are_drawn(tmp_path, value):
  given = [np.full((1, 8, 8, 4), value, np.float32)] * 3
  assert min(png_size(plots.plot_targets(given, (4, 4, 4), tmp_path / "t.png"))) > 400


@pytest.mark.parametrize(
  ("given", "channels", "more", "message"),
  [
    ([], (), {}, "0 stages"),
    (targets(4, 4), (4, 4, 4), {}, "2 stages and 3"),
    (targets(4, 4), (4,), {}, r"targets\[1\] has 4"),
    (targets(4), (5,), {}, r"targets\[0\] has 4"),
    (targets(4), (0,), {}, "channels"),
    ([np.zeros((0, 8, 8, 4))], (4,), {}, "at least one image"),
    ([np.zeros((8, 8, 4))], (4,), {}, "shape"),
    (targets(4), (4,), {"count": 0}, "count=0"),
  ],
)
def test_wrong_targets_are_refused(unchecked, tmp_path, given, channels, more, message):
  with pytest.raises(ConfigError, match=message):
    plots.plot_targets(given, channels, tmp_path / "t.png", **more)
  assert not (tmp_path / "t.png").exists()


# Loss curves.


def test_loss_curves_are_drawn_against_the_step(tmp_path, drawn):
  curves = {"a": [9.0, 4.0, 3.0], "b": [INF, 5.0, NAN], "c": [-1.0, 0.0, 2.0]}
  file = plots.plot_loss_curves(curves, 10, tmp_path / "l.png", title="losses")
  assert min(png_size(file)) > 500
  assert drawn["a"] == [([10, 20, 30], [9, 4, 3])]
  [(steps, losses)] = drawn["b (2 of 3 left out)"]
  assert steps == [10, 20, 30]
  np.testing.assert_array_equal(losses, [NAN, 5, NAN])
  np.testing.assert_array_equal(drawn["c (2 of 3 left out)"][0][1], [NAN, NAN, 2])


@pytest.mark.parametrize("curve", [[3.0], [NAN], [INF, -INF], [1e38, 1e-30], [2.0, 2.0]])
def test_loss_curves_of_few_or_odd_points(tmp_path, curve):
  assert min(png_size(plots.plot_loss_curves({"a": curve}, 1, tmp_path / "l.png"))) > 500


def test_of_many_curves_the_best_are_named(tmp_path, drawn):
  curves = {str(i): [50.0, 20.0 - i] for i in range(17)} | {"lost": [50.0, NAN]}
  plots.plot_loss_curves(curves, 5, tmp_path / "l.png")
  assert {label for label in drawn if label not in ("_", "4 others")} == {str(i) for i in range(3, 17)}
  assert len(drawn["4 others"]) == 1 and len(drawn["_"]) == 3


@pytest.mark.parametrize(
  ("curves", "interval", "message"),
  [({}, 10, "no architecture"), ({"a": [1.0], "b": []}, 10, "without losses"), ({"a": [1.0]}, 0, "interval=0")],
)
def test_wrong_curves_are_refused(tmp_path, curves, interval, message):
  with pytest.raises(ConfigError, match=message):
    plots.plot_loss_curves(curves, interval, tmp_path / "l.png")


# Evolution.


@pytest.mark.parametrize(
  ("maximise", "best"),
  [(False, [NAN, 5, 3, 3, 3, 2, 2]), (True, [NAN, 5, 5, 5, 5, 5, 7])],
)
def test_best_so_far(tmp_path, drawn, maximise, best):
  losses = [NAN, 5.0, 3.0, 4.0, INF, 2.0, 7.0]
  file = plots.plot_evolution(losses, 3, tmp_path / "e.png", title="search", ylabel="fitness", maximise=maximise)
  assert min(png_size(file)) > 500
  np.testing.assert_array_equal(drawn["best so far"][0][1], best)
  assert drawn["individual"] == [([2, 3, 4, 6, 7], [5, 3, 4, 2, 7])]
  assert drawn["not finite (2)"][0][0] == [1, 5]


@pytest.mark.parametrize("losses", [[3.0], [NAN], [INF, -INF], [2.0, 2.0], [1e38, 1e-3], [0.0, -4.0, 1e6]])
@pytest.mark.parametrize("maximise", [False, True])
def test_evolutions_of_few_or_odd_points(tmp_path, losses, maximise):
  file = plots.plot_evolution(losses, 50, tmp_path / "e.png", maximise=maximise)
  assert min(png_size(file)) > 500


def test_a_whole_evolution_is_the_same_bytes_again(tmp_path):
  losses = np.random.default_rng(0).lognormal(1, 1, 450)
  one = plots.plot_evolution(losses, 50, tmp_path / "1.png").read_bytes()
  assert one == plots.plot_evolution(losses, 50, tmp_path / "2.png").read_bytes()
  assert one != plots.plot_evolution(losses, 60, tmp_path / "2.png").read_bytes()


def test_wrong_evolutions_are_refused(tmp_path):
  with pytest.raises(ConfigError, match="no individual"):
    plots.plot_evolution([], 50, tmp_path / "e.png")
  with pytest.raises(ConfigError, match="population=0"):
    plots.plot_evolution([1.0], 0, tmp_path / "e.png")


# Cells with operations on vertices.


def test_a_vertex_cell_is_drawn(tmp_path):
  one = cell_drawing.draw_vertex_cell(MATRIX, LABELS, tmp_path / "1.png", title="conv3x3:0|maxpool3x3:01|output:012")
  assert min(png_size(one)) > 150
  again = cell_drawing.draw_vertex_cell(np.array(MATRIX), LABELS, tmp_path / "2.png")
  fewer = cell_drawing.draw_vertex_cell([[0, 1], [0, 0]], ["input", "output"], tmp_path / "3.png")
  assert png_size(fewer)[0] < png_size(again)[0]


def test_every_edge_and_vertex_is_drawn_once(tmp_path, monkeypatch):
  arrows, boxes = [], []
  monkeypatch.setattr(cell_drawing, "_draw_arrow", lambda axis, points: arrows.append((points[0], points[-1])))
  monkeypatch.setattr(cell_drawing, "_draw_box", lambda axis, x, half, name: boxes.append((x, half, name)))
  cell_drawing.draw_vertex_cell(MATRIX, LABELS, tmp_path / "c.png")
  assert [name for _, _, name in boxes] == LABELS

  def vertex(point):
    """The vertex on whose outline a point lies."""
    [found] = [v for v, (x, half, _) in enumerate(boxes) if abs(point[0] - x) <= half + 1e-9]
    return found

  assert sorted((vertex(begin), vertex(end)) for begin, end in arrows) == [tuple(e) for e in np.argwhere(MATRIX)]


@pytest.mark.parametrize(
  ("matrix", "labels", "message"),
  [
    ([[0, 0], [0, 0]], ["input", "output"], "no edge"),
    ([], [], r"shape \[0\]"),
    ([[0, 1], [1, 0]], ["input", "output"], "from 1 to 0"),
    ([[0, 1], [0, 0]], ["input"], "for 1 labels"),
    ([[0, 1], [0]], ["input", "output"], "ragged"),
  ],
)
def test_wrong_vertex_cells_are_refused(tmp_path, matrix, labels, message):
  with pytest.raises(ArchitectureError, match=message):
    cell_drawing.draw_vertex_cell(matrix, labels, tmp_path / "c.png")
