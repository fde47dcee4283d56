"""The comparison table and its plots: a benchmark of 30 architectures whose measures are known."""

import csv
import io
import math
import re

import numpy as np
import pytest
from helpers import png_size, python

from jaxnas import tabular
from jaxnas.errors import ArchitectureError, ConfigError, WorkdirError
from jaxnas.report import comparison, comparison_tables, correlation_plots
from jaxnas.report.comparison import RANDOM, compare
from jaxnas.report.correlation_plots import Panel, plot_ranks, plot_scatter
from jaxnas.tabular import metrics

NAN, INF = math.nan, math.inf
A = 30
ARCHS = tuple(f"|op{i}~0|" for i in range(A))
MEASURES = ("spearman", "spearman_se", "kendall", "retrieving_rate", "top1_regret", "top10_regret")


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def accuracies():
  return np.random.default_rng(0).uniform(60, 94, A)


@pytest.fixture
def benchmark(accuracies):
  columns = {"cifar10_test": accuracies.copy(), "cifar100_test": accuracies[::-1].copy()}
  return tabular.Benchmark("small", "nb201", "small.csv", ARCHS, columns, ("cifar10", "cifar100"))


def rows_of(proxy, values, *, seed=0, repeat=0, seconds=1.0, archs=range(A)):
  return [
    {"arch": ARCHS[i], "proxy": proxy, "value": v, "status": "ok" if math.isfinite(v) else "non_finite",
     "rank_by": v, "seed": seed, "repeat": repeat, "seconds": seconds}
    for i, v in zip(archs, np.asarray(values, float).tolist(), strict=True)
  ]  # fmt: skip


def noisy(accuracies, scale, seed=1):
  return accuracies + np.random.default_rng(seed).normal(0, scale, A)


def of(lines, proxy):
  (line,) = [line for line in lines if line["proxy"] == proxy]
  return line


# The table.


def test_a_line_holds_the_measures_of_its_proxy(benchmark, accuracies):
  values = noisy(accuracies, 10)
  line = compare(rows_of("a", values), benchmark)[0]
  best = int(np.argmax(values))
  top10 = np.argsort(-values)[:10]
  for d, truths in (("cifar10", accuracies), ("cifar100", accuracies[::-1])):
    expected = metrics.agreement(values, truths)
    for name in MEASURES:
      assert line[f"{d}_{name}"] == pytest.approx(getattr(expected, name), abs=2e-4)
    assert line[f"{d}_best_accuracy"] == pytest.approx(truths[best], abs=1e-4)
    assert line[f"{d}_top10_accuracy"] == pytest.approx(truths[top10].max(), abs=1e-4)
    assert truths.max() - line[f"{d}_best_accuracy"] == pytest.approx(line[f"{d}_top1_regret"], abs=2e-4)
  assert (line["proxy"], line["n"], line["passes"], line["best_arch"]) == ("a", A, 1, ARCHS[best])


def test_lines_are_sorted_by_spearman_and_end_with_chance(benchmark, accuracies):
  rows = rows_of("bad", -accuracies) + rows_of("dead", [NAN] * A)
  rows += rows_of("oracle", accuracies) + rows_of("fair", noisy(accuracies, 10))
  lines = compare(rows, benchmark)
  assert [line["proxy"] for line in lines] == ["oracle", "fair", "bad", "dead", RANDOM]
  assert len({tuple(line) for line in lines}) == 1
  oracle = lines[0]
  assert oracle["cifar10_spearman"] == pytest.approx(1)
  assert (oracle["cifar10_top1_regret"], oracle["cifar10_retrieving_rate"]) == (0.0, 1.0)


def test_the_order_of_the_rows_does_not_matter(benchmark, accuracies):
  rows = [row for s in range(3) for row in rows_of("a", np.round(noisy(accuracies, 9, s), -1), seed=s)]
  rows += rows_of("b", [1.0] * A) + rows_of("c", [NAN] * 5 + [2.0] * 25)
  shuffled = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
  assert repr(compare(shuffled, benchmark)) == repr(compare(rows, benchmark))


