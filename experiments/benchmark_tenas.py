"""What an NTK condition number of TE-NAS's supernet costs: jaxnas and the published PyTorch loop.

  python experiments/benchmark_tenas.py --torch_python=PATH/bin/python --search --out=FILE.md

All sides see the same weights, images and supernets, in processes of their own, one after the
other. Takes minutes on two cores, most of them PyTorch's; quote figures of an idle machine only.
"""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", sys.executable, "path of a Python that has torch")
flags.DEFINE_integer("kernels", 3, "timed evaluations after the first; jaxnas: calls of 12", lower_bound=1)
flags.DEFINE_integer("batch", 72, "images N", lower_bound=2)
flags.DEFINE_bool("search", False, "also run whole searches with jaxnas")
flags.DEFINE_string("out", None, "Markdown file for the report")
flags.DEFINE_list("side", None, "internal: what this process measures, and its folder")

MODES = ("batch", "batch_frozen")
# A search of the published code scores the parent again for every candidate and repeat, but does
# not execute what is pruned: its 324 kernels cost as much as 261 of the full supernet.
OFFICIAL = {"compile": {"cpu": 0.0, "wall": 0.0}, "evaluations": 324, "full_cost": 261}
ROUND = 12  # supernets a call of the engine: the smallest round of a search
TOLERANCE = 1e-3  # relative, of kappa between `batch` and PyTorch, both in float32


def supernets() -> np.ndarray:
  """Active operations [7, 1, 6, 5]: the full supernet and candidates of rounds 1 (four), 2 and 3."""
  edges, ops = np.arange(6)[:, None], np.arange(5)[None]
  full = np.broadcast_to(ops > 0, (6, 5))
  second = full & (ops != 1 + edges % 4)
  third = second & (ops != 1 + (edges + 1) % 4)
  masks = np.stack([full, full, full, full, full, second, third])[:, None]
  masks[range(1, 7), 0, (0, 2, 3, 5, 4, 1), (1, 2, 3, 4, 3, 4)] = False
  return masks


def measure(mode: str, folder: str) -> dict:
  """One side of jaxnas, in this process; writes exchange.npz for the PyTorch side."""
  import jax

  from jaxnas import data, spaces
  from jaxnas.algorithms.tenas import TENAS, TENASConfig
  from jaxnas.base import Context
  from jaxnas.proxies.indicators import IndicatorConfig
  from jaxnas.scoring import Engine

  class TimedEngine(Engine):
    compile_cpu = 0.0

    def _program(self, *args):
      begin = time.process_time()
      program = super()._program(*args)
      self.compile_cpu += time.process_time() - begin
      return program

  space, source = spaces.get("nb201"), data.load("synthetic")
  settings = TENASConfig(batch_norm=mode)
  proxy, _ = TENAS().proxies(settings, space)
  given = proxy.prepare(space, source, IndicatorConfig(ntk_batch=FLAGS.batch), jax.random.key(0))
  x, net = given.batch, (given.network, given.network.init(jax.random.split(jax.random.key(0))[0]))
  leaves = jax.tree_util.tree_leaves_with_path(net[1])
  params = {"params/" + "/".join(k.key for k in path): np.asarray(v) for path, v in leaves}
  np.savez(f"{folder}/exchange.npz", images=np.asarray(x.inputs), masks=supernets(), **params)
  engine, nets, calls = TimedEngine(), spaces.active_weights(supernets()), []
  # The parent alone, which compiles; then as many calls as PyTorch has kernels, of a round's size; then each supernet.
  for chosen in [nets[:1], *[nets[[0] * ROUND]] * FLAGS.kernels, *nets[:, None]]:
    cpu, wall = time.process_time(), time.perf_counter()
    kappa = engine.score([proxy], *net, chosen, x)[0][0].value
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    calls.append({"kappa": kappa, "cpu": cpu / len(chosen), "wall": wall / len(chosen)})
  compiled = {"cpu": engine.compile_cpu, "wall": engine.seconds.compile}
  count, threads = TENAS().work(Context(space, source, settings)).amount, len(os.sched_getaffinity(0))
  work = {"evaluations": count, "full_cost": count}
  return {"calls": calls, "compile": compiled, "threads": threads, **work}


