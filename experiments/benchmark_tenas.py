"""What an NTK condition number of TE-NAS's supernet costs: jaxnas in both BN modes, and the published PyTorch loop.

  python experiments/benchmark_tenas.py --torch_python=PATH/bin/python --search --out=FILE.md

About 10 minutes on two idle cores, 6 of them PyTorch's. Same weights, images and supernets on every side; each side
in a process of its own, one after the other. Quote figures of an idle machine only.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", sys.executable, "Python that has torch")
flags.DEFINE_integer("kernels", 3, "timed evaluations, after the first", lower_bound=1)
flags.DEFINE_integer("batch", 72, "images N", lower_bound=2)
flags.DEFINE_string("dataset", "synthetic", "as of jaxnas.main")
flags.DEFINE_string("data_dir", None, "as of jaxnas.main")
flags.DEFINE_bool("search", False, "also run whole searches")
flags.DEFINE_string("out", None, "Markdown file for the report")
flags.DEFINE_string("side", None, "internal: what this process measures, and the folder to exchange files in")

PARENTS, CANDIDATES = (0, 1, 2), (24, 18, 12)  # per round: its index in `supernets`, and how many candidates it has
TOLERANCE = 1e-3


def supernets() -> np.ndarray:
  """Active operations [9, 1, 6, 5]: a parent of each round, then 4, 1 and 1 of the rounds' candidates."""
  masks = np.ones((9, 1, 6, 5), bool)
  masks[..., 0] = False
  pruned = [(edge, 1 + (edge + number) % 4) for number in (0, 1) for edge in range(6)]  # each operation as often
  for i, before in enumerate((0, 6, 12, 0, 0, 0, 0, 6, 12)):
    for edge, op in pruned[:before]:
      masks[i, 0, edge, op] = False
  for i, edge, op in ((3, 0, 1), (4, 2, 2), (5, 3, 3), (6, 5, 4), (7, 4, 3), (8, 1, 4)):
    masks[i, 0, edge, op] = False
  return masks


def measure(mode: str, folder: str, search: bool) -> dict:
  """One side of jaxnas, in a process of its own; its `batch` side writes exchange.npz for the PyTorch side."""
  import jax

  from jaxnas import data, spaces
  from jaxnas.algorithms import indicators, tenas
  from jaxnas.scoring import Engine

  class TimedEngine(Engine):
    compile_cpu = 0.0

    def _program(self, *args):
      begin = time.process_time()
      program = super()._program(*args)
      self.compile_cpu += time.process_time() - begin
      return program

  space, source = spaces.nb201(), data.load(FLAGS.dataset, data_dir=FLAGS.data_dir, download=False)
  settings = indicators.IndicatorConfig(batch_norm=mode, ntk_batch=FLAGS.batch)
  config, engine, found = tenas.TENASConfig(indicators=settings), TimedEngine(), {}
  if search:
    found = {"arch": space.format(tenas.search(space, source, config, seed=0, engine=engine).arch)}
    found["cpu"] = time.process_time()
  else:
    proxy, network, params, images = indicators.condition_number(space, source, settings, jax.random.key(0))
    masks, calls = supernets(), []
    if mode == "batch":
      leaves = jax.tree_util.tree_leaves_with_path(params)
      paths = {"params/" + jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(v) for k, v in leaves}
      np.savez(f"{folder}/exchange.npz", images=np.asarray(images), masks=masks, **paths)
    for i in [0] * (1 + FLAGS.kernels) + list(range(1, len(masks))):
      cpu, wall = time.process_time(), time.perf_counter()
      (reading,) = engine.score(proxy, network, params, spaces.active_weights(masks[i : i + 1]), images)
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      calls.append({"supernet": i, "kappa": reading.value, "cpu": cpu, "wall": wall})
    found = {"calls": calls, "evaluations": tenas.evaluations(space, config)}
  threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  return {**found, "compile": [engine.compile_cpu, engine.seconds.compile], "threads": threads, "peak_mb": peak_mb}


def start(side: str, folder: str, command: list[str]) -> dict:
  """What a side's process left, plus its wall seconds. This process stays small: Linux counts it in ru_maxrss."""
  print(f"measuring {side} ...", file=sys.stderr)
  begin = time.perf_counter()
  quiet = {"OMP_WAIT_POLICY": "PASSIVE", "JAX_ENABLE_COMPILATION_CACHE": "false"}  # waiting threads burn no CPU
  subprocess.run(command, check=True, env={**os.environ, **quiet})
  with open(f"{folder}/{side}.json") as file:
    return {**json.load(file), "wall": time.perf_counter() - begin}


def main(argv: list[str]) -> int:
  if FLAGS.side:
    side, folder = FLAGS.side.split(":", 1)
    with open(f"{folder}/{side}.json", "w") as file:
      mode = side.removeprefix("search_")
      json.dump(measure(mode, folder, side != mode), file)
    return 0
  sides = ["batch", "batch_frozen"] + ["search_batch", "search_batch_frozen"] * FLAGS.search
  load, found = os.getloadavg()[0], {}
  with tempfile.TemporaryDirectory() as folder:
    for side in sides:
      found[side] = start(side, folder, [sys.executable, *argv_of(sys.argv), f"--side={side}:{folder}"])
  return 0


if __name__ == "__main__":
  app.run(main)
