"""What an NTK condition number of TE-NAS's supernet costs: jaxnas in both BN modes, and the published PyTorch loop.

  python experiments/benchmark_tenas.py --torch_python=PATH/bin/python --search --out=FILE.md

On two idle cores PyTorch takes minutes and the rest less. All sides see the same weights, images and supernets; each
has a process of its own, one after the other. Quote figures of an idle machine only; `taskset` limits the threads.
"""

import json
import math
import os
import pathlib
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
flags.DEFINE_integer("kernels", 3, "timed evaluations after the first", lower_bound=1)
flags.DEFINE_integer("batch", 72, "images N", lower_bound=2)
flags.DEFINE_string("dataset", "synthetic", "as of jaxnas.main")
flags.DEFINE_string("data_dir", None, "as of jaxnas.main")
flags.DEFINE_bool("search", False, "also run whole searches with jaxnas")
flags.DEFINE_string("out", None, "Markdown file for the report")
flags.DEFINE_list("side", None, "internal: what this process measures, and the folder for its files")

CANDIDATES = (24, 18, 12)  # of the rounds whose parents are the first three supernets
REPEATS = 3
TOLERANCE = 1e-3
COSTS = ("side", "CPU s", "wall s", "threads", "CPU ratio", "wall ratio", "compile CPU s", "wall s", "first CPU s", "wall s")
SEARCHES = ("search", "kernels", "CPU s, estimated", "ratio", "CPU s, run", "wall s", "peak MB")


def supernets() -> np.ndarray:
  """Active operations [9, 1, 6, 5]: the parents of three rounds; four, one and one of those rounds' candidates."""
  edges, full = np.arange(6), np.ones((6, 5), bool)
  full[:, 0] = False
  second = np.where(np.arange(5) == 1 + edges[:, None] % 4, False, full)
  third = np.where(np.arange(5) == 1 + (edges[:, None] + 1) % 4, False, second)
  masks = np.stack([full, second, third, full, full, full, full, second, third])[:, None]
  masks[range(3, 9), 0, (0, 2, 3, 5, 4, 1), (1, 2, 3, 4, 3, 4)] = False
  return masks


def measure(mode: str, folder: str, search: bool) -> dict:
  """One side of jaxnas, in this process; the first one writes exchange.npz for the PyTorch side."""
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

  space, source = spaces.nb201(), data.load(FLAGS.dataset, data_dir=FLAGS.data_dir)
  settings = indicators.IndicatorConfig(batch_norm=mode, ntk_batch=FLAGS.batch)
  config, engine, calls, arch = tenas.TENASConfig(settings), TimedEngine(), [], ""
  if search:
    arch = space.format(tenas.search(space, source, config, seed=0, engine=engine).arch)
  else:
    proxy, *net, images = indicators.condition_number(space, source, settings, jax.random.key(0))
    arrays = {"images": np.asarray(images), "masks": supernets()}
    for path, value in jax.tree_util.tree_leaves_with_path(net[1]):
      arrays["params/" + "/".join(k.key for k in path)] = np.asarray(value)
    np.savez(f"{folder}/exchange.npz", **arrays)
    weights = spaces.active_weights(arrays["masks"])
    for i in [0] * (1 + FLAGS.kernels) + list(range(1, len(weights))):
      cpu, wall = time.process_time(), time.perf_counter()
      (reading,) = engine.score(proxy, *net, weights[i : i + 1], images)
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      calls.append({"supernet": i, "kappa": reading.value, "cpu": cpu, "wall": wall})
  spent = {"compile_cpu": engine.compile_cpu, "compile_wall": engine.seconds.compile, "cpu": time.process_time()}
  peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  count, threads = tenas.evaluations(space, config), len(os.sched_getaffinity(0))
  return {**spent, "calls": calls, "arch": arch, "evaluations": count, "threads": threads, "peak_mb": peak_mb}


def run(side: str, folder: str) -> dict:
  """What a side's process left. The starting process must stay small: Linux counts it in the side's ru_maxrss."""
  print(f"measuring {side} ...", file=sys.stderr)
  command = [sys.executable, *sys.argv, f"--side={side},{folder}"]
  if side == "pytorch":
    files = [f"{folder}/exchange.npz", f"{folder}/pytorch.json"]
    command = [FLAGS.torch_python, pathlib.Path(__file__).with_name("pytorch_loop.py"), *files, str(FLAGS.kernels)]
  # Spinning threads would burn torch's CPU seconds, and a compilation cache would hide ours.
  env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "JAX_ENABLE_COMPILATION_CACHE": "false"}
  begin = time.perf_counter()
  subprocess.run(command, check=True, env=env)
  return {**json.loads(pathlib.Path(folder, f"{side}.json").read_text()), "wall": time.perf_counter() - begin}


def table(*rows) -> str:
  cells = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in rows]
  return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]])


def report(sides: dict[str, dict]) -> tuple[str, float]:
  """Markdown, and the largest relative difference of kappa between `batch` and PyTorch (NaN without it)."""

  def steady(name: str, what: str, supernet: int = 0) -> float:
    found = [c[what] for c in sides[name]["calls"][1:] if c["supernet"] == supernet] if name in sides else []
    return statistics.median(found or [math.nan])

  names = [name for name in ("batch", "batch_frozen", "pytorch") if name in sides]
  kappas, costs, searches = [("supernet", *names)], [COSTS], [SEARCHES]
  kappas += [(i, *(steady(name, "kappa", i) for name in names)) for i in range(len(supernets()))]
  difference = max(abs(row[1] / row[-1] - 1) for row in kappas[1:]) if "pytorch" in sides else math.nan
  official = sum(2 * REPEATS * k * steady("pytorch", "cpu", i) for i, k in enumerate(CANDIDATES))
  for name in names:
    side, cpu, wall = sides[name], steady(name, "cpu"), steady(name, "wall")
    ratios = steady("pytorch", "cpu") / cpu, steady("pytorch", "wall") / wall
    compiled, first = side.get("compile", (0.0, 0.0)), side["calls"][0]
    costs.append((name, cpu, wall, side["threads"], *ratios, *compiled, first["cpu"] - compiled[0], first["wall"] - compiled[1]))
  return "", difference
