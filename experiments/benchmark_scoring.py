"""What a score of a NAS-Bench-201 architecture costs: jaxnas's engine, its network compiled for each one, PyTorch.

  python experiments/benchmark_scoring.py --torch_python=PATH/bin/python --out=FILE.md

Three tasks: `functional`, the NTK condition number with samples decoupled; `batch`, the published one; `one_pass`, the
gradient of the mean loss (MGM and trace norm). Sides: `pytorch` builds each network (`pytorch_scoring.py`), `compiled`
is jaxnas's network jitted with the architecture as a constant, `engine` is `scoring.score`. All see the same weights,
images and architectures, in processes of their own, one after the other. First all values are compared, with one cell a
stage; the run stops where they differ.

In `functional` PyTorch's batch normalisation is in eval mode: mean 0 and variance 1 at initialisation, samples at once
decoupled. jaxnas's `ntk_condition_number_frozen` first computes the batch's statistics, so it does slightly more. The
comparison of values gives PyTorch the same statistics.

The slow sides score the first few of the engine's architectures (flags): what a column says of all of them is then
extrapolated from their mean, and marked so. Ratios are other side to engine, of the same architectures. Takes long,
most of it PyTorch's and the compiler's; quote figures of an idle machine only.
"""

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", sys.executable, "path of a Python that has torch")
flags.DEFINE_integer("architectures", 200, "what the engine scores by `functional` and `one_pass`", lower_bound=1)
flags.DEFINE_integer("torch_architectures", 20, "how many of them PyTorch scores", lower_bound=1)
flags.DEFINE_integer("compiled_architectures", 5, "how many of them are compiled one by one", lower_bound=1)
flags.DEFINE_integer("exact_architectures", 5, "how many of them either side scores by `batch`", lower_bound=1)
flags.DEFINE_multi_enum(
  "task", ["functional", "batch", "one_pass"], ["functional", "batch", "one_pass"], "what to measure; repeat for more"
)
flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells per stage", lower_bound=1)
flags.DEFINE_list("memory", ["100", "2000"], "numbers of architectures whose peak memory is compared")
flags.DEFINE_string("out", None, "Markdown file for the report")
flags.DEFINE_list("side", None, "internal: what this process measures, and its folder")

PROXIES = {
  "functional": ("ntk_condition_number_frozen",),
  "batch": ("ntk_condition_number",),
  "one_pass": ("mgm", "trace_norm"),
  "check": ("ntk_condition_number", "ntk_condition_number_frozen", "mgm"),
  "memory": ("params", "flops", "synflow"),
}
TOLERANCES = {"batch": 1e-2, "frozen": 1e-2, "one_pass": 1e-3}  # relative; PyTorch's names of the checked proxies
CHECKED = 3  # architectures whose values are compared before anything is timed
MEMORY = {"channels": 4, "cells": 1, "pixels": 8}  # a network whose results, not its passes, would need the memory


def write_inputs(folder: pathlib.Path) -> None:
  """exchange.npz and, with one cell a stage and connected architectures, check.npz."""
  import jax

  from jaxnas import data, spaces
  from jaxnas.base import NetworkConfig

  space, source = spaces.get("nb201"), data.load("synthetic")
  images, labels = data.plain_batch(source, jax.random.key(0), FLAGS.batch)
  archs = space.sample(jax.random.key(0), max(FLAGS.architectures, 20 * CHECKED))
  connected = archs[[bool(space.is_connected(a)) for a in archs]][:CHECKED]
  init_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[0]  # `scoring.score`'s, of seed 0
  for name, cells, chosen in (("exchange", FLAGS.cells, archs), ("check", 1, connected)):
    network = space.network(NetworkConfig(FLAGS.channels, cells, source.classes))
    leaves = jax.tree_util.tree_leaves_with_path(network.init(init_key))
    params = {}
    for path, leaf in leaves:
      params |= numbered([k.key for k in path], np.asarray(leaf), cells)
    names = np.array(space.ops)[chosen]
    arrays: dict[str, Any] = {"images": images, "labels": labels, "archs": chosen, "names": names, **params}
    np.savez(folder / f"{name}.npz", **arrays)


