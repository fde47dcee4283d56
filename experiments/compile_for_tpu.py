"""The scoring engine's programs compiled for TPU chips that need not be there: seconds, code, memory, collectives.

  pip install libtpu
  python experiments/compile_for_tpu.py --topology=v5e:2x2 --out=FILE.md
  python experiments/compile_for_tpu.py --layers      what one 3x3 convolution is, written in several ways

NAS-Bench-201 at --channels and --cells with --batch images, by proxy and by way of batching (see `scoring.Engine`). A
topology of so many chips takes the place of devices (`jax.experimental.topologies`); nothing is computed. Code is what
every chip gets, memory what XLA plans there beside arguments; collectives are counted in the optimised program. Each
program is compiled in a process of its own, for at most --seconds.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("topology", ["v5e:2x2"], "chips, of libtpu's names; v5e:16x16 has 256")
flags.DEFINE_list("proxies", ["mgm"], "a program each")
flags.DEFINE_list("batching", ["loop", "dispatch"], "ways")
flags.DEFINE_integer("block", 25, "architectures a chip and call", lower_bound=1)
flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
flags.DEFINE_integer("side", 32, "of the images", lower_bound=4)
flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
flags.DEFINE_integer("cells", 5, "cells per stage", lower_bound=1)
flags.DEFINE_bool("layers", False, "a 3x3 convolution of --batch maps with --channels, on one chip, and no proxies")
flags.DEFINE_float("seconds", 1800, "for a program", lower_bound=1)
flags.DEFINE_string("out", None, "Markdown file for the table, rewritten after every program")
flags.DEFINE_string("child", None, "compile this program in this process and print a JSON line; used by the script")

flags.register_validator(
  "topology",
  lambda names: names and all(re.fullmatch(r"v\w+:\d+x\d+(x\d+)?", name) for name in names),
  "--topology: chips as v5e:2x2",
)
flags.register_validator(
  "batching", lambda ways: ways and set(ways) <= {"loop", "dispatch"}, "--batching: loop, dispatch or both"
)

TITLE = ["program", "way", "chips", "trace s", "compile s", "code MB", "temporary GiB a chip", "collectives"]
_COLLECTIVE = re.compile(r"\b(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


LAYER = "3x3 convolution"
FORMS = (
  "nothing, x + 1",
  *(f"{how}, {p}" for how in ("convolution", "patches") for p in ("highest", "high", "default")),
)
FORMS += ("nine products, highest",)


def layer(form: str, devices: Any) -> Any:
  """One convolution, lowered: XLA's, or products of patches, or a sum of products with shifted maps."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import SingleDeviceSharding

  how, precision = form.split(", ")
  side = FLAGS.side

  def run(x: Any, kernel: Any) -> Any:
    if how == "convolution":
      numbers = ("NHWC", "HWIO", "NHWC")
      return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=precision)
    wide = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [wide[:, a : a + side, b : b + side] for a in range(3) for b in range(3)]
    if how == "patches":
      return jnp.matmul(jnp.concatenate(taps, -1), kernel.reshape(-1, FLAGS.channels), precision=precision)
    if how == "nothing":
      return x + 1
    own = kernel.reshape(9, FLAGS.channels, -1)
    return sum(jnp.matmul(tap, own[i], precision=precision) for i, tap in enumerate(taps))

  sizes = (FLAGS.batch, side, side, FLAGS.channels), (3, 3, FLAGS.channels, FLAGS.channels)
  here = SingleDeviceSharding(devices[0])
  return jax.jit(run).lower(*(jax.ShapeDtypeStruct(size, jnp.float32, sharding=here) for size in sizes))


