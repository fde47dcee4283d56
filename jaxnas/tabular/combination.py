"""Several proxies as one ranking, without weights: the sum of the logarithms of their ranks.

    score_i = sum over proxies p of log(rank_p(i) / m)        rank 1 is the worst of the m architectures, m the best

The logarithm punishes a bad rank by one proxy more than a good rank by another makes up for. Source: Lee & Ham,
"AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, section 3.3.

A score depends on the set that it is computed in, all of it: scores of two sets cannot be compared, and one more
architecture changes all of them.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int

from jaxnas.errors import ConfigError

Values = Sequence[float] | Float[np.ndarray, " m"]


def log_rank_sum(columns: Sequence[Values]) -> Float64[np.ndarray, " m"]:
  """The combined score of m architectures, at most 0; higher is better.

  Equal values share their average rank. A value that is not finite belongs to a degenerate network: by this proxy all
  of these rank last and are equal. So where all are degenerate by all proxies, all scores are equal, and a single
  architecture has 0. Only the order within a column matters. Equal products of ranks have equal scores,
  whatever the order of the proxies: the products are whole numbers, so nothing is rounded before the logarithm.

  Args:
    columns: of each proxy the ranking values (higher is better) of the same m architectures in the same order.

  Raises:
    ConfigError: no columns, or columns of different lengths.
  """
  if not len(columns):
    raise ConfigError("columns: got none; give the ranking values of one proxy at least")
  ranks = [_doubled_ranks(np.asarray(column, np.float64)) for column in columns]
  if len({column.shape for column in ranks}) > 1:
    raise ConfigError(f"columns of {', '.join(str(len(column)) for column in ranks)} values: give m of each proxy")
  largest = math.log((2 * len(ranks[0])) ** len(ranks)) if len(ranks[0]) else 0.0
  products = (math.prod(one) for one in zip(*(column.tolist() for column in ranks), strict=True))
  return np.array([math.log(product) - largest for product in products], np.float64)


def _doubled_ranks(values: Float64[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
  """Twice the average rank from the worst, which is a whole number."""
  from scipy import stats

  return np.rint(2 * stats.rankdata(np.where(np.isfinite(values), values, -np.inf))).astype(np.int64)
