"""Combinations of proxies chosen on one half of the architectures and reported on the other.

  python experiments/choose_combination.py --space=nb201 WORKDIR [WORKDIR ...]

The work directories hold scores of the same architectures (`--algorithm=score`), each of any number of seeds. Of all
sets of one to --largest proxies the best is chosen by the Spearman correlation of its `log_rank_sum` with *validation*
accuracy on one half, mean over data sets and passes; what is reported is Spearman with *test* accuracy on the other
half, where nothing was chosen, beside the best single proxy (chosen in the same way) and the controls, which need no
network. Where a benchmark has one split of accuracies both halves use it, and the output says so. The halves are drawn
--halvings times: the table is of the first, the summary of all. Proxies are paired within a pass (seed and repeat): one
that a proxy lacks is left out, but counts, which no seed changes, are taken from another.
"""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Iterable

import numpy as np
from absl import app, flags
from jaxtyping import Float, Int
from kept_scores import Pass, common, draws, passes, spearman_of
from scipy import stats

from jaxnas import registry, report, spaces, tabular
from jaxnas.base import Accuracies
from jaxnas.files import write_atomically
from jaxnas.tabular.combination import log_rank_sum

FLAGS = flags.FLAGS
flags.DEFINE_string("space", "nb201", "of the architectures")
flags.DEFINE_string("benchmark", None, "accuracies, as of jaxnas.main; default: those of the package")
flags.DEFINE_list("leave_out", [], "proxies that are not offered")
flags.DEFINE_integer("largest", 3, "proxies in a combination at most", lower_bound=1)
flags.DEFINE_integer("shown", 10, "combinations in the table", lower_bound=1)
flags.DEFINE_integer("halvings", 20, "ways to halve the architectures", lower_bound=1)
flags.DEFINE_list("beside", ["jacob_cov+effective_params"], "combinations to report too, proxies joined by +")
flags.DEFINE_string("out", None, "Markdown file for the output")

COUNTS = ("params", "flops", "effective_params", "skip_length")  # no seed changes them

Set = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Scored:
  """Log ranks of proxies are additive, so those of a half are computed once.

  Attributes:
    names: the P proxies.
    columns: of each pass what they rank the m architectures by [K, P, m].
    valid, test: accuracies [D, m].
  """

  names: Set
  columns: Float[np.ndarray, "K P m"]
  valid: Float[np.ndarray, "D m"]
  test: Float[np.ndarray, "D m"]

  def scores(self, sets: list[Set], half: Int[np.ndarray, " h"]) -> Float[np.ndarray, "K S h"]:
    """The combined score of each set of proxies in each pass, ranked within the half."""
    chosen = np.array([[name in one for name in self.names] for one in sets], np.float64)
    logs = np.array([[log_rank_sum([column]) for column in one] for one in self.columns[:, :, half]])
    return np.round(chosen @ logs, 9)  # equal products of ranks stay equal

  def spearman(
    self, sets: list[Set], half: Int[np.ndarray, " h"], truths: Float[np.ndarray, "D m"]
  ) -> Float[np.ndarray, "K S D"]:
    """Of each pass, set and data set; a constant score has 0."""
    x = stats.rankdata(self.scores(sets, half), axis=-1)
    y = stats.rankdata(truths[:, half], axis=-1)
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (x, y))
    norms = np.sqrt(np.square(x).sum(-1))[..., None] * np.sqrt(np.square(y).sum(-1))
    return np.where(norms > 0, x @ y.T / np.maximum(norms, 1e-30), 0.0)


