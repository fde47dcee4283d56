"""The comparison of a whole space, at toy size: its jobs, and the tables made again from what they left."""

import csv
import re
import subprocess
import sys

import pytest
from helpers import ROOT, environment


def compare(out, *flags, check=True, timeout=300):
  line = [sys.executable, "experiments/compare.py", "--benchmark=nb201", "--dataset=synthetic", f"--out={out}", *flags]
  return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=timeout, check=check)


def test_jobs_then_tables_alone(tmp_path):
  compare(tmp_path, "--cheap=40", "--costly=5", "--only=controls,prior")
  proxies = (tmp_path / "proxies.md").read_text()
  rows = list(csv.DictReader((tmp_path / "proxies.csv").open(encoding="utf-8")))
  names = [row["proxy"] for row in rows]
  assert {"params", "flops", "effective_params", "skip_length", "params + skip_length"} < set(names)
  assert "jacob_cov + effective_params" not in names  # was not scored
  searches = (tmp_path / "searches.md").read_text()
  # No network at all finds the cell that the best published combination with a skip prior finds.
  assert re.search(r"params \+ skip_length, of all, 0 queries .* 94\.36 +\| +73\.51 +\| +46\.34", searches)
  assert "TE-NAS, published" in searches and "control: best of 40 random" in searches
  readme = (tmp_path / "readme.md").read_text()
  assert {"control: params", "control: params + skip_length"} <= set(re.findall(r"control: [a-z_+ ]*[a-z]", readme))
  assert "GenNAS, published" in readme and searches.strip() in readme
  for picture in ("spearman", "scatter", "correlations", "cost"):
    assert (tmp_path / f"{picture}.png").stat().st_size > 1000
  wall = (tmp_path / "cost.png").read_bytes()
  for name in ("proxies.md", "readme.md", "searches.md"):
    (tmp_path / name).unlink()
  rows = "| proxy | CPU s an architecture |\n| --- | ---: |\n| params | 0.002 |\n| skip_length | 0.003 |\n"
  (tmp_path / "costs.md").write_text(rows)
  compare(tmp_path, "--cheap=40", "--norun", f"--costs={tmp_path / 'costs.md'}")
  assert (tmp_path / "cost.png").read_bytes() != wall
  assert (tmp_path / "proxies.md").read_text() == proxies and (tmp_path / "readme.md").read_text() == readme


@pytest.mark.slow
def test_one_command_makes_every_row(tmp_path):
  sizes = ("--candidates=60", "--cheap=40", "--costly=5", "--seeds=2", "--pass_seeds=2")
  compare(tmp_path, "--toy", *sizes, timeout=3600)
  searches = (tmp_path / "searches.md").read_text()
  for title in (
    "KNAS, k=40 (2 seeds)", "KNAS, k=20 (2 seeds)", "control: params, KNAS, k=40", "control: random, KNAS, k=20",
    "NASI(T), FIX, mu=1, soft (2", "GenNAS, CONF_NB101, shortened (2", "TE-NAS, batch (2", "TE-NAS, batch_frozen (2",
    "jaxnas: jacob_cov + effective_params, of 60 random, 0 queries", "of 60 evolved, 20 queries",
    "jacob_cov + effective_params + skip_length, of 60 random", "freerea, of 60 random", "az_nas, of 60 random",
    "control: flops, of 60 random", "control: random, of 60 random",
    "params + skip_length, of 60 random, 0", "params + skip_length, of all, 0",
  ):  # fmt: skip
    assert title in searches, title
  rows = list(csv.DictReader((tmp_path / "proxies.csv").open(encoding="utf-8")))
  passes = {row["proxy"]: row["passes"] for row in rows}
  assert {"ntk_condition_number", "mgm_code", "signal_regression", "signal_regression + effective_params"} < set(passes)
  assert passes["jacob_cov + effective_params"] == passes["freerea"] == passes["az_nas"] == "2"


def test_refuses(tmp_path):
  done = compare(tmp_path, "--only=everything", check=False)
  assert done.returncode and "--only=everything" in done.stderr and "one_pass" in done.stderr
  done = compare(tmp_path, "--norun", check=False)
  assert done.returncode and "no finished job" in done.stderr
