"""Pictures of many proxies: correlations, costs, picks; and the numbers that they show."""

import math
import warnings

import numpy as np
import pytest
from helpers import png_size
from scipy import stats

from jaxnas import tabular
from jaxnas.errors import ConfigError
from jaxnas.report import comparison, comparison_tables, proxy_pictures
from jaxnas.report.proxy_pictures import plot_correlations, plot_cost, plot_picks
from jaxnas.tabular import metrics

A = 40
ARCHS = tuple(f"|op{i}~0|" for i in range(A))


@pytest.fixture
def accuracies():
  return np.random.default_rng(0).uniform(60, 94, A)


@pytest.fixture
def benchmark(accuracies):
  return tabular.Benchmark("small", "nb201", "small.csv", ARCHS, {"cifar10_test": accuracies}, ("cifar10",))


@pytest.fixture
def axes(monkeypatch):
  """The figure's axes at the moment it is saved."""
  seen = []
  save = proxy_pictures.save_png

  def spy(figure, path):
    seen[:] = figure.axes
    return save(figure, path)

  monkeypatch.setattr(proxy_pictures, "save_png", spy)
  return seen


def rows_of(proxy, values, *, seed=0, archs=range(A)):
  return [
    {"arch": ARCHS[i], "proxy": proxy, "rank_by": float(v), "seed": seed, "repeat": 0, "seconds": 0.5}
    for i, v in zip(archs, values, strict=True)
  ]


def test_passes_alone_have_a_mean_and_a_standard_deviation(benchmark, accuracies):
  """Each on the architectures that it scored itself; the mean ranks beside them agree better than any."""
  rng, rows, alone = np.random.default_rng(1), [], []
  for seed in range(5):
    scored = rng.permutation(A)[:30]
    values = accuracies[scored] + rng.normal(0, 12, 30)
    rows += rows_of("noisy", values, seed=seed, archs=scored)
    alone.append([f(values, accuracies[scored]) for f in (metrics.spearman, metrics.kendall)])
  line = comparison.compare([*rows, *rows_of("once", accuracies)], benchmark)[1]
  mean, spread = np.mean(alone, 0), np.std(alone, 0, ddof=1)
  for place, name in enumerate(("spearman", "kendall")):
    assert line[f"cifar10_pass_{name}"] == pytest.approx(mean[place], abs=1e-4)
    assert line[f"cifar10_pass_{name}_sd"] == pytest.approx(spread[place], abs=1e-4)
  once = comparison.compare(rows_of("once", accuracies), benchmark)
  assert math.isnan(once[0]["cifar10_pass_spearman"]) and "one pass" not in comparison_tables.to_markdown(once)
  assert f"{mean[0]:.3f} ± {spread[0]:.3f}" in comparison_tables.to_markdown(comparison.compare(rows, benchmark))


def test_correlations_of_every_two(benchmark, accuracies):
  rng = np.random.default_rng(2)
  one, two = accuracies + rng.normal(0, 9, A), -accuracies + rng.normal(0, 9, A)
  half = np.where(np.arange(10) < 3, np.nan, accuracies[:10])
  rows = rows_of("one", one) + rows_of("two", two) + rows_of("half", half, archs=range(10))
  names, matrix = comparison.correlations(rows, comparison.compare(rows, benchmark), benchmark)
  assert names[-1] == "cifar10" and set(names[:-1]) == {"one", "two", "half"}
  at = {name: i for i, name in enumerate(names)}
  np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
  np.testing.assert_allclose(np.diag(matrix), 1)
  expected = stats.spearmanr(one, two).statistic
  assert matrix[at["one"], at["two"]] == pytest.approx(expected, abs=1e-12)
  last = stats.spearmanr(np.where(np.isnan(half), -1, half), one[:10]).statistic  # degenerate: last, and tied
  assert matrix[at["half"], at["one"]] == pytest.approx(last, abs=1e-12)
  assert matrix[at["two"], at["cifar10"]] == pytest.approx(metrics.spearman(two, accuracies), abs=1e-4)


