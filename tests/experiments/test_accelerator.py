"""experiments/accelerator.py at toy size on a CPU, as a machine with JAX, Flax and Optax alone would run it."""

import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MISSING = ("tensorflow_datasets", "tensorflow", "nats_bench", "array_record", "matplotlib", "PIL")
CASES = {  # of the script, and the proxy of each
  "forward": "naswot",
  "backward": "mgm",
  "frozen": "ntk_condition_number_frozen",
  "exact": "ntk_condition_number",
  "regression": "signal_regression",
}


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
  """An environment in which the packages that an accelerator's machine may lack cannot be imported."""
  for name in MISSING:
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r})\n")
  return {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "JAX_PLATFORMS": "cpu"}


def table(environment: dict[str, str], out: pathlib.Path, seconds: int, cases: tuple[str, ...]) -> str:
  flags = ["--toy", f"--seconds={seconds}", f"--out={out}", f"--cases={','.join(cases)}"]
  command = [sys.executable, "experiments/accelerator.py", *flags]
  ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 60)
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout == out.read_text()
  return ran.stdout


@pytest.mark.parametrize(
  "cases",
  [("forward",), pytest.param(("backward", "frozen", "exact", "regression"), marks=pytest.mark.slow)],
  ids="-".join,
)
def test_every_case_is_measured(bare, tmp_path, cases):
  found = table(bare, tmp_path / "found.md", 600, cases)
  assert found.startswith("Made by `python experiments/accelerator.py --toy")
  assert "cpu (cpu)" in found and re.search(r"jax \d+\.\d+\S*; \d{4}-\d\d-\d\d\.", found)
  assert len(re.findall(r"^\| .* \| [\d.]+ (TFLOP|GB)/s \|$", found, re.MULTILINE)) == 7
  for case, way in itertools.product(cases, ("loop", "2 at once")):
    line = re.search(rf"^\| {case}: {CASES[case]}, {way} \|(.*)\| \d \| \d+% \|  \|$", found, re.MULTILINE)
    assert line, found
    numbers = [float(n) for n in line.group(1).split("|")]
    assert len(numbers) == 4 and min(numbers) >= 0 and numbers[0] > 0


@pytest.mark.slow
def test_scores_are_beside_those_in_float64_and_searches_run(bare, tmp_path):
  found = table(bare, tmp_path / "found.md", 1200, ("values", "tenas_nb201", "tenas_darts"))
  rows = re.findall(r"^\| (\w+), (loop|dispatch) \| (.*) \| (.*) \| (.*) \| 0 \|$", found, re.MULTILINE)
  assert len(rows) == 12 and len({name for name, *_ in rows}) == 6, found
  for *_, median, largest, rho in rows:
    assert float(median) <= float(largest) < 1e-4 and rho == "1.00000"
  searches = re.findall(r"^\| (nb201|darts) \| ([\d.]+) \| ([\d.]+) \| (.+) \|$", found, re.MULTILINE)
  assert [name for name, *_ in searches] == ["nb201", "darts"], found
  assert searches[0][3].count("~") == 6 and searches[1][3].startswith("Genotype(")


def test_a_case_that_takes_too_long_costs_its_share(bare, tmp_path):
  """Eight seconds are too few for any compilation: every case is stopped, and told so."""
  found = table(bare, tmp_path / "found.md", 8, ("values", *CASES))
  assert "| out of time after 1 s | | | | |" in found
  for case, proxy in CASES.items():
    assert re.search(rf"^\| {case}: {proxy}, loop \| [\d.]* \| out of time after [01] s \|", found, re.MULTILINE), found


def test_an_unknown_case_is_refused(bare):
  command = [sys.executable, "experiments/accelerator.py", "--cases=forwards"]
  ran = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60)
  assert (
    ran.returncode != 0
    and "any of values, forward, backward, frozen, exact, regression, tenas_nb201, tenas_darts" in ran.stderr
  )
