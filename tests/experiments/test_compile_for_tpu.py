"""experiments/compile_for_tpu.py on a small program, where libtpu is installed."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="compiles for a TPU: pip install libtpu")
def test_a_small_program_is_compiled_for_four_chips(tmp_path):
  size = ["--proxies=naswot", "--block=5", "--batch=4", "--side=8", "--channels=4", "--cells=1", "--seconds=900"]
  command = [
    sys.executable,
    "experiments/compile_for_tpu.py",
    *size,
    "--batching=dispatch",
    f"--out={tmp_path / 'a.md'}",
  ]
  # XLA for TPUs refuses flags that are a CPU's.
  path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
  environment = {**{k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}, "PYTHONPATH": path}
  ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1000)
  assert ran.returncode == 0, ran.stderr
  row = re.search(r"^\| naswot +\| dispatch +\| 4 \(v5e:2x2\) +\|(.*)\|$", ran.stdout, re.MULTILINE)
  assert row and (tmp_path / "a.md").read_text() == ran.stdout, ran.stdout
  *figures, collectives = row.group(1).split("|")
  trace, compilation, code, temporary = map(float, figures)
  assert min(trace, compilation, temporary) > 0 and 0 < code < 150
  assert re.fullmatch(r" +\d+ all-(gather|reduce) +", collectives), collectives
