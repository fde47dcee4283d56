"""One forward and backward pass of a 3x3 convolution on a CPU: XLA's own gradients against `plain_layers.convolve`.

  python experiments/benchmark_plain_layers.py

At top level; inside `lax.switch` in `lax.scan`, where networks of single architectures have them; and for kernels that
differ from architecture to architecture, as when they are trained: `lax.map` over architectures and `vmap` over them
(which makes grouped convolutions). CPU milliseconds an architecture and GFLOP per CPU second, medians; the three stages
of NAS-Bench-201. Then the two forms of the kernel gradient by the number of images, in the same control flow.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

from jaxnas import report
from jaxnas.nets import plain_layers, products

_RUNS = flags.DEFINE_integer("runs", 5, "timed runs after the first", lower_bound=1)
STAGES = ((16, 32), (32, 16), (64, 8))
ARCHITECTURES = 4
_SAMPLES = flags.DEFINE_integer("samples", 32, "images N", lower_bound=1)


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


def one_by_one(function):
  """`lax.map` over architectures."""
  return lambda x, kernel: lax.map(lambda both: function(*both), (x, kernel))


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


def kernel_gradients() -> list[list[str]]:
  """Rows of CPU milliseconds, as a convolution and as a product."""
  pads, rows = ((1, 1), (1, 1)), []

  def convolved(x, dy):
    return products.convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), pads).transpose(1, 2, 0, 3)

  def looped(form, x, dy):
    def body(total, choice):
      own = x + total.sum() * 0.0  # so that nothing leaves the loop
      return total + lax.switch(choice, [lambda: jnp.zeros_like(total), lambda: form(own, dy)]), None

    return lax.scan(body, jnp.zeros((3, 3, x.shape[-1], dy.shape[-1])), jnp.ones(4, jnp.int32))[0]

  for samples in (16, 32, 64, 128):
    for channels, side in (*STAGES, (128, 8)):
      shape = (samples, side, side, channels)
      x, dy = (jax.random.normal(jax.random.key(i), shape) for i in range(2))
      forms = convolved, functools.partial(plain_layers._as_product, pads=pads)
      figures = [seconds(functools.partial(looped, form), x, dy) / 4 for form in forms]
      rows.append([f"{samples} images, {side}x{side}, {channels} channels", *(f"{t * 1e3:.2f}" for t in figures)])
  return rows


def main(argv) -> None:
  """Prints the tables."""
  del argv
  rows = []
  for channels, side in STAGES:
    x = jax.random.normal(jax.random.key(0), (_SAMPLES.value, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
    flop = 3 * 2 * _SAMPLES.value * side * side * 9 * channels**2
    for name, convolve in (("XLA's gradients", xla), ("plain_layers", plain_layers.convolve)):
      top = seconds(jax.grad(lambda x, k, f=convolve: jnp.square(f(x, k)).sum(), (0, 1)), x, kernel)
      looped = in_loop(convolve)
      loop = jax.grad(lambda x, k, c, f=looped: jnp.square(f(x, k, c)).sum(), (0, 1))
      inside = seconds(loop, x, kernel, jnp.asarray(1)) / 4
      one = jax.grad(lambda x, k, f=convolve: jnp.square(f(x, k)).sum(), (0, 1))
      many = [jnp.stack([a] * ARCHITECTURES) for a in (x, kernel)]
      mapped = seconds(one_by_one(one), *many) / ARCHITECTURES
      batched = seconds(jax.vmap(one), *many) / ARCHITECTURES
      figures = [f"{t * 1e3:.1f} ms, {flop / t / 1e9:.1f}" for t in (top, inside, mapped, batched)]
      rows.append([f"{side}x{side}, {channels} channels", name, *figures])
  columns = ["layer", "gradients", "top level, GF/s", "in switch in scan", "map over kernels", "vmap over kernels"]
  print(report.markdown_table(columns, rows), end="\n\n")
  print(report.markdown_table(["kernel gradient, ms", "as a convolution", "as a product"], kernel_gradients()))


if __name__ == "__main__":
  app.run(main)
