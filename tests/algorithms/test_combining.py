"""Combinations: what the flag takes, their lines, and sets that grow when a run is continued."""

import json
import math

import numpy as np
import pytest
from helpers import jaxnas

from jaxnas import data, registry, spaces
from jaxnas.algorithms.combining import NAMED, Combination, RankBy, about, combined, proxies_of, refuse_unmeasured
from jaxnas.algorithms.measuring import UsualInputs
from jaxnas.base import Context, Rankable, Status, lacking
from jaxnas.errors import ConfigError
from jaxnas.scoring import Score
from jaxnas.tabular.combination import log_rank_sum

NB201 = spaces.get("nb201")
PAIR = Combination("pair", ("one", "two"))


def lines_of(proxy, values, *, seed=0, repeat=0, seconds=1.0, archs="abcdefgh", worst=-math.inf):
  found = []
  for arch, value in zip(archs, values, strict=False):
    status = Status.OK if math.isfinite(value) else Status.NON_FINITE
    found.append(Score(arch, proxy, value, status, value if math.isfinite(value) else worst, seed, repeat, seconds))
  return found


def test_names():
  def members(*names, space=NB201):
    return [(one.name, one.proxies) for one in RankBy(names).combinations(space)]

  assert members() == []
  assert members("jacob_cov", "effective_params") == [
    ("jacob_cov + effective_params", ("jacob_cov", "effective_params"))
  ]
  assert members("naswot") == [("rank of naswot", ("naswot",))]
  assert members("jaxnas", "az_nas") == [
    ("jaxnas: jacob_cov + effective_params", NB201.ranked_by),
    ("az_nas", NAMED["az_nas"]),
  ]
  assert members("jaxnas", space=spaces.get("darts")) == [("jaxnas: naswot", ("naswot",))]
  assert members("jaxnas", space=spaces.get("nb101")) == [("jaxnas: naswot + meco", ("naswot", "meco"))]


def test_every_name_is_of_proxies_and_of_no_proxy():
  known = set(registry.names("proxy"))
  assert not known & {"jaxnas", *NAMED}
  for name in spaces.names():
    declared = () if lacking(spaces.get(name), Rankable) else spaces.get(name).ranked_by
    for proxies in (declared, *NAMED.values()):
      assert set(proxies) <= known and len(set(proxies)) == len(proxies)


@pytest.mark.parametrize(
  ("names", "words"),
  [
    (("naswott",), ["--rank_by='naswott'", "did you mean naswot"]),
    (("naswot", "naswot"), ["once"]),
    (("naswot", "az_nas"), ["--rank_by='naswot,az_nas'", "or names of combinations"]),
    (("",), ["--rank_by=''"]),
  ],
)
def test_refuses_names(names, words):
  with pytest.raises(ConfigError) as error:
    RankBy(names)
  assert all(word in str(error.value) for word in words)


def test_a_space_without_a_combination_says_what_to_name():
  """And suggests none that it would refuse, as nlp does az_nas."""
  for name in ("flexibert", "nlp"):
    with pytest.raises(ConfigError, match=rf"--rank_by=jaxnas: nobody measured .*--space={name}.*--rank_by=PROXY,...$"):
      RankBy(("jaxnas",)).combinations(spaces.get(name))


def test_what_cannot_be_measured_is_refused():
  context = Context(spaces.get("nlp"), data.load("signals"), None)
  combinations = RankBy(("az_nas",)).combinations(context.space)
  with pytest.raises(ConfigError, match=r"--rank_by=az_nas: az_expressivity cannot be measured in --space=nlp"):
    refuse_unmeasured(context, combinations, UsualInputs(), 10)
  context = Context(NB201, data.load("synthetic"), None)
  for name in ("jaxnas", "az_nas", "freerea"):
    refuse_unmeasured(context, RankBy((name,)).combinations(NB201), UsualInputs(), 2)
  with pytest.raises(ConfigError, match="only one"):
    refuse_unmeasured(context, RankBy(("jaxnas",)).combinations(NB201), UsualInputs(), 1)


def test_proxies_that_are_needed_are_measured_once():
  combinations = RankBy(("jaxnas", "freerea")).combinations(NB201)
  names = [proxy.name for proxy in proxies_of(("params", "naswot"), combinations, "--proxies")]
  assert names == ["params", "naswot", "jacob_cov", "effective_params", "log_synflow", "skip_length"]


def test_lines_are_log_rank_sums_a_pass():
  rng = np.random.default_rng(0)
  lines, expected = [], {}
  for seed, repeat in ((0, 0), (0, 1), (3, 0)):
    one, two = rng.normal(size=8), rng.integers(0, 3, 8).astype(float)
    lines += lines_of("one", one, seed=seed, repeat=repeat) + lines_of("two", two, seed=seed, repeat=repeat)
    expected |= {(seed, repeat, a): v for a, v in zip("abcdefgh", log_rank_sum([one, two]), strict=True)}
  rng.shuffle(lines)
  found = combined([Score(*line) for line in lines], [PAIR])
  assert {(line.seed, line.repeat, line.arch): line.rank_by for line in found} == expected
  assert {line.proxy for line in found} == {"pair"} and all(line.value == line.rank_by for line in found)