def read(folders: list[str], benchmark: Accuracies) -> tuple[Scored, int, list[str]]:
  """The scores, the number of architectures, and what was left out: proxies with no complete pass, unpaired passes."""
  found = passes(folders)
  every = list(dict.fromkeys(name for _, one in sorted(found.items()) for name in one))
  if unknown := [name for name in FLAGS.leave_out if name not in every]:
    raise app.UsageError(f"--leave_out={','.join(unknown)}: the folders have no scores of it, but of {every}")
  names = [name for name in every if name not in FLAGS.leave_out]
  if not names:
    raise app.UsageError(f"{', '.join(folders)}: no scores{' but those in --leave_out' if every else ''}")
  most = max(len(one.get(name, {})) for one in found.values() for name in names)
  own = {name: {k: found[k][name] for k in sorted(found) if len(found[k].get(name, {})) == most} for name in names}
  left_out = [name for name in names if not own[name]]
  names = [name for name in names if own[name]]
  of_seeds = [set(own[name]) for name in names if name not in COUNTS] or [set(own[names[0]])]
  paired = sorted(set.intersection(*of_seeds))
  if not paired:
    has = "; ".join(f"{name} {_passes(own[name])}" for name in names if name not in COUNTS)
    raise app.UsageError(f"no pass has all proxies ({has}): score the same --seeds, or name some in --leave_out")
  left_out += [f"{_passes(unpaired)} of some proxies"] if (unpaired := set.union(*of_seeds) - {*paired}) else []
  several: list[Pass] = [
    {name: scored.get(key, next(iter(scored.values()))) for name, scored in own.items() if scored} for key in paired
  ]
  archs = common(several, names)
  known = [a for a in archs if all(np.isfinite(benchmark.accuracy(a, d)) for d in benchmark.datasets)]
  columns = np.array([[[one[name][a] for a in known] for name in names] for one in several], np.float64)
  accuracy = {
    split: np.array([[benchmark.accuracy(a, d, split) for a in known] for d in benchmark.datasets])
    for split in splits(benchmark)
  }
  valid, test = (accuracy[split] for split in splits(benchmark))
  return Scored(tuple(names), columns, valid, test), len(known), left_out


def _passes(keys: Iterable[tuple[int, int]]) -> str:
  """As text."""
  return ", ".join(f"seed {seed} repeat {repeat}" for seed, repeat in sorted(keys))


def splits(benchmark: Accuracies) -> tuple[str, str]:
  """What to choose by and what to report."""
  columns = getattr(benchmark, "columns", {})
  two = all({f"{d}_valid", f"{d}_test"} <= set(columns) for d in benchmark.datasets)
  only = getattr(benchmark, "split", "test")
  return ("valid", "test") if two else (only, only)


def main(argv: list[str]) -> None:
  """Prints the tables."""
  if len(argv) < 2:
    raise app.UsageError("name at least one work directory of --algorithm=score")
  space = spaces.get(FLAGS.space)
  benchmark = tabular.open_benchmark(FLAGS.benchmark, space)
  if benchmark is None:
    raise app.UsageError(f"--space={FLAGS.space} needs --benchmark: the file of its accuracies")
  scored, count, left_out = read(argv[1:], benchmark)
  controls = [(n,) for n in scored.names if getattr(registry.make("proxy", n, "--proxies"), "control", False)]
  if {"params", "skip_length"} <= set(scored.names):
    controls.append(("params", "skip_length"))
  sets = [one for size in range(1, FLAGS.largest + 1) for one in itertools.combinations(scored.names, size)]
  beside = [one for one in (tuple(text.split("+")) for text in FLAGS.beside) if set(one) <= set(scored.names)]
  halves = [np.array_split(np.random.default_rng(i).permutation(count), 2) for i in range(FLAGS.halvings)]
  chosen_by, reported = splits(benchmark)
  text = "\n".join(
    [
      f"{count} architectures of {FLAGS.space}, {len(scored.columns)} passes, {len(scored.names)} proxies,"
      f" {len(sets):,} sets of at most {FLAGS.largest}; chosen by {chosen_by} accuracy, reported with {reported}"
      f" accuracy ({', '.join(benchmark.datasets)}).",
      *([f"Incomplete, left out: {', '.join(left_out)}."] if left_out else []),
      "",
      one_half(scored, sets, controls, beside, *halves[0], list(benchmark.datasets)),
      "",
      all_halves(scored, sets, controls, beside, halves, list(benchmark.datasets)),
    ]
  )
  print(text)
  if FLAGS.out:
    write_atomically(pathlib.Path(FLAGS.out), (text + "\n").encode())