def test_passes_are_averaged_by_mean_rank_not_by_value(benchmark):
  # Pass 0 orders 0 < 1 < 2 on a huge scale, passes 1 and 2 order 2 < 1 < 0 on a small one.
  archs = range(3)
  rows = rows_of("a", [0, 1e9, 2e9], archs=archs)
  rows += rows_of("a", [3, 2, 1], seed=1, archs=archs) + rows_of("a", [3, 2, 1], repeat=1, archs=archs)
  line = compare(rows, benchmark)[0]
  assert (line["n"], line["passes"], line["best_arch"]) == (3, 3, ARCHS[0])


def test_mean_ranks_by_hand():
  # Places (rank - 1/2) / n: first pass a 1/8, b 7/8, c and d 1/2; second pass, of two, a 3/4, b 1/4.
  found = comparison.mean_ranks([{0: 1.0, 1: 9.0, 2: 5.0, 3: 5.0}, {0: 8.0, 1: -3.0}])
  assert found == {0: 7 / 16, 1: 9 / 16, 2: 1 / 2, 3: 1 / 2}


def test_equal_mean_ranks_are_equal_floats():
  rng = np.random.default_rng(0)
  orders = [rng.permutation(7) for _ in range(3)]
  # Six passes in which 7 has the ranks that 0 has, in another order of the passes.
  passes = [{**dict(enumerate(o.tolist())), 7: 10.0} for o in orders]
  passes += [{**{i: float(v) for i, v in p.items()}, 0: p[7], 7: p[0]} for p in reversed(passes)]
  found = comparison.mean_ranks(passes)
  assert found[0] == found[7]


def test_degenerate_networks_rank_last_and_are_counted(benchmark, accuracies):
  values = accuracies.copy()
  best = int(np.argmax(values))
  values[[best, 3, 4]] = [NAN, -INF, INF]
  twice = [*rows_of("a", values), *rows_of("a", np.where(np.arange(A) == 4, 99.0, values), seed=1)]
  line = compare(twice, benchmark)[0]
  assert (line["degenerate"], line["not_ok"]) == (2, 5)
  assert line["best_arch"] not in (ARCHS[best], ARCHS[3])
  assert line["cifar10_top1_regret"] > 0
  once = compare(rows_of("a", values), benchmark)[0]
  assert once["degenerate"] == 3
  assert once["best_arch"] == ARCHS[np.argsort(-accuracies)[1]]


def test_null_scores_and_missing_seconds(benchmark, accuracies):
  rows = rows_of("a", accuracies)
  rows[0] |= {"rank_by": None, "seconds": None}
  for i, row in enumerate(rows[1:]):
    row["seconds"] = float(i**2)
  line = compare(rows, benchmark)[0]
  assert (line["degenerate"], line["seconds"]) == (1, 14.0**2)
  bare = [{key: row[key] for key in ("arch", "proxy", "rank_by")} for row in rows]
  assert compare(bare, benchmark)[0]["seconds"] is None


def test_all_degenerate_names_no_best(benchmark):
  line = compare(rows_of("dead", [NAN] * A), benchmark)[0]
  assert line["best_arch"] is None
  assert np.isnan([line[f"cifar10_{name}"] for name in (*MEASURES, "best_accuracy", "top10_accuracy")]).all()


def test_unknown_accuracies(benchmark, accuracies):
  benchmark.columns["cifar10_test"][:5] = NAN
  lines = compare(rows_of("a", accuracies[::-1]), benchmark)
  assert lines[0]["n"] == A
  assert lines[0]["cifar100_spearman"] == pytest.approx(1)
  known = metrics.agreement(accuracies[::-1][5:], accuracies[5:])
  assert lines[0]["cifar10_spearman"] == pytest.approx(known.spearman)
  assert np.isfinite(lines[1]["cifar10_top10_regret"])


