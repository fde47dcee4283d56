"""What a step of GenNAS's regression costs: CPU seconds an architecture-step in several spaces, with shapes.

  python experiments/regression_steps.py --out=FILE.md

Random architectures of the sizes that the regression takes by default: 16 channels in NAS-Bench-201, an architecture's
own in Network Design Spaces. 16 images of 32 pixels. A program is compiled and run once, then timed on an architecture
of the same shape: steps and one evaluation at their end, which is counted as a third of a step. Quote figures of an
idle machine only, and beside them how busy it was: CPU seconds count both threads of a core.
"""

import pathlib
import time

import jax
import numpy as np
from absl import app, flags

from jaxnas import data, report, scoring, spaces
from jaxnas.base import Batch
from jaxnas.files import write_atomically
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.gennas.proxy import RegressionConfig, SignalConfig, SignalRegression
from jaxnas.scoring import Engine

FLAGS = flags.FLAGS
flags.DEFINE_list("spaces", ["nb201", "nds_resnext_a", "nds_resnext_b", "nds_enas", "nds_darts"], "which")
flags.DEFINE_integer("steps", 5, "of the regression", lower_bound=1)
flags.DEFINE_string("out", "regression_steps.md", "Markdown file for the table")


def timed(name: str) -> list[str]:
  """A row of the table: the second of two architectures of one shape."""
  space, proxy = spaces.get(name), SignalRegression()
  config = SignalConfig(RegressionConfig(signal_steps=FLAGS.steps, signal_interval=FLAGS.steps))
  inputs = proxy.prepare(space, data.load("synthetic"), config, jax.random.key(0))
  code = space.sample(jax.random.key(0), 1)[0]
  ((network, _),) = scoring.by_shape(space, code[None], inputs.network)
  assert isinstance(network, SignalNetwork) and isinstance(inputs.batch, Batch)
  engine, seconds = Engine(block=1, streams=1), []
  for number in range(2):
    keys = jax.random.split(jax.random.key(number), 1)
    begin = time.process_time()
    engine.measure([proxy], network, None, code[None], inputs.batch, init_keys=keys)
    seconds.append(time.process_time() - begin)
  first, second = seconds
  arch = network.encode(code[None])[0]
  macs = float(np.asarray(network.backbone.costs(arch).macs)) / 1e6
  params = float(np.asarray(network.costs(arch).params)) / 1e6
  step = second / (FLAGS.steps + 1 / 3)
  shape = space.shape(code)
  size = "C=16, 5 cells a stage" if shape is None else str(shape)
  row = [name, size, f"{params:.2f}", f"{macs:.0f}", f"{step:.2f}", f"{1e3 * step / macs:.1f}", f"{first - second:.0f}"]
  print(row, flush=True)
  return row


def main(argv: list[str]) -> None:
  del argv
  header = [
    "space",
    "shape",
    "parameters, M",
    "MACs an image, M",
    "CPU s a step",
    "ms a step and M MACs",
    "compiling, CPU s",
  ]
  text = report.markdown_table(header, [timed(name) for name in FLAGS.spaces])
  write_atomically(pathlib.Path(FLAGS.out), (text + "\n").encode())
  print(text)


if __name__ == "__main__":
  app.run(main)
