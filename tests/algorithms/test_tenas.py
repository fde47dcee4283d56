"""The TE-NAS and random searches as library calls."""

import json

import jax
import numpy as np
import pytest
from helpers import Counted, MadeUpTable

from jaxnas import data, registry, spaces
from jaxnas.algorithms import score, tenas_pruning
from jaxnas.algorithms.measuring import UsualInputs
from jaxnas.algorithms.random_search import RandomSearch, RandomSearchConfig
from jaxnas.algorithms.tenas import TENAS, TENASConfig
from jaxnas.algorithms.tenas_ranking import Indicators
from jaxnas.base import Context
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.proxies.indicators import IndicatorConfig
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
def search(source, engine):
  """Runs TE-NAS with small indicators."""

  def run(seed=3, **given):
    own = {IndicatorConfig: SMALL}
    context = Context(SPACE, source, TENASConfig(repeats=2), engine=engine, proxy_settings=own, **given)
    return TENAS().search(context, seed)

  return run


@pytest.fixture(scope="module")
def found(search):
  """A search: its records, how much it said it did, and its outcome."""
  records, done = [], Counted()
  outcome = search(keep=records.append, advance=done)
  return records, sum(done), outcome


def replayed(fixtures, name, space, prune_number):
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

  ranking = {"decimals": 3, "variant": "code"}
  left, steps = tenas_pruning.prune(space, indicate, prune_number=prune_number, **ranking)
  left, groups = tenas_pruning.choose_edges(space, left, indicate, first=len(steps) + 1, **ranking)
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
  replayed(fixtures, name, SPACE, SPACE.published("tenas", "cifar10")["prune_number"])


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
  replayed(fixtures, name, DARTS, prune_number or DARTS.published("tenas", "cifar10")["prune_number"])


def test_search_finds_an_architecture(found, source):
  records, done, outcome = found
  result = outcome.found
  assert result.arch.shape == (6,)
  assert (result.arch > 0).all()
  assert [len(r["candidates"]) for r in result.history] == [24, 18, 12]
  assert done == TENAS().work(Context(SPACE, source, TENASConfig(repeats=2))).amount == 2 * (25 + 19 + 13)
  assert len(records) == 6
  pruned = [tuple(c) for r in result.history for c in r["pruned"]]
  assert len(pruned) == len(set(pruned)) == 18
  assert all(result.arch[edge] != op for _, edge, op in pruned)
  assert {k: len(v) for k, v in result.eigenvalues.items()} == {"full supernet": 6, "found architecture": 6}
  json.dumps(result.history)


def test_the_outcome_is_for_the_reader(found, tmp_path):
  """A row whose columns exist, the history, and two pictures that draw themselves."""
  _, _, outcome = found
  (row,) = outcome.rows
  assert row["arch"] == SPACE.format(outcome.found.arch) and row["rounds"] == 3
  assert {column.key for column in outcome.columns} <= row.keys()
  assert outcome.record["history"] == outcome.found.history
  for artefact in outcome.artefacts:
    artefact.draw(tmp_path / artefact.file)
  assert {path.name for path in tmp_path.iterdir()} == {"pruning_history.png", "ntk_spectrum.png"}


def test_search_is_deterministic_and_resumes(found, search):
  records, _, outcome = found
  kept = []
  again = search(records=records[:3], keep=kept.append)
  assert kept == records[3:]
  assert again.found.history == outcome.found.history
  np.testing.assert_array_equal(again.found.arch, outcome.found.arch)


def test_records_of_another_seed_are_not_used(found, search):
  records, _, _ = found
  kept = []
  search(seed=4, records=records, keep=kept.append)
  assert len(kept) == 6
  assert kept[0]["ntk_condition_number"] != records[0]["ntk_condition_number"]


def test_the_parent_is_scored_like_any_candidate(source, engine):
  """A candidate that prunes nothing has exactly the parent's indicators: they share weights and inputs."""
  proxy, _ = TENAS().proxies(TENASConfig(), SPACE)
  given = proxy.prepare(SPACE, source, SMALL, jax.random.key(0))
  weights = spaces.active_weights(np.repeat(tenas_pruning.initial_active(SPACE)[None], 3, 0))
  params = given.network.init(jax.random.key(1))
  (readings,) = engine.score([proxy], given.network, params, weights, given.batch)
  assert readings[0] == readings[1] == readings[2]
  assert readings[0].status == "ok"


@pytest.mark.parametrize(
  "criterion",
  [pytest.param("supernet_condition_number_frozen", marks=pytest.mark.slow), "linear_regions", "params"],
)
def test_random_search_keeps_the_best(source, engine, criterion):
  settings = RandomSearchConfig(UsualInputs(score_channels=2, score_cells=1), samples=30, criterion=criterion)

  def search(**given):
    context = Context(SPACE, source, settings, engine=engine, proxy_settings={IndicatorConfig: SMALL}, **given)
    return RandomSearch().search(context, 0).found

  records = []
  result = search(keep=lambda *new: records.extend(new))
  assert len(records) == 30 == len(result.archs)
  usable = {r["arch"]: r["rank_by"] for r in records}
  assert usable[SPACE.format(result.arch)] == max(usable.values())
  better = np.nanmax if registry.get("proxy", criterion)().higher_is_better else np.nanmin
  ok = {r["arch"] for r in records if r["status"] in ("ok", "saturated")}
  assert result.scores[result.best] == better(result.scores[[SPACE.format(a) in ok for a in result.archs]])
  kept = []
  again = search(records=records[:24], keep=lambda *new: kept.extend(new))
  assert [r["arch"] for r in kept] == [r["arch"] for r in records[24:]]
  np.testing.assert_array_equal(again.arch, result.arch)


def test_random_search_by_validation(source):
  def search(benchmark):
    settings = RandomSearchConfig(samples=50, criterion="valid_12ep")
    return RandomSearch().search(Context(SPACE, source, settings, benchmark=benchmark), 1)

  outcome = search(MadeUpTable(lambda arch: float(arch.count("3x3"))))
  result = outcome.found
  assert result.scores[result.best] == result.scores.max() == SPACE.format(result.arch).count("3x3")
  assert outcome.rows[0]["valid_12ep"] == result.scores.max()
  with pytest.raises(ConfigError, match="--benchmark"):
    search(None)
  with pytest.raises(ConfigError, match="none of the 50"):
    search(MadeUpTable(lambda arch: float("nan")))


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
  np.testing.assert_array_equal(found[0], SPACE.from_index(17))
  assert found.shape == (4, 6)  # one that is named twice counts once


@pytest.mark.parametrize(
  ("make", "word"),
  [
    (lambda: TENASConfig(batch_norm="running"), "--batch_norm='running'"),
    (lambda: IndicatorConfig(ntk_batch=1), "--ntk_batch=1"),
    (lambda: IndicatorConfig(region_samples=0), "--region_samples=0"),
    (lambda: TENASConfig(variant="paper"), "--variant='paper'"),
    (lambda: TENASConfig(prune_number=0), "--prune_number=0"),
    (lambda: IndicatorConfig(ntk_cells=0), "--ntk_cells=0"),
    (lambda: RandomSearchConfig(criterion="luck"), "--criterion='luck'"),
  ],
)
def test_bad_settings(unchecked, make, word):
  with pytest.raises(ConfigError, match=word):
    make()
