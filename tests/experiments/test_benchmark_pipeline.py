"""experiments/benchmark_pipeline.py on the generated images."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT


def benchmark(*flags):
  command = [sys.executable, "experiments/benchmark_pipeline.py", "--dataset=synthetic", "--batch=4", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_every_part_has_a_row(tmp_path):
  ran = benchmark("--image_size=28", "--batches=2", f"--out={tmp_path}/a.md")
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout.strip() == (tmp_path / "a.md").read_text().strip()
  for part in ("reading and decoding", "augmentation", "both"):
    assert re.search(rf"^\| {part} +\| +[1-9]\d* \|( +\d+\.\d\d \|){{2}}$", ran.stdout, re.MULTILINE), ran.stdout


def test_images_that_are_too_small_are_refused():
  ran = benchmark("--image_size=224")
  assert ran.returncode != 0 and "--image_size=224: images of synthetic are (32, 32, 3); lower it" in ran.stderr
