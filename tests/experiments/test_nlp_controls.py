"""experiments/nlp_controls.py on a small made-up table: its figures, written a second way."""

import csv
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT, environment
from scipy import stats

from jaxnas import spaces
from jaxnas.spaces.nlp import costs, encoding

N, FAILED, RESAMPLES = 12, (2, 9), 40
LOSSES = np.random.default_rng(3).permutation(np.linspace(4.6, 5.6, N))
EARLY = LOSSES + np.random.default_rng(4).normal(0, 0.2, N)
SCORES = np.array([[4.0, 1, 7, 3, 3, -math.inf, 9, 2, 8, 3, 6, 5], [2.0, 1, 7, 5, 3, -math.inf, 9, 4, 8, 3, 6, 5]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(codes of the recipes, rows of the printed table by name)."""
  folder = tmp_path_factory.mktemp("nlp")
  space = spaces.get("nlp")
  codes = space.sample(jax.random.key(0), N)
  lines = []
  for i, code in enumerate(codes):
    run = {"status": "OK", "test_loss": LOSSES[i], "val_loss": LOSSES[i], "val_loss_3": EARLY[i], "val_loss_10": 5.0}
    own = {"status": "loss is nan!"} if i in FAILED else run
    lines.append(json.dumps({"position": i, "cell": i, "recipe": encoding.to_recipe(code), "ptb": [own]}))
  (folder / "ptb.jsonl").write_text("\n".join(lines))
  with (folder / "scores.csv").open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(("arch", "proxy", "rank_by", "seed", "repeat"))
    for seed, values in enumerate(SCORES):
      rows.writerows((space.format(code), "naswot", value, seed, 0) for code, value in zip(codes, values, strict=True))
  command = [sys.executable, "experiments/nlp_controls.py", f"--benchmark={folder / 'ptb.jsonl'}", str(folder)]
  command.append(f"--resamples={RESAMPLES}")
  done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.strip().split("\n")]
  return codes, {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def shown(scores, truths):
  """Spearman's correlation ± its standard deviation over resamples, of those that vary."""
  generator = np.random.default_rng(0)
  draws = [generator.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES)]
  each = [stats.spearmanr(scores[rows], truths[rows]).statistic for rows in draws]
  return f"{stats.spearmanr(scores, truths).statistic:.2f} ± {np.nanstd(each):.2f}"


ENDED = np.array([i not in FAILED for i in range(N)])


def test_a_proxy_over_seeds(made):
  line, scores = made[1]["naswot"], SCORES.mean(0)
  finite = ENDED & np.isfinite(scores)
  assert line["recipes that ended"] == f"{N - 2} of {N}" and line["of finite score"] == str(N - 3)
  assert line["Spearman"] == shown(scores[ENDED], -np.exp(LOSSES[ENDED]))
  assert line["Spearman among these"] == shown(scores[finite], -np.exp(LOSSES[finite]))
  below = [(scores[f] < scores[e]) + (scores[f] == scores[e]) / 2 for f in FAILED for e in np.flatnonzero(ENDED)]
  assert line["failed rank below"] == f"{np.mean(below):.2f}" != "0.50"


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_controls_on_the_same_recipes(made):
  codes, rows = made
  early = rows["validation loss after 3 epochs (control)"]
  assert early["Spearman"] == shown(-EARLY[ENDED], -LOSSES[ENDED])
  assert early["failed rank below"] == "1.00"  # a loss that is unknown ranks last
  for name, count in (
    ("parameters", lambda code: costs.count(code).params),
    ("nodes", lambda code: len(encoding.unpack(code).nodes)),
    ("states", lambda code: len(encoding.unpack(code).states)),
  ):
    counts = np.array([count(code) for code in codes], float)
    assert rows[f"{name} (control)"]["Spearman"] == shown(counts[ENDED], -LOSSES[ENDED]), name


def test_a_constant_control_has_no_figure(made):
  line = made[1]["validation loss after 10 epochs (control)"]
  assert line["Spearman"] == line["Spearman among these"] == "nan ± nan" and line["of finite score"] == str(N - 2)
