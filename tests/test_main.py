"""The command line end to end, in subprocesses as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

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


def command(*flags):
  return [sys.executable, "-m", "jaxnas.main", *flags]


def environment(cache):
  keep = {k: v for k, v in os.environ.items() if not k.startswith("JAXNAS_")}
  return {**keep, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}


def jaxnas(cache, *flags, check=True):
  done = subprocess.run(command(*flags), capture_output=True, text=True, env=environment(cache), timeout=600)
  if check:
    assert done.returncode == 0, done.stderr
  return done


def result(folder):
  return json.loads((folder / "result.json").read_text())


def refused(done, *words):
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("jaxnas: error: ")
  assert done.stderr.count("\n") == 1, done.stderr
  for word in words:
    assert word in done.stderr


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
  """A small search that ran through."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  done = jaxnas(cache, *SMALL, f"--workdir={folder}")
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
  assert len(result(folder)["history"]) == 3
  assert "compile" in done.stdout and "score" in done.stdout


def test_killed_and_continued_ends_the_same(finished, cache, tmp_path):
  folder = tmp_path / "run"
  process = subprocess.Popen(
    command(*SMALL, f"--workdir={folder}"),
    env=environment(cache),
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
  jaxnas(cache, *SMALL, f"--workdir={folder}")
  assert scores.read_bytes().startswith(before.rpartition(b"\n")[0])
  assert scores.read_bytes().count(b"\n") == 3
  assert result(folder)["history"] == result(finished[0])["history"]
  assert result(folder)["results"] == result(finished[0])["results"]


def test_other_flags_in_the_same_workdir_are_refused(finished, cache):
  folder, _ = finished
  before = (folder / "scores.jsonl").read_bytes()
  done = jaxnas(cache, *SMALL, "--variant=code", f"--workdir={folder}", check=False)
  refused(done, "--variant", "stable", "code")
  assert (folder / "scores.jsonl").read_bytes() == before


def test_tabular_look_up_and_random_search(cache, shared, tmp_path):
  table = shared / "data" / "nasbench201.csv.gz"
  done = jaxnas(
    cache, "--algorithm=random_search", "--criterion=valid_12ep", "--samples=20", "--seeds=0,1",
    f"--benchmark={table}", f"--workdir={tmp_path / 'run'}",
  )  # fmt: skip
  rows = result(tmp_path / "run")["results"]
  assert [r["seed"] for r in rows] == [0, 1]
  assert all(85 < r["cifar10_test"] < 94.4 and 1 <= r["cifar10_rank"] <= 15625 for r in rows)
  assert "mean ± std" in done.stdout


def test_score_of_named_architectures(cache, tmp_path):
  arch = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
  folder = tmp_path / "run"
  done = jaxnas(cache, "--algorithm=score", f"--archs=0,{arch}", *SMALL[:1], *SMALL[2:], f"--workdir={folder}")
  rows = result(folder)["results"]
  assert rows[0] == rows[1] and rows[0]["arch"] == arch
  assert done.stdout.count(arch) >= 2


def test_help_names_every_flag(cache):
  done = jaxnas(cache, "--help", check=False)
  for flag in ("--algorithm", "--benchmark", "--workdir", "--batch_norm", "--repeats", "--samples"):
    assert flag in done.stdout + done.stderr


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--algorithm=darts"], ["algorithm", "darts", "tenas"]),
    (["--nonsense=1"], ["nonsense"]),
    (["--repeats=0"], ["--repeats=0"]),
    (["--ntk_batch=1"], ["--ntk_batch=1"]),
    (["--seeds=1,1"], ["--seeds"]),
    (["--samples=3"], ["--samples", "random_search"]),
    (["--download"], ["--download", "synthetic"]),
    (["--benchmark=does_not_exist"], ["--benchmark", "does_not_exist"]),
    (["--dataset=cifar10", "--data_dir=does_not_exist"], ["--data_dir", "--download"]),
    (["--algorithm=score"], ["--archs"]),
    (["--algorithm=score", "--archs=15625"], ["15625"]),
    (
      ["--algorithm=score", "--archs=|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|"],
      ["conv", "nor_conv_1x1"],
    ),
    (["--algorithm=score", "--archs=|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"], ["no path"]),
    (
      ["--algorithm=random_search", "--criterion=valid_12ep"],
      ["--criterion=valid_12ep", "--benchmark"],
    ),
    (["stray"], ["stray"]),
  ],
)
def test_bad_input_is_one_line_and_exit_code_2(cache, flags, words):
  refused(jaxnas(cache, *flags, check=False), *words)


def test_unwritable_workdir(cache, tmp_path):
  (tmp_path / "file").write_text("not a folder")
  refused(jaxnas(cache, *SMALL, f"--workdir={tmp_path / 'file'}", check=False), "--workdir")


def test_imports_stay_light():
  code = (
    "import sys, jaxnas.main, jaxnas.ntk, jaxnas.proxies, jaxnas.report; "
    "heavy = {'tensorflow', 'torch', 'tensorflow_datasets', 'nats_bench', 'matplotlib'}; "
    "print(sorted(heavy & set(sys.modules)))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