def test_common_keeps_what_all_have_scored(benchmark, accuracies):
  rows = rows_of("b", accuracies[10:], archs=range(10, A)) + rows_of("a", noisy(accuracies, 9))
  assert [line["n"] for line in compare(rows, benchmark)] == [20, 30, 30]
  lines = compare(rows, benchmark, common=True)
  assert [line["n"] for line in lines] == [20, 20, 20]
  alone = compare(rows_of("a", noisy(accuracies, 9)[10:], archs=range(10, A)), benchmark)
  assert of(lines, "a") == of(alone, "a")
  with pytest.raises(ConfigError, match="common=True"):
    compare(rows_of("a", [1.0], archs=range(1)) + rows_of("b", [1.0], archs=range(1, 2)), benchmark, common=True)


# Chance.


def test_the_random_shortlist_agrees_with_the_closed_form(benchmark, accuracies):
  line = of(compare(rows_of("a", accuracies), benchmark), RANDOM)
  ordered = np.sort(accuracies)
  # The best of k of n is the i-th smallest in C(i - 1, k - 1) of C(n, k) shortlists.
  ways = np.array([math.comb(i, 9) for i in range(A)]) / math.comb(A, 10)
  exact, spread = ways @ ordered, math.sqrt(ways @ ordered**2 - (ways @ ordered) ** 2)
  assert line["cifar10_top10_accuracy"] == pytest.approx(exact, abs=4 * spread / math.sqrt(10_000))
  assert line["cifar10_top10_regret"] == pytest.approx(ordered[-1] - line["cifar10_top10_accuracy"], abs=1e-4)
  assert line["cifar10_best_accuracy"] == pytest.approx(accuracies.mean(), abs=1e-4)
  assert line["cifar10_retrieving_rate"] == 0.1
  assert line["cifar10_spearman"] is None
  _, found = comparison.expected_best(accuracies, 10)
  assert found == pytest.approx(spread, rel=0.05)


def test_chance_depends_on_the_seed_alone(benchmark, accuracies):
  def chance(proxy, seed):
    return of(compare(rows_of(proxy, noisy(accuracies, 3)), benchmark, seed=seed, draws=100), RANDOM)

  assert chance("a", 0) == chance("b", 0)
  assert chance("a", 0) != chance("a", 1)


def test_shortlists_of_few():
  assert comparison.expected_best(np.array([3.0, NAN, 5.0]), 10) == (5.0, 0.0)
  assert np.isnan(comparison.expected_best(np.array([NAN]), 10)).all()


# Bad input.


def test_bad_rows(benchmark, accuracies):
  rows = rows_of("a", accuracies)
  with pytest.raises(ConfigError, match="rows: got none"):
    compare([], benchmark)
  with pytest.raises(ConfigError, match="a scored .* twice at seed=0, repeat=0") as error:
    compare([*rows, {**rows[4], "rank_by": 3.0}], benchmark)
  assert ARCHS[4] in str(error.value)
  with pytest.raises(ConfigError, match="lacks rank_by"):
    compare([{"arch": ARCHS[0], "proxy": "a"}], benchmark)
  with pytest.raises(ArchitectureError, match="another space"):
    compare([{**rows[0], "arch": "another space"}], benchmark)
  with pytest.raises(ConfigError, match="mnist"):
    compare(rows, benchmark, datasets=("mnist",))
  with pytest.raises(ConfigError, match="datasets"):
    compare(rows, benchmark, datasets=())
  with pytest.raises(ConfigError, match="draws=0"):
    compare(rows, benchmark, draws=0)


# Files.


def test_csv_keeps_every_digit(benchmark, accuracies, tmp_path):
  lines = compare(rows_of("a", noisy(accuracies, 9)) + rows_of("dead", [NAN] * A), benchmark)
  file = comparison_tables.write_csv(lines, tmp_path / "c.csv")
  back = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
  assert [row["proxy"] for row in back] == ["a", "dead", RANDOM]
  assert float(back[0]["cifar100_spearman"]) == lines[0]["cifar100_spearman"]
  assert back[1]["cifar10_spearman"] == back[2]["cifar10_spearman"] == back[1]["best_arch"] == ""


