"""What proxies say of NAS-Bench-BERT's encoders beyond the number of layers and the other controls.

  python experiments/flexibert_controls.py --benchmark=flexibert_glue.json WORKDIR [WORKDIR ...]

The work directories hold scores (`--algorithm=score --space=flexibert --archs=benchmark`). Prints for every proxy and
control Spearman's rank correlation with a task over all encoders, the partial one given the number of layers, given
layers and hidden size, and given these and the number of feed-forward layers (correlations of what is left of the ranks
after linear regression on those of the controls), and the correlation among encoders of four layers and of two. A
standard error is that of a bootstrap over encoders. Then the share of the scores' variance that least squares explains
by size alone, and with the counts of operations, of heads and of feed-forward widths added.
"""

import json
import pathlib
from collections.abc import Callable, Collection

import numpy as np
from absl import app, flags
from scipy import stats

from jaxnas import report, spaces, tabular
from jaxnas.errors import JaxnasError
from jaxnas.spaces.flexibert import costs, encoding

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "JSON file of NAS-Bench-BERT's records", required=True)
flags.DEFINE_string("task", "glue", "the score that is compared with")
flags.DEFINE_integer("resamples", 1000, "of the bootstrap", lower_bound=2)

CONTROLS: dict[str, Callable[[str], float]] = {
  "layers": lambda arch: len(encoding.layers_of(arch)),
  "hidden size": encoding.hidden_of,
  "feed-forward layers": lambda arch: sum(encoding.DEPTHS[depth] for *_, depth in encoding.layers_of(arch).tolist()),
  "heads, mean": lambda arch: float(np.mean([encoding.HEADS[heads] for _, heads, *_ in encoding.layers_of(arch)])),
  "parameters": costs.params,
  "parameters at hidden size 256": lambda arch: costs.params(arch, 256),
  "multiply-adds": lambda arch: costs.count(arch).macs,
}


def scored(folder: str, truth: Collection[str]) -> dict[str, dict[str, float]]:
  """The mean figure to rank by over repeats and seeds, by proxy and encoder; all encoders must be in `truth`."""
  path = pathlib.Path(folder) / "scores.jsonl"
  if not path.is_file():
    raise app.UsageError(f"{folder}: not a work directory of --algorithm=score (it has no scores.jsonl)")
  found: dict[str, dict[str, list[float]]] = {}
  for line in path.read_text().splitlines():
    record = json.loads(line)
    if record.get("kind") == "score":
      if record["arch"] not in truth:
        raise app.UsageError(f"{folder}: {record['arch'][:60]} is not in the benchmark; score --archs=benchmark")
      found.setdefault(record["proxy"], {}).setdefault(record["arch"], []).append(float(record["rank_by"]))
  return {proxy: {arch: float(np.mean(own)) for arch, own in archs.items()} for proxy, archs in found.items()}


def partial(scores: np.ndarray, truths: np.ndarray, given: list[np.ndarray]) -> float:
  """Spearman's correlation of what regression on the ranks of `given` leaves of the ranks of both."""
  base = np.stack([np.ones(len(scores)), *map(stats.rankdata, given)], 1)
  left = []
  for values in (scores, truths):
    ranks = stats.rankdata(values)
    left.append(ranks - base @ np.linalg.lstsq(base, ranks, rcond=None)[0])
  if min(np.ptp(part) for part in left) < 1e-6:
    return float("nan")
  return float(np.corrcoef(*left)[0, 1])


def with_error(measure: Callable[[np.ndarray], float], n: int) -> str:
  """A figure of the encoders at `rows`, and its standard error over resamples of them."""
  generator = np.random.default_rng(0)
  value = measure(np.arange(n))
  if np.isnan(value):
    return "-"
  draws = [measure(generator.integers(0, n, n)) for _ in range(FLAGS.resamples)]
  return f"{value:.3f} ± {np.nanstd(draws):.3f}"


