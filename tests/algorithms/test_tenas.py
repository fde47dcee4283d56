"""The TE-NAS and random searches as library calls."""

import json

import jax
import numpy as np
import pytest
from helpers import Counted

from jaxnas import data, spaces
from jaxnas.algorithms import indicators, random_search, score, tenas
from jaxnas.algorithms.indicators import IndicatorConfig
from jaxnas.algorithms.tenas_ranking import Indicators
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.scoring import Engine

SPACE, DARTS = spaces.get("nb201"), spaces.get("darts")
SMALL = IndicatorConfig(ntk_batch=6, ntk_channels=2, region_batches=2, region_samples=40)
TRACES = ("f5_trace_nb201_released", "f5_trace_nb201_intended", "f6_inject_nb201_smooth_r3", "f6_inject_nb201_ties_r3")


@pytest.fixture(scope="module")
def engine():
  """Compiled programs shared by the tests of this file."""
  return Engine()


@pytest.fixture(scope="module")
def source():
  return data.load()


@pytest.fixture(scope="module")
def found(source, engine):
  """A search, its records and its result."""
  records, done = [], Counted()
  config = tenas.TENASConfig(indicators=SMALL, repeats=2)
  result = tenas.search(SPACE, source, config, seed=3, engine=engine, keep=records.append, advance=done)
  return config, records, sum(done), result


def replayed(fixtures, name, space, **settings):
  """Feeds `prune` and `choose_edges` with a trace's indicators, and checks every decision and supernet on the way.

  Returns what is left, and the trace.
  """
  trace = np.load(fixtures / "tenas" / f"{name}.npz")
  columns = np.array([space.ops.index(op) for op in trace["op_columns"]])
  rounds = int(trace["n_rounds"])
  visited = []

  def alphas(key):
    """The mask of active operations, in the space's columns."""
    active = np.zeros((space.cell_types, len(space.edges), len(space.ops)), bool)
    for cell in range(space.cell_types):
      active[cell][:, columns] = trace[f"{key}_{cell}"] > -500
    return active

  def ours(key):
    return [(c, e, int(columns[o])) for c, e, o in trace[key].tolist()]

  def part(number):
    return f"r{number - 1}" if number <= rounds else f"g{number - 1 - rounds}"

  def indicate(number, parent, active, candidates):
    name = part(number)
    visited.append(number)
    assert list(candidates) == ours(f"{name}/cand")
    np.testing.assert_array_equal(active, alphas(f"{name}/alphas_before"))
    np.testing.assert_array_equal(parent, active if number <= rounds else alphas("g0/alphas_before"))
    keys = ("cond_orig", "cond_pruned", "regions_orig", "regions_pruned")
    return Indicators(candidates, *(trace[f"{name}/{k}"] for k in keys))

  config = tenas.TENASConfig(repeats=int(trace["repeat"]), variant="code", **settings)
  left, steps = tenas.prune(space, indicate, config)
  left, groups = tenas.choose_edges(space, left, indicate, config, first=len(steps) + 1)
  assert visited == [step.number for step in steps + groups] == list(range(1, 1 + len(steps + groups)))
  assert (len(steps), len(groups)) == (rounds, int(trace["n_groups"]) if "n_groups" in trace else 0)
  for step in steps + groups:
    name = part(step.number)
    for key in ("ntk_delta", "region_delta", "ntk_mean", "region_mean", "ntk_rank", "region_rank"):
      np.testing.assert_array_equal(getattr(step.decision, key), trace[f"{name}/{key}"])
    assert list(step.decision.order) == ours(f"{name}/final_order")
    assert list(step.decision.pruned) == ours(f"{name}/pruned")
    if step.group is not None:
      assert step.group == (int(trace[f"{name}/cell_type"]), tuple(range(*trace[f"{name}/edge_range"])))
  np.testing.assert_array_equal(left, alphas("final_alphas"))
  arch = space.from_weights(spaces.active_weights(left))
  np.testing.assert_array_equal(arch, space.parse(str(trace["final_genotype"])))


@pytest.mark.parametrize("name", TRACES)
def test_the_loop_replays_the_official_searches(fixtures, name):
  """Fed with the traces' indicators, `prune` visits the same supernets and ends with the same architecture."""
  replayed(fixtures, name, SPACE)


@pytest.mark.parametrize(
  ("name", "prune_number"),
  [
    ("f6_trace_darts_real", None),
    ("f6_inject_darts_smooth_prune3_r3", 3),
    ("f6_inject_darts_smooth_prune2_r3", 2),
    ("f6_inject_darts_ties_prune3_r1", 3),
  ],
)
def test_the_loop_replays_the_official_darts_searches(fixtures, name, prune_number):
  """The same with edges to choose; the columns of operations differ, the order of candidates must not."""
  replayed(fixtures, name, DARTS, prune_number=prune_number)


