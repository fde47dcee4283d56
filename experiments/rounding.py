"""What rounding does to scores: sums in another order, many architectures in one program, products of less precision.

  python experiments/rounding.py --out=FILE.md

The same architectures, weights and images on all sides. The reference is one architecture after the other with products
as precise as float32; the others are

  reordered   the same with the images in another order, which no score should see
  dispatch    --together architectures in one program
  high        each product as three of bfloat16 (`--precision=high`)
  bfloat16    as one

A column has the median of |other - reference| / |reference|, its largest, and Spearman's correlation of the two. The
numbers of a precision are those of every device (`nets.products`), those of an order of summation the compiler's.
"""

import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxnas import data, proxies, report, spaces
from jaxnas.base import Batch, NetworkConfig
from jaxnas.scoring import Engine
from jaxnas.tabular.metrics import spearman

FLAGS = flags.FLAGS
PROXIES = (
  *("naswot", "jacob_cov", "synflow", "snip", "grad_norm", "grasp", "fisher", "zen", "mgm", "trace_norm"),
  "ntk_condition_number_frozen",
)
SIDES = ("reordered", "dispatch", "high", "bfloat16")
flags.DEFINE_enum("space", "nb201", ["nb201", "nb101", "darts"], "whose networks")
flags.DEFINE_list("proxies", list(PROXIES), "measured together")
flags.DEFINE_list("sides", list(SIDES), "what is compared with the reference")
flags.DEFINE_integer("architectures", 100, "how many", lower_bound=3)
flags.DEFINE_integer("together", 25, "of them in a program of dispatch", lower_bound=1)
flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells, as the space counts them", lower_bound=1)
flags.DEFINE_integer("side", 32, "of the images", lower_bound=8)
flags.DEFINE_string("out", None, "Markdown file for the table")


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  space, source = spaces.get(FLAGS.space), data.load("synthetic")
  images, labels = data.plain_batch(source, jax.random.key(0), FLAGS.batch)
  images = jnp.asarray(images[:, : FLAGS.side, : FLAGS.side])
  order = np.random.default_rng(0).permutation(FLAGS.batch)
  network = space.network(NetworkConfig(FLAGS.channels, FLAGS.cells, source.classes))
  params, archs = network.init(jax.random.key(1)), space.sample(jax.random.key(2), FLAGS.architectures)
  some = [proxies.get(name) for name in FLAGS.proxies]

  def scores(side: str) -> np.ndarray:
    begin, inputs, answers = time.time(), images, jnp.asarray(labels)
    if side == "reordered":
      inputs, answers = inputs[order], answers[order]
    engine = Engine(
      FLAGS.together if side == "dispatch" else None, batching="dispatch" if side == "dispatch" else "loop"
    )
    with jax.default_matmul_precision(side if side in ("high", "bfloat16") else "highest"):
      found = engine.score(some, network, params, archs, Batch(inputs, answers), key=jax.random.key(3))
    print(f"{side}: {time.time() - begin:.0f} s", flush=True)
    return np.array([[reading.value for reading in own] for own in found], np.float64)

  reference, rows = scores("reference"), []
  others = {side: scores(side) for side in FLAGS.sides}
  for i, name in enumerate(FLAGS.proxies):
    row = [name]
    for values in others.values():
      usable = np.isfinite(reference[i]) & np.isfinite(values[i])
      a, b = reference[i][usable], values[i][usable]
      error = np.abs(b - a) / np.maximum(np.abs(a), 1e-300)
      row.append(f"{np.median(error):.1e}, {error.max():.1e}, {spearman(a, b):.5f}")
    rows.append(row)
  text = (
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {time.strftime('%Y-%m-%d')}; load average before "
    f"{os.getloadavg()[0]:.1f}\n\n"
    f"{FLAGS.space}, C={FLAGS.channels}, {FLAGS.cells} cells, {FLAGS.batch} images of {FLAGS.side} pixels, "
    f"{FLAGS.architectures} architectures.\n\n"
  )
  text += report.markdown_table(["median, largest, rho", *others], rows)
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text + "\n")


if __name__ == "__main__":
  app.run(main)