def best_first(scored: Scored, sets: list[Set], half: Int[np.ndarray, " h"]) -> list[int]:
  """The sets' positions, best first, by validation accuracy on the half."""
  return np.argsort(-scored.spearman(sets, half, scored.valid).mean((0, 2)), kind="stable").tolist()


def one_half(scored: Scored, sets, controls, beside, first, second, datasets: list[str]) -> str:
  """The table of one halving."""
  order = best_first(scored, sets, first)
  single = next(i for i in order if len(sets[i]) == 1)
  rows: list[tuple[str, Set]] = [(f"chosen, place {k + 1}", sets[i]) for k, i in enumerate(order[: FLAGS.shown])]
  rows += [("best single proxy", sets[single]), *(("named", one) for one in beside)]
  rows += [("control", one) for one in controls]
  drawn = draws(len(second), 1000)

  def resampled(one: Set) -> Float[np.ndarray, "D R"]:
    scores = scored.scores([one], second)[:, 0]
    return np.mean([[spearman_of(s, truth, drawn) for truth in scored.test[:, second]] for s in scores], 0)

  alone = resampled(sets[single])
  body = []
  for kind, one in rows:
    each = scored.spearman([one], second, scored.test)[:, 0]
    spread, samples = each.std(0, ddof=1) if len(each) > 1 else np.full(len(datasets), np.nan), resampled(one)
    error, gain = samples.std(1, ddof=1), (samples - alone).std(1, ddof=1)
    ahead = each.mean(0) - scored.spearman([sets[single]], second, scored.test)[:, 0].mean(0)
    chosen = scored.spearman([one], first, scored.valid).mean()
    body.append(
      [
        kind,
        " + ".join(one),
        f"{chosen:.3f}",
        " / ".join(f"{m:.3f}" for m in each.mean(0)),
        " / ".join(f"{e:.3f}" for e in error),
        " / ".join("-" if np.isnan(s) else f"{s:.3f}" for s in spread),
        " / ".join(f"{g:+.3f} ± {e:.3f}" for g, e in zip(ahead, gain, strict=True)),
      ]
    )
  header = ["", "proxies", "validation, first half", "test, second half", "bootstrap error", "std over passes"]
  return report.markdown_table([*header, "ahead of the best single proxy"], body)


def all_halves(scored: Scored, sets, controls, beside, halves, datasets: list[str]) -> str:
  """Mean and standard deviation over the halvings, and what was chosen how often."""
  found: dict[str, list[Float[np.ndarray, " D"]]] = collections.defaultdict(list)
  winners: collections.Counter[str] = collections.Counter()
  sizes = range(1, min(FLAGS.largest, len(scored.names)) + 1)
  for first, second in halves:
    order = best_first(scored, sets, first)
    tested = scored.spearman(sets, second, scored.test).mean(0)
    winners[" + ".join(sets[order[0]])] += 1
    found["the best of all sets"].append(tested[order[0]])
    for size in sizes:
      found[f"the best of {size}"].append(tested[next(i for i in order if len(sets[i]) == size)])
    for one in [*beside, *controls]:
      found[" + ".join(one)].append(scored.spearman([one], second, scored.test)[:, 0].mean(0))
  alone = np.array(found["the best of 1"])
  body = [
    [
      name,
      " / ".join(report.mean_std(list(column), digits=3) for column in np.array(values).T),
      " / ".join(report.mean_std(list(column), digits=3) for column in (np.array(values) - alone).T),
    ]
    for name, values in found.items()
  ]
  table = report.markdown_table(["chosen on a half", "test on the other", "ahead of the best of 1"], body)
  often = ", ".join(f"{name} ({times})" for name, times in winners.most_common(8))
  note = (
    f"{len(halves)} halvings, mean ± standard deviation over them ({', '.join(datasets)}). Best of all sets: {often}."
  )
  return f"{table}\n\n{note}"


if __name__ == "__main__":
  app.run(main)