def test_markdown_has_a_line_a_proxy(benchmark, accuracies, tmp_path):
  lines = compare(rows_of("a", accuracies, seconds=0.25) + rows_of("dead", [NAN] * A), benchmark)
  text = comparison_tables.write_markdown(lines, tmp_path / "c.md").read_text(encoding="utf-8")
  table, note = text.split("\n\n")
  rows = table.splitlines()
  assert len(rows) == 5
  assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
  assert "1.000 ± 0.000" in rows[2]
  assert rows[2].endswith("0.25 |")
  assert "nan" not in text
  assert "cifar10 / cifar100" in note


def test_a_terminal_of_80_columns_has_room_for_three_data_sets(accuracies):
  columns = {f"{d}_test": accuracies for d in ("cifar10", "cifar100", "imagenet16_120", "a_fourth")}
  names = ("cifar10", "cifar100", "imagenet16_120", "a_fourth")
  benchmark = tabular.Benchmark("wide", "nb201", "wide.csv", ARCHS, columns, names)
  half_dead = np.where(np.arange(A) < 4, NAN, noisy(accuracies, 9))
  rows = rows_of("jaxnas: jacob_cov + effective_params", accuracies)
  rows += rows_of("ntk_condition_number_frozen", half_dead)
  text = comparison_tables.to_text(compare(rows, benchmark), 80)
  lines = text.splitlines()
  assert max(map(len, lines)) <= 80 and "|" not in text and RANDOM not in text
  assert text.count("1.000 ± 0.000") == 3 and "imagenet16" in text
  note = " ".join(text.split())
  assert "ranked last: ntk_condition_number_frozen 4" in note and "regrets, a_fourth: comparison.md" in note
  one = comparison_tables.to_text(compare(rows, benchmark), 50)
  assert one.count("1.000 ± 0.000") == 1 and "imagenet16_120 and a_fourth" in " ".join(one.split())
  with pytest.raises(ConfigError, match="got none"):
    comparison_tables.to_text([], 80)


def test_files_are_refused_in_one_line(benchmark, accuracies, tmp_path):
  lines = compare(rows_of("a", accuracies), benchmark)
  with pytest.raises(WorkdirError, match=r"gone"):
    comparison_tables.write_csv(lines, tmp_path / "gone" / "c.csv")
  with pytest.raises(ConfigError, match="got none"):
    comparison_tables.to_markdown([])


# Plots.


@pytest.fixture
def axes(monkeypatch):
  """The figure's axes at the moment it is saved."""
  seen = []
  save = correlation_plots.save_png

  def spy(figure, path):
    file = save(figure, path)
    seen[:] = figure.axes
    return file

  monkeypatch.setattr(correlation_plots, "save_png", spy)
  return seen


def dots(axis) -> int:
  return sum(len(collection.get_offsets()) for collection in axis.collections)


@pytest.mark.parametrize("x", ["score", "rank"])
def test_scatter_draws_every_architecture_once(tmp_path, axes, accuracies, x):
  rng = np.random.default_rng(0)
  wide = 10.0 ** rng.uniform(-3, 9, A)
  holes = np.where(np.arange(A) < 4, NAN, wide)
  panels = [
    Panel("narrow", accuracies, accuracies),
    Panel("wide", wide, accuracies),
    Panel("signed", wide - 1, accuracies),
    Panel("lower is better", -holes, accuracies, values=np.where(np.isnan(holes), 1e5, holes)),
    Panel("dead", np.full(A, NAN), accuracies),
    Panel("flat", np.ones(A), np.where(np.arange(A) < 7, NAN, accuracies)),
  ]
  size = png_size(plot_scatter(panels, tmp_path / "s.png", x=x, lowest_accuracy=75, title="t", dataset="cifar10"))
  assert min(size) > 500
  logarithmic = [axis.get_xscale() == "log" for axis in axes]
  assert logarithmic == ([False, True, False, True, False, False] if x == "score" else [False] * 6)
  assert [dots(axis) for axis in axes] == [A, A, A, A, A, A - 7]
  assert "ρ = 1.000" in axes[0].get_title()
  assert "ρ = nan" in axes[4].get_title()
  degenerate = [re.findall(r"(\d+) degenerate", axis.get_title()) for axis in axes]
  assert degenerate == [[], [], [], ["4"], ["30"], []]
  strip = axes[3].collections[-1].get_offsets()
  assert len(strip) == 4
  np.testing.assert_allclose(strip[:, 1], np.maximum(accuracies[:4], 75))