def test_search_finds_an_architecture(found):
  config, records, done, result = found
  assert result.arch.shape == (6,)
  assert (result.arch > 0).all()
  assert [len(r["candidates"]) for r in result.history] == [24, 18, 12]
  assert done == tenas.evaluations(SPACE, config) == 2 * (25 + 19 + 13)
  assert len(records) == 6
  pruned = [tuple(c) for r in result.history for c in r["pruned"]]
  assert len(pruned) == len(set(pruned)) == 18
  assert all(result.arch[edge] != op for _, edge, op in pruned)
  assert {k: len(v) for k, v in result.eigenvalues.items()} == {"full supernet": 6, "found architecture": 6}
  json.dumps(result.history)


def test_search_is_deterministic_and_resumes(found, source, engine):
  config, records, _, result = found
  kept = []
  again = tenas.search(SPACE, source, config, seed=3, engine=engine, records=records[:3], keep=kept.append)
  assert kept == records[3:]
  assert again.history == result.history
  np.testing.assert_array_equal(again.arch, result.arch)


def test_records_of_another_seed_are_not_used(found, source, engine):
  config, records, _, _ = found
  kept = []
  tenas.search(SPACE, source, config, seed=4, engine=engine, records=records, keep=kept.append)
  assert len(kept) == 6
  assert kept[0]["ntk_condition_number"] != records[0]["ntk_condition_number"]


def test_the_parent_is_scored_like_any_candidate(source, engine):
  """A candidate that prunes nothing has exactly the parent's indicators: they share weights and inputs."""
  given = indicators.condition_number(SPACE, source, SMALL, jax.random.key(0))
  weights = spaces.active_weights(np.repeat(tenas.initial_active(SPACE)[None], 3, 0))
  (readings,) = engine.score([given.proxy], given.network, given.params, weights, given.batch)
  assert readings[0] == readings[1] == readings[2]
  assert readings[0].status == "ok"


@pytest.mark.parametrize("criterion", ["ntk_condition_number", "linear_regions"])
def test_random_search_keeps_the_best(source, engine, criterion):
  config = random_search.RandomSearchConfig(indicators=SMALL, samples=30, criterion=criterion)
  records = []
  result = random_search.search(SPACE, source, config, seed=0, engine=engine, keep=records.append)
  assert len(records) == 30 == len(result.archs)
  usable = {r["arch"]: r["rank_by"] for r in records}
  assert usable[SPACE.format(result.arch)] == max(usable.values())
  better = np.nanmin if criterion == "ntk_condition_number" else np.nanmax
  ok = np.array([r["status"] in ("ok", "saturated") for r in records])
  assert result.scores[result.best] == better(result.scores[ok])
  kept = []
  again = random_search.search(SPACE, source, config, seed=0, engine=engine, records=records[:24], keep=kept.append)
  assert [r["arch"] for r in kept] == [r["arch"] for r in records[24:]]
  np.testing.assert_array_equal(again.arch, result.arch)


def test_random_search_by_validation():
  config = random_search.RandomSearchConfig(samples=50, criterion="valid_12ep")
  result = random_search.search(SPACE, None, config, seed=1, validation=lambda arch: float(arch.count("3x3")))
  assert result.scores[result.best] == result.scores.max() == SPACE.format(result.arch).count("3x3")
  with pytest.raises(ConfigError, match="--benchmark"):
    random_search.search(SPACE, None, config, seed=1)
  with pytest.raises(ConfigError, match="none of the 50"):
    random_search.search(SPACE, None, config, seed=1, validation=lambda arch: float("nan"))


def test_score_refuses_what_cannot_be_scored(source):
  with pytest.raises(ConfigError, match="--archs"):
    score.ScoreConfig()
  disconnected = "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|none~2|"
  with pytest.raises(ArchitectureError, match="no path"):
    score.resolve(SPACE, (disconnected,))
  with pytest.raises(ConfigError, match=r"--archs='random:0'.*random:N"):
    score.resolve(SPACE, ("random:0",))
  text = SPACE.format(SPACE.from_index(17))
  found = score.resolve(SPACE, (" 17 ", text, "random:3"))
  np.testing.assert_array_equal(found[:2], SPACE.from_index(17)[None].repeat(2, 0))
  assert found.shape == (5, 6)


@pytest.mark.parametrize(
  ("make", "word"),
  [
    (lambda: IndicatorConfig(batch_norm="running"), "--batch_norm='running'"),
    (lambda: IndicatorConfig(ntk_batch=1), "--ntk_batch=1"),
    (lambda: IndicatorConfig(region_samples=0), "--region_samples=0"),
    (lambda: tenas.TENASConfig(variant="paper"), "--variant='paper'"),
    (lambda: tenas.TENASConfig(prune_number=-1), "--prune_number=-1"),
    (lambda: IndicatorConfig(ntk_cells=-1), "--ntk_cells=-1"),
    (lambda: random_search.RandomSearchConfig(criterion="luck"), "--criterion='luck'"),
  ],
)
def test_bad_settings(make, word):
  with pytest.raises(ConfigError, match=word):
    make()
