"""TE-NAS decisions: the official code's traces replayed, and the stable variant's promises."""

import dataclasses
import json

import numpy as np
import pytest

from jaxnas.algorithms import tenas_ranking as tr
from jaxnas.errors import ConfigError

TRACES = (
  "f5_trace_nb201_intended",
  "f5_trace_nb201_released",
  "f6_inject_nb201_bigmag_r1",
  "f6_inject_nb201_bigmag_r3",
  "f6_inject_nb201_illcond_r3",
  "f6_inject_nb201_smooth_prune2_r3",
  "f6_inject_nb201_smooth_r3",
  "f6_inject_nb201_ties_r1",
  "f6_inject_nb201_ties_r3",
  "f6_inject_darts_smooth_prune2_r3",
  "f6_inject_darts_smooth_prune3_r3",
  "f6_inject_darts_ties_prune3_r1",
  "f6_trace_darts_real",
)


def tuples(array):
  return tuple(tuple(row) for row in np.asarray(array).tolist())


def rounds(trace):
  """Yields (get, active before, active after) of every round; `get(key)` reads the trace."""
  cells = sum(f"r0/alphas_before_{c}" in trace for c in range(2))
  for r in range(int(trace["n_rounds"])):
    before, after = (
      np.stack([trace[f"r{r}/alphas_{when}_{c}"] for c in range(cells)]) > -500 for when in ("before", "after")
    )
    yield (lambda key, r=r: trace[f"r{r}/{key}"]), before, after


def raw_indicators(get):
  return tr.Indicators(
    tuples(get("cand")),
    get("cond_orig"),
    get("cond_pruned"),
    get("regions_orig"),
    get("regions_pruned"),
  )


@pytest.fixture(params=TRACES)
def trace(request, fixtures):
  with np.load(fixtures / "tenas" / f"{request.param}.npz") as file:
    return dict(file)


def test_code_replays_trace_from_raw_indicators(trace):
  requested, decimals = int(trace["prune_number_requested"]), int(trace["precision"])
  for get, active, active_after in rounds(trace):
    assert tr.candidates(active) == list(tuples(get("cand")))
    decision = tr.decide(
      raw_indicators(get),
      prune_number=requested,
      active=active,
      decimals=decimals,
      variant="code",
    )
    for key in ("ntk_delta", "region_delta", "ntk_mean", "region_mean", "ntk_rank", "region_rank"):
      np.testing.assert_array_equal(getattr(decision, key), get(key), err_msg=key)
    assert decision.order == tuples(get("final_order"))
    assert decision.pruned == tuples(get("pruned"))
    assert decision.prune_number == int(get("prune_number"))
    for candidate in decision.pruned:
      active[candidate] = False
    np.testing.assert_array_equal(active, active_after)


def test_code_replays_trace_from_rounded_changes_and_from_means(trace):
  for get, active, _ in rounds(trace):
    cands = tuples(get("cand"))
    rounded = [tr.repeat_means(get(f"{name}_delta")) for name in ("ntk", "region")]
    recorded = [get(f"{name}_mean") for name in ("ntk", "region")]
    for means in (rounded, recorded):
      ntk_rank, region_rank, order = tr.rank_candidates(cands, *means, variant="code")
      np.testing.assert_array_equal(ntk_rank, get("ntk_rank"))
      np.testing.assert_array_equal(region_rank, get("region_rank"))
      assert order == tuples(get("final_order"))
      pruned = tr.select_pruned(order, active, int(get("prune_number")))
      assert pruned == tuples(get("pruned"))
      for name, mean in zip(("ntk", "region"), means, strict=True):
        _, positions = tr.walked_ranks(mean, descending=name == "ntk")
        assert tuple(cands[k] for k in positions) == tuples(get(f"{name}_sorted"))


def test_rounding_matches_fixture(fixtures):
  with np.load(fixtures / "tenas" / "f6_rounding.npz") as fixture:
    for precision in (1, 2, 3, 4, 10):
      keys = [tr.significant_digits(x, precision) for x in fixture["x"].tolist()]
      assert keys == fixture[f"precision_{precision}"].tolist()
    x, y = fixture["round3_x"], fixture["round3_y"]
    assert tr.round_decimals(x, 3).tolist() == y.tolist()
    assert np.round(x, 3).tolist() != y.tolist()  # why the library does not use it


