"""Users' own files through the command line: the examples, and what goes wrong with such files."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "experiments" / "examples"
SMALL = ("--score_batch=4", "--score_channels=2", "--score_cells=1")


@pytest.fixture(scope="module")
def jaxnas(tmp_path_factory):
  """Runs the program in another folder than the checkout's, with one compilation cache."""
  folder = tmp_path_factory.mktemp("elsewhere")
  keep = {k: v for k, v in os.environ.items() if not k.startswith("JAXNAS_")}
  paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
  environment = {**keep, "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}

  def run(*flags, check=True):
    command = [sys.executable, "-m", "jaxnas.main", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    if check:
      assert done.returncode == 0, done.stderr
    return done

  return run


def plugins(*names):
  return "--plugins=" + ",".join(str(EXAMPLES / f"{name}.py") for name in names)


def results(folder):
  return json.loads((folder / "result.json").read_text())


def refused(done, *words):
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("jaxnas: error: ") and done.stderr.count("\n") == 1, done.stderr
  for word in words:
    assert word in done.stderr


def test_a_proxy_of_ones_own(jaxnas, tmp_path):
  folder = tmp_path / "run"
  done = jaxnas(
    plugins("jacobian_norm"), "--algorithm=score", "--archs=random:5", "--proxies=jacobian_norm,params", *SMALL,
    f"--workdir={folder}",
  )  # fmt: skip
  rows = results(folder)["results"]
  assert len(rows) == 5 and "jacobian_norm" in done.stdout
  usable = [row["jacobian_norm"] for row in rows if row["jacobian_norm_status"] == "ok"]
  assert usable and all(value > 0 for value in usable)
  assert results(folder)["config"]["plugins"] == [str(EXAMPLES / "jacobian_norm.py")]


@pytest.mark.slow
def test_it_is_a_criterion_of_random_search_too(jaxnas, tmp_path):
  folder = tmp_path / "run"
  jaxnas(
    plugins("jacobian_norm"), "--algorithm=random_search", "--criterion=jacobian_norm", "--samples=5", *SMALL,
    f"--workdir={folder}",
  )  # fmt: skip
  (row,) = results(folder)["results"]
  lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
  best = min(line["value"] for line in lines if line["status"] == "ok")
  assert row["jacobian_norm"] == best > 0


def test_a_space_of_ones_own(jaxnas, tmp_path):
  """All of its architectures, of three shapes, by proxies of the package and one of one's own, in one run."""
  folder = tmp_path / "run"
  jaxnas(
    plugins("chain_space", "jacobian_norm"), "--space=chain", "--algorithm=score", "--archs=all",
    "--proxies=params,flops,naswot,mgm,synflow,zen,snip,jacobian_norm", "--score_batch=4", "--score_channels=3",
    f"--workdir={folder}",
  )  # fmt: skip
  lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
  assert len(lines) == 39 * 8 and {line["arch"].count("-") for line in lines} == {0, 1, 2}
  assert all(line["status"] == "ok" for line in lines if line["proxy"] in ("params", "naswot", "mgm", "jacobian_norm"))
  counts = {line["arch"]: line["value"] for line in lines if line["proxy"] == "params"}
  assert (
    counts["conv_3x3-conv_1x1"] - counts["identity"] == 3 * 3 * (9 + 1) + 2 * 2 * 3
  )  # kernels, and two normalisations
  assert {"chain.png", "report.html"} <= {path.name for path in folder.iterdir()}


def test_an_algorithm_of_ones_own(jaxnas, tmp_path):
  """It climbs, its settings are flags, and it continues after it was cut off."""
  flags = [
    plugins("hill_climbing", "chain_space"), "--algorithm=hill_climbing", "--space=chain", "--climb_by=params",
    "--climb_steps=4", "--score_batch=2", "--score_channels=2", "--seed=1",
  ]  # fmt: skip
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  done = jaxnas(*flags, f"--workdir={whole}")
  assert "4/4 steps" in done.stderr
  (row,) = results(whole)["results"]
  (record,) = results(whole)["records"]
  assert record["values"] == sorted(record["values"]) and row["steps"] == len(record["path"]) - 1 > 0
  assert row["arch"] == "conv_3x3-conv_3x3-conv_3x3"  # as many parameters as there can be
  assert (whole / "climb.png").stat().st_size > 0
  cut.mkdir()
  (cut / "config.json").write_bytes((whole / "config.json").read_bytes())
  kept = (whole / "scores.jsonl").read_bytes().splitlines(keepends=True)
  (cut / "scores.jsonl").write_bytes(b"".join(kept[: len(kept) // 2]))
  jaxnas(*flags, f"--workdir={cut}")
  assert results(cut)["results"] == [row] and results(cut)["records"] == [record]
  assert (cut / "scores.jsonl").read_bytes().count(b"\n") == len(kept)


def test_help_and_flagfiles_know_plugins(jaxnas, tmp_path):
  file = tmp_path / "climb.flags"
  file.write_text(f"{plugins('hill_climbing')}\n--algorithm=hill_climbing\n--climb_steps=0\n")
  done = jaxnas(f"--flagfile={file}", "--help")
  assert "--climb_steps=10" in done.stdout and "hill_climbing" in done.stdout
  refused(jaxnas("--flagfile", str(file), check=False), "--climb_steps=0 must be at least 1")
  done = jaxnas("--plugins", str(EXAMPLES / "hill_climbing.py"), "--help")
  assert "hill_climbing" in done.stdout


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("raise RuntimeError('not\\ntoday')", ["importing it raises RuntimeError: not today"]),
    ("import does_not_exist_at_all", ["ModuleNotFoundError", "does_not_exist_at_all"]),
    (
      "from jaxnas import registry\n@registry.register('proxy', 'naswot')\nclass Mine: ...",
      ["proxy 'naswot' is registered already"],
    ),
    (
      "from jaxnas import registry\nfrom jaxnas.base import Proxy\n"
      "class Mine(Proxy): ...\nregistry.register('proxy', 'mine', Mine)",
      ["proxy 'mine' (", "Mine) cannot be made: TypeError", "name"],
    ),
    (
      "import dataclasses\nfrom jaxnas import registry\nfrom jaxnas.base import Proxy\n"
      "@dataclasses.dataclass(frozen=True)\nclass Mine(Proxy):\n  name: str = 'mine'\n"
      "  def measure(self, evaluation): ...\n"
      "registry.register('proxy', 'mine', Mine)\nregistry.register('proxy', 'mine3', lambda: Mine())",
      ["proxy 'mine3'", "calls itself 'mine'"],
    ),
    (
      "from jaxnas import registry\nfrom jaxnas.base import Algorithm\n"
      "class Bare(Algorithm): name = 'bare'\nregistry.register('algorithm', 'bare', Bare)",
      ["algorithm 'bare'", "lacks work, search, Settings, summary"],
    ),
    (
      "from jaxnas import registry\nregistry.register('kernel', 'mine', object)",
      ["kind='kernel' must be one of proxy"],
    ),
    (
      """
import dataclasses
from jaxnas import registry
from jaxnas.base import Algorithm
from jaxnas.settings import setting

@dataclasses.dataclass(frozen=True)
class Mine:
  repeats: int = setting(3, "mine")

@registry.register("algorithm", "mine")
class Mine2(Algorithm):
  name, summary, Settings = "mine", "mine", Mine

  def work(self, context): ...
  def search(self, context, seed): ...
""",
      ["'repeats'", "--algorithm=mine", "--algorithm=tenas", "choose another name"],
    ),
  ],
)
def test_bad_plugins(jaxnas, tmp_path, text, words):
  file = tmp_path / "mine.py"
  file.write_text(text)
  refused(jaxnas(f"--plugins={file}", check=False), *words)


def test_plugins_that_are_not_there(jaxnas, tmp_path):
  refused(jaxnas("--plugins=nowhere.py", check=False), "--plugins=nowhere.py", "no such file")
  refused(jaxnas("--plugins=no_module", check=False), "--plugins=no_module", "a file's path ends in .py")


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--algorithm=hill_climbin"], ["--algorithm='hill_climbin'", "did you mean hill_climbing?"]),
    (["--algorithm=hill_climbing", "--climb_by=naswott"], ["--climb_by='naswott'", "did you mean naswot?"]),
    (["--algorithm=hill_climbing", "--repeats=2"], ["--repeats", "--algorithm=tenas", "--algorithm=hill_climbing"]),
    (["--climb_steps=2"], ["--climb_steps", "--algorithm=hill_climbing", "--algorithm=tenas"]),
    (
      ["--algorithm=tenas", "--space=chain"],
      ["--algorithm=tenas does not search --space=chain", "Prunable", "nb201 or darts", "hill_climbing"],
    ),
    (["--algorithm=hill_climbing", "--space=chain", "--benchmark=x.csv"], ["--benchmark=x.csv"]),
  ],
)
def test_names_of_plugins_in_messages(jaxnas, flags, words):
  refused(jaxnas(plugins("hill_climbing", "chain_space"), *flags, check=False), *words)
