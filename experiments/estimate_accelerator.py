"""What the scoring engine's programs cost on a card that is not there: an estimate, from XLA's analysis of them.

  python experiments/estimate_accelerator.py --out=FILE.md

A program of `--batching=dispatch` for each proxy, with --block architectures of NAS-Bench-201 in which each operation
stands equally often on every edge, in the form that accelerators get, compiled for the CPU and not run. XLA counts its
floating-point operations and the bytes that its fusions read and write. A loop's body it counts once, so loops are
written out here; programs of one and of two cells per stage give those of --cells, as cells cost alike.

The time that a card needs at least is the longer of operations over --tflops and bytes over --gbytes. It is no
measurement: gathers, launches and what a card cannot keep busy come on top, and a card's compiler fuses otherwise than
a CPU's. "By hand" are the operations of the architectures' convolutions and classifier alone, in as many passes as the
proxy needs.
"""

import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

# Only the optimised program is looked at, not its machine code.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxnas import proxies, report, spaces
from jaxnas.base import Batch, NetworkConfig
from jaxnas.scoring import engine, together
from jaxnas.scoring.packing import pack

# Images that pass the network, a gradient in maps or in parameters being one more pass, of a batch of N.
PASSES: dict[str, Callable[[int], int]] = {
  "naswot": lambda n: n,
  "synflow": lambda n: 6,  # of one image of ones: three probes, forward and back
  "mgm": lambda n: 3 * n,
  "jacob_cov": lambda n: 2 * n,  # in the images alone
  "ntk_condition_number_frozen": lambda n: 4 * n,  # one for the statistics
  "ntk_condition_number": lambda n: n + 2 * n * n,  # back once for every image
}

FLAGS = flags.FLAGS
flags.DEFINE_list("proxies", list(PASSES), f"of {', '.join(PASSES)}; a program each")
flags.DEFINE_integer("block", 5, "architectures in a program, a multiple of 5", lower_bound=5)
flags.DEFINE_integer("batch", 32, "images N, of 32 x 32", lower_bound=2)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells per stage", lower_bound=1)
flags.DEFINE_float(
  "tflops", 67, "the card's 1e12 operations of float32 a second; 67: H100 SXM, not its tensor cores", lower_bound=1e-3
)
flags.DEFINE_float("gbytes", 3350, "the card's 1e9 bytes of memory a second; 3350: H100 SXM", lower_bound=1e-3)
flags.DEFINE_string("out", None, "Markdown file for the table, rewritten after every program")
flags.register_validator(
  "proxies", lambda names: names and set(names) <= set(PASSES), f"--proxies: of {', '.join(PASSES)}"
)
flags.register_validator("block", lambda block: block % 5 == 0, "--block: a multiple of 5")

ARCHITECTURES = 15625  # of the whole space
TITLE = ["proxy", "GFLOP each", "by hand", "GB each", "15,625: FLOP s", "bytes s", "at least, min", "at 30 %, min"]


def counted(proxy: str, cells: int) -> np.ndarray:
  """(floating-point operations, bytes) an architecture, of a network of so many cells per stage."""
  network = spaces.get("nb201").network(NetworkConfig(FLAGS.channels, cells, 10))
  archs = balanced()
  one = engine._one((proxies.get(proxy),), network, False, None)
  run = together.program(one, False, pack(network.choices(archs), FLAGS.block).slots)
  shapes = jax.eval_shape(lambda: (network.init(jax.random.key(0)), jax.random.key(0)))
  images = (FLAGS.batch, 32, 32, 3)
  batch = Batch(jax.ShapeDtypeStruct(images, jnp.float32), jax.ShapeDtypeStruct(images[:1], jnp.int32))
  block = jax.ShapeDtypeStruct(archs.shape, jnp.int32)
  analysis: Any = jax.jit(run).lower(shapes[0], block, batch, shapes[1]).compile().cost_analysis()
  return np.array([analysis["flops"], analysis["bytes accessed"]]) / FLAGS.block


def balanced() -> np.ndarray:
  """Architectures with each operation equally often on every edge, int [block, 6]."""
  return (np.random.default_rng(0).integers(5, size=6) + np.arange(FLAGS.block)[:, None]) % 5


def by_hand(proxy: str) -> float:
  """Floating-point operations an architecture, of its multiply-adds."""
  config = NetworkConfig(FLAGS.channels, FLAGS.cells, 10)
  macs = np.mean([spaces.get("nb201").costs(code, config, 32).macs for code in balanced()])
  return 2 * float(macs) * PASSES[proxy](FLAGS.batch)


def row(proxy: str) -> list[str]:
  """A line of the table."""
  short, long = counted(proxy, 1), counted(proxy, 2)
  flop, moved = short + (FLAGS.cells - 1) * (long - short)
  seconds = ARCHITECTURES * np.array([flop / FLAGS.tflops / 1e12, moved / FLAGS.gbytes / 1e9])
  least = seconds.max() / 60
  figures = [flop / 1e9, by_hand(proxy) / 1e9, moved / 1e9, *seconds, least, least / 0.3]
  return [proxy, *(f"{figure:.3g}" for figure in figures)]


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  jax.default_backend = lambda: "gpu"  # what layers and proxies ask before they take a form that is a CPU's
  jax.lax.scan = functools.partial(jax.lax.scan, unroll=True)
  command = " ".join(["python experiments/estimate_accelerator.py", *sys.argv[1:]])
  head = f"Made by `{command}`\n\n# An accelerator, estimated\n\njax {jax.__version__}, {time.strftime('%Y-%m-%d')}; "
  head += f"NAS-Bench-201, C={FLAGS.channels}, N={FLAGS.cells}, {FLAGS.batch} images of 32 x 32, float32; a card of "
  head += f"{FLAGS.tflops:g} TFLOP/s and {FLAGS.gbytes:g} GB/s. An estimate: nothing was run.\n\n"
  rows, text = [], ""
  for proxy in FLAGS.proxies:
    rows.append(row(proxy))
    text = head + report.markdown_table(TITLE, rows)
    if FLAGS.out:
      pathlib.Path(FLAGS.out).write_text(text + "\n")
  print(text)


if __name__ == "__main__":
  app.run(main)
