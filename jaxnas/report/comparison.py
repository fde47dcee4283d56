"""Proxies side by side: how each ranks the architectures of a benchmark, against chance.

A proxy scored an architecture in one or several passes (seed, repeat). Each pass ranks the n architectures it scored by
`rank_by` (higher is better, ties share their average rank, degenerate ones are tied in the last place). The final
ranking value of an architecture is the mean of (rank - 1/2) / n over its passes. A single pass keeps the proxy's order
as it is. An architecture that was degenerate in every pass stays so and ranks last.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxnas.base import Accuracies
from jaxnas.errors import ConfigError
from jaxnas.report.correlation_plots import Panel
from jaxnas.tabular import metrics
from jaxnas.tabular.table import RANK_DECIMALS

RANDOM = "random shortlist"
SHORTLIST = 10
TOP = 0.1

Line = dict[str, Any]
Pass = dict[int, float]
"""Architecture's index in the benchmark -> its `rank_by` in one pass of a proxy."""

_REQUIRED = ("arch", "proxy", "rank_by")


def compare(
  rows: Iterable[Mapping[str, Any]],
  benchmark: Accuracies,
  *,
  datasets: Sequence[str] | None = None,
  common: bool = False,
  seed: int = 0,
  resamples: int = 1000,
  draws: int = 10_000,
) -> list[Line]:
  """The comparison table: a line for each proxy, best Spearman on the first data set first, then the line of chance.

  Each line holds
    proxy, n           its name; the number of architectures it scored
    passes             (seed, repeat) pairs that were averaged
    degenerate         architectures without a finite `rank_by` in any pass
    not_ok             readings whose status is not "ok"
    best_arch          the one it ranks first; of equals, the first in the benchmark; None if all are degenerate
    seconds            median over its readings; None if unknown
  and for each data set D, all against test accuracies (nan if there is nothing to measure, see `tabular.metrics`)
    D_spearman, D_spearman_se, D_kendall, D_retrieving_rate, D_top1_regret, D_top10_regret
    D_pass_spearman, D_pass_spearman_sd, D_pass_kendall, D_pass_kendall_sd
                       mean and standard deviation (ddof=1) of single passes, without averaged ranks: the error by
                       seeds of weights and batches, beside that by architectures; nan of a single pass
    D_best_accuracy    accuracy of `best_arch`, percent
    D_top10_accuracy   best accuracy among its ten best-ranked, percent

  The last line, "random shortlist", is what no knowledge at all gives, on all architectures that any proxy scored:
  D_best_accuracy is the mean (one drawn at random), D_top10_accuracy the expected best of ten drawn at random, by
  simulation; the regrets follow from these. Its retrieving rate is the chance level, its correlations are None.

  Args:
    rows: one mapping a reading: "arch" (the benchmark's string or index), "proxy", "rank_by" (float, None as nan), and
      if known "status", "seed", "repeat", "seconds". Their order does not matter.
    benchmark: the accuracies.
    datasets: some of `benchmark.datasets`; all by default.
    common: whether to keep only architectures that every proxy has scored, so that all lines tell of one sample.
    seed, resamples: of the bootstrap; `seed` and `draws` of the random shortlists.

  Raises:
    ConfigError: no rows, no data set or an unknown one, a row lacks a field or repeats another, or (with `common`) no
      architecture is common to all.
    ArchitectureError: an architecture is not in the benchmark.
  """
  if draws < 1:
    raise ConfigError(f"draws={draws} must be at least 1")
  datasets = benchmark.datasets if datasets is None else tuple(datasets)
  if not datasets:
    raise ConfigError(f"datasets=(): give some of {benchmark.datasets}")
  readings = _by_proxy(rows, benchmark)
  samples = {proxy: sorted({row["index"] for row in found}) for proxy, found in readings.items()}
  if common:
    shared = set.intersection(*map(set, samples.values()))
    if not shared:
      raise ConfigError("common=True: no architecture was scored by all proxies; give common=False or score one sample")
    samples = dict.fromkeys(samples, sorted(shared))
    readings = {proxy: [row for row in found if row["index"] in shared] for proxy, found in readings.items()}
  everything = sorted(set().union(*samples.values()))
  accuracy = {
    d: {i: round(benchmark.accuracy(benchmark.archs[i], d), RANK_DECIMALS) for i in everything} for d in datasets
  }

  lines = []
  for proxy, sample in samples.items():
    truths = {d: np.array([accuracy[d][i] for i in sample]) for d in datasets}
    line, ranking, passes = _summary(proxy, sample, readings[proxy])
    order = np.argsort(-np.where(np.isnan(ranking), -np.inf, ranking), kind="stable")
    ranked = not np.isnan(ranking).all()
    line["best_arch"] = benchmark.archs[sample[order[0]]] if ranked else None
    for d in datasets:
      line |= _agreement(d, metrics.agreement(ranking, truths[d], top=TOP, resamples=resamples, seed=seed))
      line |= _of_passes(d, passes, accuracy[d])
      line[f"{d}_best_accuracy"] = float(truths[d][order[0]]) if ranked else math.nan
      line[f"{d}_top10_accuracy"] = _largest(truths[d][order[:SHORTLIST]]) if ranked else math.nan
    lines.append(line)
  lines.sort(key=lambda line: (-_or_worst(line[f"{datasets[0]}_spearman"]), line["proxy"]))
  return [*lines, _chance({d: np.array([accuracy[d][i] for i in everything]) for d in datasets}, seed, draws)]


