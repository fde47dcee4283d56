"""What single steps cost: of NASI, of a training, of scoring an architecture of any space, by kind of proxy.

  python experiments/benchmark_steps.py --out=FILE.md

CPU and wall seconds, medians; the first one, less the median, is compilation and set-up. Takes minutes; quote figures
of an idle machine only.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags

from jaxnas import data, proxies, report, scoring, spaces
from jaxnas.algorithms.nasi import NASI, NASIConfig
from jaxnas.base import Batch, Context
from jaxnas.train.network import trained_network
from jaxnas.train.recipe import TrainConfig
from jaxnas.train.trainer import train

FLAGS = flags.FLAGS
PROXIES = {  # of each kind of score
  "score": ("mgm", "trace_norm", "synflow"),
  "frozen": ("ntk_condition_number_frozen",),
  "traces": ("trace_norm_exact",),
  "exact": ("ntk_condition_number",),
}
JOBS = (
  *("nasi nb201", "nasi darts", "train nb201", "train darts", "score nb201", "frozen nb201", "exact nb201"),
  *("score nb101", "frozen nb101", "frozen darts", "traces nb101", "traces darts"),
)
flags.DEFINE_multi_enum("job", JOBS, JOBS, "what to time; repeat for more")
flags.DEFINE_integer("count", 6, "steps or architectures after the first", lower_bound=1)
flags.DEFINE_string("out", None, "Markdown file for the table")

NB201 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
ARCHS = {"nb201": NB201, "darts": "DARTS_V2"}
CELLS = {"nb201": 1, "darts": 5}


def clocks() -> tuple[float, float]:
  """CPU and wall seconds."""
  return time.process_time(), time.perf_counter()


def nasi(name: str, mark: Callable[..., None]) -> None:
  """`count` + 1 steps of a search at C=16."""
  settings = NASIConfig(nasi_steps=FLAGS.count + 1, nasi_nu=1.0, nasi_batch=8, nasi_cells=CELLS[name])
  NASI().search(Context(spaces.get(name), data.load("synthetic"), settings, advance=mark), 0)


def score(kind: str, name: str, mark: Callable[..., None]) -> None:
  """The kind's proxies of `count` + 1 architectures at the space's own size, one a block."""
  space, source = spaces.get(name), data.load("synthetic")
  batch = Batch(*data.plain_batch(source, jax.random.key(0), 32))
  archs = space.sample(jax.random.key(0), FLAGS.count + 1)
  network = space.network(dataclasses.replace(space.default_config, classes=source.classes))
  own = [proxies.get(name) for name in PROXIES[kind]]
  engine = scoring.Engine(block=1, streams=1)
  for arch in archs:
    scoring.score(own, space, arch[None], batch, network=network, engine=engine)
    mark(1)


def training(name: str, mark: Callable[..., None]) -> None:
  """`count` + 1 steps of one epoch at C=16."""
  space, batch = spaces.get(name), 32
  source = data.load("synthetic").first(batch * (FLAGS.count + 1))
  code = space.parse(ARCHS[name])
  config = TrainConfig(train_epochs=1, train_batch=batch, train_cells=CELLS[name], eval_batch=batch)
  train(trained_network(space, config, source.classes, code), code, source, source.first(batch), config, advance=mark)


KINDS = {"nasi": nasi, "train": training, **{kind: functools.partial(score, kind) for kind in PROXIES}}


def timed(job: str) -> list[str]:
  """A row of the table."""
  kind, name = job.split()
  marks = [clocks()]
  KINDS[kind](name, lambda n, **earlier: marks.append(clocks()))
  spent = np.array([np.subtract(b, a) for a, b in itertools.pairwise(marks)])
  steady = [statistics.median(column) for column in spent[1:].T]
  return [job, *(f"{value:.4f}" for value in (*steady, *(spent[0] - steady)))]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  header = ["", "cpu s", "wall s", "compile, cpu s", "compile, wall s"]
  text = f"jax {jax.__version__}; load average before {os.getloadavg()[0]:.1f}\n\n"
  text += report.markdown_table(header, [timed(job) for job in FLAGS.job])
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
