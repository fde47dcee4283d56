"""The records of NAS-Bench-301 that are most like the genotypes a search found.

  python experiments/nb301_neighbours.py --benchmark=darts_nb301.json WORKDIR [WORKDIR ...]

Two cells are as alike as they share (operation, source, node) triples, 16 in a genotype. Prints a Markdown table with a
row for each result of the work directories, in `jaxnas.main`'s form: its nearest records' number, triples shared and
mean accuracy, beside the mean over all records.
"""

import json
import pathlib

import numpy as np
from absl import app, flags

from jaxnas import report, spaces, tabular

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "JSON file of NAS-Bench-301 records", required=True)


def triples(space, text: str) -> set[tuple[int, int, str, int]]:
  """(cell type, node, operation, source) of each input of each node."""
  cells = space.to_cells(space.parse(text))
  return {(kind, slot // 2, op, source) for kind, cell in enumerate(cells) for slot, (op, source) in enumerate(cell)}


def main(argv: list[str]) -> None:
  """Prints the table."""
  if len(argv) < 2:
    raise app.UsageError("give at least one work directory of a search in the DARTS space")
  space = spaces.get("darts")
  benchmark = tabular.open_benchmark(FLAGS.benchmark, space)
  accuracies = benchmark.accuracies("cifar10", "valid")
  records = [triples(space, text) for text in benchmark.archs]
  rows = []
  for folder in argv[1:]:
    document = json.loads((pathlib.Path(folder) / "result.json").read_text())
    for result in document["results"]:
      own = triples(space, result["arch"])
      shared = np.array([len(own & other) for other in records])
      nearest = shared == shared.max()
      name = f"{document['config']['algorithm']} {pathlib.Path(folder).name}, seed {result['seed']}"
      mean = f"{accuracies[nearest].mean():.2f}"
      rows.append([name, f"{shared.max()} of 16", str(nearest.sum()), mean, f"{accuracies.mean():.2f}"])
  header = ["search", "triples shared with the nearest", "records that share so many", "their mean accuracy %", "all %"]
  print(report.markdown_table(header, rows))


if __name__ == "__main__":
  app.run(main)