def row_of(name: str, figures: dict[str, float], truth: dict[str, float]) -> tuple[str, ...]:
  """One line of the table."""
  archs = [arch for arch in figures if np.isfinite(figures[arch])]
  scores, truths = (np.array([of[arch] for arch in archs]) for of in (figures, truth))
  layers, hidden, feeds = (
    np.array([CONTROLS[name](arch) for arch in archs]) for name in ("layers", "hidden size", "feed-forward layers")
  )

  def given(*controls: np.ndarray) -> str:
    return with_error(lambda rows: partial(scores[rows], truths[rows], [c[rows] for c in controls]), len(archs))

  def among(count: int) -> str:
    own = np.flatnonzero(layers == count)
    return with_error(lambda rows: partial(scores[own][rows], truths[own][rows], []), len(own))

  cells = (given(), given(layers), given(layers, hidden), given(layers, hidden, feeds), among(4), among(2))
  return (name, f"{len(archs)} of {len(figures)}", *cells)


def explained(truth: dict[str, float]) -> list[tuple[str, ...]]:
  """R squared of least squares on sizes, and with the counts of further settings."""
  archs = list(truth)
  truths = np.array(list(truth.values()))
  layers = [encoding.layers_of(arch) for arch in archs]
  size = np.array(
    [[1, CONTROLS["layers"](a), CONTROLS["hidden size"](a), CONTROLS["feed-forward layers"](a)] for a in archs]
  )
  size = np.concatenate([size, size[:, 1:2] * size[:, 2:3]], 1)
  counts = {
    name: np.array([np.bincount(own[:, column], minlength=len(choices))[1:] for own in layers])
    for name, column, choices in (
      ("operations", 0, encoding.OPS), ("heads", 1, encoding.HEADS), ("feed-forward widths", 2, encoding.WIDTHS),
    )
  }  # fmt: skip
  rows = []
  for label, own in (
    ("all", np.ones(len(archs), bool)),
    ("four layers", size[:, 1] == 4),
    ("two layers", size[:, 1] == 2),
  ):
    base, y = size[own], truths[own]
    alone, ranks = _left(base, y)
    cells = [label, str(own.sum()), f"{1 - alone / _left(base[:, :1], y)[0]:.3f}"]
    for extra in counts.values():
      left, more = _left(np.concatenate([base, extra[own]], 1), y)
      f = ((alone - left) / (more - ranks)) / (left / (len(y) - more))
      cells.append(f"{1 - left / _left(base[:, :1], y)[0]:.3f} (p = {stats.f.sf(f, more - ranks, len(y) - more):.2f})")
    rows.append(tuple(cells))
  return [("encoders", "n", "layers, hidden size, feed-forward layers", *(f"and {name}" for name in counts)), *rows]


def _left(columns: np.ndarray, y: np.ndarray) -> tuple[float, int]:
  """The sum of squares that least squares leaves, and how many coefficients it has."""
  solution, _, rank, _ = np.linalg.lstsq(columns.astype(float), y, rcond=None)
  return float(np.square(y - columns @ solution).sum()), int(rank)


def main(argv: list[str]) -> None:
  """Prints both tables."""
  try:
    benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get("flexibert"))
    truth = {arch: benchmark.accuracy(arch, FLAGS.task) for arch in benchmark.archs}
  except JaxnasError as error:
    raise app.UsageError(str(error)) from error
  found = [pair for folder in argv[1:] for pair in scored(folder, truth).items()]
  rows = [row_of(name, {arch: of(arch) for arch in truth}, truth) for name, of in CONTROLS.items()]
  rows += [row_of(proxy, figures, truth) for proxy, figures in found]
  header = [
    "",
    "encoders",
    "all",
    "given layers",
    "given layers, hidden",
    "and feed-forward",
    "four layers",
    "two layers",
  ]
  print(report.markdown_table(header, rows))
  print()
  titles, *lines = explained(truth)
  print(report.markdown_table(list(titles), lines))


if __name__ == "__main__":
  app.run(main)