def random_round(seed, *, edges=6, ops=4, repeats=3, shared_parent=True):
  """Indicators of a NB201-like round whose changes stay clear of rounding boundaries."""
  rng = np.random.default_rng(seed)
  active = np.ones((1, edges, ops + 1), bool)
  active[..., 0] = False
  cands = tr.candidates(active)
  shape = (len(cands), repeats)
  before = rng.uniform(20, 60, (1, repeats) if shared_parent else shape)
  before = np.broadcast_to(before, shape)
  thousandths = rng.integers(-400, 400, shape) + rng.uniform(-0.4, 0.4, shape)
  regions_before = np.broadcast_to(rng.integers(1500, 2900, (1, repeats)), shape)
  regions_after = regions_before - rng.integers(0, 40, shape)
  after = before * (1 - thousandths / 1000)
  return tr.Indicators(cands, before, after, regions_before, regions_after), active


def same_decision(a, b):
  return a.order == b.order and a.pruned == b.pruned


@pytest.mark.parametrize("seed", range(5))
def test_stable_ignores_evaluation_order(seed):
  indicators, active = random_round(seed, repeats=1)
  # Few distinct values, so that ties of the rank sum and full ties occur.
  coarse = np.round(np.asarray(indicators.cond_after) / 10) * 10
  indicators = dataclasses.replace(indicators, cond_after=coarse)
  expected = tr.decide(indicators, prune_number=2, active=active)
  assert len(set(expected.ntk_rank.tolist())) < len(expected.candidates) / 2
  order = np.random.default_rng(seed).permutation(len(expected.candidates))
  permuted = tr.Indicators(
    [indicators.candidates[k] for k in order],
    *(np.asarray(getattr(indicators, f.name))[order] for f in dataclasses.fields(indicators)[1:]),
  )
  got = tr.decide(permuted, prune_number=2, active=active)
  assert same_decision(got, expected)
  np.testing.assert_array_equal(got.ntk_rank, expected.ntk_rank[order])


@pytest.mark.parametrize("seed", range(5))
def test_stable_ignores_the_solvers_last_bits_and_the_order_of_repeats(seed):
  indicators, active = random_round(seed, shared_parent=False)
  expected = tr.decide(indicators, prune_number=1, active=active)
  rng = np.random.default_rng(100 + seed)
  noisy = dataclasses.replace(
    indicators,
    cond_before=indicators.cond_before * (1 + 1e-12 * rng.uniform(-1, 1, (24, 3))),
    cond_after=indicators.cond_after * (1 + 1e-12 * rng.uniform(-1, 1, (24, 3))),
  )
  assert same_decision(tr.decide(noisy, prune_number=1, active=active), expected)
  swapped = tr.Indicators(
    indicators.candidates,
    *(np.asarray(getattr(indicators, f.name))[:, ::-1] for f in dataclasses.fields(indicators)[1:]),
  )
  assert same_decision(tr.decide(swapped, prune_number=1, active=active), expected)


def test_equal_keys_share_a_rank_only_in_stable():
  means = tr.repeat_means(np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]]))
  assert means[0] != means[1]
  assert tr.dense_ranks(means, descending=True).tolist() == [1, 1, 0]
  assert tr.walked_ranks(means, descending=True)[0].tolist() == [1, 2, 0]
  # One decimal number, two float keys in the official code.
  assert tr.significant_digits(0.009996, 3) != tr.significant_digits(0.01, 3)
  assert tr.dense_ranks(np.array([0.009996, 0.01]), descending=False).tolist() == [0, 0]


def test_midpoints_of_the_key_do_not_hang_on_the_last_bit():
  # The mean of 0.123 and 0.124: half of all means of two repeats lie on such a midpoint.
  around = np.array([np.nextafter(0.1235, 0), 0.1235, np.nextafter(0.1235, 1)])
  assert tr.dense_ranks(around, descending=True).tolist() == [0, 0, 0]


def test_stable_ranks_up_and_down():
  means = np.array([0.0, -0.0, 0.25, -0.25, 12.341, 12.344, -3e4])
  assert tr.dense_ranks(means, descending=False).tolist() == [2, 2, 3, 1, 4, 4, 0]
  assert tr.dense_ranks(means, descending=True).tolist() == [2, 2, 1, 3, 0, 0, 4]


