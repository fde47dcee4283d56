"""KNAS's two stages on the cells of NAS-Bench-301, for any proxy, beside a random shortlist.

  python experiments/nb301_shortlists.py --benchmark=darts_nb301.json WORKDIR [WORKDIR ...]

The work directories hold scores (`--algorithm=score --space=darts --archs=benchmark:N`). Of cells drawn among those
that a proxy has scored it keeps the best by the proxy, and takes the one of these with the highest accuracy of the
benchmark: a fine stage that makes no mistake. Prints mean and standard deviation over draws of that accuracy.
"""

import json
import pathlib

import numpy as np
from absl import app, flags

from jaxnas import report, spaces, tabular

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "JSON file of NAS-Bench-301 records", required=True)
flags.DEFINE_integer("candidates", 60, "cells of a draw", lower_bound=1)
flags.DEFINE_list("shortlists", ["5", "10", "20"], "sizes of the shortlist")
flags.DEFINE_integer("draws", 1000, "draws, the same for all proxies with as many cells", lower_bound=2)


def ranked(folder: str) -> dict[str, dict[str, float]]:
  """The figure to rank by, by proxy and cell."""
  found: dict[str, dict[str, float]] = {}
  path = pathlib.Path(folder) / "scores.jsonl"
  if not path.is_file():
    raise app.UsageError(f"{folder}: not a work directory of --algorithm=score (it has no scores.jsonl)")
  for line in path.read_text().splitlines():
    record = json.loads(line)
    if record.get("kind") == "score":
      found.setdefault(record["proxy"], {})[record["arch"]] = float(record["rank_by"])
  return found


def main(argv: list[str]) -> None:
  """Prints the table."""
  if len(argv) < 2:
    raise app.UsageError("give at least one work directory with scores of cells")
  if any(not s.isdecimal() or not 1 <= int(s) <= FLAGS.candidates for s in FLAGS.shortlists):
    raise app.UsageError(
      f"--shortlists={','.join(FLAGS.shortlists)}: give sizes from 1 to --candidates={FLAGS.candidates}"
    )
  benchmark, sizes = tabular.open_benchmark(FLAGS.benchmark, spaces.get("darts")), [int(s) for s in FLAGS.shortlists]
  rows = []
  for proxy, figures in ((p, f) for folder in argv[1:] for p, f in ranked(folder).items()):
    accuracy = np.array([benchmark.accuracy(arch, "cifar10", "valid") for arch in figures])
    figure, generator = np.array(list(figures.values())), np.random.default_rng(0)
    if len(figure) < FLAGS.candidates:
      raise app.UsageError(f"--candidates={FLAGS.candidates}: only {len(figure)} cells have {proxy}")
    draws = np.array([generator.permutation(len(figure))[: FLAGS.candidates] for _ in range(FLAGS.draws)])
    for name, order in ((proxy, np.argsort(-figure[draws], 1, kind="stable")), ("random", None)):
      kept = draws if order is None else np.take_along_axis(draws, order, 1)  # a draw's own order is random
      best = [report.mean_std(accuracy[kept[:, :k]].max(1), digits=2) for k in sizes]
      rows.append([name, str(len(figure)), *best])
  header = ["shortlist by", "cells", *(f"best of {k}, accuracy %" for k in sizes)]
  print(report.markdown_table(header, list(dict.fromkeys(map(tuple, rows)))))


if __name__ == "__main__":
  app.run(main)
