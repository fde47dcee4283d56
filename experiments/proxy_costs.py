"""CPU seconds that a proxy takes for an architecture: each alone, then all of them in one pass.

  python experiments/proxy_costs.py --proxies=jacob_cov,synflow --out=FILE.md

Networks, batch and images are those of `--algorithm=score`; the process's own CPU seconds, all threads together, of
the second time that the same architectures go through the compiled program, one after the other.
"""

import os
import pathlib
import time
from collections.abc import Sequence

import jax
from absl import app, flags

from jaxnas import data, proxies, report, scoring, spaces
from jaxnas.base import NetworkConfig

FLAGS = flags.FLAGS
ALONE = (
  *("jacob_cov", "naswot", "synflow", "log_synflow", "az_expressivity", "az_progressivity", "az_trainability"),
  *("zico", "swap", "meco", "gradsign", "skip_length", "effective_params"),
)


def cpu_seconds(
  names: Sequence[str], space_name: str, config: NetworkConfig, dataset: str, data_dir: str | None, batch: int, n: int
) -> float:
  """CPU seconds an architecture of a pass with these proxies, over n random architectures."""
  space, source = spaces.get(space_name), data.load(dataset, data_dir=data_dir)
  inputs = scoring.Batch(*data.plain_batch(source, jax.random.key(0), batch))
  archs, engine = space.sample(jax.random.key(0), n), scoring.Engine()
  some, began = [proxies.get(name) for name in names], 0.0
  for _ in range(2):
    began = time.process_time()
    scoring.score(some, space, archs, inputs, network=config, engine=engine)
  return (time.process_time() - began) / n


def main(argv: list[str]) -> None:
  """Prints the table."""
  del argv
  source = data.load(FLAGS.dataset, data_dir=FLAGS.data_dir)
  config, rows = NetworkConfig(FLAGS.channels, FLAGS.cells, source.classes), []
  for names in [*([name] for name in FLAGS.proxies), FLAGS.proxies]:
    seconds = cpu_seconds(names, FLAGS.space, config, FLAGS.dataset, FLAGS.data_dir, FLAGS.batch, FLAGS.architectures)
    rows.append([names[0] if len(names) == 1 else "all in one pass", f"{seconds:.3f}"])
    print(*rows[-1], f"load average {os.getloadavg()[0]:.1f}", flush=True)
  text = report.markdown_table(["proxy", "CPU s an architecture"], rows)
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(text + "\n")


if __name__ == "__main__":
  flags.DEFINE_string("space", "nb201", "whose networks")
  flags.DEFINE_list("proxies", list(ALONE), "what to time")
  flags.DEFINE_string("dataset", "synthetic", "images")
  flags.DEFINE_string("data_dir", None, "TFDS folder")
  flags.DEFINE_integer("architectures", 20, "random ones of the space", lower_bound=1)
  flags.DEFINE_integer("batch", 32, "images N", lower_bound=2)
  flags.DEFINE_integer("channels", 16, "channels C of the first stage", lower_bound=1)
  flags.DEFINE_integer("cells", None, "cells, as the space counts them; default: the benchmark's", lower_bound=1)
  flags.DEFINE_string("out", None, "Markdown file for the table")
  app.run(main)