def test_rank_sum_ties_go_to_the_better_ntk_rank_then_to_the_smaller_candidate():
  cands = [(0, 0, 2), (0, 0, 1), (0, 1, 2), (0, 1, 1)]
  ntk_mean = np.array([0.1, 0.1, 0.3, 0.2])  # ranks 2 2 0 1
  region_mean = np.array([0.1, 0.1, 0.3, 0.2])  # ranks 0 0 2 1
  ntk_rank, region_rank, order = tr.rank_candidates(cands, ntk_mean, region_mean)
  assert (ntk_rank + region_rank).tolist() == [2, 2, 2, 2]
  assert order == ((0, 1, 2), (0, 1, 1), (0, 0, 1), (0, 0, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -3.0, 3.2e9, 0.0, 5e-324, 1.7e308])
def test_stable_survives_broken_condition_numbers(bad):
  indicators, active = random_round(0)
  after = np.array(indicators.cond_after)
  after[7] = bad
  decision = tr.decide(dataclasses.replace(indicators, cond_after=after), prune_number=1, active=active)
  assert decision.clipped == 3
  assert np.argmax(decision.ntk_rank) == 7  # the worst to prune, alone
  assert decision.ntk_rank.max() not in np.delete(decision.ntk_rank, 7)
  assert np.isfinite(decision.ntk_mean).all()

  before = np.full_like(after, bad)
  decision = tr.decide(
    dataclasses.replace(indicators, cond_before=before, cond_after=after),
    prune_number=1,
    active=active,
  )
  assert decision.clipped == before.size + 3
  assert decision.ntk_rank[7] == decision.ntk_rank.max()
  assert decision.ntk_delta[7].tolist() == [0.0, 0.0, 0.0]
  assert len(decision.pruned) == 6


def test_kappa_worst_itself_is_not_clipped():
  clipped, count = tr.clip_condition_numbers(np.array([1.0, tr.KAPPA_WORST, np.nextafter(1e5, 2e5)]))
  assert clipped.tolist() == [1.0, 1e5, 1e5]
  assert count == 1


def test_stable_takes_a_parent_without_regions_as_constant():
  indicators, active = random_round(0)
  zeros = np.zeros_like(indicators.regions_before)
  after = np.array(zeros)
  after[4] = 5
  decision = tr.decide(
    dataclasses.replace(indicators, regions_before=zeros, regions_after=after),
    prune_number=1,
    active=active,
  )
  assert decision.region_delta[4].tolist() == [-4.0, -4.0, -4.0]
  assert decision.region_rank[4] == 0
  assert np.delete(decision.region_rank, 4).tolist() == [1] * 23


def test_code_refuses_what_crashes_the_official_program():
  indicators, active = random_round(0)
  before = np.full_like(indicators.cond_before, 1.5)
  for bad in ({"cond_after": -np.inf}, {"cond_before": 0.0}):
    name, value = next(iter(bad.items()))
    broken = np.array(indicators.cond_after if name == "cond_after" else before)
    broken[3] = value
    broken_indicators = dataclasses.replace(indicators, **{"cond_before": before, name: broken})
    with pytest.raises(ConfigError, match="use variant='stable'") as info:
      tr.decide(broken_indicators, prune_number=1, active=active, variant="code")
    assert "\n" not in str(info.value)
    tr.decide(broken_indicators, prune_number=1, active=active)


def test_code_counts_what_it_cleaned():
  indicators, active = random_round(0)
  after = np.array(indicators.cond_after)
  after[3, 0] = np.nan
  after[4, 0] = -5.0
  decision = tr.decide(dataclasses.replace(indicators, cond_after=after), prune_number=1, active=active, variant="code")
  assert decision.clipped == 1


def test_clean_condition_number():
  largest = np.finfo(np.float64).max
  values = [np.nan, np.inf, -np.inf, -2.5, 7.0]
  assert [tr.clean_condition_number(v) for v in values] == [1e5, largest, -largest, -2.5, 7.0]


@pytest.mark.parametrize("variant", ["stable", "code"])
@pytest.mark.parametrize("prune_number", [1, 2, 3, 4, 99])
def test_every_edge_keeps_an_op(variant, prune_number):
  indicators, active = random_round(1)
  decision = tr.decide(indicators, prune_number=prune_number, active=active, variant=variant)
  for candidate in decision.pruned:
    active[candidate] = False
  assert active.sum(-1).tolist() == [[4 - min(prune_number, 3)] * 6]
  assert decision.prune_number == min(prune_number, 3)