def numbered(path: list[str], leaf: np.ndarray, cells: int) -> dict[str, np.ndarray]:
  """A parameter by its name in the PyTorch network, where cells and reductions are numbered and cells not stacked."""
  part, *rest = path
  if not part.startswith(("stage", "reduce")):
    return {"/".join(["params", *path]): leaf}
  first = int(part[-1]) * (cells + 1)
  if part.startswith("reduce"):
    return {"/".join(["params", f"cells_{first - 1}", *rest]): leaf}
  return {"/".join(["params", f"cells_{first + i}", *rest]): own for i, own in enumerate(leaf)}


def measure(side: str, folder: pathlib.Path) -> dict:
  """One side of jaxnas, in this process: the calls with their values and seconds."""
  from jaxnas import spaces
  from jaxnas.base import Batch, NetworkConfig

  task, kind, count = side.split()
  exchange = np.load(folder / ("check.npz" if task == "check" else "exchange.npz"))
  images, classes = exchange["images"], len(exchange["params/classifier/bias"])
  channels, cells = FLAGS.channels, 1 if task == "check" else FLAGS.cells
  archs = exchange["archs"][: int(count)]
  if task == "memory":
    channels, cells = MEMORY["channels"], MEMORY["cells"]
    images = images[:, : MEMORY["pixels"], : MEMORY["pixels"]]
    archs = np.resize(spaces.get("nb201").enumerate_all(), (int(count), len(archs[0])))
  network = spaces.get("nb201").network(NetworkConfig(channels, cells, classes))
  score = {"engine": score_by_engine, "compiled": score_compiled}[kind]
  calls = score(PROXIES[task], network, archs, Batch(images, exchange["labels"]), one_by_one=task != "memory")
  return {"calls": calls, "threads": len(os.sched_getaffinity(0))}


def score_by_engine(names, network, archs, batch, *, one_by_one: bool) -> list[dict]:
  """`scoring.score`: the first architecture alone, which compiles, then all of them.

  They come in parts that end where the other sides do: within a part, blocks of architectures are under way side by
  side, so that only its sum is exact; an architecture's seconds are its share of its block's.
  """
  from jaxnas import proxies, scoring, spaces

  calls, marks = [], []

  def lap(found: list[list[float]], setup: bool) -> None:
    marks.append((time.process_time(), time.perf_counter()))
    cpu, wall = ((b - a) / len(found) for a, b in zip(*marks[-2:], strict=True))
    calls.extend({"values": values, "cpu": cpu, "wall": wall, "setup": setup} for values in found)

  class MarkedEngine(scoring.Engine):
    def blocks(self, *args: Any, **kwargs: Any):
      lap([[]], setup=True)  # so far the weights were drawn
      return super().blocks(*args, **kwargs)

  engine = MarkedEngine()
  ends = {FLAGS.compiled_architectures, FLAGS.torch_architectures, len(archs)} if one_by_one else {len(archs)}
  ends = sorted({0} | {e for e in ends if e <= len(archs)})
  parts = [(False, archs[start:end]) for start, end in itertools.pairwise(ends)]
  for setup, chosen in [(True, archs[:1]), *parts]:
    marks[:] = [(time.process_time(), time.perf_counter())]

    def keep(*records: dict[str, Any], setup: bool = setup) -> None:
      values = [r["value"] if r["status"] == "ok" else np.nan for r in records]
      lap([values[i : i + len(names)] for i in range(0, len(values), len(names))], setup)

    own = [proxies.get(n) for n in names]
    scoring.score(own, spaces.get("nb201"), chosen, batch, network=network, engine=engine, keep=keep)
  return calls if one_by_one else []


