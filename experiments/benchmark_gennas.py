"""GenNAS's regression beside the published code's record of it: the same cells, images and targets; agreement and cost.

  taskset -c 0 python experiments/benchmark_gennas.py --reference=FOLDER --out=FILE.md

FOLDER holds nb201_sample40.json and nb201_sample40_task.npz: 40 NAS-Bench-201 cells that the published code scored on
one thread, with its losses, its CPU seconds, the images and the targets. Weights and noise are drawn here, so losses
agree in rank and not in value. The machine of the record is not this one: its seconds are an orientation. Takes
minutes; quote figures of an idle machine only.
"""

import json
import os
import pathlib
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from jaxnas import proxies, scoring, spaces
from jaxnas.base import NetworkConfig
from jaxnas.gennas import tasks
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.gennas.regression import WIDTHS, Training, pad, pose
from jaxnas.scoring import Batch, Engine
from jaxnas.tabular import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("reference", None, "folder with nb201_sample40.json and nb201_sample40_task.npz", required=True)
flags.DEFINE_integer("count", 40, "how many of the cells", lower_bound=3, upper_bound=40)
flags.DEFINE_integer("seed", 0, "of weights and noise")
flags.DEFINE_string("out", None, "Markdown file for the report")


def main(argv: list[str]) -> None:
  folder = pathlib.Path(FLAGS.reference)
  record = json.loads((folder / "nb201_sample40.json").read_text())
  stored = np.load(folder / "nb201_sample40_task.npz")
  training, space = Training(), spaces.get("nb201")
  images = stored["images"]
  problem = pose(tasks.get("CONF_NB101"), images, jax.random.key(FLAGS.seed), training)
  batch = Batch(images, problem=problem._replace(targets=pad(tuple(stored[f"target{i}"] for i in range(3)))))
  network = SignalNetwork(space.backbone(NetworkConfig()), WIDTHS)
  nodes = record["archs"][: FLAGS.count]  # op codes node by node
  archs = space.as_codes([[op for node in cell for op in node] for cell in nodes])
  marks, macs = [], [float(space.costs(a).macs) for a in archs]
  engine = Engine(block=1)

  def keep(*records):
    marks.append(time.process_time())
    print(f"{len(marks)} of {len(archs)}: {records[0]['value']:.3f}", flush=True)

  proxy = [proxies.get("signal_regression")]
  common = {"network": network, "share_weights": False, "engine": engine}
  begin = time.process_time()
  scoring.score(proxy, space, archs[:1], batch, FLAGS.seed, **common)  # compiles, and is scored again
  compiling = time.process_time() - begin
  marks.append(time.process_time())
  begin = time.perf_counter()
  lines = scoring.score(proxy, space, archs, batch, FLAGS.seed, keep=keep, **common)
  wall = time.perf_counter() - begin
  losses = np.array([line.value for line in lines])
  theirs = np.array(record["losses_at_10_20_to_100"])[: FLAGS.count, -1]
  cpu = np.diff(marks)
  official = np.array(record["cost"]["cpu_seconds_per_arch"])[: FLAGS.count]
  # A forward and a backward pass are three times the multiply-adds; an evaluation every `interval` steps is one.
  flop = 2 * np.array(macs) * len(images) * (3 * training.steps + training.steps // training.interval)
  rows = {
    "architectures": f"{len(archs)}",
    "host threads": f"{engine.streams}",
    "Spearman with the stored losses": f"{metrics.spearman(-losses, -theirs):.3f}",
    "Spearman with CIFAR-10 test accuracy": f"{metrics.spearman(-losses, record['cifar10_test'][: FLAGS.count]):.3f}",
    "the stored losses' own": f"{metrics.spearman(-theirs, record['cifar10_test'][: FLAGS.count]):.3f}",
    "with CIFAR-100": f"{metrics.spearman(-losses, record['cifar100_test'][: FLAGS.count]):.3f}",
    "with ImageNet16-120": f"{metrics.spearman(-losses, record['imagenet16_test'][: FLAGS.count]):.3f}",
    "compilation and first architecture, CPU s": f"{compiling:.1f}",
    "CPU s a step, mean": f"{cpu.mean() / training.steps:.3f}",
    "CPU s a step, median": f"{statistics.median(cpu) / training.steps:.3f}",
    "published code's record, CPU s a step, mean": f"{official.mean() / training.steps:.3f}",
    "ratio of the sums": f"{official.sum() / cpu.sum():.2f}",
    "wall s an architecture": f"{wall / len(archs):.1f}",
    "GFLOP a CPU second": f"{flop.sum() / cpu.sum() / 1e9:.1f}",
  }
  text = f"load average after {os.getloadavg()[0]:.1f}\n\n| | |\n| --- | ---: |\n"
  text += "".join(f"| {name} | {value} |\n" for name, value in rows.items())
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text)


if __name__ == "__main__":
  app.run(main)
