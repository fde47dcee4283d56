"""experiments/benchmark_ntk.py at toy size, without PyTorch; neural_tangents only where it is installed."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT


def benchmark(*flags):
  command = [sys.executable, "experiments/benchmark_ntk.py", "--toy", "--runs=1", "--torch_python=/nowhere", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(
  "models",
  [["mlp"], *(pytest.param([m], marks=pytest.mark.slow) for m in ("cnn", "transformer", "resnet18"))],
  ids="-".join,
)
def test_every_side_has_a_row(tmp_path, models):
  """Values are compared by the script itself, which ends where one differs."""
  blocks = ["--blocks", "--parts"] if models == ["cnn"] else []
  ran = benchmark(f"--models={','.join(models)}", f"--out={tmp_path}/a.md", f"--plot={tmp_path}/a.png", *blocks)
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout.strip() == (tmp_path / "a.md").read_text().strip()
  for model in models:
    for form in ("trace", "full") if model != "resnet18" else ("trace",):
      for side in ("auto", "1", "3"):
        cells = [model, form, f"jaxnas {side}", r"[\d.e-]+", r"[\d.e-]+", r"\d+", r"[\d.]+", r"\de-\d+"]
        pattern = r"^\| " + r" *\| *".join(cells) + r" *\|$"
        assert re.search(pattern, ran.stdout, re.MULTILINE), ran.stdout
  assert len(re.findall(r"batch_size=", ran.stdout)) == len(blocks)
  assert "PyTorch skipped: /nowhere cannot import torch" in ran.stdout
  assert ("neural_tangents skipped" in ran.stdout) != bool(re.search(r"\| neural_tangents 1 +\|", ran.stdout))
  assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_model_is_refused():
  ran = benchmark("--models=mlp,vgg")
  assert ran.returncode != 0 and "--models=mlp,vgg: unknown vgg" in ran.stderr
