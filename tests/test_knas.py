"""KNAS: the shortlist, the fine stage, ties, resuming."""

import json

import jax
import numpy as np
import pytest

from jaxnas import data, proxies, spaces
from jaxnas.algorithms import knas
from jaxnas.algorithms.knas import KNASConfig
from jaxnas.errors import ConfigError
from jaxnas.proxies import Proxy, Reading
from jaxnas.scoring import Engine
from jaxnas.spaces.nb201 import costs

SPACE = spaces.nb201()
WEIGHTS = np.array([3.0, 1.0, 4.0, 1.5, 9.0], np.float32)  # of the operations; sums over edges are exact
EDGE_WEIGHTS = np.array([1.0, 32.0, 2.0, 128.0, 8.0, 512.0], np.float32)


def accuracy(arch):
  """A made-up fine stage: a sum over edges, float32-exact, with different values for most architectures."""
  columns = SPACE.parse(arch) if isinstance(arch, str) else arch
  return float((EDGE_WEIGHTS * WEIGHTS[columns]).sum())


def coarse(name, measure, finish=lambda raw: Reading(float(raw), "ok")):
  return Proxy(name, True, -1.0, "batch", measure, finish)


PERFECT = coarse("perfect", lambda e: (EDGE_WEIGHTS[:, None] * WEIGHTS[None] * e.alphas[0]).sum())
CONSTANT = coarse("constant", lambda e: e.alphas.sum())
FIRST_EDGE = coarse("first_edge", lambda e: (WEIGHTS * e.alphas[0, 0]).sum())  # five values only
BROKEN = coarse(  # no number for half of the architectures
  "broken",
  PERFECT.measure,
  lambda raw: Reading(float(raw), "ok") if raw < 4000 else Reading(float("nan"), "non_finite"),
)


@pytest.fixture(scope="module")
def engine():
  return Engine(block=16)


@pytest.fixture(scope="module")
def source():
  return data.load()


@pytest.fixture
def search(engine, source, monkeypatch):
  """A search of 40 candidates by a proxy that needs no pass through the network."""

  def run(proxy=None, seed=0, evaluate=accuracy, k=5, n=40, **given):
    if proxy is not None:
      monkeypatch.setattr(proxies, "get", lambda name: proxy)
    config = KNASConfig(
      knas_candidates=n, knas_shortlist=k, knas_score="params", knas_batch=2, knas_channels=2, knas_cells=1
    )
    return knas.search(SPACE, source, config, seed=seed, evaluate=evaluate, engine=engine, **given)

  return run


def accuracies(result):
  return np.array([accuracy(a) for a in result.candidates])


@pytest.mark.parametrize("k", [1, 5])
def test_perfect_score_finds_the_best_candidate(search, k):
  result = search(PERFECT, k=k)
  of_all = accuracies(result)
  assert accuracy(result.arch) == of_all.max()
  np.testing.assert_array_equal(result.scores, of_all)
  assert sorted(of_all[result.shortlist]) == sorted(of_all)[-k:]
  assert (np.diff(of_all[result.shortlist]) <= 0).all()
  np.testing.assert_array_equal(result.validation, of_all[result.shortlist])


def test_constant_score_takes_the_first_k(search):
  evaluated = []
  result = search(CONSTANT, evaluate=lambda arch: evaluated.append(arch) or accuracy(arch))
  assert result.shortlist.tolist() == [0, 1, 2, 3, 4]
  assert evaluated == [SPACE.format(a) for a in result.candidates[:5]]
  assert accuracy(result.arch) == accuracies(result)[:5].max()


def test_ties_drop_no_candidate(search):
  """With scores as dictionary keys only five of the 40 would be left."""
  result = search(FIRST_EDGE, k=40)
  assert len(np.unique(result.scores)) == 5
  assert sorted(result.shortlist.tolist()) == list(range(40))
  assert accuracy(result.arch) == accuracies(result).max()
  short = search(FIRST_EDGE, k=12)
  np.testing.assert_array_equal(short.shortlist, result.shortlist[:12])
  best = np.flatnonzero(result.scores == result.scores.max())
  assert 1 < len(best) <= 12
  assert short.shortlist[: len(best)].tolist() == best.tolist()  # in the order drawn


