"""Bad input on the command line: one line that names the flag, the value and a fix, exit code 2, nothing computed.

The inputs are those of experiments/bad_inputs.json, asked by the script beside it.
"""

import json

import jax
import numpy as np
import pytest
from helpers import ROOT, jaxnas, python

from jaxnas import main

DRIVER = """
import json, pathlib, sys
from experiments import bad_inputs
typed = [typed for _, typed, _ in bad_inputs.cases()][:: int(sys.argv[2])]
print(json.dumps(bad_inputs.answers(typed, pathlib.Path(sys.argv[1]))))
"""
KINDS = json.loads((ROOT / "experiments" / "bad_inputs.json").read_text(encoding="utf-8"))
CASES = [case for cases in KINDS.values() for case in cases]


STEP = 6  # of the inputs that are tried in every run


def asked(folder, step):
  return json.loads(python(DRIVER, folder, str(step), timeout=900).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  return asked(tmp_path_factory.mktemp("bad"), STEP)


def check(answer, case):
  (code, error), (_, *words) = answer, case
  assert code == 2, error
  assert error.startswith("jaxnas: error: ") and error.count("\n") == 1, error
  for word in words:
    assert word in error


@pytest.mark.parametrize("number", range(0, len(CASES), STEP), ids=lambda n: ascii(CASES[n][0])[1:61])
def test_bad_input_is_one_line_and_exit_code_2(answers, number):
  check(answers[number // STEP], CASES[number])


@pytest.mark.slow
def test_every_bad_input(tmp_path):
  for answer, case in zip(asked(tmp_path, 1), CASES, strict=True):
    check(answer, case)


def test_only_a_lack_of_memory_is_called_so():
  with pytest.raises(MemoryError) as lack:
    np.zeros(2**50)
  for error in (lack.value, jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")):
    assert main._unexpected(error).startswith("out of memory; ")
  for error in (OverflowError("int too large"), ValueError("RESOURCE_EXHAUSTED"), RuntimeError("RESOURCE_EXHAUSTED")):
    assert main._unexpected(error).startswith(f"{type(error).__name__}: {error} (a bug")


LOST = """
import jax
from jaxnas.scoring import Engine

run, calls = Engine._execute, []

def lost(self, program, args):
  calls.append(0)
  if len(calls) == 3:
    raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone\\nand a long story")
  return run(self, program, args)

Engine._execute = lost
"""


def test_a_device_that_is_lost_ends_the_run_and_loses_nothing(tmp_path):
  (tmp_path / "lost.py").write_text(LOST)
  flags = ("--algorithm=score", "--proxies=params", "--archs=random:40", "--score_channels=2", "--score_cells=1")
  flags = (*flags, "--score_batch=2", f"--workdir={tmp_path / 'run'}")
  done = jaxnas(*flags, f"--plugins={tmp_path / 'lost.py'}", cache=tmp_path, check=False)
  assert done.returncode == 1
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("jaxnas: error")]
  assert line.startswith("jaxnas: error: the device failed (INTERNAL: the device is gone); the same command continues")
  kept = (tmp_path / "run" / "scores.jsonl").read_text().splitlines()
  assert 1 < len(kept) < 40
  jaxnas(*flags, cache=tmp_path)
  after = (tmp_path / "run" / "scores.jsonl").read_text().splitlines()
  assert after[: len(kept)] == kept and len(after) == 40
