"""Architectures one after the other, or many in one program: what is cheapest on this device?

  python experiments/benchmark_batching.py --out=FILE.md

Single networks of a space at --channels and --cells, generated images, the same weights and architectures on all sides:
  loop        one after the other, an operation chosen by `lax.switch`
  dispatch A  A in one program, each operation computed for those that chose it (`nets.choose`)
  vmap A      A in one program, every operation computed for all of them: what JAX makes of a `vmap`

Each operation is chosen equally often at every place where the space allows it. A side whose values differ from the
loop's by more than --tolerance ends the run. Seconds are medians over --runs, without compilation, of one device and
thread of control; quote figures of an idle machine only.
"""

import os
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxnas import data, proxies, report, spaces
from jaxnas.base import Batch, NetworkConfig
from jaxnas.nets.choose import capacities
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.scoring.packing import pack

FLAGS = flags.FLAGS
flags.DEFINE_enum("space", "nb201", ["nb201", "darts"], "whose networks")
flags.DEFINE_list("proxies", ["trace_norm"], "measured together")
flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells, as the space counts them", lower_bound=1)
flags.DEFINE_integer("side", 32, "of the images", lower_bound=8)
flags.DEFINE_integer("runs", 3, "timed runs", lower_bound=1)
flags.DEFINE_list("dispatch", ["5", "25"], "architectures at once")
flags.DEFINE_list("vmap", ["5"], "architectures at once; empty: none")
flags.DEFINE_integer("architectures", 25, "how many are measured", lower_bound=5)
flags.DEFINE_float("tolerance", 2e-2, "relative: gradients of deep chains explode and amplify the order of summation")
flags.DEFINE_string("out", None, "Markdown file for the table")

TITLE = ["side", "CPU s each", "wall s each", "compilation, CPU s", "intermediates, MB", "GFLOP each", "differs by"]


def balanced(space: Any, count: int) -> np.ndarray:
  """Architectures of which every five that follow one another have each operation once at every place, if they can."""
  if space.name != "nb201":
    return space.sample(jax.random.key(0), count)
  first = np.random.default_rng(0).integers(5, size=(-(-count // 5), 1, 6))
  return ((first + np.arange(5)[None, :, None]) % 5).reshape(-1, 6)[:count].astype(np.int8)


def timed(program: Any, parts: list[tuple]) -> tuple[list[np.ndarray], float, float]:
  """Values [architecture] of all parts, by proxy; median CPU and wall seconds an architecture."""
  found, cpu, wall = [], [], []
  for run in range(FLAGS.runs + 1):
    begin = time.process_time(), time.perf_counter()
    found = [jax.device_get(program(*part)) for part in parts]
    if run:
      cpu.append(time.process_time() - begin[0])
      wall.append(time.perf_counter() - begin[1])
  values = [
    np.concatenate([np.asarray(own[i], np.float64).reshape(len(own[i]), -1) for own in found])
    for i in range(len(found[0]))
  ]
  return values, statistics.median(cpu) / len(values[0]), statistics.median(wall) / len(values[0])


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  space, source = spaces.get(FLAGS.space), data.load("synthetic")
  images, labels = data.plain_batch(source, jax.random.key(0), FLAGS.batch)
  batch = Batch(jnp.asarray(images[:, : FLAGS.side, : FLAGS.side]), jnp.asarray(labels))
  network = space.network(NetworkConfig(FLAGS.channels, FLAGS.cells, source.classes))
  params, some = network.init(jax.random.key(1)), [proxies.get(name) for name in FLAGS.proxies]
  archs = network.encode(balanced(space, FLAGS.architectures))

  def one(arch: Any) -> list[Any]:
    evaluation = Evaluation(network, params, arch, *batch, key=jax.random.key(2))
    return [proxy.measure(evaluation) for proxy in some]

  def together(slots: Any) -> Any:
    def run(block: Any) -> list[Any]:
      with capacities(slots):
        return jax.vmap(one)(block)

    return run

  sides: list[tuple[str, Any, np.ndarray]] = [
    ("loop", lambda block: jax.lax.map(one, block), np.arange(len(archs))[None])
  ]
  for size in map(int, FLAGS.dispatch):
    packed = pack(network.choices(archs), size)
    sides.append((f"dispatch {size}", together(packed.slots), packed.blocks))
  sides += [
    (f"vmap {size}", together({}), np.resize(np.arange(len(archs)), (-(-len(archs) // int(size)), int(size))))
    for size in FLAGS.vmap
  ]
  rows, expected = [], []
  for name, function, blocks in sides:
    parts = [(jnp.asarray(archs[block]),) for block in blocks]
    begin = time.process_time()
    program = jax.jit(function).lower(*parts[0]).compile()
    compiled = time.process_time() - begin
    values, cpu, wall = timed(program, parts)
    order = np.unique(blocks.reshape(-1), return_index=True)[1]
    values = [own[order] for own in values]
    expected = expected or values
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(values, expected, strict=True))
    if not worst < FLAGS.tolerance:
      raise SystemExit(f"{name} differs from the loop by {worst:.1e} of the largest value")
    analysis: Any = program.memory_analysis()
    memory = "" if analysis is None else f"{analysis.temp_size_in_bytes / 1e6:.0f}"
    flop = (program.cost_analysis() or {}).get("flops", 0) / blocks.shape[1] / 1e9 if name != "loop" else ""
    rows.append(
      [name, f"{cpu:.3g}", f"{wall:.3g}", f"{compiled:.3g}", memory, f"{flop:.3g}" if flop else "", f"{worst:.0e}"]
    )
  head = f"jax {jax.__version__}, {jax.devices()[0].device_kind}; load average {os.getloadavg()[0]:.1f}\n\n"
  text = head + report.markdown_table(TITLE, rows)
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