def test_failed_scores_come_last(search):
  result = search(BROKEN, k=40)
  failed = np.isnan(result.scores)
  assert 0 < failed.sum() < 40
  assert failed[result.shortlist[-failed.sum() :]].all()


def test_candidates_are_drawn_without_replacement(search):
  result, more = search(CONSTANT), search(CONSTANT, n=60)
  assert len(np.unique(result.candidates, axis=0)) == 40
  np.testing.assert_array_equal(more.candidates[:40], result.candidates)


def test_parameters_as_the_score(search):
  """The real proxy of that name, through the real network."""
  result = search()
  expected = np.array([costs.params(a, 2, 1) for a in result.candidates])
  np.testing.assert_array_equal(result.scores, expected)
  assert result.shortlist.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()


def same(a, b):
  return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("arch", "candidates", "scores", "shortlist"))


def test_seed_decides(search):
  assert same(search(PERFECT, seed=3), search(PERFECT, seed=3))
  assert not same(search(PERFECT, seed=3), search(PERFECT, seed=4))


@pytest.mark.parametrize("cut", [0, 17, 40, 43, 45])
def test_resumes(search, cut):
  kept, done, evaluated = [], [], []
  whole = search(PERFECT, keep=lambda *records: kept.extend(records), advance=done.append)
  assert len(kept) == sum(done) == 45
  records = json.loads(json.dumps(kept))[:cut]
  other = [{**r, "seed": 1} for r in json.loads(json.dumps(kept))]  # another seed's do not count
  again, done = [], []
  result = search(
    PERFECT,
    evaluate=lambda arch: evaluated.append(arch) or accuracy(arch),
    records=[*other, *records],
    keep=lambda *new: again.extend(new),
    advance=done.append,
  )
  assert same(result, whole)
  assert len(evaluated) == min(5, 45 - cut)
  assert [r["arch"] for r in again] == [r["arch"] for r in kept[cut:]]
  assert sum(done) == 45


def test_missing_validation(search):
  """Architectures without a value are passed over; none at all is an error."""
  best = search(PERFECT).arch
  second = search(PERFECT, evaluate=lambda a: float("nan") if a == SPACE.format(best) else accuracy(a))
  assert np.isnan(second.validation[0])
  assert accuracy(second.arch) == np.sort(accuracies(second))[-2]
  with pytest.raises(ConfigError, match="--knas_fine=table: none of the 5"):
    search(PERFECT, evaluate=lambda arch: float("nan"))


def test_select():
  ranking = np.array([1.0, 3.0, -np.inf, 3.0, 2.0])
  assert knas.select(ranking, 3).tolist() == [1, 3, 4]
  assert knas.select(ranking, 5).tolist() == [1, 3, 4, 0, 2]


@pytest.mark.parametrize(
  ("given", "word"),
  [
    ({"knas_shortlist": 41, "knas_candidates": 40}, "--knas_shortlist=41 is more than --knas_candidates=40"),
    ({"knas_shortlist": 0}, "--knas_shortlist=0 must be at least 1"),
    ({"knas_batch": 0}, "--knas_batch=0"),
    ({"knas_score": "snip"}, "--knas_score='snip' must be one of mgm"),
    ({"knas_fine": "guess"}, "--knas_fine='guess'"),
  ],
)
def test_bad_settings(given, word):
  with pytest.raises(ConfigError, match=word):
    KNASConfig(**given)


def test_every_coarse_score_is_a_proxy():
  for name in knas.COARSE:
    assert proxies.get(name).name == name
    assert KNASConfig(knas_score=name).knas_score == name
  assert jax.tree.leaves(proxies.get("mgm").higher_is_better) == [True]