def mean_ranks(passes: Sequence[Pass]) -> Pass:
  """Mean of (rank - 1/2) / n over the passes that scored an architecture; rank 1 is worst, nan if always degenerate."""
  from scipy import stats

  # Whole numbers up to the last division: equal means are equal floats, whatever the order of the passes.
  whole = math.lcm(*(len(scored) for scored in passes))
  sums: dict[int, int] = {}
  counts: dict[int, int] = {}
  alive: set[int] = set()
  for scored in passes:
    values = np.array(list(scored.values()), np.float64)
    finite = np.isfinite(values)
    doubled = np.rint(2 * stats.rankdata(np.where(finite, values, -np.inf)) - 1).astype(np.int64)
    for index, twice, good in zip(scored, doubled.tolist(), finite.tolist(), strict=True):
      sums[index] = sums.get(index, 0) + twice * (whole // len(scored))
      counts[index] = counts.get(index, 0) + 1
      if good:
        alive.add(index)
  return {i: sums[i] / (2 * whole * counts[i]) if i in alive else math.nan for i in sums}


def expected_best(
  accuracies: Float[np.ndarray, " n"], k: int, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
  """Mean and standard deviation of the best of k accuracies drawn at random without replacement, by simulation.

  Unknown (nan) accuracies are not drawn; both are nan if there is no other.
  """
  known = accuracies[np.isfinite(accuracies)]
  if not known.size:
    return math.nan, math.nan
  rng = np.random.default_rng(seed)
  k = min(k, known.size)
  best = np.array([known[rng.choice(known.size, k, replace=False, shuffle=False)].max() for _ in range(draws)])
  return float(best.mean()), float(best.std())


def spearman_by_dataset(lines: Sequence[Line]) -> dict[str, dict[str, tuple[float, float]]]:
  """Proxy -> data set -> (Spearman, its standard error), as `correlation_plots.plot_ranks` wants it; without chance."""
  return {
    line["proxy"]: {d: (line[f"{d}_spearman"], line[f"{d}_spearman_se"]) for d in datasets_of(line)}
    for line in lines
    if line["proxy"] != RANDOM
  }


def datasets_of(line: Line) -> list[str]:
  """The data sets that a line of `compare` has measures of."""
  return [key.removesuffix("_retrieving_rate") for key in line if key.endswith("_retrieving_rate")]


def correlations(
  rows: Iterable[Mapping[str, Any]], lines: Sequence[Line], benchmark: Accuracies
) -> tuple[list[str], Float[np.ndarray, "P P"]]:
  """Spearman's rho between proxies, mean ranks each, in the order of `lines`, and with accuracy on the first data set.

  Of two the architectures count that both have scored; nan where there is nothing to measure. The last is the accuracy.
  """
  readings = _by_proxy(rows, benchmark)
  names = [line["proxy"] for line in lines if line["proxy"] != RANDOM]
  ranked = {}
  for name in names:
    sample = sorted({row["index"] for row in readings[name]})
    ranked[name] = dict(zip(sample, _summary(name, sample, readings[name])[1].tolist(), strict=True))
  dataset, everything = benchmark.datasets[0], set().union(*ranked.values())
  ranked[dataset] = {i: round(benchmark.accuracy(benchmark.archs[i], dataset), RANK_DECIMALS) for i in everything}
  matrix = np.full((len(ranked), len(ranked)), math.nan)
  for i, one in enumerate(ranked.values()):
    for j, other in enumerate(ranked.values()):
      shared = sorted(one.keys() & other.keys())
      truths = np.array([other[k] for k in shared])
      truths = np.where(np.isfinite(truths), truths, -1.0) if j < len(names) else truths  # degenerate ones rank last
      matrix[i, j] = metrics.spearman(np.array([one[k] for k in shared]), truths)
  return list(ranked), matrix


def panels(rows: Iterable[Mapping[str, Any]], lines: Sequence[Line], benchmark: Accuracies) -> list[Panel]:
  """A scatter panel per proxy, in the order of `lines`: the first pass of each, on the first data set."""
  by_proxy: dict[str, list[Mapping[str, Any]]] = {line["proxy"]: [] for line in lines if line["proxy"] != RANDOM}
  first: dict[str, Any] = {}
  for row in rows:
    if first.setdefault(row["proxy"], (row.get("seed"), row.get("repeat"))) == (row.get("seed"), row.get("repeat")):
      by_proxy[row["proxy"]].append(row)
  found = []
  for name, own in by_proxy.items():
    accuracies = [benchmark.accuracy(row["arch"], benchmark.datasets[0]) for row in own]
    columns = ([row["rank_by"] for row in own], accuracies, [row["value"] for row in own])
    found.append(Panel(name, *(np.array(column, np.float64) for column in columns)))
  return found


def _by_proxy(rows: Iterable[Mapping[str, Any]], benchmark: Accuracies) -> dict[str, list[dict[str, Any]]]:
  """Proxy -> its readings."""
  found: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
  for row in rows:
    missing = [field for field in _REQUIRED if field not in row]
    if missing:
      raise ConfigError(f"rows: {dict(row)} lacks {', '.join(missing)}; a reading needs {', '.join(_REQUIRED)}")
    index = benchmark.index(row["arch"])
    key = (row.get("seed", 0), row.get("repeat", 0), index)
    mine = found.setdefault(str(row["proxy"]), {})
    if key in mine:
      raise ConfigError(
        f"rows: {row['proxy']} scored {row['arch']} twice at seed={key[0]}, repeat={key[1]}; drop one of the two rows"
      )
    rank_by = math.nan if row["rank_by"] is None else float(row["rank_by"])
    mine[key] = {**row, "index": index, "pass": key[:2], "rank_by": rank_by}
  if not found:
    raise ConfigError("rows: got none; score some architectures first")
  return {proxy: list(mine.values()) for proxy, mine in found.items()}


def _summary(
  proxy: str, sample: Sequence[int], readings: Sequence[Mapping[str, Any]]
) -> tuple[Line, Float[np.ndarray, " n"], list[Pass]]:
  """A line's part that knows no accuracies, the ranking values of the sample, and the passes that they are means of."""
  passes: dict[Any, Pass] = {}
  for row in readings:
    passes.setdefault(row["pass"], {})[row["index"]] = row["rank_by"]
  means = mean_ranks(list(passes.values()))
  ranking = np.array([means[index] for index in sample])
  seconds = [float(row["seconds"]) for row in readings if not missing(row.get("seconds"))]
  line = {
    "proxy": proxy,
    "n": len(sample),
    "passes": len(passes),
    "degenerate": int(np.isnan(ranking).sum()),
    "not_ok": sum(row.get("status", "ok") != "ok" for row in readings),
    "best_arch": None,
    "seconds": float(np.median(seconds)) if seconds else None,
  }
  return line, ranking, list(passes.values())


def _of_passes(dataset: str, passes: Sequence[Pass], accuracy: Mapping[int, float]) -> Line:
  """Mean and standard deviation over passes, each on the architectures that it scored."""
  found: Line = {}
  for name, measured in (("spearman", metrics.spearman), ("kendall", metrics.kendall)):
    several = passes if len(passes) > 1 else ()
    values = [measured(list(scored.values()), [accuracy[i] for i in scored]) for scored in several]
    known = np.array([value for value in values if math.isfinite(value)], np.float64)
    found[f"{dataset}_pass_{name}"] = float(known.mean()) if known.size > 1 else math.nan
    found[f"{dataset}_pass_{name}_sd"] = float(known.std(ddof=1)) if known.size > 1 else math.nan
  return found


def _agreement(dataset: str, found: metrics.Agreement) -> Line:
  names = ("spearman", "spearman_se", "kendall", "retrieving_rate", "top1_regret", "top10_regret")
  return {f"{dataset}_{name}": getattr(found, name) for name in names}


def _chance(truths: Mapping[str, Float[np.ndarray, " n"]], seed: int, draws: int) -> Line:
  n = len(next(iter(truths.values())))
  line: Line = {"proxy": RANDOM, "n": n, "passes": None, "degenerate": 0, "not_ok": 0, "best_arch": None}
  line["seconds"] = None
  for d, values in truths.items():
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if known.size else math.nan
    shortlist, _ = expected_best(values, SHORTLIST, draws=draws, seed=seed)
    line |= {f"{d}_spearman": None, f"{d}_spearman_se": None, f"{d}_kendall": None}
    line[f"{d}_retrieving_rate"] = metrics.top_count(known.size, TOP) / known.size if known.size else math.nan
    line[f"{d}_top1_regret"] = _largest(values) - mean
    line[f"{d}_top10_regret"] = _largest(values) - shortlist
    line |= {f"{d}_pass_{name}": None for name in ("spearman", "spearman_sd", "kendall", "kendall_sd")}
    line[f"{d}_best_accuracy"], line[f"{d}_top10_accuracy"] = mean, shortlist
  return line


def _largest(values: Float[np.ndarray, " n"]) -> float:
  return float(np.max(values, where=np.isfinite(values), initial=-np.inf)) if np.isfinite(values).any() else math.nan


def _or_worst(value: float) -> float:
  return -math.inf if missing(value) else value


def missing(value: Any) -> bool:
  """Whether a field of a line is unknown: None or nan."""
  return value is None or (isinstance(value, float) and math.isnan(value))
