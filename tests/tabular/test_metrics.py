"""Measures of agreement against scipy, the published fixture, and cases worked by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxnas.errors import ConfigError
from jaxnas.tabular import metrics

NAN, INF = math.nan, math.inf


pytestmark = pytest.mark.filterwarnings("error")


def sample(n=60, seed=0, ties=8):
  rng = np.random.default_rng(seed)
  accuracies = np.round(rng.uniform(80, 94, n), 1)
  return np.round((accuracies - 87) / 7 * ties + rng.normal(0, ties / 2, n)), accuracies


def measures(found):
  return np.array(
    [found.spearman, found.spearman_se, found.kendall, found.retrieving_rate, found.top1_regret, found.top10_regret]
  )


def test_parity_with_the_gennas_fixture(fixtures):
  fixture = json.loads((fixtures / "gennas/g3_metrics.json").read_text())
  scores, accuracies = -np.array(fixture["losses"]), np.array(fixture["accuracies"])
  found = metrics.agreement(scores, accuracies)
  assert found.n == len(scores)
  # The fixture signs its correlations with the loss, where lower is better.
  assert found.spearman == pytest.approx(-fixture["spearman_signed"], abs=1e-12)
  assert found.kendall == pytest.approx(-fixture["kendall_tau_b_signed"], abs=1e-12)
  for percent, expected in fixture["retrieving_rate"].items():
    top = float(percent.rstrip("%")) / 100
    assert metrics.retrieving_rate(scores, accuracies, top) == pytest.approx(expected["rate"], abs=1e-12)
  assert found.retrieving_rate == fixture["retrieving_rate"]["10%"]["rate"]


def test_correlations_are_those_of_scipy_whatever_the_scale_of_the_scores():
  scores, accuracies = sample()
  for transformed in (scores, np.exp(scores * 20), scores * 1e-300):
    assert metrics.spearman(transformed, accuracies) == pytest.approx(stats.spearmanr(scores, accuracies)[0])
    assert metrics.kendall(transformed, accuracies) == pytest.approx(stats.kendalltau(scores, accuracies)[0])


def test_by_hand():
  scores, accuracies = [1.0, 2.0, 3.0, 4.0], [70.0, 90.0, 80.0, 85.0]
  assert metrics.spearman(scores, accuracies) == pytest.approx(1 - 6 * (0 + 4 + 1 + 1) / (4 * 15))
  assert metrics.kendall(scores, accuracies) == pytest.approx((4 - 2) / 6)
  assert [metrics.regret_at(scores, accuracies, k) for k in (1, 2, 3, 9)] == [5.0, 5.0, 0.0, 0.0]
  assert [metrics.retrieving_rate(scores, accuracies, top) for top in (0.1, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1]


def test_top_29_percent_of_100_are_29():
  scores = np.arange(100.0)
  accuracies = np.append(scores[:71][::-1], scores[71:][::-1])  # the same 29 on top, the 28 on top differ
  assert metrics.retrieving_rate(scores, accuracies, 0.29) == 1.0
  assert metrics.retrieving_rate(scores, accuracies, 0.28) == 27 / 28


def test_ties_go_to_the_first_of_the_list():
  assert metrics.regret_at([5.0, 5.0, 1.0], [80.0, 90.0, 70.0], 1) == 10.0
  assert metrics.regret_at([5.0, 5.0, 1.0], [90.0, 80.0, 70.0], 1) == 0.0
  assert metrics.retrieving_rate([1.0, 1.0, 1.0], [80.0, 90.0, 90.0], 0.4) == 0.0
  assert metrics.retrieving_rate([1.0, 1.0, 1.0], [90.0, 90.0, 80.0], 0.4) == 1.0


def test_degenerate_scores_rank_last_and_are_tied():
  scores, accuracies = sample()
  bad = np.arange(60) % 7 == 0
  lowest = np.where(bad, scores.min() - 1, scores)
  marked = np.where(bad, np.array([NAN, -INF, INF])[np.arange(60) % 3], scores)
  found, expected = metrics.agreement(marked, accuracies), metrics.agreement(lowest, accuracies)
  np.testing.assert_array_equal(measures(found), measures(expected))
  assert (found.degenerate, expected.degenerate) == (9, 0)
  assert metrics.regret_at([NAN, 1.0, INF, 0.0], [94.0, 80.0, 93.0, 70.0], 1) == 14.0


def test_unknown_accuracies_are_dropped_and_counted():
  scores, accuracies = sample()
  holes = np.arange(60) % 5 == 0
  found = metrics.agreement(scores, np.where(holes, NAN, accuracies))
  whole = metrics.agreement(scores[~holes], accuracies[~holes])
  assert (found.n, found.dropped) == (48, 12)
  np.testing.assert_array_equal(measures(found), measures(whole))


@pytest.mark.parametrize(
  ("scores", "accuracies", "n"),
  [([], [], 0), ([1.0, 2.0], [80.0, 90.0], 2), ([1.0, 2.0, 3.0], [80.0, NAN, 90.0], 2), ([NAN] * 4, [8.0, 7, 6, 5], 4)],
)
def test_nothing_to_measure(scores, accuracies, n):
  found = metrics.agreement(scores, accuracies)
  assert found.n == n
  assert np.isnan(measures(found)).all()


@pytest.mark.parametrize(("scores", "accuracies"), [([3.0] * 5, [1.0, 2, 3, 4, 5]), ([1.0, 2, 3, 4, 5], [90.0] * 5)])
def test_constants_have_no_correlation(scores, accuracies):
  found = metrics.agreement(scores, accuracies)
  assert np.isnan([found.spearman, found.spearman_se, found.kendall]).all()
  assert np.isfinite([found.retrieving_rate, found.top1_regret]).all()


@pytest.mark.parametrize("n", [3, 40])
def test_standard_error_is_the_bootstrap_done_one_by_one(n):
  scores, accuracies = sample(n, seed=1, ties=5)
  draws = np.random.default_rng(7).integers(0, n, (200, n))
  rhos = []
  for d in draws:
    if np.ptp(scores[d]) and np.ptp(accuracies[d]):
      rhos.append(stats.spearmanr(scores[d], accuracies[d])[0])
  found = metrics.spearman_se(scores, accuracies, resamples=200, seed=7)
  assert found == pytest.approx(np.std(rhos, ddof=1), abs=1e-12)


def test_standard_error_in_chunks_is_the_same(monkeypatch):
  scores, accuracies = sample()
  whole = metrics.spearman_se(scores, accuracies, seed=3)
  monkeypatch.setattr(metrics, "_CHUNK", 60 * 37)
  assert metrics.spearman_se(scores, accuracies, seed=3) == whole
  assert metrics.spearman_se(scores, accuracies, seed=4) != whole


def test_standard_error_is_near_the_one_of_theory():
  rng = np.random.default_rng(0)
  scores, accuracies = rng.normal(size=1000), rng.normal(size=1000)
  assert metrics.spearman_se(scores, accuracies) == pytest.approx(1 / math.sqrt(999), rel=0.15)


def test_bad_arguments(unchecked):
  with pytest.raises(ConfigError, match=r"scores of shape \(2,\), accuracies of shape \(3,\)"):
    metrics.agreement([1.0, 2.0], [1.0, 2.0, 3.0])
  with pytest.raises(ConfigError, match="pass n of each"):
    metrics.spearman(np.ones((2, 2)), np.ones((2, 2)))
  for top in (0.0, 10.0, NAN):
    with pytest.raises(ConfigError, match="top="):
      metrics.retrieving_rate([1.0, 2, 3], [1.0, 2, 3], top)
  with pytest.raises(ConfigError, match="k=0"):
    metrics.regret_at([1.0, 2, 3], [1.0, 2, 3], 0)
  with pytest.raises(ConfigError, match="resamples=1"):
    metrics.agreement([1.0, 2, 3], [1.0, 2, 3], resamples=1)
