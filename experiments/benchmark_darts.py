"""What TE-NAS's kernels and regions cost on the DARTS space, and the choice behind its depthwise convolutions.

  python experiments/benchmark_darts.py

Kernels and regions are those of a search at the published size (batch 14; 3 x 1000 crops), by the engine that searches.
The published loop's costs are those measured for it: 8.6 CPU s a kernel, 1.5 a count of regions (--official_kernel,
--official_regions), of which a CIFAR-10 search has 1,581 full ones each. Time it on an idle machine.
"""

import functools
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from jaxnas import data, report, spaces
from jaxnas.algorithms.tenas import TENAS, TENASConfig
from jaxnas.algorithms.tenas_pruning import initial_active
from jaxnas.algorithms.tenas_ranking import candidates
from jaxnas.base import Context
from jaxnas.proxies.indicators import IndicatorConfig
from jaxnas.scoring import Engine
from jaxnas.spaces.darts import operations

FLAGS = flags.FLAGS
flags.DEFINE_integer("supernets", 24, "supernets that are timed", lower_bound=1)
flags.DEFINE_float("official_kernel", 8.6, "CPU s of the published loop's NTK of the full supernet")
flags.DEFINE_float("official_regions", 1.5, "CPU s of its count of linear regions")
OFFICIAL_FULL_COST = (
  1581  # its calls of a CIFAR-10 search, in units of the full supernet: pruned operations are skipped
)


def clocks() -> np.ndarray:
  """CPU and wall seconds."""
  return np.array([time.process_time(), time.perf_counter()])


def indicator_costs(mode: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
  """(compilation, one supernet): CPU and wall seconds each."""
  space, source = spaces.get("darts"), data.load("synthetic")
  kernel, regions = TENAS().proxies(TENASConfig(batch_norm=mode), space)
  proxy = kernel if kind == "kernel" else regions
  one = proxy.prepare(space, source, IndicatorConfig(), jax.random.key(0))
  params = one.network.init(jax.random.key(1))
  active = np.repeat(initial_active(space)[None], FLAGS.supernets, 0)
  for i, (cell, edge, op) in enumerate(candidates(active[0], space.op_order)[: FLAGS.supernets - 1], 1):
    active[i, cell, edge, op] = False
  nets, engine = spaces.active_weights(active), Engine()
  begin = clocks()
  engine.score([proxy], one.network, params, nets[:1], one.batch)
  first = clocks()
  engine.score([proxy], one.network, params, nets, one.batch)
  each = (clocks() - first) / len(nets)
  return first - begin - each, each


def layer_costs() -> list[list[str]]:
  """ms of CPU time of a 5x5 depthwise convolution and both its gradients, by form."""
  forms = {"grouped (XLA)": operations._grouped, "banded": operations._banded}
  rows = []
  for channels, samples, side in ((1, 196, 32), (2, 196, 16), (16, 32, 32), (64, 32, 8)):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (channels, samples, side, side))
    kernel = jax.random.normal(keys[1], (5, 5, 1, channels))
    row = [f"{channels} channels, {samples} images of {side}x{side}"]
    for form in forms.values():
      run = jax.jit(functools.partial(_with_gradients, functools.partial(form, stride=1, dilation=1)))
      row.append(f"{1e3 * _seconds(run, x, kernel):.1f}")
    rows.append(row)
  return [["5x5 depthwise, ms", *forms], *rows]


def _with_gradients(form, x, kernel):
  y, pull = jax.vjp(form, x, kernel)
  return y, pull(y)


def _seconds(run, *args) -> float:
  jax.block_until_ready(run(*args))
  taken = []
  for _ in range(5):
    begin = time.process_time()
    jax.block_until_ready(run(*args))
    taken.append(time.process_time() - begin)
  return statistics.median(taken)


def main(argv) -> None:
  """Prints both tables."""
  del argv
  header, *rows = layer_costs()
  print(report.markdown_table(header, rows))
  space = spaces.get("darts")
  evaluations = TENAS().work(Context(space, data.load("synthetic"), TENASConfig())).amount
  official = OFFICIAL_FULL_COST * (FLAGS.official_kernel + FLAGS.official_regions)
  regions_compile, regions = indicator_costs("batch", "regions")
  rows = []
  for mode in ("batch", "batch_frozen"):
    compiled, kernel = indicator_costs(mode, "kernel")
    search = evaluations * (kernel + regions)
    whole = search + compiled + regions_compile
    rows += [
      [f"{mode}: kernel, CPU s / wall s", f"{kernel[0]:.3f} / {kernel[1]:.3f}", f"{FLAGS.official_kernel}"],
      [f"{mode}: compilation of the kernel", f"{compiled[0]:.0f} / {compiled[1]:.0f}", "0"],
      [f"{mode}: search without compilation", f"{search[0]:.0f} / {search[1]:.0f}", f"{official:.0f}"],
      [f"{mode}: search with compilation", f"{whole[0]:.0f} / {whole[1]:.0f}", f"{official:.0f}"],
      [f"{mode}: ratio of CPU s without / with", f"{official / search[0]:.1f} / {official / whole[0]:.1f}", "1"],
    ]
  rows.append(["regions, CPU s / wall s", f"{regions[0]:.3f} / {regions[1]:.3f}", f"{FLAGS.official_regions}"])
  rows.append(["regions: compilation", f"{regions_compile[0]:.0f} / {regions_compile[1]:.0f}", "0"])
  print(f"\njax {jax.__version__}; {evaluations} supernets a search, estimated from {FLAGS.supernets}")
  print(report.markdown_table(["DARTS space, CIFAR-10 setting", "jaxnas", "published loop, CPU s"], rows))


if __name__ == "__main__":
  app.run(main)
