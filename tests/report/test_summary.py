"""What a run shows and writes, from outcomes made up by hand."""

import json

import numpy as np
import pytest

from jaxnas import data, report
from jaxnas.base import Accuracies, Artefact, Column, Costs, NetworkConfig, Outcome, Picture, Space
from jaxnas.errors import ArchitectureError, WorkdirError
from jaxnas.report import page, summary
from jaxnas.workdir import Workdir

CONFIG = {"algorithm": "made_up", "space": "letters", "dataset": "synthetic"}
TIMES = summary.Times(61.0, 1.0, 2.0)


class Letters(Space):
  """Architectures are words; a network has a hundred thousand parameters a letter and class."""

  name, ops, cells, default_config = "letters", ("a", "b"), 1, NetworkConfig()

  def parse(self, text):
    return np.frombuffer(text.encode(), np.uint8)

  def costs_on(self, code, source):
    return Costs(100_000 * source.classes * len(code), 200_000 * source.classes * len(code))

  def draw(self, code, folder):
    (folder / "word.png").write_bytes(b"a picture")
    return (Picture("word.png", "The word."),)


class Table(Accuracies):
  """Accuracies of the words up to `most` letters: the longer the better."""

  name, datasets, split, unread, columns = "words", ("cifar10", "cifar100"), "test", frozenset(), {}
  archs = tuple("a" * n for n in range(100))

  def __init__(self, most=99):
    self.most = most

  def index(self, arch):
    if len(arch) > self.most:
      raise ArchitectureError(f"{arch} is too long")
    return len(arch)

  def accuracy(self, arch, dataset, split=None):
    return 90.0 + len(arch) + (0.5 if dataset == "cifar100" else 0)

  def rank(self, arch, dataset, split=None):
    return 100 - len(arch), 99


def finished(*outcomes, benchmark=None):
  return summary.Finished(
    Letters(), data.load("synthetic"), benchmark, CONFIG, tuple(range(len(outcomes))), outcomes, TIMES
  )


def outcome(arch, score=1.5, **more):
  columns = [Column("score", "the score", "score_status"), Column("note", "a note")]
  return Outcome([{"arch": arch, "score": score, "hidden": 7, **more}], columns=columns)


def test_rows_show_the_columns_that_they_have():
  text = finished(outcome("abc"), outcome("ab", score_status="singular")).text()
  header, first, second = (line.split() for line in text.splitlines()[1:5] if "---" not in line)
  assert header == ["seed", "architecture", "the", "score", "params", "M", "MACs", "M"]
  assert first == ["0", "abc", "1.5", "3.000", "6.0"]
  assert second == ["1", "ab", "1.5", "(singular)", "2.000", "4.0"]
  assert "hidden" not in text and "no benchmark: give --benchmark" in text
  assert "wall time 1:01: compile 1.0 s, score 2.0 s, other 58.0 s" in text


def test_accuracies_and_ranks():
  run = finished(outcome("abc"), outcome("abcde"), benchmark=Table())
  assert run.rows[0]["cifar10_rank"] == 97 and run.rows[1]["cifar100_test"] == 95.5
  text = run.text()
  assert (
    "93.00 (97)" in text
    and "(rank) among the 99 architectures" in text
    and "94.00 ± 1.41" in text
    and "no benchmark" not in text
  )


def test_the_table_fits_the_terminal(monkeypatch):
  monkeypatch.setenv("COLUMNS", "64")
  text = finished(outcome("a" * 40), outcome("a" * 41), benchmark=Table()).text()
  table, notes = text.split("\n\n")
  assert max(map(len, table.splitlines())) <= 64
  assert notes.splitlines()[:2] == [f"[1] index 40: {'a' * 40}", f"[2] index 41: {'a' * 41}"]


def test_the_table_of_several_rules_fits_the_terminal(monkeypatch):
  """Long names of rules are broken into lines; one seed shows what it picked, several have means."""
  rule = "control: three + four + five"

  def picked(*archs):
    rows = [{"rule": name, "k": 3, "arch": arch} for name, arch in zip(("one", rule), archs, strict=True)]
    return Outcome(rows, columns=[Column("rule", "ranked by"), Column("k", "queries")], groups=("rule", "k"))

  monkeypatch.setenv("COLUMNS", "54")
  text = finished(picked("abc", "a" * 40), benchmark=Table()).text()
  lines = text.split("\n\n")[0].splitlines()
  assert max(map(len, lines)) <= 54 and "[1] index 40" in text
  assert [line.split() for line in lines[-3:]] == [
    ["abc", "one", "3", "93.00", "(97)", "93.50", "(97)"],
    ["[1]", "control:", "three", "+", "3", "130.00", "(60)", "130.50", "(60)"],
    ["four", "+", "five"],
  ]
  several = finished(picked("a", "aa"), picked("aa", "aaa"), benchmark=Table()).text().split("\n\n")[0].splitlines()
  assert max(map(len, several)) <= 54 and several[-2].split()[-6:] == ["92.50", "±", "0.71", "93.00", "±", "0.71"]


