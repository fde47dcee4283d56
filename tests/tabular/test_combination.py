"""The sum of log ranks: against a count of pairs, and what must not change it."""

import itertools
import math

import numpy as np
import pytest

from jaxnas.errors import ConfigError
from jaxnas.tabular.combination import log_rank_sum


def counted(columns):
  """By counting, for each architecture and proxy, how many are worse and how many are as good."""
  m = len(columns[0])
  found = []
  for i in range(m):
    total = 0.0
    for column in columns:
      values = [v if math.isfinite(v) else -math.inf for v in column]
      worse = sum(v < values[i] for v in values)
      equal = sum(v == values[i] for v in values)
      total += math.log((worse + (equal + 1) / 2) / m)
    found.append(total)
  return found


def draw(seed=0, m=60):
  """Three proxies: one without ties, one with many, one of which a fifth is degenerate in three ways."""
  rng = np.random.default_rng(seed)
  third = rng.normal(size=m)
  third[::5] = np.resize([np.nan, -np.inf, np.inf], len(third[::5]))
  return [rng.normal(size=m), rng.integers(0, 5, m).astype(float), third]


def test_equals_counting_pairs():
  for seed, few in itertools.product(range(3), (1, 2, 3)):
    columns = draw(seed)[:few]
    np.testing.assert_allclose(log_rank_sum(columns), counted(columns), rtol=0, atol=1e-12)


def test_by_hand():
  found = log_rank_sum([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, math.nan, 7.0]])
  np.testing.assert_allclose(np.exp(found), [1 * 2.5 / 16, 2 * 2.5 / 16, 3 * 1 / 16, 4 * 4 / 16], rtol=1e-14)


def test_only_the_order_within_a_proxy_counts():
  one, two, three = draw()
  changed = [np.exp(one), 3 * two - 7, np.cbrt(three)]
  np.testing.assert_array_equal(log_rank_sum([one, two, three]), log_rank_sum(changed))


def test_any_order_of_architectures_and_proxies():
  columns = draw(seed=1)
  found = log_rank_sum(columns)
  order = np.random.default_rng(2).permutation(len(found))
  np.testing.assert_array_equal(log_rank_sum([column[order] for column in columns]), found[order])
  for some in itertools.permutations(columns):
    np.testing.assert_array_equal(log_rank_sum(some), found)


def test_equal_products_of_ranks_are_equal_scores():
  m = 12  # ranks (2, 6), (3, 4), (4, 3), (6, 2), (1, 12) and (12, 1) have one product
  one, two = np.arange(m, dtype=float), np.array([11, 5, 3, 2, 4, 1, 6, 7, 8, 9, 10, 0], float)
  assert len(set(log_rank_sum([one, two])[[0, 1, 2, 3, 5, 11]])) == 1


def test_not_finite_ranks_last_and_ties():
  found = log_rank_sum([[3.0, np.inf, 2.0, -np.inf, np.nan]])
  assert found[1] == found[3] == found[4] < found[2] < found[0] == 0


def test_nothing_to_tell_apart():
  assert log_rank_sum([[4.0], [np.nan]]).tolist() == [0.0]
  assert len(set(log_rank_sum([[np.nan] * 5, [np.inf] * 5]))) == 1
  assert log_rank_sum([[], []]).shape == (0,)


def test_a_larger_set_changes_scores():
  one, two = [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]
  before = log_rank_sum([one, two])
  after = log_rank_sum([[*one, 2.5], [*two, 2.5]])
  assert (after[:3] != before).all()


def test_refuses_what_cannot_be_combined():
  with pytest.raises(ConfigError, match="got none"):
    log_rank_sum([])
  with pytest.raises(ConfigError, match="2, 3"):
    log_rank_sum([[1.0, 2.0], [1.0, 2.0, 3.0]])
