"""How well a proxy ranks architectures: scores against true accuracies of the same sample.

    Spearman rho      Pearson correlation of average ranks
    Kendall tau-b     (concordant - discordant) / sqrt((pairs not tied in x) * (pairs not tied in y))
    retrieving rate   |P_k & G_k| / k: P_k the k best-scored, G_k the k most accurate, k = max(1, floor(n * top))
    regret at k       best accuracy of the sample - best accuracy among the k best-scored

The retrieving rate is the one of Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021,
arXiv 2108.01899. The standard error of rho is the standard deviation over bootstrap samples of architectures (Efron and
Tibshirani, "An Introduction to the Bootstrap", chapter 6).

Everywhere: scores are ranking values (higher is better). A score that is not finite belongs to a degenerate network;
these rank last and are tied. Unknown (nan) accuracies are left out with their scores. Where fewer than 3 pairs remain,
or none of their scores is finite, there is nothing to measure and the result is nan. Ties of the retrieving rate and of
the regret go to the architecture that stands first, so the order of the sample should know nothing of the accuracies.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxnas.errors import ConfigError

Values = Sequence[float] | Float[np.ndarray, " n"]

_FEWEST = 3
_CHUNK = 1 << 20  # architectures x bootstrap samples held at a time: some 50 MB


@dataclasses.dataclass(frozen=True)
class Agreement:
  """What `agreement` measures on n architectures with a known accuracy.

  Attributes:
    n: pairs of a score and a known accuracy.
    dropped: architectures left out because their accuracy is unknown.
    degenerate: those of the n whose score is not finite.
    spearman, kendall: -1..1; nan if all scores or all accuracies are equal.
    spearman_se: bootstrap standard error of `spearman`.
    retrieving_rate: 0..1; chance level is k / n.
    top1_regret, top10_regret: percentage points, 0 is best.
  """

  n: int
  dropped: int
  degenerate: int
  spearman: float
  spearman_se: float
  kendall: float
  retrieving_rate: float
  top1_regret: float
  top10_regret: float


def agreement(
  ranking_values: Values, accuracies: Values, *, top: float = 0.1, resamples: int = 1000, seed: int = 0
) -> Agreement:
  """All measures at once.

  Args:
    ranking_values: n scores, higher is better.
    accuracies: n accuracies in percent, nan where unknown.
    top: share of the sample that the retrieving rate looks at.
    resamples, seed: of the bootstrap. The same seed draws the same architectures for every proxy.

  Raises:
    ConfigError: the two are not of one length, or `top` or `resamples` is out of range.
  """
  scores, truths = _checked(ranking_values, accuracies)
  known = np.isfinite(truths)
  return Agreement(
    n=int(known.sum()),
    dropped=int((~known).sum()),
    degenerate=int((~np.isfinite(scores[known])).sum()),
    spearman=spearman(scores, truths),
    spearman_se=spearman_se(scores, truths, resamples=resamples, seed=seed),
    kendall=kendall(scores, truths),
    retrieving_rate=retrieving_rate(scores, truths, top=top),
    top1_regret=regret_at(scores, truths, 1),
    top10_regret=regret_at(scores, truths, 10),
  )


def spearman(scores: Values, accuracies: Values) -> float:
  """Spearman's rho; nan if the scores or the accuracies are all equal.

  Raises:
    ConfigError: the two are not of one length.
  """
  from scipy import stats

  levels, truths = _pairs(scores, accuracies)
  if not _vary(levels, truths):
    return math.nan
  found: Any = stats.spearmanr(levels, truths)
  return float(found.statistic)


def kendall(scores: Values, accuracies: Values) -> float:
  """Kendall's tau-b; nan if the scores or the accuracies are all equal.

  Raises:
    ConfigError: the two are not of one length.
  """
  from scipy import stats

  levels, truths = _pairs(scores, accuracies)
  if not _vary(levels, truths):
    return math.nan
  found: Any = stats.kendalltau(levels, truths, variant="b")
  return float(found.statistic)


def spearman_se(scores: Values, accuracies: Values, *, resamples: int = 1000, seed: int = 0) -> float:
  """Standard deviation of rho over `resamples` samples of n of the n architectures, drawn with replacement.

  Samples in which all scores or all accuracies are equal have no rho and are left out; nan if fewer than 2 are left.

  Raises:
    ConfigError: the two are not of one length, or `resamples` is below 2.
  """
  if resamples < 2:
    raise ConfigError(f"resamples={resamples}: a standard error needs at least 2; 1000 is usual")
  levels, truths = _pairs(scores, accuracies)
  if not _vary(levels, truths):
    return math.nan
  truth_levels = np.unique(truths, return_inverse=True)[1]
  n, rng = len(levels), np.random.default_rng(seed)
  rhos = []
  for start in range(0, resamples, step := max(1, _CHUNK // n)):
    rows = min(step, resamples - start)
    drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
    rhos.append(_weighted_spearman(levels, truth_levels, times))
  rhos = np.concatenate(rhos)
  rhos = rhos[np.isfinite(rhos)]
  return float(rhos.std(ddof=1)) if rhos.size > 1 else math.nan


def retrieving_rate(scores: Values, accuracies: Values, top: float = 0.1) -> float:
  """Share of the k most accurate architectures among the k best-scored, k = max(1, floor(n * top)).

  Raises:
    ConfigError: the two are not of one length, or `top` is not in (0, 1].
  """
  levels, truths = _pairs(scores, accuracies)
  k = top_count(len(levels), top)
  if not levels.size:
    return math.nan
  return len(np.intersect1d(_first(levels, k), _first(truths, k))) / k


def top_count(n: int, top: float) -> int:
  """max(1, floor(n * top)).

  Raises:
    ConfigError: `top` is not in (0, 1].
  """
  if not 0 < top <= 1:
    raise ConfigError(f"top={top}: not a share of the sample; give a number above 0 and at most 1, 0.1 for 10 %")
  return max(1, math.floor(n * top + 1e-9))  # 0.29 * 100 is 28.999... in floats


def regret_at(scores: Values, accuracies: Values, k: int) -> float:
  """Best accuracy of the sample minus the best one among the k best-scored, in percentage points.

  Raises:
    ConfigError: the two are not of one length, or k is below 1.
  """
  if k < 1:
    raise ConfigError(f"k={k}: the number of best-scored architectures must be at least 1")
  levels, truths = _pairs(scores, accuracies)
  return float(truths.max() - truths[_first(levels, k)].max()) if levels.size else math.nan


def _checked(scores: Values, accuracies: Values) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
  x, y = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
  if x.ndim != 1 or x.shape != y.shape:
    raise ConfigError(f"scores of shape {x.shape}, accuracies of shape {y.shape}: pass n of each, in one order")
  return x, y


def _pairs(scores: Values, accuracies: Values) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
  """Scores as levels (0 is worst, equal scores share one) and known accuracies; both empty if nothing to measure."""
  x, y = _checked(scores, accuracies)
  known = np.isfinite(y)
  x, y = x[known], y[known]
  finite = np.isfinite(x)
  if len(x) < _FEWEST or not finite.any():
    return np.zeros(0, np.int64), np.zeros(0)
  return np.unique(np.where(finite, x, -np.inf), return_inverse=True)[1], y


def _vary(levels: np.ndarray, truths: np.ndarray) -> bool:
  return bool(levels.size > 0 and np.ptp(levels) > 0 and np.ptp(truths) > 0)


def _first(values: np.ndarray, k: int) -> Int[np.ndarray, " k"]:
  """Positions of the k largest, the first of equals."""
  return np.argsort(-values, kind="stable")[:k]


def _weighted_spearman(
  x: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"], times: Int[np.ndarray, "B n"]
) -> Float[np.ndarray, " B"]:
  """Rho of B samples that hold architecture i `times[b, i]` times; x and y are levels 0, 1, ... without gaps."""
  middle = (x.size + 1) / 2  # the mean of n average ranks, ties or not
  rx, ry = _average_ranks(x, times) - middle, _average_ranks(y, times) - middle
  weighted = times * rx
  covariance, x_squares = (weighted * ry).sum(1), (weighted * rx).sum(1)
  y_squares = (times * ry * ry).sum(1)
  with np.errstate(invalid="ignore", divide="ignore"):
    return covariance / np.sqrt(x_squares * y_squares)


def _average_ranks(levels: Int[np.ndarray, " n"], times: Int[np.ndarray, "B n"]) -> Float[np.ndarray, "B n"]:
  """Average rank (from 1) of each architecture in each sample. Counting spares sorting every sample."""
  order = np.argsort(levels, kind="stable")
  starts = np.searchsorted(levels[order], np.arange(levels.max() + 1))
  totals = np.add.reduceat(times[:, order], starts, axis=1)
  ranks = np.cumsum(totals, axis=1) - totals + (totals + 1) / 2
  return ranks[:, levels]