def test_the_bests_by_several_proxies_fit_the_terminal(monkeypatch):
  """Of one seed, without it and without sizes."""
  names = ("jaxnas: jacob_cov + effective_params", "ntk_condition_number_frozen")
  rows = [{"best_by": name, "arch": "a" * n, "score": -0.157568} for n, name in enumerate(names, 40)]
  columns = [Column("best_by", "best by"), Column("score", "score")]
  monkeypatch.setenv("COLUMNS", "80")
  text = finished(Outcome(rows, columns=columns), benchmark=Table()).text()
  table = text.split("\n\n")[0].splitlines()
  assert max(map(len, table)) <= 80 and not any("seed" in line for line in table)


def test_an_architecture_that_the_benchmark_lacks():
  assert "not in this benchmark" in finished(outcome("abcde"), benchmark=Table(4)).text()


def test_a_network_that_is_not_the_usual_one_has_its_own_size():
  (row,) = finished(outcome("abc", params=7_000_000, macs=8)).rows
  assert (row["params"], row["macs"]) == (7_000_000, 8)


def test_rows_without_architectures():
  run = finished(
    Outcome([{"task": "sines", "fitness": 0.5}], columns=[Column("task", "task"), Column("fitness", "|ρ|")])
  )
  assert run.text().splitlines()[1].split() == ["seed", "task", "|ρ|"]


def lines(words, proxy="length"):
  return [
    {"arch": word, "proxy": proxy, "value": len(word), "status": "ok", "rank_by": len(word), "seed": 0, "repeat": 0,
     "seconds": 0.1}
    for word in words
  ]  # fmt: skip


@pytest.mark.parametrize(("count", "most", "compared"), [(40, 99, 40), (30, 99, 0), (40, 35, 35), (40, 20, 0)])
def test_proxies_are_compared_on_many_architectures_of_the_benchmark(count, most, compared):
  found = Outcome([{"arch": "a"}], scores=lines("a" * n for n in range(1, count + 1)))
  comparison = finished(found, benchmark=Table(most)).comparison
  assert [line["n"] for line in comparison] == ([compared] * 2 if compared else [])
  assert finished(found).comparison == []


def test_two_forms_of_one_architecture_of_the_benchmark_are_compared_once():
  words = ["a" * n for n in range(1, 41)]
  found = Outcome([{"arch": "a"}], scores=lines([*words, "bbb"]))
  assert [line["n"] for line in finished(found, benchmark=Table()).comparison] == [40, 40]


def test_artefacts_of_the_first_seed_that_has_them(tmp_path):
  def draws(text):
    return lambda path: path.write_text(text)

  outcomes = [
    Outcome(
      [{"arch": "abc"}],
      artefacts=[
        Artefact("plot.png", "A plot.", draws(f"plot {seed}")),
        Artefact(f"data_seed{seed}.json", "Some data.", draws(f"data {seed}")),
      ],
      record={"steps": [seed]},
    )
    for seed in (0, 1)
  ]
  with Workdir.open(tmp_path / "run", CONFIG) as folder:
    written = page.write(finished(*outcomes), folder)
  assert (tmp_path / "run" / "plot.png").read_text() == "plot 0"
  assert (tmp_path / "run" / "data_seed1.json").read_text() == "data 1"
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["records"] == [{"seed": 0, "steps": [0]}, {"seed": 1, "steps": [1]}]
  assert [row["seed"] for row in result["results"]] == [0, 1] and "provenance" in result
  text = written.read_text()
  assert text.count("<figure>") == 2 and "The word." in text and "A plot." in text
  assert "<dt>found</dt><dd>abc</dd>" in text


def test_what_a_run_left_is_loaded_again(tmp_path):
  found = outcome("abc")
  found = Outcome(found.rows, found.columns, scores=lines(["a", "bb"]))
  with pytest.raises(WorkdirError, match="no finished run"):
    report.load(tmp_path)
  with Workdir.open(tmp_path / "run", CONFIG) as folder:
    page.write(finished(found, benchmark=Table()), folder)
  (row,) = report.load(tmp_path / "run")
  assert (row["arch"], row["algorithm"], row["cifar10_test"]) == ("abc", "made_up", 93.0)
  assert [(one["arch"], one["value"], one["seed"]) for one in report.load_scores(tmp_path / "run")] == [
    ("a", 1, 0), ("bb", 2, 0)
  ]  # fmt: skip
