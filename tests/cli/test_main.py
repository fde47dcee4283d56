"""The command line end to end, in subprocesses as a user runs it."""

import contextlib
import json
import logging
import signal
import subprocess
import time

import pytest
from helpers import command, environment, jaxnas, python, refused

from jaxnas import run

SMALL = [
  "--ntk_batch=6",
  "--repeats=1",
  "--region_batches=1",
  "--region_samples=60",
  "--ntk_channels=2",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """One compilation cache for all runs of this file."""
  return tmp_path_factory.mktemp("cache")


def result(folder):
  return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
  """A small search that ran through."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  done = jaxnas(*SMALL, f"--workdir={folder}", cache=cache)
  return folder, done


def test_a_run_leaves_everything(finished):
  folder, done = finished
  found = result(folder)["results"]
  assert found[0]["arch"] in done.stdout
  assert "none" not in found[0]["arch"]
  names = {p.name for p in folder.iterdir()}
  assert {"config.json", "scores.jsonl", "result.json", "log", "cell.png", "report.html"} <= names
  assert {"pruning_history.png", "ntk_spectrum.png"} <= names
  assert "57/57 supernets" in done.stderr and "left" in done.stderr
  page = (folder / "report.html").read_text()
  assert "data:image/png;base64," in page and "http" not in page
  assert len(result(folder)["records"][0]["history"]) == 3
  assert "wall time" in done.stdout and result(folder)["seconds"].keys() == {"wall", "compile", "score", "other"}


def test_killed_and_continued_ends_the_same(finished, cache, tmp_path):
  folder = tmp_path / "run"
  process = subprocess.Popen(
    command(*SMALL, f"--workdir={folder}"),
    env=environment(cache=cache),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  scores = folder / "scores.jsonl"
  deadline = time.monotonic() + 300
  while not (scores.exists() and scores.read_bytes().count(b"\n") >= 1):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = scores.read_bytes()
  assert not (folder / "result.json").exists()
  jaxnas(*SMALL, f"--workdir={folder}", cache=cache)
  assert scores.read_bytes().startswith(before.rpartition(b"\n")[0])
  assert scores.read_bytes().count(b"\n") == 3
  assert result(folder)["records"] == result(finished[0])["records"]
  assert result(folder)["results"] == result(finished[0])["results"]


def test_other_flags_in_the_same_workdir_are_refused(finished, cache):
  folder, _ = finished
  before = (folder / "scores.jsonl").read_bytes()
  done = jaxnas(*SMALL, "--variant=code", f"--workdir={folder}", cache=cache, check=False)
  refused(done, "--variant", "stable", "code")
  assert (folder / "scores.jsonl").read_bytes() == before


def test_tabular_look_up_and_random_search(cache, shared, tmp_path):
  table = shared / "data" / "nasbench201.csv.gz"
  done = jaxnas(
    "--algorithm=random_search", "--criterion=valid_12ep", "--samples=20", "--seeds=0,1",
    f"--benchmark={table}", f"--workdir={tmp_path / 'run'}", cache=cache,
  )  # fmt: skip
  rows = result(tmp_path / "run")["results"]
  assert [r["seed"] for r in rows] == [0, 1]
  assert all(85 < r["cifar10_test"] < 94.4 and 1 <= r["cifar10_rank"] <= 15625 for r in rows)
  assert "mean ± std" in done.stdout


TINY_SCORE = ["--algorithm=score", "--score_batch=4", "--score_channels=2", "--score_cells=1"]
CHEAP = ["--proxies=params,l2_norm", *TINY_SCORE]


def test_score_of_named_architectures(cache, tmp_path):
  arch = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
  folder = tmp_path / "run"
  done = jaxnas(
    *TINY_SCORE, f"--archs=0,{arch},6111", "--proxies=params,naswot,linear_regions", "--region_samples=50",
    "--region_batches=1", f"--workdir={folder}", cache=cache,
  )  # fmt: skip
  rows = result(folder)["results"]
  assert rows[0]["arch"] == arch and len(rows) == 2  # index 0 is that architecture
  assert rows[0]["params"] < rows[1]["params"]
  assert rows[0]["linear_regions"] >= 1 and {"naswot", "naswot_status"} <= rows[0].keys()
  assert done.stdout.count(arch) >= 1


def test_a_precision_is_of_the_scores_and_of_the_workdir(cache, tmp_path):
  flags = [*TINY_SCORE, "--archs=9930", "--proxies=trace_norm"]
  jaxnas(*flags, f"--workdir={tmp_path / 'a'}", cache=cache)
  jaxnas(*flags, f"--workdir={tmp_path / 'b'}", "--precision=bfloat16", cache=cache)
  a, b = (json.loads((tmp_path / name / "scores.jsonl").read_text())["value"] for name in "ab")
  assert 1e-5 < abs(b / a - 1) < 0.2
  assert json.loads((tmp_path / "a" / "config.json").read_text())["config"]["precision"] == "highest"
  done = jaxnas(*flags, f"--workdir={tmp_path / 'b'}", "--precision=high", cache=cache, check=False)
  refused(done, "precision", "bfloat16", "high")
  done = jaxnas(*flags, f"--workdir={tmp_path / 'b'}", cache=cache, check=False)
  refused(done, "precision", "bfloat16", "highest")
  done = jaxnas(*flags, f"--workdir={tmp_path / 'a'}", "--precision=high", cache=cache, check=False)
  refused(done, "precision", "highest", "high")
  done = jaxnas(*flags, f"--workdir={tmp_path / 'a'}", "--score_side=16", cache=cache, check=False)
  refused(done, "--score_side: was null, now 16")


def test_scores_of_a_run_before_there_was_a_setting_are_continued_at_its_default(cache, tmp_path):
  flags = [*TINY_SCORE, "--archs=9930", "--proxies=trace_norm", f"--workdir={tmp_path}"]
  jaxnas(*flags, cache=cache)
  kept = json.loads((tmp_path / "config.json").read_text())
  for name in ("precision", "encoder", "tokenizer", "tokens", "score_side"):
    del kept["config"][name]
  (tmp_path / "config.json").write_text(json.dumps(kept))
  jaxnas(*flags, cache=cache)
  assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 1
  refused(jaxnas(*flags, "--score_side=16", cache=cache, check=False), "--score_side: was null, now 16")


def test_proxies_are_compared_on_many_architectures(cache, shared, tmp_path):
  folder, table = tmp_path / "run", shared / "data" / "nasbench201.csv.gz"
  done = jaxnas(
    *CHEAP, "--archs=random:50,random:40,random:50", "--seeds=0,1", "--repeats_per_seed=2", f"--benchmark={table}",
    f"--workdir={folder}", cache=cache,
  )  # fmt: skip
  lines = {line["proxy"]: line for line in result(folder)["comparison"]}
  assert lines["params"]["n"] == 50 and lines["params"]["cifar10_spearman"] > 0.5  # draws named twice count once
  assert "random shortlist" in lines and "Spearman" in done.stdout
  assert "200 architectures" in done.stderr
  assert {"comparison.md", "comparison.csv", "scatter.png", "spearman.png"} <= {p.name for p in folder.iterdir()}
  assert (folder / "scores.jsonl").read_bytes().count(b"\n") == 2 * 2 * 2 * 50


def test_a_killed_scoring_continues_without_rescoring(cache, tmp_path):
  flags = [*CHEAP, "--archs=random:300"]
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  jaxnas(*flags, f"--workdir={whole}", cache=cache)
  wanted = (whole / "scores.jsonl").read_text().splitlines()
  killed.mkdir()
  (killed / "config.json").write_bytes((whole / "config.json").read_bytes())
  (killed / "scores.jsonl").write_text("\n".join(wanted[:41]) + "\n" + wanted[41][:30])  # cut inside a line
  jaxnas(*flags, f"--workdir={killed}", cache=cache)
  found = (killed / "scores.jsonl").read_text().splitlines()
  assert found[:41] == wanted[:41] and len(found) == len(wanted)

  def numbers(lines):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

  assert sorted(map(str, numbers(found))) == sorted(map(str, numbers(wanted)))


def test_two_runs_in_one_workdir(cache, tmp_path):
  folder = tmp_path / "run"
  flags = [*CHEAP, "--archs=all", f"--workdir={folder}"]
  process = subprocess.Popen(
    command(*flags), env=environment(cache=cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    deadline = time.monotonic() + 120
    while not (folder / "scores.jsonl").exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.05)
    refused(jaxnas(*flags, cache=cache, check=False), "--workdir", "in use", str(process.pid))
  finally:
    process.kill()
    process.wait()


def test_knas_by_the_table(cache, shared, tmp_path):
  folder, table = tmp_path / "run", shared / "data" / "nasbench201.csv.gz"
  jaxnas(
    "--algorithm=knas", "--knas_candidates=40", "--knas_shortlist=10", "--knas_score=params",
    f"--benchmark={table}", f"--workdir={folder}", "--knas_batch=2", cache=cache,
  )  # fmt: skip
  (row,) = result(folder)["results"]
  assert row["cifar10_test"] > 91 and row["validation"] > 75


@pytest.mark.slow
def test_nasi_small(cache, tmp_path):
  folder = tmp_path / "run"
  done = jaxnas(
    "--algorithm=nasi", "--nasi_steps=4", "--nasi_batch=4", "--nasi_channels=2", "--nasi_cells=1",
    "--nasi_nu=1e6", f"--workdir={folder}", cache=cache,
  )  # fmt: skip
  idle = "NASI, seed 0: T~ was never above nu"
  assert done.stderr.count(f"jaxnas: warning: {idle}") == 1 and (folder / "log").read_text().count(idle) == 1
  (row,) = result(folder)["results"]
  assert row["arch"].count("|") == 9 and row["nasi_status"] in ("ok", "disconnected")
  assert result(folder)["records"][0]["relaxation"] == "straight_through"


def test_help_is_a_page_and_an_algorithms_help_has_its_defaults(cache):
  done = jaxnas("--help", cache=cache)
  lines = done.stdout.splitlines()
  assert len(lines) <= 40 and max(map(len, lines)) <= 80
  for word in ("--workdir", "--benchmark", "gennas_task", "nb101", "imagenet2012", "--helpfull"):
    assert word in done.stdout
  done = jaxnas("--algorithm=tenas", "--help", cache=cache)
  assert max(map(len, done.stdout.splitlines())) <= 80
  for word in ("--repeats=3", "--batch_norm=batch_frozen", "--ntk_batch", "--region_samples=1000"):
    assert word in done.stdout
  assert "--samples" not in done.stdout


def test_unwritable_workdir(cache, tmp_path):
  (tmp_path / "file").write_text("not a folder")
  refused(jaxnas(*SMALL, f"--workdir={tmp_path / 'file'}", cache=cache, check=False), "--workdir")


def test_warnings_are_shown_and_also_in_the_log(capsys, tmp_path):
  log, file = logging.getLogger("jaxnas"), logging.FileHandler(tmp_path / "log")
  with contextlib.ExitStack() as stack:
    stack.callback(file.close)
    run._log_to(run._Warnings(logging.WARNING), stack)
    run._log_to(file, stack)
    log.info("score 1")
    logging.getLogger("jaxnas.scoring.engine").warning("now %d rows", 3)
    assert not log.propagate
  log.warning("afterwards")
  assert capsys.readouterr().err == "jaxnas: warning: now 3 rows\n"
  assert (tmp_path / "log").read_text() == "score 1\nnow 3 rows\n"
  assert log.propagate and not log.handlers and log.level == logging.NOTSET


def test_imports_stay_light():
  code = (
    "import sys, jaxnas.main, jaxnas.ntk, jaxnas.proxies, jaxnas.report; "
    "heavy = {'tensorflow', 'torch', 'tensorflow_datasets', 'nats_bench', 'matplotlib'}; "
    "print(sorted(heavy & set(sys.modules)))"
  )
  assert python(code).stdout.strip() == "[]"