@pytest.mark.parametrize(("variant", "left"), [("stable", [1, 1, 1, 1]), ("code", [1, 1, 2, 3])])
def test_unequal_edges(variant, left):
  active = np.zeros((1, 4, 5), bool)
  for edge, ops in enumerate((1, 2, 3, 4)):
    active[0, edge, 1 : 1 + ops] = True
  cands = tr.candidates(active)
  assert {c[1] for c in cands} == {1, 2, 3}
  rng = np.random.default_rng(0)
  indicators = tr.Indicators(cands, *rng.uniform(10, 20, (4, len(cands), 2)))
  decision = tr.decide(indicators, prune_number=3, active=active, variant=variant)
  for candidate in decision.pruned:
    active[candidate] = False
  assert active.sum(-1).tolist() == [left]


def test_candidates():
  active = np.zeros((2, 2, 3), bool)
  active[0, 0, [1, 2]] = active[1, 1, [0, 2]] = active[0, 1, 2] = True
  assert tr.candidates(active) == [(0, 0, 1), (0, 0, 2), (1, 1, 0), (1, 1, 2)]
  assert tr.candidates(active, (2, 0, 1)) == [(0, 0, 2), (0, 0, 1), (1, 1, 2), (1, 1, 0)]


def test_decision_is_json_ready(unchecked):
  indicators, active = random_round(2)
  decision = tr.decide(indicators, prune_number=np.int64(1), active=active)
  json.dumps([decision.pruned, decision.order, decision.clipped, decision.prune_number])


@pytest.mark.parametrize(
  ("change", "arguments", "message"),
  [
    ({}, {"prune_number": 0}, "prune_number: got 0"),
    ({}, {"decimals": 0}, "decimals: got 0"),
    ({}, {"variant": "paper"}, "variant: got 'paper'"),
    ({}, {"active": np.ones((6, 5), bool)}, r"active: got bool of shape \(6, 5\)"),
    ({}, {"active": np.zeros((1, 6, 5))}, "active: got float64"),
    ({}, {"active": np.eye(1, 5, dtype=bool).repeat(6, 0)[None]}, "no edge has more than one op"),
    ({"cond_after": np.ones((24, 2))}, {}, r"cond_after: got shape \(24, 2\)"),
    ({"cond_before": np.ones(24)}, {}, r"cond_before: got shape \(24,\)"),
    ({"regions_after": np.full((24, 3), np.nan)}, {}, "regions_after: got a NaN"),
    ({"regions_before": np.full((24, 3), -1)}, {}, "regions_before: got a NaN"),
    ({"candidates": [(0, 0, 1)] * 24}, {}, "candidates: differ"),
    ({"candidates": [(0, 0, 1)]}, {}, "candidates: differ"),
  ],
)
def test_bad_input(unchecked, change, arguments, message):
  indicators, active = random_round(0)
  with pytest.raises(ConfigError, match=message):
    tr.decide(
      dataclasses.replace(indicators, **change),
      **({"prune_number": 1, "active": active} | arguments),
    )


def group(keep=2, edges=5, **arguments):
  """A decision on edges 9.. of cell 1, edge i with changes i / 10 in both indicators, so that ranks cancel."""
  cands = [(1, 9 + i, 1 + i) for i in range(edges)]
  change = np.arange(edges)[:, None] / 10
  before = np.full((edges, 2), 1000.0)
  after = before * (1 - change)
  return tr.decide_group(tr.Indicators(cands, before, after, before, after), keep=keep, **arguments)


def test_a_group_keeps_the_largest_rank_sums():
  decision = group()
  assert (decision.ntk_rank + decision.region_rank).tolist() == [4] * 5
  # Ties go to the better NTK rank, so to the larger change.
  assert decision.order == tuple((1, 9 + i, 1 + i) for i in (4, 3, 2, 1, 0))
  assert decision.pruned == decision.order[:3] and decision.prune_number == 3
  assert group(variant="code").pruned == decision.pruned
  assert len(group(keep=4).pruned) == 1


@pytest.mark.parametrize(("keep", "edges"), [(2, 2), (0, 3), (5, 5)])
def test_a_group_that_has_nothing_to_lose_is_refused(keep, edges):
  with pytest.raises(ConfigError, match=f"keep={keep}"):
    group(keep, edges)