def test_the_matrix(tmp_path, axes):
  matrix = np.array([[1.0, -0.25, np.nan], [-0.25, 1.0, 0.7], [np.nan, 0.7, 1.0]])
  size = png_size(plot_correlations(["a: b + c", "d", "cifar10"], matrix, tmp_path / "m.png"))
  assert min(size) > 300
  assert sorted(text.get_text() for text in axes[0].texts) == ["-.25", "-.25", ".70", ".70", "1.00", "1.00", "1.00"]
  assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a: b + c", "d", "cifar10"]
  many = plot_correlations([str(i) for i in range(30)], np.eye(30), tmp_path / "n.png")
  assert not axes[0].texts and min(png_size(many)) > min(size)
  with pytest.raises(ConfigError, match="2 names"):
    plot_correlations(["a", "b"], matrix, tmp_path / "m.png")


def test_costs(tmp_path, axes):
  points = {
    "cheap": (0.01, 0.5, 0.02), "dear": (8.0, 0.9, math.nan), "both": (0.02, 0.51, 0.02), "free": (0.0, 0.7, 0.1),
    "unknown": (1.0, math.nan, 0.1),
  }  # fmt: skip
  file = plot_cost(points, tmp_path / "c.png", dataset="cifar10", controls=["cheap"], combinations=["both"])
  (axis,) = axes
  assert min(png_size(file)) > 300 and axis.get_xscale() == "log"
  assert sorted(text.get_text() for text in axis.texts) == ["both", "cheap", "dear"]
  (legend,) = axis.figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["proxy", "control", "combination"]
  places = {text.get_text(): text.xyann for text in axis.texts}
  assert places["both"][0] == places["cheap"][0] and places["both"][1] - places["cheap"][1] > 0.01
  few = png_size(file)
  many = {f"p{i}": (1 + i / 100, 0.9 - i / 1e4, 0.01) for i in range(40)} | {"low": (1.0, 0.0, 0.01)}
  assert png_size(plot_cost(many, tmp_path / "d.png", dataset="cifar10"))[1] > few[1]
  heights = [text.xyann[1] for text in sorted(axes[-1].texts, key=lambda text: many[text.get_text()][1])]
  assert np.diff(heights).min() > 0.01
  low, high = axes[-1].get_ylim()
  assert low - 1e-9 <= heights[0] and heights[-1] <= high + 1e-9  # names leave the picture nowhere
  with pytest.raises(ConfigError, match="points"):
    plot_cost({"free": points["free"]}, tmp_path / "c.png", dataset="cifar10")


def test_picks(tmp_path, axes):
  rows = [
    {"rule": rule, "k": k, "accuracy": 90 + k / 10 + seed + (rule == "first")}
    for rule in ("first", "control") for k in (0, 5, 40) for seed in (0, 1, 2)
  ]  # fmt: skip
  file = plot_picks(rows, ("rule", "k"), "accuracy", tmp_path / "p.png", titles=("Queries", "Accuracy"))
  (axis,) = axes
  assert min(png_size(file)) > 300
  assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "5", "40"]
  means = [lines[0].get_ydata() for lines in axis.containers]
  np.testing.assert_allclose(np.array(means, float), [[92.0, 92.5, 96.0], [91.0, 91.5, 95.0]])
  with pytest.raises(ConfigError, match="accuracy"):
    plot_picks([{"rule": "a", "k": 0, "accuracy": math.nan}], ("rule", "k"), "accuracy", tmp_path / "p.png",
               titles=("", ""))  # fmt: skip


def test_names_of_one_cost_leave_room_for_the_axes(tmp_path):
  with warnings.catch_warnings(action="error"):  # of a layout that was given up
    plot_cost({"params": (0.020, 0.5, 0.1), "naswot": (0.024, 0.6, 0.1)}, tmp_path / "cost.png", dataset="cifar10")