def score_compiled(names, network, archs, batch, *, one_by_one: bool) -> list[dict]:
  """A program for every architecture; its operations are constants, so XLA drops what it does not have."""
  import jax

  from jaxnas import proxies
  from jaxnas.proxies.evaluation import Evaluation

  (proxy,) = (proxies.get(n) for n in names)
  params = network.init(jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)[0])
  calls = []
  for arch in archs if one_by_one else ():
    static = tuple(arch.tolist())

    def kernel(params, images, labels, static=static):
      return proxy.measure(Evaluation(network, params, static, images, labels))

    cpu, wall = time.process_time(), time.perf_counter()
    program = jax.jit(kernel).lower(params, batch.inputs, batch.labels).compile()
    compiled = time.process_time() - cpu, time.perf_counter() - wall
    reading = proxy.finish(jax.device_get(program(params, batch.inputs, batch.labels)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if " conditional(" in (program.as_text() or ""):
      sys.exit("XLA has left branches of other operations in a program compiled for one architecture")
    value = reading.value if reading.status == "ok" else np.nan
    calls.append({"values": [value], "cpu": cpu, "wall": wall, "compile": compiled, "setup": False})
  return calls


def run(side: str, folder: str, *command: str) -> dict:
  """Runs a side in a process of its own; what it found, and its peak memory."""
  print(f"measuring {side} ...", file=sys.stderr, flush=True)
  # Spinning threads would burn torch's CPU seconds, and a compilation cache would hide ours.
  env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "JAX_ENABLE_COMPILATION_CACHE": "false"}
  pid = os.posix_spawnp(command[0], command, env)
  _, status, usage = os.wait4(pid, 0)  # ru_maxrss starts from this process's own, which is small
  if status:
    sys.exit(f"{side} failed")
  path = pathlib.Path(folder, f"{side}.json")
  found = json.loads(path.read_text()) if path.exists() else {}
  return found | {"peak MB": usage.ru_maxrss / 1024}


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
  """Relative differences of the values that are numbers on both sides."""
  both = np.isfinite(ours) & np.isfinite(theirs)
  return np.abs(ours[both] / theirs[both] - 1)


def check(ours: dict, theirs: dict) -> str:
  """Compares the values of small networks; ends the program where they differ by more than the tolerance."""
  mine = np.array([c["values"] for c in timed(ours)])
  text = "With one cell a stage, jaxnas and PyTorch differ at most by"
  for column, (task, tolerance) in zip(mine.T, TOLERANCES.items(), strict=True):
    other = np.array([c["value"] for c in timed(theirs) if c["task"] == task])
    found = differences(column, other)
    worst = max(found, default=np.nan)
    if len(found) < len(column) or not worst < tolerance:
      sys.exit(f"{task}: jaxnas {column}, PyTorch {other}; relative differences must be below {tolerance}")
    text += f" {worst:.1e} ({task}, {len(found)} architectures),"
  return text[:-1] + ".\n"


def timed(side: dict) -> list[dict]:
  return [c for c in side["calls"] if not c["setup"]]


def total(side: dict, what: str) -> tuple[float, float]:
  """Seconds for all `--architectures`: what sets up, and the rest, at the mean of those that were scored."""
  own = [c[what] for c in timed(side)]
  return sum(c[what] for c in side["calls"] if c["setup"]), FLAGS.architectures * statistics.fmean(own)


def row(name: str, side: dict) -> dict[str, str]:
  own = timed(side)
  cells = {"": name.rsplit(" ", 1)[0], "scored": str(len(own)), "threads": str(side["threads"])}
  for what in ("cpu", "wall"):
    cells[f"{what} s each, median"] = f"{statistics.median(c[what] for c in own):.3g}"
  cells["architectures/s"] = f"{len(own) / sum(c['wall'] for c in own):.3g}"
  compiles = [c["compile"] for c in own if "compile" in c]
  for i, what in enumerate(("cpu", "wall")):
    setup = f"{statistics.median(c[i] for c in compiles):.3g} each" if compiles else f"{total(side, what)[0]:.3g}"
    cells[f"compile or start, {what} s"] = setup
    note = "" if len(own) == FLAGS.architectures else " (extrapolated)"
    cells[f"{FLAGS.architectures} with it, {what} s"] = f"{sum(total(side, what)):.4g}{note}"
  return cells | {"peak MB": f"{side['peak MB']:.0f}"}


def ratios(name: str, other: dict, engine: dict) -> dict[str, str]:
  """The other side's seconds to the engine's, on the architectures that both scored, and for all with compilation."""
  pairs = list(zip(timed(other), timed(engine), strict=False))
  cells = {"": name.rsplit(" ", 1)[0] + " / engine"}
  for what in ("cpu", "wall"):
    same = sum(a[what] for a, _ in pairs) / sum(b[what] for _, b in pairs)
    cells[f"same {what} s"] = f"{same:.3g}"
    cells[f"{FLAGS.architectures} with compilation, {what} s"] = (
      f"{sum(total(other, what)) / sum(total(engine, what)):.3g}"
    )
  values = (np.array([c.get("value", c.get("values", [np.nan])[0]) for c in side]) for side in zip(*pairs, strict=True))
  found = differences(*values)
  equal = name.split()[:2] != ["functional", "pytorch"] and len(found)  # there BN differs
  return cells | {"values differ by at most": f"{max(found):.1e}" if equal else "-"}


def table(rows: list[dict[str, str]]) -> str:
  lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(r.values()) for r in rows)]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def report(measure_torch: Callable | None, measure_own: Callable) -> str:
  measure_own("inputs")
  text = ""
  if measure_torch:
    ours, theirs = measure_own(f"check engine {CHECKED}"), measure_torch(f"check pytorch {CHECKED}")
    text += check(ours, theirs) + "\n"
  some, few, exact = FLAGS.torch_architectures, FLAGS.compiled_architectures, FLAGS.exact_architectures
  plan = [f"functional pytorch {some}", f"functional compiled {few}", f"functional engine {FLAGS.architectures}"]
  plan += [f"batch pytorch {exact}", f"batch engine {exact}"]
  plan += [f"one_pass pytorch {some}", f"one_pass engine {FLAGS.architectures}"]
  sides = {}
  for name in plan:
    if name.split()[0] not in FLAGS.task:
      continue
    if " pytorch " not in name:
      sides[name] = measure_own(name)
    elif measure_torch:
      sides[name] = measure_torch(name)
  text += table([row(name, side) for name, side in sides.items()])
  engines = {name.split()[0]: side for name, side in sides.items() if " engine " in name}
  text += table([ratios(n, s, engines[n.split()[0]]) for n, s in sides.items() if " engine " not in n])
  if not FLAGS.memory:
    return text
  peaks = [measure_own(f"memory engine {count}")["peak MB"] for count in FLAGS.memory]
  listed = ", ".join(f"{p:.0f} MB for {n} architectures" for n, p in zip(FLAGS.memory, peaks, strict=True))
  return text + f"Peak memory of {', '.join(PROXIES['memory'])} on a small network ({MEMORY}): {listed}.\n"


