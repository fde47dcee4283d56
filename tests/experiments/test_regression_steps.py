"""experiments/regression_steps.py with a clock of ours and no regression: what it makes of the seconds."""

import jax
import pytest
from helpers import python

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.gennas.regression import WIDTHS

DRIVER = """
import sys, types
from experiments import regression_steps

measured = []

class Engine:
  def __init__(self, **settings):
    pass

  def measure(self, proxies, network, params, codes, batch, init_keys):
    measured.append((len(codes), len(init_keys)))

clock = iter([0.0, 50.0, 100.0, 108.0] * 2)  # 50 seconds with compilation, then 8
regression_steps.Engine = Engine
regression_steps.time = types.SimpleNamespace(process_time=clock.__next__)
regression_steps.FLAGS(["regression_steps", *sys.argv[1:]])
regression_steps.main([])
assert measured == [(1, 1)] * 4, measured
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """The table's, by space."""
  out = tmp_path_factory.mktemp("steps") / "steps.md"
  python(DRIVER, "--spaces=nb201,nds_resnext_a", "--steps=5", f"--out={out}")
  head, _, *body = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in out.read_text().split("\n") if line
  ]
  return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def test_seconds_become_those_of_a_step_and_of_compiling(rows):
  for line in rows.values():
    assert line["CPU s a step"] == "1.50"  # of 8 seconds, 5 steps and an evaluation that counts as a third
    assert line["compiling, CPU s"] == "42"
    macs = float(line["MACs an image, M"])
    assert float(line["ms a step and M MACs"]) == pytest.approx(1500 / macs, abs=0.05 + 1500 / macs**2 / 2)


def test_sizes_are_those_of_the_regressed_network(rows):
  nb201, resnext = spaces.get("nb201"), spaces.get("nds_resnext_a")
  whole = nb201.costs(nb201.sample(jax.random.key(0), 1)[0], NetworkConfig(16, 5))
  assert rows["nb201"]["shape"] == "C=16, 5 cells a stage"
  assert rows["nb201"]["MACs an image, M"] == f"{whole.macs / 1e6:.0f}"
  # Without the last normalisation and the classifier, with heads of three taps.
  heads = sum(c * (2 + w) + w for c, w in zip((16, 32, 64), WIDTHS, strict=True))
  assert float(rows["nb201"]["parameters, M"]) == pytest.approx(
    (whole.params - 2 * 64 - 65 * 10 + heads) / 1e6, abs=0.006
  )
  assert rows["nds_resnext_a"]["shape"] == str(resnext.shape(resnext.sample(jax.random.key(0), 1)[0]))
