"""The examples of `jaxnas.measure` run, and rank what they should."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT


def output_of(name, *flags):
  command = [sys.executable, f"experiments/examples/{name}.py", *flags]
  ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert ran.returncode == 0, ran.stderr
  return ran.stdout


def test_five_models_are_ranked():
  shown = output_of("rank_models", "--images=4", "--side=8")
  rows = re.findall(r"^(\S.*?\S) {2,}\S.*?(\d\.\d\d)$", shown, re.MULTILINE)
  assert len(rows) == 5, shown
  means = [float(mean) for _, mean in rows]
  assert means == sorted(means) and means[0] < means[-1]


@pytest.mark.slow
def test_every_proxy_of_a_resnet_and_a_transformer():
  shown = output_of("measure_models")
  assert re.search(r"ResNet\n(.|\n)* zen +\S+ +ok +\(7 batch normalisations by the mini-batch\)", shown)
  assert re.search(r"ViT\n(.|\n)* grad_norm +\S+ +ok +\(7 LayerNorm as they are\)", shown)
