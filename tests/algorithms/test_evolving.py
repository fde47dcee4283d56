"""Evolution by ranks: what is scored, who has children, and what it finds on a space whose best is known."""

import jax
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.algorithms.evolving import RankEvolution, evolve
from jaxnas.base import NetworkConfig, Space
from jaxnas.errors import ConfigError
from jaxnas.tabular.combination import log_rank_sum

SPACE = spaces.get("nb201")
SETTINGS = RankEvolution(ranked_population=20, ranked_tournament=5, ranked_children=4)


def heavy(code):
  """More for later operations, on any edge: the heaviest architecture has 6 * 3."""
  return float(np.minimum(code, 3).sum())


def by_weight(lines):
  values = log_rank_sum([[value for _, value in lines], [value**3 for _, value in lines]])
  return dict(zip((arch for arch, _ in lines), values.tolist(), strict=True))


def run(count, *, settings=SETTINGS, seed=0, rank=by_weight):
  calls = []

  def score(codes):
    calls.append(len(codes))
    return [(SPACE.format(code), heavy(code)) for code in codes]

  return evolve(SPACE, count, settings, jax.random.key(seed), score, rank), calls


def test_scores_as_many_different_ones_as_asked_for():
  for count in (7, 20, 33):
    lines, calls = run(count)
    assert len(lines) == len({arch for arch, _ in lines}) == count == sum(calls)
  assert calls == [20, 4, 4, 4, 1]


def test_begins_at_random_and_goes_on_by_mutation():
  lines, _ = run(60)
  drawn = SPACE.sample(jax.random.split(jax.random.key(0), 4)[0], 20)
  assert [arch for arch, _ in lines[:20]] == [SPACE.format(code) for code in drawn]
  codes = [SPACE.parse(arch) for arch, _ in lines]
  for i, code in enumerate(codes[20:], start=20):
    assert min((code != other).sum() for other in codes[:i]) <= 2  # a mutation, or one of a mutation that was seen


def test_finds_what_random_search_does_not():
  best = [max(value for _, value in run(120, seed=seed)[0]) for seed in range(3)]
  random = [max(map(heavy, SPACE.sample(jax.random.key(100 + seed), 120))) for seed in range(3)]
  assert np.mean(best) > np.mean(random) and max(best) == 18


def test_parents_are_the_fittest_by_the_ranks_of_the_moment():
  """A ranking that turns round has children of the others."""
  turned = lambda lines: {arch: -rank for arch, rank in by_weight(lines).items()}  # noqa: E731
  up, down = (np.mean([value for _, value in run(100, rank=rank)[0][20:]]) for rank in (by_weight, turned))
  assert up > down + 2


def test_the_same_key_gives_the_same():
  assert run(50)[0] == run(50)[0] != run(50, seed=1)[0]


def test_a_small_space_is_exhausted():
  class Few(Space):
    """Nine numbers, of which 0 and 1 mutate into one another."""

    name, ops, default_config = "few", ("a",), NetworkConfig()

    def format(self, code):
      return str(int(code[0]))

    def sample(self, key, n):
      return np.asarray(jax.random.permutation(key, 9))[:n, None]

    def mutate(self, key, code):
      return np.asarray([(code[0] + 1) % 2])  # never reaches 2 to 8

  lines = evolve(Few(), 9, RankEvolution(3, 2, 2), jax.random.key(0), lambda codes: [(str(c[0]), c[0]) for c in codes],
                 lambda lines: {arch: float(value) for arch, value in lines})  # fmt: skip
  assert sorted(arch for arch, _ in lines) == list("012345678")


def test_bad_settings():
  with pytest.raises(ConfigError, match="--ranked_tournament=6 .* --ranked_population=5"):
    RankEvolution(5, 6)
  with pytest.raises(ConfigError, match="--ranked_children=0"):
    RankEvolution(ranked_children=0)
