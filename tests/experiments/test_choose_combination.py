"""What is chosen on one half of the architectures, and that the other half alone is reported."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from scipy import stats

from jaxnas import spaces, tabular

ARCHS, SEEDS = 120, 2


def keep_scores(folder, seed, rows):
  """A work directory's scores of one seed, by proxy and architecture."""
  folder.mkdir(exist_ok=True)
  with (folder / "scores.jsonl").open("a") as file:
    for proxy, scores in rows.items():
      for arch, value in scores.items():
        line = {"kind": "score", "seed": seed, "repeat": 0, "arch": arch, "proxy": proxy, "rank_by": float(value)}
        file.write(json.dumps(line) + "\n")


def run(*arguments, script="choose_combination"):
  command = [sys.executable, f"experiments/{script}.py", *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path):
  """Two noisy copies of the accuracy that err independently, one that errs more, noise, and a count of no seed."""
  benchmark = tabular.open_benchmark(None, spaces.get("nb201"))
  rng = np.random.default_rng(0)
  archs = [benchmark.archs[i] for i in rng.choice(15625, ARCHS, replace=False)]
  ranks = np.argsort(np.argsort([benchmark.accuracy(a, "cifar10") for a in archs]))
  for seed in range(SEEDS):
    errors = {"naswot": 30, "synflow": 30, "snip": 80, "zen": 1e6}
    rows = {name: dict(zip(archs, ranks + rng.normal(0, e, ARCHS), strict=True)) for name, e in errors.items()}
    keep_scores(tmp_path / "run", seed, rows)
  keep_scores(tmp_path / "run", 0, {"params": dict.fromkeys(archs, 1.0), "fisher": {archs[0]: 1.0}})
  return tmp_path / "run"


def alone(folder, proxy, positions, seeds=range(SEEDS)):
  """Spearman with test accuracy of the architectures at these positions, of each seed, computed anew."""
  benchmark = tabular.open_benchmark(None, spaces.get("nb201"))
  lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
  found = []
  for seed in seeds:
    own = [line for line in lines if (line["proxy"], line["seed"]) == (proxy, seed)]
    values = [(own[i]["rank_by"], benchmark.accuracy(own[i]["arch"], "cifar10")) for i in positions]
    found.append(stats.spearmanr(*zip(*values, strict=True)).statistic)
  return found


def test_the_two_good_proxies_are_chosen_and_a_proxy_of_one_architecture_is_left_out(folder, tmp_path):
  ran = run(folder, "--halvings=3", "--beside=naswot+snip", f"--out={tmp_path / 'table.md'}")
  assert ran.returncode == 0, ran.stderr
  text = (tmp_path / "table.md").read_text()
  assert f"{ARCHS} architectures of nb201, {SEEDS} passes, 5 proxies, 25 sets" in text
  assert "left out: fisher" in text and "chosen by valid accuracy, reported with test accuracy" in text
  best = re.search(r"chosen, place 1 *\| ([\w +]+?) *\| *(\S+) \| *(\S+) /", text)
  single = re.search(r"best single proxy *\| ([\w +]+?) *\| *(\S+) \| *(\S+) /", text)
  assert best and single
  assert {"naswot", "synflow"} <= set(best[1].split(" + ")) and single[1] in ("naswot", "synflow")
  second = np.array_split(np.random.default_rng(0).permutation(ARCHS), 2)[1]  # nothing was chosen here
  assert float(best[3]) > float(single[3]) > 0.5
  assert float(single[3]) == pytest.approx(np.mean(alone(folder, single[1], second)), abs=6e-4)
  assert re.search(r"control *\| params *\| *0\.000 \| *0\.000 /", text)  # a constant ranks nothing
  assert "naswot + snip" in text


def made_up(folder, seeds):
  """Random scores of proxies in these seeds."""
  benchmark, rng = tabular.open_benchmark(None, spaces.get("nb201")), np.random.default_rng(1)
  for proxy, some in seeds.items():
    for seed in some:
      keep_scores(folder, seed, {proxy: dict(zip(benchmark.archs[:ARCHS], rng.normal(size=ARCHS), strict=True))})


def test_proxies_are_paired_within_a_seed(tmp_path):
  made_up(tmp_path / "run", {"naswot": (0, 1), "synflow": (1, 2), "params": (0,)})
  ran = run(tmp_path / "run", "--halvings=1", "--beside=naswot,synflow")
  assert ran.returncode == 0, ran.stderr
  assert f"{ARCHS} architectures of nb201, 1 passes, 3 proxies" in ran.stdout
  assert "left out: seed 0 repeat 0, seed 2 repeat 0 of some proxies" in ran.stdout
  second = np.array_split(np.random.default_rng(0).permutation(ARCHS), 2)[1]
  for proxy in ("naswot", "synflow"):
    shown = re.search(rf"named *\| {proxy} *\| *(\S+) \| *(\S+) /", ran.stdout)
    assert shown and float(shown[2]) == pytest.approx(*alone(tmp_path / "run", proxy, second, [1]), abs=6e-4)


def test_proxies_without_a_common_seed_are_refused(tmp_path):
  made_up(tmp_path / "run", {"naswot": (0,), "synflow": (1,), "params": (0,)})
  ran = run(tmp_path / "run")
  assert ran.returncode != 0 and "naswot seed 0 repeat 0; synflow seed 1 repeat 0" in ran.stderr
  assert "--leave_out" in ran.stderr and "params seed" not in ran.stderr
  ran = run(tmp_path / "run", "--leave_out=synflow", "--halvings=1")
  assert ran.returncode == 0 and "1 passes, 2 proxies" in ran.stdout


def test_a_folder_that_holds_no_scores_is_named(tmp_path):
  ran = run(tmp_path)
  assert ran.returncode != 0 and "scores.jsonl" in ran.stderr and str(tmp_path) in ran.stderr
  (tmp_path / "scores.jsonl").touch()
  ran = run(tmp_path)
  assert ran.returncode != 0 and f"{tmp_path}: no scores" in ran.stderr


@pytest.mark.parametrize(
  ("left_out", "said"),
  [("naswot", "no scores but those in --leave_out"), ("naswott", "--leave_out=naswott: the folders have no scores of")],
)
def test_what_cannot_be_left_out_is_refused(tmp_path, left_out, said):
  made_up(tmp_path / "run", {"naswot": (0,)})
  ran = run(tmp_path / "run", f"--leave_out={left_out}")
  assert ran.returncode != 0 and said in ran.stderr


def test_seeds_are_averaged_and_an_interrupted_one_left_out(folder):
  with (folder / "scores.jsonl").open("a") as file:
    line = {"kind": "score", "seed": 5, "repeat": 0, "arch": "|", "proxy": "naswot", "rank_by": 1.0}
    file.write(json.dumps(line) + "\n")
  ran = run(folder, "--combinations=naswot+synflow", script="combination_seeds")
  assert ran.returncode == 0, ran.stderr
  assert f"{ARCHS} architectures of nb201, {SEEDS} passes" in ran.stdout
  shown = re.search(r"\| naswot +\| (\S+) ± (\S+); ", ran.stdout)
  each = alone(folder, "naswot", range(ARCHS))
  assert shown and float(shown[1]) == pytest.approx(np.mean(each), abs=6e-4)
  assert float(shown[2]) == pytest.approx(np.std(each, ddof=1), abs=6e-4)