def scoring(proxy: str, batching: str, devices: Any) -> Any:
  """A program of the engine, lowered."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax.sharding import Mesh, NamedSharding, PartitionSpec

  from jaxnas import proxies, spaces
  from jaxnas.base import Batch, NetworkConfig
  from jaxnas.scoring import engine, together
  from jaxnas.scoring.packing import pack
  from jaxnas.scoring.spread import Spread

  network = spaces.get("nb201").network(NetworkConfig(FLAGS.channels, FLAGS.cells, 10))
  spread, one = Spread(devices), engine._one((proxies.get(proxy),), network, False, None)
  archs = (np.arange(FLAGS.block)[:, None] + np.zeros((1, 6), int)) % 5
  if batching == "loop":
    run, kinds, counts = engine._loop(one, False), "assaa", [((spread.size,), jnp.int32)]
  else:
    run, kinds, counts = together.program(one, False, pack(network.choices(archs), FLAGS.block).slots), "asaa", []
  mesh = Mesh(np.array(devices), ("device",))

  def placed(tree: Any, *axes: str) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

  shapes = jax.eval_shape(lambda: (network.init(jax.random.key(0)), jax.random.key(0)))
  images = (FLAGS.batch, FLAGS.side, FLAGS.side, 3)
  batch = Batch(jax.ShapeDtypeStruct(images, jnp.float32), jax.ShapeDtypeStruct(images[:1], jnp.int32))
  shared = [((spread.size * FLAGS.block, 6), jnp.int32), *counts]
  own = [placed(jax.ShapeDtypeStruct(*a), "device") for a in shared]
  return spread.program(run, kinds).lower(placed(shapes[0]), *own, placed(batch), placed(shapes[1]))


def compiled(proxy: str, batching: str, topology: str) -> dict[str, Any]:
  """The figures of one program."""
  import jax
  from jax.experimental import topologies

  devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  jax.default_backend = lambda: "tpu"  # what layers ask before they take a form that is a CPU's
  begin = time.perf_counter()
  lowered = layer(batching, devices) if proxy == LAYER else scoring(proxy, batching, devices)
  traced = time.perf_counter()
  program = lowered.compile()
  memory: Any = program.memory_analysis()
  names = _COLLECTIVE.findall(program.as_text() or "")
  return {
    "chips": 1 if proxy == LAYER else len(devices),
    "trace": traced - begin,
    "compile": time.perf_counter() - traced,
    "code": memory.generated_code_size_in_bytes / 1e6,
    "temporary": memory.temp_size_in_bytes / 2**30,
    "collectives": ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names))) or "none",
  }


def row(proxy: str, batching: str, topology: str) -> tuple[list[str], bool]:
  """A line of the table, by a process of its own, and whether the program was compiled."""
  child = [sys.executable, __file__, *sys.argv[1:], f"--child={proxy};{batching};{topology}"]
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
  try:
    ran = subprocess.run(child, capture_output=True, text=True, timeout=FLAGS.seconds, env=env, check=False)
  except subprocess.TimeoutExpired:
    return [proxy, batching, topology, "", f"more than {FLAGS.seconds:.0f}", "", "", ""], False
  if ran.returncode:
    why = (ran.stderr.strip().splitlines() or ["failed"])[-1][:200]
    return [proxy, batching, topology, "", why, "", "", ""], False
  own = json.loads(ran.stdout.splitlines()[-1])
  figures = [f"{own[name]:.3g}" for name in ("trace", "compile", "code", "temporary")]
  return [proxy, batching, f"{own['chips']} ({topology})", *figures, own["collectives"]], True


def main(argv: list[str]) -> int:
  """Prints the table; the exit code is 1 if a program was not compiled."""
  del argv
  if FLAGS.child:
    print(json.dumps(compiled(*FLAGS.child.split(";"))))
    return 0
  import jax

  from jaxnas import proxies, report

  unknown = sorted(set(FLAGS.proxies) - set(proxies.names()))
  if unknown:
    raise app.UsageError(f"--proxies={','.join(unknown)}: there are {', '.join(proxies.names())}")
  rows, text, whole = [], "", True
  for topology in FLAGS.topology:
    for proxy in [LAYER] if FLAGS.layers else FLAGS.proxies:
      for batching in FORMS if FLAGS.layers else FLAGS.batching:
        line, done = row(proxy, batching, topology)
        rows.append(line)
        whole &= done
        size = f"C={FLAGS.channels}, N={FLAGS.cells}, {FLAGS.batch} images of {FLAGS.side}, {FLAGS.block} at once"
        text = f"jax {jax.__version__}; {size}\n\n" + report.markdown_table(TITLE, rows)
        if FLAGS.out:
          pathlib.Path(FLAGS.out).write_text(text + "\n")
  print(text)
  return 0 if whole else 1


if __name__ == "__main__":
  app.run(main)
