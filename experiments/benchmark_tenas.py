"""What an NTK condition number of TE-NAS's supernet costs: jaxnas and the published PyTorch loop.

  python experiments/benchmark_tenas.py --torch_python=PATH/bin/python --search --out=FILE.md

All sides see the same weights, images and supernets, in processes of their own, one after the
other. Takes minutes on two cores, most of them PyTorch's; quote figures of an idle machine only.
"""

import json
import math
import os
import pathlib
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
flags.DEFINE_list("side", None, "internal: what this process measures, and its folder")

MODES = ("batch", "batch_frozen")
CANDIDATES = (24, 18, 12)  # in the rounds whose parents are the first three supernets
# A search of the published code: it scores the parent again for every candidate and repeat, and
# executes no pruned operation, so that its 324 kernels cost as much as 261 of the full supernet.
PYTORCH = {"compile": {"cpu": 0.0, "wall": 0.0}, "kernels": 324, "full_cost": 261}
TOLERANCE = 1e-3  # relative, of kappa between `batch` and PyTorch, both in float32


def supernets() -> np.ndarray:
  """Active operations [9, 1, 6, 5]: three rounds' parents, and 4, 1, 1 of their candidates."""
  edges, ops = np.arange(6)[:, None], np.arange(5)[None]
  full = np.broadcast_to(ops > 0, (6, 5))
  second = full & (ops != 1 + edges % 4)
  third = second & (ops != 1 + (edges + 1) % 4)
  masks = np.stack([full, second, third, full, full, full, full, second, third])[:, None]
  masks[range(3, 9), 0, (0, 2, 3, 5, 4, 1), (1, 2, 3, 4, 3, 4)] = False
  return masks


def measure(mode: str, folder: str, search: bool) -> dict:
  """One side of jaxnas, in this process; writes exchange.npz for the PyTorch side."""
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
  config, engine, calls = tenas.TENASConfig(settings), TimedEngine(), []
  if search:
    tenas.search(space, source, config, seed=0, engine=engine)
  else:
    proxy, *net, x = indicators.condition_number(space, source, settings, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(net[1])
    params = {"params/" + "/".join(k.key for k in path): np.asarray(v) for path, v in leaves}
    np.savez(f"{folder}/exchange.npz", images=np.asarray(x), masks=supernets(), **params)
    nets = spaces.active_weights(supernets())
    for i in [0] * FLAGS.kernels + list(range(len(nets))):
      cpu, wall = time.process_time(), time.perf_counter()
      kappa = engine.score(proxy, *net, nets[i : i + 1], x)[0].value
      spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
      calls.append({"kappa": kappa, **spent})
  count = tenas.evaluations(space, config)
  return {
    "calls": calls,
    "compile": {"cpu": engine.compile_cpu, "wall": engine.seconds.compile},
    "kernels": count,
    "full_cost": count,
    "threads": len(os.sched_getaffinity(0)),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "cpu": time.process_time(),
  }


def run(side: str, folder: str) -> dict:
  """What a side's process left. This one stays small: Linux counts it in the side's ru_maxrss."""
  print(f"measuring {side} ...", file=sys.stderr)
  result = pathlib.Path(folder, f"{side}.json")
  command = [sys.executable, *sys.argv, f"--side={side},{folder}"]
  if side == "pytorch":
    script = pathlib.Path(__file__).with_name("pytorch_loop.py")
    command = [FLAGS.torch_python, script, f"{folder}/exchange.npz", result, str(FLAGS.kernels)]
  # Spinning threads would burn torch's CPU seconds, and a compilation cache would hide ours.
  env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "JAX_ENABLE_COMPILATION_CACHE": "false"}
  begin = time.perf_counter()
  subprocess.run(command, check=True, env=env)
  found = {**json.loads(result.read_text()), "wall": time.perf_counter() - begin}
  return {**PYTORCH, **found} if side == "pytorch" else found


def column(sides: dict[str, dict], name: str) -> dict[str, float]:
  """A side's figures by their names; ratios are PyTorch's cost to its own."""

  def kernel(name: str, what: str) -> float:
    calls = sides[name]["calls"][1 : 1 + FLAGS.kernels] if name in sides else []
    return statistics.median([c[what] for c in calls] or [math.nan])

  side, whole = sides[name], sides.get(f"search_{name}")
  nets = side["calls"][FLAGS.kernels :]  # one call a supernet
  found = {"threads": side["threads"], "peak MB": side["peak_mb"]}
  for what in ("cpu", "wall"):
    compiled, own = side["compile"][what], kernel(name, what)
    found[f"compile, {what} s"] = compiled
    found[f"first kernel, {what} s"] = side["calls"][0][what] - compiled
    found[f"kernel, {what} s"] = own
    found[f"kernel, {what} ratio"] = kernel("pytorch", what) / own
  steady, official = side["full_cost"] * kernel(name, "cpu"), 261 * kernel("pytorch", "cpu")
  return found
