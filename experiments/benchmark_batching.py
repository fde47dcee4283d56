"""One backward pass (the trace norm, MGM's) of several architectures at once, on one device: which way is cheapest?

  python experiments/benchmark_batching.py

NAS-Bench-201 networks with the weights of one initialisation, synthetic images. Sides:
  loop    one after the other, each edge choosing its operation by `lax.switch`: what the engine does
  vmap    `jax.vmap` of the same: every edge computes all five operations
  array   groups in which each operation stands equally often on every edge (orthogonal arrays of the full space): on
          every edge architectures are sorted by operation, each operation is computed once on all that have it, and the
          results are put back. Static shapes, nothing wasted but edges that reach no output; images of architectures
          with the same operation share a convolution, its kernel gradient is each architecture's own.

A side whose values are not the loop's ends the run. Seconds are medians over --runs.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import lax

from jaxnas import data, report
from jaxnas.nets import layers, plain_layers
from jaxnas.proxies.evaluation import cross_entropy, sum_of_squares
from jaxnas.spaces.nb201 import SingleNetwork
from jaxnas.spaces.nb201.encoding import EDGES, NUM_OPS, OPS
from jaxnas.spaces.nb201.parameters import STAGES, edge_name

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells per stage", lower_bound=1)
flags.DEFINE_integer("runs", 3, "timed runs", lower_bound=1)
flags.DEFINE_list("groups", ["5", "25"], "architectures at once, multiples of 5; the largest is the set that is timed")
flags.DEFINE_multi_enum(
  "side", ["vmap", "array"], ["vmap", "array"], "what to measure beside the loop; repeat for more"
)

TOLERANCE = 2e-2  # relative, float32: the gradients of deep chains explode and amplify the order of summation


def balanced(count: int) -> np.ndarray:
  """Op columns [count, 6] in which every five that follow one another have all operations on every edge."""
  first = np.random.default_rng(0).integers(NUM_OPS, size=(count // NUM_OPS, 1, len(EDGES)))
  return ((first + np.arange(NUM_OPS)[None, :, None]) % NUM_OPS).reshape(count, len(EDGES)).astype(np.int32)


def one_by_one(network: SingleNetwork, params, images, labels):
  """Op columns [6] -> the squared norm of the gradient of the mean loss."""

  def value(columns):
    def loss(params):
      return cross_entropy(network.apply(params, images, columns).logits, labels).mean()

    return sum_of_squares(jax.grad(loss)(params))

  return value


@jax.custom_vjp
def reorder(x, order, back):
  """x[order]; `back` undoes it, so that the pull-back gathers too."""
  del back
  return x[order]


reorder.defvjp(lambda x, order, back: (x[order], back), lambda back, dy: (dy[back], None, None))


def convolve(stride: int) -> Callable[..., jax.Array]:
  """Convolution of [A, N, H, W, C] with kernels [A, ...] that are all equal; their gradients are not."""

  def merged(x, kernel):
    y = plain_layers.convolve(x.reshape(-1, *x.shape[2:]), kernel, stride)
    return y.reshape(*x.shape[:2], *y.shape[1:])

  @jax.custom_vjp
  def run(x, kernels):
    return merged(x, kernels[0])

  def pull(saved, dy):
    x, kernels = saved
    (dx,) = jax.vjp(lambda x: merged(x, kernels[0]), x)[1](dy)

    def own(pair):
      return jax.vjp(lambda k: plain_layers.convolve(pair[0], k, stride), kernels[0])[1](pair[1])[0]

    return dx, lax.map(own, (x, dy))

  run.defvjp(lambda x, kernels: (run(x, kernels), (x, kernels)), pull)
  return run


def conv_bn(x, params, stride=1):
  return batch_norm(convolve(stride)(x, params["conv"]["kernel"]), params["bn"])


def batch_norm(z, bn):
  return jax.vmap(plain_layers.batch_norm)(z, bn["scale"], bn["bias"])


def pool(x):
  return layers.avg_pool(x.reshape(-1, *x.shape[2:])).reshape(x.shape)


def cell(x, params, orders, backs):
  """One cell of A architectures, x [A, N, H, W, C]; parameters [A / 5, ...], in the order of each edge."""
  nodes = [x]
  for target in (1, 2, 3):
    total = jnp.zeros_like(x)
    for e, (t, source) in enumerate(EDGES):
      if t == target:
        ordered = reorder(nodes[source], orders[e], backs[e])
        none, skip, one, three, pooled = jnp.split(ordered, NUM_OPS)
        own = params[edge_name((t, source))]
        found = [jnp.zeros_like(none), skip]
        found += [conv_bn(jax.nn.relu(v), own[OPS[op]]) for op, v in ((2, one), (3, three))]
        total += reorder(jnp.concatenate([*found, pool(pooled)]), backs[e], orders[e])
    nodes.append(total)
  return nodes[-1]


def reduction(x, params):
  y = conv_bn(jax.nn.relu(conv_bn(jax.nn.relu(x), params["conv_a"], 2)), params["conv_b"])
  halved = layers.avg_pool_2x2(x.reshape(-1, *x.shape[2:]))
  return y + convolve(1)(halved.reshape(*x.shape[:2], *halved.shape[1:]), params["downsample"]["conv"]["kernel"])


def array(params, images, labels):
  """Op columns [A, 6] -> squared norms [A]; see the module's text."""

  def values(columns):
    count = len(columns)
    orders = jnp.argsort(columns.T, stable=True)
    backs = jnp.argsort(orders)
    outer = {k: v for k, v in params.items() if k not in STAGES}
    inner = {k: v for k, v in params.items() if k in STAGES}
    outer = jax.tree.map(lambda p: jnp.broadcast_to(p, (count, *p.shape)), outer)
    inner = jax.tree.map(lambda p: jnp.broadcast_to(p[:, None], (len(p), count // NUM_OPS, *p.shape[1:])), inner)

    def loss(outer, inner):
      x = conv_bn(jnp.broadcast_to(images, (count, *images.shape)), outer["stem"])
      for stage, name in enumerate(STAGES):
        if stage:
          x = reduction(x, outer[f"reduce_{stage}"])
        x = lax.scan(lambda x, own: (cell(x, own, orders, backs), None), x, inner[name])[0]
      x = jax.nn.relu(batch_norm(x, outer["last"]["bn"])).mean((2, 3))
      head = outer["classifier"]
      logits = jnp.matmul(x, head["kernel"], precision=lax.Precision.HIGHEST) + head["bias"][:, None]
      return jax.vmap(cross_entropy, (0, None))(logits, labels).mean(1).sum()

    outer, inner = jax.grad(loss, (0, 1))(outer, inner)
    total = jax.vmap(sum_of_squares)(outer)
    for name in STAGES:
      for e, edge in enumerate(EDGES):
        for op, own in inner[name][edge_name(edge)].items():
          first = OPS.index(op) * (count // NUM_OPS)
          norms = jax.vmap(sum_of_squares, 1)(own)
          total = total.at[orders[e, first : first + count // NUM_OPS]].add(norms)
    return total

  return values


def timed(program, parts: list[Any]) -> tuple[np.ndarray, float, float]:
  """Values of all parts; median CPU and wall seconds an architecture."""
  found: list[np.ndarray] = []
  cpu, wall = [], []
  for run in range(FLAGS.runs + 1):
    begin = time.process_time(), time.perf_counter()
    found = [np.asarray(program(part)) for part in parts]
    if run:
      cpu.append(time.process_time() - begin[0])
      wall.append(time.perf_counter() - begin[1])
  values = np.concatenate(found)
  return values, statistics.median(cpu) / len(values), statistics.median(wall) / len(values)


def main(argv) -> None:
  """Prints the table."""
  del argv
  groups = sorted(int(g) if g.isdecimal() else 0 for g in FLAGS.groups)
  if not groups or any(g < NUM_OPS or g % NUM_OPS or groups[-1] % g for g in groups):
    raise app.UsageError(f"--groups={','.join(FLAGS.groups)}: multiples of {NUM_OPS} that divide the largest")
  source = data.load("synthetic")
  images, labels = (jnp.asarray(a) for a in data.plain_batch(source, jax.random.key(0), FLAGS.batch))
  network = SingleNetwork(FLAGS.channels, FLAGS.cells, source.classes, "torch_default")
  params = network.init(jax.random.key(1))
  columns = balanced(groups[-1])
  one = one_by_one(network, params, images, labels)
  sides = [("loop", groups[-1], lambda a: lax.map(one, a), columns)]
  sides += [("vmap", g, jax.vmap(one), columns) for g in groups if "vmap" in FLAGS.side]
  sides += [("array", g, array(params, images, labels), columns) for g in groups if "array" in FLAGS.side]
  rows, expected = [], None
  for name, count, function, given in sides:
    parts = [jnp.asarray(given[i : i + count]) for i in range(0, len(given), count)]
    begin = time.process_time()
    program = jax.jit(function).lower(parts[0]).compile()
    compiled = time.process_time() - begin
    analysis = program.memory_analysis()
    values, cpu, wall = timed(program, parts)
    expected = values if expected is None else expected
    worst = float(np.abs(values / expected - 1).max())
    if not worst < TOLERANCE:
      raise SystemExit(f"{name} of {count}: {values}, the loop {expected}")
    memory = "" if analysis is None else f"{analysis.temp_size_in_bytes / 1e6:.0f}"
    title = name if name == "loop" else f"{name}, {count} at once"
    rows.append([title, f"{cpu:.3g}", f"{wall:.3g}", f"{compiled:.3g}", memory, f"{worst:.1e}"])
  print(
    report.markdown_table(
      ["side", "CPU s each", "wall s each", "compilation, CPU s", "intermediates, MB", "differs by at most"], rows
    )
  )


if __name__ == "__main__":
  app.run(main)
