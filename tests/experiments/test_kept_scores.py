"""Paired errors and averaged passes of experiments/kept_scores.py, against SciPy sample by sample."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments import kept_scores
from jaxnas.errors import ConfigError


def test_spearman_of_every_sample_is_scipys():
  rng = np.random.default_rng(1)
  scores, accuracies = rng.integers(0, 8, 30).astype(float), rng.normal(size=30)  # with ties
  drawn = kept_scores.draws(30, 50)
  found = kept_scores.spearman_of(scores, accuracies, drawn)
  wanted = [stats.spearmanr(scores[d], accuracies[d]).statistic for d in drawn]
  np.testing.assert_allclose(found, wanted, atol=1e-12)
  assert drawn.shape == (50, 30) and (drawn == kept_scores.draws(30, 50)).all()  # the same for the next ranking


def test_a_pass_more_averages_ranks_within_a_proxy():
  archs = ["a", "b", "c"]
  first = {"naswot": {"a": 3.0, "b": 2.0, "c": math.nan}, "params": {"a": 1.0, "b": 5.0, "c": 5.0}}
  second = {"naswot": {"a": 1.0, "b": 9.0, "c": 0.5}, "params": {"a": 1.0, "b": 5.0, "c": 5.0}}
  found = kept_scores.combined([first, second], ["naswot", "params"], archs)
  # mean ranks of naswot 2.5, 2.5, 1 are ranks 2.5, 2.5, 1; of params 1, 2.5, 2.5
  wanted = [math.log(2.5 * 1 / 9), math.log(2.5 * 2.5 / 9), math.log(1 * 2.5 / 9)]
  np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_only_architectures_of_all_passes_are_common():
  one = {"naswot": {"a": 1.0, "b": 2.0}, "params": {"b": 1.0, "a": 2.0, "c": 3.0}}
  assert kept_scores.common([one], ["naswot", "params"]) == ["a", "b"]
  assert kept_scores.common([one, {"naswot": {"b": 1.0}}], ["naswot"]) == ["b"]


def test_an_interrupted_pass_does_not_count():
  done, broken = {"naswot": {"a": 1.0, "b": 2.0}}, {"naswot": {"a": 1.0}}
  assert kept_scores.whole({(0, 0): done, (1, 0): broken, (2, 0): {}}, ["naswot"]) == [done]
  assert kept_scores.whole({(0, 0): done}, ["zen"]) == []


def test_a_folder_without_scores_is_named(tmp_path):
  with pytest.raises(ConfigError, match=r"scores\.jsonl"):
    kept_scores.passes([tmp_path])