def run(side: str, folder: str, *command: str) -> dict:
  """Runs a side in a process of its own; returns what it found, and the process's own costs."""
  print(f"measuring {side} ...", file=sys.stderr)
  # Spinning threads would burn torch's CPU seconds, and a compilation cache would hide ours.
  env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "JAX_ENABLE_COMPILATION_CACHE": "false"}
  begin, pid = time.perf_counter(), os.posix_spawnp(command[0], command, env)
  _, status, usage = os.wait4(pid, 0)  # ru_maxrss starts from this process's own, which is small
  if status:
    sys.exit(f"{side} failed")
  spent = {"cpu s": usage.ru_utime + usage.ru_stime, "wall s": time.perf_counter() - begin}
  path = pathlib.Path(folder, f"{side}.json")
  found = json.loads(path.read_text()) if path.exists() else {}
  return OFFICIAL | found | {"run": spent | {"peak MB": usage.ru_maxrss / 1024}}


def column(side: dict, torch: dict | None, search: dict | None) -> dict[str, str]:
  """A side's figures by their names; ratios are PyTorch's cost to its own."""

  def kernel(side: dict | None, what: str) -> float:
    calls = side["calls"][1 : 1 + FLAGS.kernels] if side else [{what: math.nan}]
    return statistics.median(c[what] for c in calls)

  official = OFFICIAL["full_cost"] * kernel(torch, "cpu")
  ours = side["full_cost"] * kernel(side, "cpu")
  found = {"threads": side["threads"], "peak MB": side["run"]["peak MB"]}
  for what in ("cpu", "wall"):
    found[f"kernel, {what} s"] = kernel(side, what)
    found[f"kernel, {what} ratio"] = kernel(torch, what) / kernel(side, what)
    found[f"first kernel, {what} s"] = side["calls"][0][what] - side["compile"][what]
    found[f"compile, {what} s"] = side["compile"][what]
  found["search, kernels"] = side["evaluations"]
  found["search, estimated cpu s without compile"] = ours
  found["search, estimated cpu ratio without compile"] = official / ours
  found["search, estimated cpu ratio"] = official / (ours + side["compile"]["cpu"])
  if search:
    found |= {f"search, run {what}": value for what, value in search["run"].items()}
    found["search, run cpu ratio"] = official / search["run"]["cpu s"]
  nets = enumerate(side["calls"][-len(supernets()) :])  # one call a supernet
  found |= {f"kappa of supernet {i}": net["kappa"] for i, net in nets}
  return {label: "-" if math.isnan(value) else f"{value:.4g}" for label, value in found.items()}


def main(argv: list[str]) -> None:
  if FLAGS.side:
    side, folder = FLAGS.side
    pathlib.Path(folder, f"{side}.json").write_text(json.dumps(measure(side, folder)))
    return
  python, own, searches, worst = sys.executable, [*sys.argv, "--verbosity=-1"], {}, 0.0
  text = f"{FLAGS.batch} images; load average before {os.getloadavg()[0]:.1f}\n\n"
  with tempfile.TemporaryDirectory() as folder:
    sides = {m: run(m, folder, python, *own, f"--side={m},{folder}") for m in MODES}
    probe = ["env", FLAGS.torch_python, "-c", "import torch"]  # env: exit code 127 where there is none
    if subprocess.run(probe, capture_output=True).returncode == 0:
      script = str(pathlib.Path(__file__).with_name("pytorch_loop.py"))
      files = f"{folder}/exchange.npz", f"{folder}/pytorch.json"
      sides["pytorch"] = run("pytorch", folder, probe[1], script, *files, str(FLAGS.kernels))
    if FLAGS.search:
      command = python, "-m", "jaxnas.main", "--noprogress", f"--ntk_batch={FLAGS.batch}"
      searches = {m: run(f"search {m}", folder, *command, f"--batch_norm={m}") for m in MODES}
  torch = sides.get("pytorch")
  columns = {name: column(side, torch, searches.get(name)) for name, side in sides.items()}
  rows = [["", *columns], ["---"] * (1 + len(columns))]
  rows += [[k, *(c.get(k, "") for c in columns.values())] for k in columns["batch"]]
  text += "".join(f"| {' | '.join(row)} |\n" for row in rows)
  if torch:
    pairs = zip(*(side["calls"][-len(supernets()) :] for side in (sides["batch"], torch)), strict=True)
    differences = [abs(ours["kappa"] / theirs["kappa"] - 1) for ours, theirs in pairs]
    listed, worst = ", ".join(f"{d:.1e}" for d in differences), max(differences)
    text += f"\nkappa, batch and pytorch: relative differences {listed}; largest {worst:.1e}\n"
  else:
    text += f"\nPyTorch skipped, {probe[1]} cannot import torch: `pip install torch numpy` in any "
    text += "virtual environment, and give its Python as --torch_python\n"
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text)
  if not worst < TOLERANCE:
    sys.exit(f"kappa differs by {worst:.1e}, which must be below {TOLERANCE}")


if __name__ == "__main__":
  app.run(main)
