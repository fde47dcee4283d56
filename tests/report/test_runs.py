"""Runs side by side."""

import json

import pytest
from helpers import png_size

from jaxnas import data, report, spaces
from jaxnas.base import Context
from jaxnas.errors import ConfigError, WorkdirError
from jaxnas.report.runs import CompareRuns, RunsConfig


def leave(folder, rows, algorithm="tenas"):
  folder.mkdir(parents=True)
  config = {"algorithm": algorithm, "space": "nb201", "dataset": "synthetic"}
  (folder / "result.json").write_text(
    json.dumps({"config": config, "accuracies": [key for key in rows[0] if key != "seed"], "results": rows})
  )
  return str(folder)


def compared(*runs):
  return CompareRuns().search(Context(spaces.get("nb201"), data.load(), RunsConfig(runs)), 0)


def test_a_row_a_run_with_mean_and_deviation(tmp_path):
  first = leave(tmp_path / "a", [{"seed": 0, "cifar10_test": 93.0}, {"seed": 1, "cifar10_test": 94.0}])
  second = leave(tmp_path / "b", [{"seed": 0, "cifar100_test": 70.0}], "knas")
  outcome = compared(first, second)
  assert [(row["run"], row["algorithm"], row["architectures"]) for row in outcome.rows] == [
    ("a", "tenas", 2),
    ("b", "knas", 1),
  ]
  assert outcome.rows[0]["cifar10_test"] == "93.50 ± 0.71" and outcome.rows[0]["cifar100_test"] == "-"
  assert outcome.rows[1]["cifar100_test"] == "70.00"
  (picture,) = outcome.artefacts
  picture.draw(tmp_path / picture.file)
  assert min(png_size(tmp_path / picture.file)) > 100


def test_a_rule_and_its_controls_are_rows_of_their_own(tmp_path):
  """Else a method's mean would be that of its controls too."""
  rows = [
    {"rule": rule, "k": k, "seed": seed, "cifar10_test": value + seed}
    for rule, value in (("mgm", 90.0), ("control: random", 80.0))
    for k in (0, 5)
    for seed in (0, 1)
  ]
  (tmp_path / "a").mkdir()
  config = {"algorithm": "ranked", "space": "nb201", "dataset": "synthetic"}
  result = {"config": config, "accuracies": ["cifar10_test"], "groups": ["rule", "k"], "results": rows}
  (tmp_path / "a" / "result.json").write_text(json.dumps(result))
  assert [(row["run"], row["architectures"], row["cifar10_test"]) for row in compared(str(tmp_path / "a")).rows] == [
    ("a: mgm, 0", 2, "90.50 ± 0.71"),
    ("a: mgm, 5", 2, "90.50 ± 0.71"),
    ("a: control: random, 0", 2, "80.50 ± 0.71"),
    ("a: control: random, 5", 2, "80.50 ± 0.71"),
  ]


def test_runs_without_a_benchmark_have_what_they_validated(tmp_path):
  rows = [{"seed": 0, "validation": 81.0}, {"seed": 1, "validation": None}]
  (tmp_path / "a").mkdir()
  config = {"algorithm": "knas", "space": "encoder", "dataset": "sst2"}
  (tmp_path / "a" / "result.json").write_text(json.dumps({"config": config, "accuracies": [], "results": rows}))
  outcome = compared(str(tmp_path / "a"), leave(tmp_path / "b", [{"seed": 0, "cifar10_test": 93.0}]))
  assert outcome.rows[0]["validation"].startswith("81.00") and outcome.rows[0]["cifar10_test"] == "-"
  assert outcome.rows[1]["validation"] == "-" and outcome.rows[1]["cifar10_test"] == "93.00"
  outcome.artefacts[0].draw(tmp_path / "runs.png")


def test_two_folders_of_one_name_go_by_their_paths(tmp_path):
  runs = [leave(tmp_path / part / "out", [{"seed": 0, "cifar10_test": 90.0}]) for part in ("x", "y")]
  assert [row["run"] for row in compared(*runs).rows] == runs


def test_what_cannot_be_compared_is_refused(tmp_path):
  run = leave(tmp_path / "a", [{"seed": 0}])
  for runs, message in (((), "needs --runs"), ((run, run), "names a run twice")):
    with pytest.raises(ConfigError, match=message):
      compared(*runs)
  with pytest.raises(WorkdirError, match="--runs=.* holds no finished run"):
    compared(str(tmp_path / "nothing"))
  for part in (
    {"results": 5},
    {"results": ["a"]},
    {"config": 5},
    {"accuracies": 7},
    {"accuracies": ["seed", 1]},
    {"groups": 3},
  ):
    edited = json.loads((tmp_path / "a" / "result.json").read_text()) | part
    (tmp_path / "edited").mkdir(exist_ok=True)
    (tmp_path / "edited" / "result.json").write_text(json.dumps(edited))
    with pytest.raises(WorkdirError, match="--runs=.* holds no finished run"):
      compared(str(tmp_path / "edited"))
  assert report.load(run)[0]["algorithm"] == "tenas"
