"""Where the exact NTK of TE-NAS's supernet spends its time: seconds by network part and by kind of operation.

  python experiments/profile_kernel.py

One kernel at batch 72 (C=3, N=1), from XLA's own trace; pin it to one core (taskset -c 0) for additive figures.
"""

import collections
import glob
import gzip
import json
import re
import tempfile

import jax
from absl import app

from jaxnas import proxies, report, spaces
from jaxnas.base import NetworkConfig
from jaxnas.proxies.evaluation import Evaluation


def main(argv) -> None:
  """Prints two tables."""
  del argv
  space = spaces.get("nb201")
  network = space.supernet(NetworkConfig(3, 1, init="kaiming_fan_out"))
  params = network.init(jax.random.key(0))
  images = jax.random.normal(jax.random.key(1), (72, 32, 32, 3))
  alphas = jax.numpy.full((1, 6, 5), 0.25).at[:, :, space.none_op].set(0)
  proxy = proxies.get("ntk_condition_number")

  def measure(params, alphas, images):
    return proxy.measure(Evaluation(network, params, alphas, images))

  program = jax.jit(measure).lower(params, alphas, images).compile()
  jax.block_until_ready(program(params, alphas, images))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(program(params, alphas, images))
    (file,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
    with gzip.open(file) as stream:
      events = json.load(stream)["traceEvents"]
  source = dict(re.findall(r'%(\S+) = .*op_name="([^"]*)"', program.as_text()))
  parts, kinds = collections.Counter(), collections.Counter()
  for event in events:
    name = event.get("args", {}).get("hlo_op")
    if event.get("ph") != "X" or name is None or name.startswith(("while", "call")):
      continue
    path = source.get(event["name"], "")
    once = "" if "while/body" in path else "once: "
    part = re.search(r"(cells_\d|stem|last|classifier)", path)
    parts[once + (part[0] if part else "other")] += event["dur"] / 1e6
    kinds[once + (path.rsplit("/", 1)[-1] or "other")] += event["dur"] / 1e6
  for title, counter in (("part", parts), ("operation", kinds)):
    rows = [[name, f"{s:.2f}"] for name, s in counter.most_common(10)]
    print(report.markdown_table([title, "s"], [*rows, ["all", f"{sum(counter.values()):.2f}"]]) + "\n")


if __name__ == "__main__":
  app.run(main)
