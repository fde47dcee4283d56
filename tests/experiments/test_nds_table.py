"""experiments/nds_table.py on small made-up tables: its figures, written a second way, and what is left empty."""

import gzip
import json
import math

import jax
import numpy as np
import pytest
from helpers import python
from scipy import stats

from jaxnas import spaces
from jaxnas.spaces.nds.blocks import encoding as blocks
from jaxnas.spaces.nds.cells import encoding as cells

N, RESAMPLES = 20, 30  # two networks are the top 10 %
REGRESSED = 6
DRIVER = """
import sys
from experiments import nds_table
nds_table.RESAMPLES = int(sys.argv[1])
nds_table.FLAGS(["nds_table", *sys.argv[2:]])
nds_table.main([])
"""
ERRORS = np.random.default_rng(0).permutation(np.linspace(20.0, 60.0, N)).round(2)


def write_table(path, nets, base_lr):
  lines = [
    {"net": net, "base_lr": base_lr, "weight_decay": 5e-5, "epochs": 50, "params": 1, "flops": 1,
     "test_error_final": error, "test_error_min": error, "test_error_ep5": error}
    for net, error in zip(nets, ERRORS.tolist(), strict=True)
  ]  # fmt: skip
  path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))


def net_of(table, code):
  """A network of cells as the published tables have it."""
  own = cells.genotype(table, code)
  genotype = {}
  for name, slots, concat in zip(cells.CELLS, own.slots, own.concat, strict=True):
    genotype |= {name: [[table.ops[op], state] for op, state in slots], f"{name}_concat": list(concat)}
  return {"width": own.width, "depth": own.depth, "genotype": genotype}


def keep(folder, proxy, scores):
  folder.mkdir(exist_ok=True)
  with (folder / "scores.jsonl").open("a") as file:
    for arch, value in scores.items():
      file.write(json.dumps({"kind": "score", "proxy": proxy, "arch": arch, "rank_by": value}) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(what the script wrote, the stages' networks, their scores by naswot): of stages both jobs, of cells none."""
  folder = tmp_path_factory.mktemp("nds")
  staged, fixed = spaces.get("nds_resnext_a"), spaces.get("nds_darts_fix_w_d")
  codes = staged.sample(jax.random.key(0), N)
  write_table(folder / "ResNeXt-A.jsonl.gz", [blocks.to_net(staged.table, code) for code in codes], 0.05)
  drawn = fixed.sample(jax.random.key(0), N)
  write_table(folder / "DARTS_fix-w-d.jsonl.gz", [net_of(fixed.table, code) for code in drawn], 0.0125)
  archs = [staged.format(code) for code in codes]
  naswot = (np.random.default_rng(1).normal(0, 12, N) - ERRORS).tolist()
  naswot[7] = None  # degenerate, as a file has -inf
  out = folder / "out"
  out.mkdir()
  keep(out / "nds_resnext_a_one_pass", "naswot", dict(zip(archs, naswot, strict=True)))
  keep(out / "nds_resnext_a_regression", "signal_regression", dict(zip(archs[:REGRESSED], range(REGRESSED))))  # noqa: B905
  flags = (f"--tables={folder}", "--data_dir=none", f"--out={out}", "--only=nds_resnext_a,nds_darts_fix_w_d", "--jobs=")
  done = python(DRIVER, RESAMPLES, *flags)
  text = (out / "nds.md").read_text()
  assert text in done.stdout
  return text, codes, np.array([-math.inf if value is None else value for value in naswot])


def tables(text):
  """Rows as {column: cell} by their first cell, of each table by its title."""
  found = {}
  for part in text.split("## ")[1:]:
    title, _, *lines = part.strip().split("\n")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found[title] = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
  return found


def shown(value, samples):
  return f"{value:.2f} ± {np.std(samples, ddof=1):.2f}"


def partial(x, p, y):
  """Correlation of what is left of the ranks of x and y after linear regression on those of p."""
  x, p, y = map(stats.rankdata, (x, p, y))
  design = np.stack([np.ones(len(p)), p], 1)
  left = [column - design @ np.linalg.lstsq(design, column, rcond=None)[0] for column in (x, y)]
  return np.corrcoef(*left)[0, 1]


def ahead(x, p, y):
  return stats.spearmanr(x, y).statistic - stats.spearmanr(p, y).statistic


def test_what_a_proxy_adds_to_params(made):
  text, codes, naswot = made
  space, accuracy = spaces.get("nds_resnext_a"), 100 - ERRORS
  params = np.array([space.published_costs(code).params for code in codes])
  line = tables(text)["nds_resnext_a"]["naswot"]
  generator = np.random.default_rng(0)
  drawn = [generator.integers(0, N, N) for _ in range(RESAMPLES)]
  for column, of in (("less that of params", ahead), ("partial", partial)):
    samples = [of(naswot[rows], params[rows], accuracy[rows]) for rows in drawn]
    assert line[column] == shown(of(naswot, params, accuracy), samples), column
  assert (line["n"], line["degenerate"]) == (str(N), "1")
  assert line["Spearman"].startswith(f"{stats.spearmanr(naswot, accuracy).statistic:.2f} ± ")
  assert line["Kendall τ-b"] == f"{stats.kendalltau(naswot, accuracy).statistic:.2f}"
  both = {*np.argsort(naswot)[-2:].tolist()} & {*np.argsort(accuracy)[-2:].tolist()}
  assert line["top 10 % retrieved"] == f"{len(both) / 2:.0%}"
  same = tables(text)["nds_resnext_a"]["params (control)"]
  assert same["less that of params"] == same["partial"] == ""


def test_jobs_that_were_not_run_leave_empty_cells(made):
  found = tables(made[0])
  for title in ("Spearman", "Retrieving rate at the top 10 %"):
    scored, bare = (found[title][name] for name in ("nds_resnext_a", "nds_darts_fix_w_d"))
    assert scored["naswot"] and scored["signal_regression"] and scored["synflow"] == ""
    assert bare["params"] and bare["naswot"] == bare["signal_regression"] == ""
    assert scored["rate_decay"] == bare["rate_decay"] == ""  # all are trained alike
  assert found["nds_darts_fix_w_d"]["params (control)"]["n"] == str(N)  # on all of the table


def test_a_constant_control_ranks_nothing(made):
  found = tables(made[0])
  for name in ("width", "depth"):
    line = found["nds_darts_fix_w_d"][f"{name} (control)"]
    assert line == {**dict.fromkeys(line, ""), "n": str(N), "degenerate": "0"}
    rates = found["Retrieving rate at the top 10 %"]
    assert found["Spearman"]["nds_darts_fix_w_d"][name] == rates["nds_darts_fix_w_d"][name] == ""
    assert rates["mean"][name] == rates["nds_resnext_a"][name] != ""


def test_beside_the_regression_stand_others_on_its_networks(made):
  text, _, naswot = made
  rows = next(rows for title, rows in tables(text).items() if title.startswith("signal_regression"))
  assert list(rows) == ["nds_resnext_a"]
  row, accuracy = rows["nds_resnext_a"], 100 - ERRORS[:REGRESSED]
  assert row["n"] == str(REGRESSED)
  for name, values in (("signal_regression", range(REGRESSED)), ("naswot", naswot[:REGRESSED])):
    assert row[name].startswith(f"{stats.spearmanr(values, accuracy).statistic:.2f} ± ")
  best = int(np.argmax(accuracy)) == REGRESSED - 1
  assert row["top 10 % retrieved by signal_regression"] == f"{best:.0%}"