def test_only_what_all_proxies_scored_is_the_set():
  lines = lines_of("one", [1.0, 2.0, 3.0, 4.0]) + lines_of("two", [4.0, 3.0, 2.0])
  found = combined(lines, [PAIR])
  assert [line.arch for line in found] == ["a", "b", "c"]
  np.testing.assert_array_equal([line.value for line in found], log_rank_sum([[1, 2, 3], [4, 3, 2]]))
  assert combined(lines_of("one", [1.0]), [PAIR]) == []


def test_degenerate_by_all_ranks_last_and_by_one_does_not():
  nan = math.nan
  found = combined(lines_of("one", [nan, nan, 5.0, nan]) + lines_of("two", [1.0, nan, 2.0, nan]), [PAIR])
  assert [line.status for line in found] == ["ok", "non_finite", "ok", "non_finite"]
  order = [line.rank_by for line in found]
  assert order[1] == order[3] == -math.inf and order[1] < order[0] < order[2]
  dead = combined(lines_of("one", [nan, nan]) + lines_of("two", [nan, nan]), [PAIR])
  assert [line.rank_by for line in dead] == [-math.inf] * 2 and len({line.value for line in dead}) == 1


def test_seconds_of_a_shared_pass_count_once():
  shared = lines_of("one", [1.0, 2.0], seconds=0.25) + lines_of("two", [1.0, 2.0], seconds=0.25)
  apart = lines_of("one", [1.0, 2.0], seconds=0.25) + lines_of("two", [1.0, 2.0], seconds=0.5)
  assert {line.seconds for line in combined(shared, [PAIR])} == {0.25}
  assert {line.seconds for line in combined(apart, [PAIR])} == {0.75}


def test_the_set_is_recorded():
  def of(archs):
    lines = combined(lines_of("one", [1, 2, 3], archs=archs) + lines_of("two", [1, 2, 3], archs=archs), [PAIR])
    (one,) = about(lines, [PAIR])
    assert (one["name"], one["proxies"], one["architectures"]) == ("pair", ["one", "two"], 3)
    return one["set_sha256"]

  assert of("abc") == of("cab") != of("abd")


TOY = (
  "--algorithm=score", "--proxies=params", "--score_channels=2", "--score_cells=1", "--score_batch=4", "--noprogress",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """One compilation cache for all runs of this file."""
  return tmp_path_factory.mktemp("cache")


def test_a_set_that_grows_on_resuming_is_ranked_anew(tmp_path, cache):
  """Forty architectures, then sixty in the same folder: as sixty at once, and nothing is scored twice."""

  def run(count, name, *more):
    jaxnas(*TOY, f"--archs=random:{count}", *more, f"--workdir={tmp_path / name}", cache=cache)
    result = json.loads((tmp_path / name / "result.json").read_text())
    return result, (tmp_path / name / "scores.jsonl").read_text().splitlines()

  before, scored = run(40, "grown")
  assert before["records"] == [{"seed": 0}]
  pair = "--rank_by=effective_params,skip_length"
  small, more = run(40, "grown", pair)
  assert len(scored) == 40 and len(more) == 120
  grown, all_lines = run(60, "grown", pair)
  whole, _ = run(60, "whole", pair)
  assert len(all_lines) == 180 and all_lines[:120] == more
  assert not any("+" in json.loads(line)["proxy"] for line in all_lines)
  (about_small,), (about_grown,) = (one["records"][0]["combinations"] for one in (small, grown))
  assert [about_small["architectures"], about_grown["architectures"]] == [40, 60]
  assert about_grown == whole["records"][0]["combinations"][0]

  def row(result):
    (found,) = [line for line in result["comparison"] if line["proxy"] == "effective_params + skip_length"]
    return {key: value for key, value in found.items() if key != "seconds"}

  assert row(grown) == row(whole) != row(small)
  assert row(grown)["n"] == 60 and row(grown)["cifar10_spearman"] > 0.2
  assert "effective_params + skip_length" in (tmp_path / "grown" / "comparison.md").read_text()


@pytest.mark.parametrize("name", [name for name in spaces.names() if not lacking(spaces.get(name), Rankable)])
def test_what_a_space_declares_can_be_measured_there(name):
  context = Context(spaces.get(name), data.load("synthetic"), None)
  refuse_unmeasured(context, RankBy(("jaxnas",)).combinations(context.space), UsualInputs(), 2)
