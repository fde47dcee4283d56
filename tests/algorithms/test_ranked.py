"""The search by a ranking: picks, shortlists, controls, resuming, and what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import Counted, MadeUpTable

from jaxnas import data, main, registry, spaces
from jaxnas.algorithms import ranked
from jaxnas.algorithms.combining import RankBy
from jaxnas.algorithms.evolving import RankEvolution
from jaxnas.algorithms.measuring import UsualInputs
from jaxnas.algorithms.ranked import RankedConfig, RankedSearch
from jaxnas.base import Context, Proxy
from jaxnas.errors import ConfigError
from jaxnas.report import summary
from jaxnas.scoring import Engine
from jaxnas.tabular.combination import log_rank_sum
from jaxnas.train import TrainConfig

SPACE, SOURCE = spaces.get("nb201"), data.load("synthetic")
ENGINE = Engine(block=16)
PAIR = ("effective_params", "skip_length")


def accuracy(arch):
  """A made-up validation, another for every architecture."""
  return float(SPACE.index_of(SPACE.parse(arch)) % 997) / 10


@pytest.fixture(scope="module")
def source():
  return data.load()


def config(candidates="random:40", shortlists=("0", "3", "10"), rank_by=PAIR, **more):
  return RankedConfig(
    UsualInputs(4, 2, 1), RankBy(rank_by), ranked_candidates=candidates, ranked_shortlists=shortlists, **more
  )


@pytest.fixture
def context(source):
  return lambda settings, **more: Context(
    SPACE, source, settings, **{"benchmark": MadeUpTable(accuracy), "engine": ENGINE} | more
  )


def test_picks_are_the_best_of_each_ranking(context):
  """Against a second writing, from the costs that the space counts."""
  outcome = RankedSearch().search(context(config()), 5)
  drawn_key, random_key = jax.random.split(jax.random.key(5))
  codes = SPACE.sample(drawn_key, 40)
  texts = [SPACE.format(code) for code in codes]
  columns = {name: [] for name in ("params", *PAIR)}
  for line in outcome.found.lines:
    if line.proxy in columns:
      columns[line.proxy].append(line.value)
  assert columns["params"] == [SPACE.costs(code, SPACE.default_config.__class__(2, 1)).params for code in codes]
  ranks = {
    "effective_params + skip_length": log_rank_sum([columns[name] for name in PAIR]),
    "control: params": np.array(columns["params"]),
  }
  expected = {rule: [texts[i] for i in np.argsort(-own, kind="stable")] for rule, own in ranks.items()}
  expected["control: random"] = [SPACE.format(code) for code in SPACE.sample(random_key, 10)]
  assert {row["rule"] for row in outcome.rows} == set(expected) and len(outcome.rows) == 9
  for row in outcome.rows:
    first = expected[row["rule"]][: max(1, row["k"])]
    assert row["arch"] == (first[0] if row["k"] == 0 else max(first, key=accuracy))
    assert row["validation"] == (accuracy(row["arch"]) if row["k"] else None)
  (about,) = outcome.record["combinations"]
  assert (about["architectures"], about["proxies"]) == (40, list(PAIR))


@pytest.mark.parametrize(
  ("rank_by", "controls"),
  [
    ((), ["control: params", "control: effective_params"]),
    (("jacob_cov", "naswot"), ["control: params"]),
    (("freerea",), ["control: params", "control: params + skip_length"]),
    (("az_nas",), ["control: params", "control: flops"]),
    (("naswot", "params"), ["control: params"]),
    (("params",), []),
  ],
)
def test_controls_are_what_the_combination_has_without_a_network(rank_by, controls):
  assert [one.name for one in config(rank_by=rank_by).controls(SPACE)] == controls
  assert config(rank_by=rank_by, ranked_controls=False).controls(SPACE) == ()


def test_the_whole_space_and_the_evolved(context, monkeypatch):
  monkeypatch.setattr(SPACE.__class__, "enumerate_all", lambda self: SPACE.sample(jax.random.key(9), 30))
  monkeypatch.setattr(SPACE.__class__, "__len__", lambda self: 30)
  whole = RankedSearch().search(context(config("all")), 0)
  assert whole.record["combinations"][0]["architectures"] == 30
  monkeypatch.undo()
  told = Counted()
  evolved = context(config("evolved:70"), advance=told)
  found = RankedSearch().search(evolved, 0)
  assert found.record["combinations"][0]["architectures"] == 70
  assert sum(told) == RankedSearch().work(evolved).amount == 70 + 3 * 10

  few = RankEvolution(ranked_population=10, ranked_tournament=5, ranked_children=5)

  def mean(candidates, **evolution):
    settings = config(candidates, ("0",), ("effective_params",), **evolution)
    lines = RankedSearch().search(context(settings), 0).found.lines
    return np.mean([line.value for line in lines if line.proxy == "effective_params"])

  assert mean("evolved:70", evolution=few) > 1.2 * mean("random:70")


@pytest.mark.parametrize("candidates", ["random:12", "evolved:12"])
def test_killed_at_any_record_it_ends_the_same(context, candidates):
  few = RankEvolution(ranked_population=4, ranked_tournament=2, ranked_children=3)
  settings = config(candidates, ("0", "4"), **{"evolution": few} if candidates.startswith("evolved") else {})
  kept = []
  whole = RankedSearch().search(context(settings, keep=lambda *new: kept.extend(new)), 2)
  assert {record["kind"] for record in kept} == {"score", "ranked"}
  for stop in (1, 11, len(kept) // 2, len(kept) - 1, len(kept)):
    validated = []
    table = MadeUpTable(lambda arch, validated=validated: validated.append(arch) or accuracy(arch))
    again = RankedSearch().search(context(settings, records=tuple(kept[:stop]), benchmark=table), 2)
    assert again.rows == whole.rows and again.record == whole.record
    done = [record["arch"] for record in kept[:stop] if record["kind"] == "ranked"]
    assert not set(validated) & set(done) and len(set(validated)) == len(validated)


def test_the_same_or_another_combination_continues(tmp_path):
  """Nothing is scored twice: neither for the default by its name, nor what both combinations have."""

  def run(name, *more):
    flags = (
      "--algorithm=ranked", "--ranked_candidates=random:3", "--ranked_shortlists=0,2", "--score_batch=4",
      "--score_channels=2", "--score_cells=1", "--compilation_cache=off", "--noprogress",
    )  # fmt: skip
    with flagsaver.flagsaver():
      main.main(main.parse(["jaxnas", *flags, f"--workdir={tmp_path / name}", *more]))
    result = json.loads((tmp_path / name / "result.json").read_text())
    return result["results"], (tmp_path / name / "scores.jsonl").read_text().splitlines()

  def scored(lines):
    return [record["proxy"] for record in map(json.loads, lines) if record["kind"] == "score"]

  rows, kept = run("one")
  assert run("one", "--rank_by=jaxnas") == (rows, kept)
  assert sorted(set(scored(kept))) == ["effective_params", "jacob_cov", "params"]
  others, more = run("one", "--rank_by=skip_length,effective_params")
  assert more[: len(kept)] == kept and scored(more[len(kept) :]) == ["skip_length"] * 3
  assert others == run("two", "--rank_by=skip_length,effective_params")[0] != rows


def test_training_takes_the_place_of_the_table(context, monkeypatch):
  monkeypatch.setattr("jaxnas.algorithms.validation.by_training", lambda context, training, *, seed, held_out: accuracy)
  settings = config(ranked_fine="train", training=TrainConfig(train_epochs=1))
  found = RankedSearch().search(context(settings, benchmark=None), 5)
  assert found.rows == RankedSearch().search(context(config()), 5).rows


def test_without_queries_nothing_is_asked(context):
  settings = config(shortlists=("0",))
  found = RankedSearch().search(context(settings, benchmark=None), 5)
  assert [row["arch"] for row in found.rows] == [
    row["arch"] for row in RankedSearch().search(context(config()), 5).rows if row["k"] == 0
  ]


def test_several_seeds_have_a_mean_a_rule_and_number_of_queries():
  class Table(MadeUpTable):
    archs = tuple(SPACE.format(SPACE.from_index(i)) for i in range(10))

    def accuracy(self, arch, dataset, split=None):
      return accuracy(arch)

    def index(self, arch):
      return SPACE.index_of(SPACE.parse(arch))

    def rank(self, arch, dataset, split=None):
      return 1, 10

  table = Table(accuracy)
  rows = [
    summary.look_up(SPACE, SOURCE, table, {"seed": seed, "rule": rule, "k": 0, "arch": table.archs[place]})
    for seed, rule, place in ((0, "a", 1), (0, "b", 2), (1, "a", 3), (1, "b", 2))
  ]
  columns = [
    ranked.Column("rule", "ranked by"),
    ranked.Column("k", "queries"),
  ]
  header, body = summary.table(rows, columns, table, groups=("rule", "k"))
  assert header == ["ranked by", "queries", "seeds", "cifar10 test %"]
  one, three, two = (accuracy(table.archs[i]) for i in (1, 3, 2))
  assert body[1] == ["b", 0, 2, f"{two:.2f} ± 0.00"]
  assert body[0] == ["a", 0, 2, f"{(one + three) / 2:.2f} ± {abs(one - three) / 2**0.5:.2f}"]
  assert len(summary.table(rows[:2], columns, table, groups=("rule", "k"))[1]) == 2


class Dead(Proxy):
  """No score for any architecture."""

  def measure(self, evaluation):
    return evaluation.inputs.sum() * jnp.float32(jnp.nan)


def test_all_degenerate_is_refused(context, monkeypatch):
  make = registry.make
  monkeypatch.setattr(
    registry, "make", lambda kind, name, flag="": Dead("naswot") if name == "naswot" else make(kind, name, flag)
  )
  with pytest.raises(ConfigError, match=r"--rank_by=rank of naswot: none of the 40 candidates has a score"):
    RankedSearch().search(context(config(rank_by=("naswot",))), 0)


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"candidates": "random:1"}, ["--ranked_candidates='random:1'", "2 at least"]),
    ({"candidates": "some"}, ["--ranked_candidates='some'", "random:N"]),
    ({"candidates": "random:20000", "shortlists": ("0",)}, ["--ranked_candidates=random:20000", "15625"]),
    ({"candidates": "random:9"}, ["--ranked_shortlists=0,3,10", "10 is more than the 9", "--ranked_candidates"]),
    ({"shortlists": ("0", "x")}, ["--ranked_shortlists='0,x'"]),
    ({"shortlists": ("3", "03")}, ["each once"]),
    ({"shortlists": ()}, ["--ranked_shortlists=''"]),
    (
      {"evolution": RankEvolution(ranked_population=60)},
      ["--ranked_population=60: nothing", "=random:40", "evolved:N"],
    ),
    (
      {"candidates": "all", "evolution": RankEvolution(ranked_tournament=5, ranked_children=5)},
      ["--ranked_tournament=5 and --ranked_children=5: nothing evolves with --ranked_candidates=all"],
    ),
    ({"candidates": "evolved:50"}, ["--ranked_candidates=evolved:50 is no more than --ranked_population=50"]),
    ({"ranked_fine": "guess"}, ["--ranked_fine='guess'", "table, train"]),
    ({"rank_by": ("az_nas", "freerea")}, ["--rank_by=az_nas,freerea", "one of them"]),
  ],
)
def test_bad_settings(context, unchecked, settings, words):
  with pytest.raises(ConfigError) as error:
    RankedSearch().work(context(config(**settings)))
  assert all(word in str(error.value) for word in words), str(error.value)


def test_validation_needs_a_table_or_a_training(context, source):
  with pytest.raises(ConfigError, match=r"--ranked_fine=table needs --benchmark.*=train, or --ranked_shortlists=0"):
    RankedSearch().work(context(config(), benchmark=None))
  darts = Context(spaces.get("darts"), source, config("all", ("0",)))
  with pytest.raises(ConfigError, match="--ranked_candidates=all: darts is too large"):
    RankedSearch().work(darts)
  lacking = dataclasses.replace(darts, space=spaces.get("nds_resnet_lr_wd"), settings=config(rank_by=()))
  with pytest.raises(ConfigError, match=r"--rank_by=jaxnas: nobody measured"):
    RankedSearch().work(lacking)