def test_the_strip_stands_left_of_every_score(tmp_path, axes, accuracies):
  for values in (accuracies, 10.0**accuracies):
    scores = np.where(np.arange(A) < 2, -INF, values)
    plot_scatter([Panel("a", scores, accuracies)], tmp_path / "s.png")
    (axis,) = axes
    at = axis.transAxes.inverted().transform(axis.transData.transform(axis.collections[0].get_offsets()))
    assert at[:, 0].min() > correlation_plots._STRIP
    assert at[:, 0].max() < 1
    assert (np.diff(axis.get_xticks()) > 0).all()
    assert axis.get_xticks()[0] > axis.get_xlim()[0]
    assert not len(axis.get_xticks(minor=True))


def test_bad_panels(unchecked, tmp_path, accuracies):
  with pytest.raises(ConfigError, match="panels: got none"):
    plot_scatter([], tmp_path / "s.png")
  with pytest.raises(ConfigError, match="'place'"):
    plot_scatter([Panel("a", accuracies, accuracies)], tmp_path / "s.png", x="place")  # type: ignore[arg-type]
  with pytest.raises(ConfigError, match="pass n of each"):
    plot_scatter([Panel("a", accuracies[1:], accuracies)], tmp_path / "s.png")
  with pytest.raises(ConfigError, match="values of a: 29 for 30"):
    plot_scatter([Panel("a", accuracies, accuracies, values=accuracies[1:])], tmp_path / "s.png")


def test_ranks_are_sorted_best_on_top(tmp_path, axes, benchmark, accuracies):
  rows = rows_of("fair", noisy(accuracies, 10)) + rows_of("oracle", accuracies) + rows_of("dead", [NAN] * A)
  table = comparison.spearman_by_dataset(compare(rows, benchmark))
  assert set(table) == {"fair", "oracle", "dead"}
  file = plot_ranks(table, tmp_path / "r.png", controls=("fair",), title="t")
  assert min(png_size(file)) > 300
  (axis,) = axes
  labels = axis.get_yticklabels()
  by_mean = sorted(("fair", "oracle"), key=lambda p: sum(rho for rho, _ in table[p].values()), reverse=True)
  assert [label.get_text() for label in labels] == [*by_mean, "dead"]
  assert {label.get_text(): label.get_fontstyle() for label in labels}["fair"] == "italic"
  assert axis.yaxis_inverted()
  assert [text.get_text().strip() for text in axis.texts] == ["undefined"]


def test_ranks_with_holes(tmp_path):
  table = {"a": {"cifar10": (0.5, NAN)}, "b": {"cifar100": (-0.7, 0.1)}}
  plot_ranks(table, tmp_path / "r.png")
  assert plot_ranks(table, tmp_path / "1.png").read_bytes() == (tmp_path / "r.png").read_bytes()
  with pytest.raises(ConfigError, match="no proxy"):
    plot_ranks({}, tmp_path / "r.png")


def test_drawing_and_scipy_are_imported_when_used():
  code = (
    "import sys, jax, jaxnas.report\nbefore = set(sys.modules)\n"
    "import jaxnas.report.comparison, jaxnas.report.correlation_plots\n"
    "print([m for m in ('scipy.stats', 'matplotlib') if m in set(sys.modules) - before])"
  )
  assert python(code).stdout == "[]\n"
