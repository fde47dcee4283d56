"""One forward and backward pass of a 3x3 convolution on a CPU: XLA's own gradients against `plain_layers.convolve`.

  python experiments/benchmark_plain_layers.py

At top level and inside `lax.switch` in `lax.scan`, where networks of single architectures have them. CPU milliseconds
and GFLOP per CPU second, medians; N=32, the three stages of NAS-Bench-201.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

from jaxnas import report
from jaxnas.spaces import plain_layers

_RUNS = flags.DEFINE_integer("runs", 5, "timed runs after the first", lower_bound=1)
STAGES = ((16, 32), (32, 16), (64, 8))
SAMPLES = 32


def xla(x, kernel):
  """The convolution with the gradients that XLA derives."""
  dims = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, precision=lax.Precision.HIGHEST)


def in_loop(convolve):
  """Four times the convolution, chosen by data, in a loop."""

  def run(x, kernel, choice):
    def body(x, _):
      return lax.switch(choice, [lambda x: x, lambda x: 0.1 * convolve(x, kernel)], x), None

    return lax.scan(body, x, None, length=4)[0]

  return run


def seconds(function, *args) -> float:
  """Median CPU seconds of a call."""
  program = jax.jit(function).lower(*args).compile()
  jax.block_until_ready(program(*args))
  found = []
  for _ in range(_RUNS.value):
    begin = time.process_time()
    jax.block_until_ready(program(*args))
    found.append(time.process_time() - begin)
  return statistics.median(found)


def main(argv) -> None:
  """Prints the table."""
  del argv
  rows = []
  for channels, side in STAGES:
    x = jax.random.normal(jax.random.key(0), (SAMPLES, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
    flop = 3 * 2 * SAMPLES * side * side * 9 * channels**2
    for name, convolve in (("XLA's gradients", xla), ("plain_layers", plain_layers.convolve)):
      top = seconds(jax.grad(lambda x, k, f=convolve: jnp.square(f(x, k)).sum(), (0, 1)), x, kernel)
      looped = in_loop(convolve)
      loop = jax.grad(lambda x, k, c, f=looped: jnp.square(f(x, k, c)).sum(), (0, 1))
      inside = seconds(loop, x, kernel, jnp.asarray(1)) / 4
      figures = [f"{t * 1e3:.1f} ms, {flop / t / 1e9:.1f}" for t in (top, inside)]
      rows.append([f"{side}x{side}, {channels} channels", name, *figures])
  print(report.markdown_table(["layer", "gradients", "top level, GF/s", "in switch in scan, GF/s"], rows))


if __name__ == "__main__":
  app.run(main)