def main(argv: list[str]) -> None:
  if FLAGS.side:
    side, folder = FLAGS.side[0], pathlib.Path(FLAGS.side[1])
    if side == "inputs":
      write_inputs(folder)
    else:
      (folder / f"{side}.json").write_text(json.dumps(measure(side, folder)))
    return
  probe = ["env", FLAGS.torch_python, "-c", "import torch"]  # env: exit code 127 where there is none
  has_torch = subprocess.run(probe, capture_output=True).returncode == 0
  with tempfile.TemporaryDirectory() as folder:

    def measure_own(side: str) -> dict:
      return run(side, folder, sys.executable, *sys.argv, "--verbosity=-1", f"--side={side},{folder}")

    def measure_torch(side: str) -> dict:
      task, _, count = side.split()
      script = str(pathlib.Path(__file__).with_name("pytorch_scoring.py"))
      exchange, tasks = ("check", ",".join(TOLERANCES)) if task == "check" else ("exchange", task)
      files = f"{folder}/{exchange}.npz", f"{folder}/{side}.json"
      return run(side, folder, probe[1], script, *files, tasks, count)

    text = f"N={FLAGS.batch}, C={FLAGS.channels}, {FLAGS.cells} cells a stage; "
    text += f"load average before {os.getloadavg()[0]:.1f}\n\n"
    text += report(measure_torch if has_torch else None, measure_own)
  if not has_torch:
    text += f"\nPyTorch skipped, {probe[1]} cannot import torch: `pip install torch numpy` in any "
    text += "virtual environment, and give its Python as --torch_python\n"
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text)


if __name__ == "__main__":
  app.run(main)
