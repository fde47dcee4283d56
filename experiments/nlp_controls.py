"""What proxies say of NAS-Bench-NLP's recipes, beside the controls, on the same recipes.

  python experiments/nlp_controls.py --benchmark=ptb.jsonl.gz WORKDIR [WORKDIR ...]

The work directories hold scores (`--algorithm=score --space=nlp --archs=benchmark:N`). Prints for every proxy, and for
every control on the recipes of each directory: Spearman's rank correlation with minus the test perplexity on Penn
Treebank over all recipes whose training ended (a score that is no number ranks last), the same over those of finite
scores, and how often a recipe whose training failed ranks below one whose training ended (0.5: by chance). A standard
error is that of a bootstrap over recipes.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import app, flags
from scipy import stats

from jaxnas import report, spaces, tabular
from jaxnas.base import Accuracies
from jaxnas.spaces.nlp import costs, encoding

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "NAS-Bench-NLP's trainings on Penn Treebank, JSON lines", required=True)
flags.DEFINE_integer("resamples", 1000, "of the bootstrap", lower_bound=2)


def controls(benchmark: Accuracies) -> dict[str, Callable[[str], float]]:
  """What needs no proxy; higher is taken for better."""

  def column(name: str) -> Callable[[str], float]:
    return lambda arch: float(benchmark.columns[name][benchmark.index(arch)])

  return {
    "parameters": lambda arch: costs.count(arch).params,
    "nodes": lambda arch: len(encoding.unpack(arch).nodes),
    "states": lambda arch: len(encoding.unpack(arch).states),
    "validation loss after 3 epochs": column("ptb_valid_3ep"),
    "validation loss after 10 epochs": column("ptb_valid_10ep"),
  }


def scored(folder: str) -> dict[str, dict[str, float]]:
  """The mean figure to rank by over repeats and seeds, by proxy and recipe."""
  found: dict[str, dict[str, list[float]]] = {}
  for line in report.load_scores(folder):
    found.setdefault(line["proxy"], {}).setdefault(line["arch"], []).append(float(line["rank_by"]))
  return {proxy: {arch: float(np.mean(own)) for arch, own in archs.items()} for proxy, archs in found.items()}


def with_error(measure: Callable[[np.ndarray], float], n: int) -> str:
  """A figure of the recipes at `rows`, and its standard error over resamples of them."""
  generator = np.random.default_rng(0)
  value, error = (
    measure(np.arange(n)),
    np.nanstd([measure(generator.integers(0, n, n)) for _ in range(FLAGS.resamples)]),
  )
  return f"{value:.2f} ± {error:.2f}"


def row(name: str, figures: Mapping[str, float], benchmark: Accuracies) -> tuple[str, ...]:
  """One line of the table."""
  scores = np.array(list(figures.values()), float)
  scores[np.isnan(scores)] = -np.inf
  truths = -np.array([benchmark.columns["perplexity_ptb_test"][benchmark.index(arch)] for arch in figures])
  ended, finite = np.isfinite(truths), np.isfinite(scores)

  def spearman(among: np.ndarray) -> str:
    own, true = scores[among], truths[among]
    return with_error(lambda rows: float(stats.spearmanr(own[rows], true[rows]).statistic), len(own))

  failed, others = scores[~ended], scores[ended]
  below = np.mean(failed[:, None] < others) + np.mean(failed[:, None] == others) / 2 if failed.size else np.nan
  cells = spearman(ended), f"{(ended & finite).sum()}", spearman(ended & finite), f"{below:.2f}"
  return (name, f"{ended.sum()} of {len(figures)}", *cells)


def main(argv: Sequence[str]) -> None:
  """Prints a table a work directory."""
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get("nlp"))
  header = ["", "recipes that ended", "Spearman", "of finite score", "Spearman among these", "failed rank below"]
  for folder in argv[1:]:
    found = scored(folder)
    archs = next(iter(found.values()))
    rows = [row(name, figures, benchmark) for name, figures in found.items()]
    rows += [
      row(f"{name} (control)", {arch: of(arch) for arch in archs}, benchmark)
      for name, of in controls(benchmark).items()
    ]
    print(report.markdown_table(header, rows), "\n")


if __name__ == "__main__":
  app.run(main)
