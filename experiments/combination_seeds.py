"""How well proxies and combinations rank, over seeds of weights and batches.

  python experiments/combination_seeds.py --combinations=jacob_cov+effective_params WORKDIR [WORKDIR ...]

The work directories hold scores of `--algorithm=score`; passes (seed, repeat) that were interrupted do not count. A row
has the mean over passes with their standard deviation (weights and images), then the bootstrap's error of one pass
(architectures), then what all passes together give by each proxy's mean rank. The last column compares with the first
combination: mean difference over passes ± its standard deviation over bootstrap samples of architectures, the same for
both, a data set each.
"""

import pathlib

import numpy as np
from absl import app, flags
from kept_scores import combined, common, draws, passes, spearman_of, whole

from jaxnas import report, spaces, tabular
from jaxnas.files import write_atomically
from jaxnas.tabular import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("space", "nb201", "of the architectures")
flags.DEFINE_string("benchmark", None, "accuracies, as of jaxnas.main; default: those of the package")
flags.DEFINE_list("combinations", ["jacob_cov+effective_params"], "rows besides single proxies, joined by +")
flags.DEFINE_integer("after", 0, "first architectures to leave out: those that a combination was chosen on")
flags.DEFINE_string("out", None, "Markdown file for the table")


def main(argv: list[str]) -> None:
  """Prints the table."""
  if len(argv) < 2:
    raise app.UsageError("name at least one work directory of --algorithm=score")
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get(FLAGS.space))
  if benchmark is None:
    raise app.UsageError(f"--space={FLAGS.space} needs --benchmark: the file of its accuracies")
  found = passes(argv[1:])
  together = [tuple(text.split("+")) for text in FLAGS.combinations]
  names = list(dict.fromkeys(name for one in together for name in one))
  several = whole(found, names)
  archs = common(several, names)[FLAGS.after :]
  if not archs:
    raise app.UsageError(f"--combinations={','.join(FLAGS.combinations)}: no architecture was scored by all of these")
  drawn, body = draws(len(archs), 1000), []
  reference = [combined([run], together[0], archs) for run in several]
  for one in dict.fromkeys([*((name,) for name in names), *together]):
    row, ahead = [" + ".join(one)], []
    each = [combined([run], one, archs) for run in several]
    mean = combined(several, one, archs)
    for dataset in benchmark.datasets:
      truth = np.array([benchmark.accuracy(a, dataset) for a in archs])
      if one in together[1:]:
        pairs = list(zip(each, reference, strict=True))
        gain = np.mean([metrics.spearman(a, truth) - metrics.spearman(b, truth) for a, b in pairs])
        samples = np.mean([spearman_of(a, truth, drawn) - spearman_of(b, truth, drawn) for a, b in pairs], 0)
        ahead.append(f"{gain:+.3f} ± {samples.std(ddof=1):.3f}")
      error = metrics.spearman_se(each[0], truth)
      over = report.mean_std((metrics.spearman(scores, truth) for scores in each), digits=3)
      row.append(f"{over}; {error:.3f}; {metrics.spearman(mean, truth):.3f}")
    first = [benchmark.accuracy(a, benchmark.datasets[0]) for a in archs]
    over = report.mean_std((metrics.kendall(scores, first) for scores in each), digits=3)
    body.append([*row, f"{over}; {metrics.kendall(mean, first):.3f}", " / ".join(ahead)])
  header = ["proxies", *(f"Spearman {d}" for d in benchmark.datasets), f"Kendall {benchmark.datasets[0]}", "ahead"]
  text = (
    f"{len(archs):,} architectures of {FLAGS.space}, {len(several)} passes. Mean ± standard deviation over passes; "
    f"bootstrap error of the first (Spearman); mean ranks of all passes.\n\n{report.markdown_table(header, body)}\n"
  )
  print(text)
  if FLAGS.out:
    write_atomically(pathlib.Path(FLAGS.out), text.encode())


if __name__ == "__main__":
  app.run(main)
