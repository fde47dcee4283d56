"""The examples with kernels run, and say what they should."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT

CASES = {  # what each prints, and its flags
  "ntk_flax": (r"kernel \(16, 16\), condition number \d.*\nall outputs \(160, 160\), effective rank \d", []),
  "ntk_nnx": (r"kernel \(20, 20\), of its trace the last layer has 0\.\d+", []),
  "ntk_transformer": (
    r"kernel \(6, 6\), condition number \d(.|\n)*/embedding\s+embedding\s(.|\n)*kernel\s+dense\s(.|\n)*\(6, 12, 12\)",
    [],
  ),
  "ntk_trained": (r"initial: alignment 0\.\d+.*\ntrained: alignment 0\.\d+.*\nthe network itself \d+", ["--steps=200"]),
  "kernel_regression": (r"synthetic: [\d.]+ % of 40 images right; chance 10.0 %", ["--train=60", "--test=40"]),
  "ntk_during_training": (r"(width 32, step \d+: .*\n){5}width 32: loss 0\.\d+", ["--widths=32", "--steps=100"]),
}


QUICK = ("ntk_flax", "ntk_nnx")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in CASES])
def test_example(name):
  pattern, flags = CASES[name]
  command = [sys.executable, f"experiments/examples/{name}.py", *flags]
  ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert ran.returncode == 0, ran.stderr
  assert re.search(pattern, ran.stdout), ran.stdout
  if name == "ntk_trained":  # training turns the kernel to the labels
    before, after = map(float, re.findall(r"alignment ([\d.]+)", ran.stdout))
    assert after > before
  if name == "ntk_during_training":
    moved = [float(value) for value in re.findall(r"moved by ([\d.]+)", ran.stdout)]
    assert moved[0] == 0 and moved[-1] > 0.01
