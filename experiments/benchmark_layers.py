"""Measures the choices behind jaxnas/nets/layers.py on this machine's CPU: folding, loops, layers per edge.

  python experiments/benchmark_layers.py

Convolutions are those of TE-NAS's NTK network under `vmap` over 4 cotangents of a batch of 72. CPU seconds are of this
process, median of 5 runs; GFLOP/s count the useful multiply-adds only. Time it on an idle machine.
"""

import statistics
import time

import jax
from absl import app
from jax import lax

from jaxnas import report
from jaxnas.nets import layers

BATCH, COTANGENTS = 72, 4


def seconds(fn, *args) -> float:
  """Median CPU seconds of a compiled call."""
  program = jax.jit(fn).lower(*args).compile()
  jax.block_until_ready(program(*args))
  taken = []
  for _ in range(5):
    begin = time.process_time()
    jax.block_until_ready(program(*args))
    taken.append(time.process_time() - begin)
  return statistics.median(taken)


def folded(fold: int):
  """A convolution with the given fold whatever `layers.width_fold` would choose."""

  def run(x, kernel):
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width // fold, fold * channels)
    if fold > 1:
      kernel = layers._transposed_kernel(layers._flipped(kernel), 1, fold, fold)[0]
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(n, height, width, -1)

  return run


def looped(x, kernel):
  """The chosen convolution inside a loop over cotangents."""
  return lax.map(lambda part: layers.conv(part, kernel), x.reshape(COTANGENTS, BATCH, *x.shape[1:]))


def main(argv) -> None:
  """Prints the table."""
  del argv
  rows = []
  for size, channels in ((32, 3), (16, 6), (8, 12)):
    for edges in (1, 3):
      keys = jax.random.split(jax.random.key(0))
      x = jax.random.normal(keys[0], (COTANGENTS * BATCH, size, size, edges * channels))
      kernel = jax.random.normal(keys[1], (3, 3, edges * channels, channels))
      flop = 2.0 * x.size * 9 * channels
      rates = [flop / seconds(folded(f), x, kernel) / 1e9 for f in (1, 2, 4, 8)]
      chosen = layers.width_fold(size, edges * channels, channels)
      loop = flop / seconds(looped, x, kernel) / 1e9
      cells = [f"{r:.1f}" for r in rates]
      rows.append([f"{size}x{size}, {edges * channels} -> {channels}", *cells, str(chosen), f"{loop:.1f}"])
  print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; GFLOP per CPU second")
  print(
    report.markdown_table(["convolution 3x3", "fold 1", "fold 2", "fold 4", "fold 8", "chosen", "chosen, looped"], rows)
  )


if __name__ == "__main__":
  app.run(main)
