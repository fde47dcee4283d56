"""KNAS: the shortlist, the fine stage, ties, resuming, and what progress says of its trainings."""

import dataclasses
import io
import json
import signal
import subprocess
import threading
import time
import types
from collections.abc import Callable
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Counted, MadeUpTable, command, environment

from jaxnas import data, proxies, report, spaces
from jaxnas.algorithms import knas, validation
from jaxnas.algorithms.knas import KNAS, KNASConfig
from jaxnas.base import Context, Proxy
from jaxnas.errors import ConfigError
from jaxnas.scoring import Engine
from jaxnas.spaces.nb201 import costs
from jaxnas.train import TrainConfig

SPACE = spaces.get("nb201")
WEIGHTS = np.array([3.0, 1.0, 4.0, 1.5, 9.0], np.float32)  # of the operations; sums over edges are exact
EDGE_WEIGHTS = np.array([1.0, 32.0, 2.0, 128.0, 8.0, 512.0], np.float32)
LAST = SPACE.format(np.full(6, 4))


def accuracy(arch):
  """A made-up fine stage: a sum over edges, float32-exact, with different values for most architectures."""
  columns = SPACE.parse(arch) if isinstance(arch, str) else arch
  return float((EDGE_WEIGHTS * WEIGHTS[columns]).sum())


@dataclasses.dataclass(frozen=True)
class Coarse(Proxy):
  """A proxy of one function."""

  name: str
  function: Callable
  worst: ClassVar[float] = -1.0

  def measure(self, evaluation):
    return self.function(evaluation)


class Broken(Coarse):
  """No number for half of the architectures."""

  def finish(self, measured):
    return super().finish(measured if measured < 4000 else np.nan)


PERFECT = Coarse("perfect", lambda e: (EDGE_WEIGHTS * jnp.asarray(WEIGHTS)[e.arch]).sum())
CONSTANT = Coarse("constant", lambda e: jnp.ones_like(e.arch).sum())
FIRST_EDGE = Coarse("first_edge", lambda e: jnp.asarray(WEIGHTS)[e.arch[0]])  # five values only
BROKEN = Broken("broken", PERFECT.function)


@pytest.fixture(scope="module")
def engine():
  return Engine(block=16)


@pytest.fixture(scope="module")
def source():
  return data.load()


@pytest.fixture
def search(engine, source, monkeypatch):
  """A search of 40 candidates by a proxy that needs no pass through the network."""

  def run(proxy=None, seed=0, evaluate=accuracy, k=5, n=40, training=None, **given):
    if proxy is not None:
      monkeypatch.setattr(KNAS, "proxies", lambda self, settings, space: (proxy,))
    settings = KNASConfig(
      training or TrainConfig(), knas_candidates=n, knas_shortlist=k, knas_score="params", knas_batch=2,
      knas_channels=2, knas_cells=1, knas_fine="train" if training else "table",
    )  # fmt: skip
    context = Context(SPACE, source, settings, benchmark=MadeUpTable(evaluate), engine=engine, **given)
    return KNAS().search(context, seed).found

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
  kept, done, evaluated = [], Counted(), []
  whole = search(PERFECT, keep=lambda *records: kept.extend(records), advance=done)
  assert len(kept) == sum(done) == 45
  records = json.loads(json.dumps(kept))[:cut]
  other = [{**r, "seed": 1} for r in json.loads(json.dumps(kept))]  # another seed's do not count
  again, done = [], Counted()
  result = search(
    PERFECT,
    evaluate=lambda arch: evaluated.append(arch) or accuracy(arch),
    records=[*other, *records],
    keep=lambda *new: again.extend(new),
    advance=done,
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


def test_controls_share_the_validations(engine, source, monkeypatch):
  """The k largest, the first k drawn and a named architecture: a row each, no architecture validated twice."""
  monkeypatch.setattr(KNAS, "proxies", lambda self, settings, space: (FIRST_EDGE,))
  asked, kept, done = [], [], Counted()
  settings = KNASConfig(
    knas_candidates=40, knas_shortlist=5, knas_batch=2, knas_channels=2, knas_cells=1,
    knas_controls=("params", "random", LAST),
  )  # fmt: skip
  context = Context(
    SPACE, source, settings, benchmark=MadeUpTable(lambda arch: asked.append(arch) or accuracy(arch)), engine=engine,
    keep=lambda *records: kept.extend(records), advance=done,
  )  # fmt: skip
  outcome = KNAS().search(context, 0)
  drawn = [SPACE.format(code) for code in outcome.found.candidates]
  size = {arch: SPACE.costs_on(SPACE.parse(arch), source).params for arch in drawn}
  expected = {
    "mgm": [drawn[i] for i in outcome.found.shortlist],
    "control: params": sorted(drawn, key=lambda arch: -size[arch])[:5],
    "control: random": drawn[:5],
    f"control: {LAST}": [LAST],
  }
  assert {row["rule"]: row["arch"] for row in outcome.rows} == {
    rule: max(archs, key=accuracy) for rule, archs in expected.items()
  }
  assert len(asked) == len(set(asked)) and set(asked) == {arch for archs in expected.values() for arch in archs}
  assert sum(done) == KNAS().work(context).amount == 40 + 3 * 5 + 1
  assert outcome.groups == ("rule",) and len(outcome.record["shortlist"]) == 5
  listed = {rule: [one["arch"] for one in own] for rule, own in outcome.record["controls"].items()}
  assert listed == {rule: archs for rule, archs in expected.items() if rule != "mgm"}
  kept = [record for record in kept if record["kind"] == "knas"]
  assert len(kept) == len(asked)


def test_controls_are_added_to_a_finished_run(tmp_path):
  """Nothing is scored or validated twice."""
  flags = ["--algorithm=knas", "--knas_candidates=4", "--knas_shortlist=2", "--knas_channels=1", "--knas_cells=1"]
  flags += ["--knas_batch=2", "--knas_score=params", f"--workdir={tmp_path / 'run'}"]
  env = environment(cache=tmp_path / "cache")
  subprocess.run(command(*flags), env=env, check=True, capture_output=True)
  before = (tmp_path / "run" / "scores.jsonl").read_text()
  subprocess.run(command(*flags, f"--knas_controls={LAST}"), env=env, check=True, capture_output=True)
  added = (tmp_path / "run" / "scores.jsonl").read_text().removeprefix(before).splitlines()
  assert [json.loads(line)["arch"] for line in added] == [LAST]


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"knas_controls": ("mgm",)}, "--knas_controls=mgm: name each once, and not --knas_score itself"),
    ({"knas_controls": ("random", "random")}, "name each once"),
  ],
)
def test_controls_that_are_none(given, said):
  with pytest.raises(ConfigError, match=said):
    KNASConfig(**given)


def test_a_control_of_no_such_name(source):
  settings = KNASConfig(knas_controls=("largest",))
  context = Context(SPACE, source, settings, benchmark=MadeUpTable(accuracy))
  with pytest.raises(ConfigError, match="--knas_controls='largest' in --space=nb201: .*; and it is neither params nor"):
    KNAS().work(context)


def test_a_control_without_a_value_is_a_row(engine, source, monkeypatch):
  """By its number, as other flags take it; its training diverged, and the search ends all the same."""
  monkeypatch.setattr(KNAS, "proxies", lambda self, settings, space: (FIRST_EDGE,))
  number = str(SPACE.index_of(SPACE.parse(LAST)))
  settings = KNASConfig(
    knas_candidates=5, knas_shortlist=2, knas_batch=2, knas_channels=2, knas_cells=1, knas_controls=(number,)
  )
  table = MadeUpTable(lambda arch: float("nan") if arch == LAST else accuracy(arch))
  rows = KNAS().search(Context(SPACE, source, settings, benchmark=table, engine=engine), 0).rows
  assert [row["rule"] for row in rows] == ["mgm", f"control: {number}"]
  assert np.isfinite(rows[0]["validation"]) and np.isnan(rows[1]["validation"]) and rows[1]["arch"] == LAST


# The fine stage by training.


@pytest.fixture
def trainings(monkeypatch):
  """Trainings that only count: what was asked for. The first one diverges."""
  asked = []

  def train(network, code, first, second, config, *, seed, workdir, advance):
    asked.append((network, code, len(first), len(second), seed, workdir))
    for _ in range(config.train_epochs):
      advance(len(first) // config.train_batch)
    status = "diverged" if len(asked) == 1 else "finished"
    return types.SimpleNamespace(status=status, history=[{"valid_accuracy": 10.0 * len(asked)}])

  monkeypatch.setattr(validation, "train", train)
  return asked


def test_trainings_are_noted(trainings, search, tmp_path):
  notes, config = [], TrainConfig(train_epochs=2, train_batch=25_000)
  note = lambda text, *, level=0: notes.append("  " * level + text)  # noqa: E731
  result = search(PERFECT, k=2, seed=3, training=config, folder=tmp_path, note=note)
  epochs = ["  epoch 1/2", "  epoch 2/2", "  epoch 2/2"]  # at the start, and after either step
  assert notes == ["training 1/2", *epochs, "training 2/2", *epochs, ""]
  np.testing.assert_array_equal(result.validation, [np.nan, 20.0])
  names = [f"{SPACE.index_of(result.candidates[i])}_seed3" for i in result.shortlist]
  assert [asked[-1] for asked in trainings] == [tmp_path / "trainings" / name for name in names]
  for asked, i in zip(trainings, result.shortlist, strict=True):
    np.testing.assert_array_equal(asked[1], result.candidates[i])
    assert asked[2:5] == (25_000, 25_000, 3)


def test_trainings_of_darts(trainings, source, tmp_path):
  """Folders are named by a checksum of the genotype; the network is that of the recipe, made for the genotype."""
  space, config = spaces.get("darts"), TrainConfig(train_epochs=1, train_channels=2, train_cells=3)

  def by_training(space=space, config=config):
    return validation.by_training(Context(space, source, None, folder=tmp_path), config, seed=0)

  evaluate = by_training()
  archs = space.sample(jax.random.key(0), 2)
  assert np.isnan(evaluate(space.format(archs[0]))) and evaluate(space.format(archs[1])) == 20.0
  folders = [asked[-1].name for asked in trainings]
  assert len({*folders}) == 2 and all(len(name) == len("01234567_seed0") for name in folders)
  for (network, code, *_), arch in zip(trainings, archs, strict=True):
    np.testing.assert_array_equal(code, arch)
    assert network == space.trained_network(config.network(source.classes), arch)
  with pytest.raises(ConfigError, match="--train_batch=25001 is larger than the 25000"):
    by_training(config=TrainConfig(train_batch=25_001))
  with pytest.raises(ConfigError, match="--space=nb101"):
    by_training(spaces.get("nb101"))


class Clock:
  def __init__(self, monkeypatch):
    self.now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_notes_on_lines(monkeypatch):
  clock, out = Clock(monkeypatch), io.StringIO()
  with report.Progress(10, "archs", label="knas", stream=out) as bar:
    for _ in range(6):
      clock.now += 1
      bar.advance()
    bar.note("training 1/4")
    clock.now += 54
    for text in ("epoch 1/2", "epoch 1/2", "epoch 2/2"):
      clock.now += 2
      bar.note(text, 1)
    clock.now += 6
    bar.note("epoch 2/2", 1)
    clock.now += 6
    bar.note("epoch 2/2", 1)
    bar.advance()
    clock.now += 60
    bar.note("training 2/4")
    bar.note("")
  assert out.getvalue().splitlines() == [
    "knas: 5/10 archs, 1 archs/s, 0:05 left",
    # an architecture took a second, but for 56 none has come: 1 in 57, and so on
    "knas: 6/10 archs, 0.0175 archs/s, 3:48 left, training 1/4, epoch 1/2",
    "knas: 6/10 archs, 0.0149 archs/s, 4:28 left, training 1/4, epoch 2/2",
    "knas: 7/10 archs, 0.0139 archs/s, 3:36 left, training 1/4, epoch 2/2",
    "knas: 7/10 archs, 0.00758 archs/s, 6:36 left, training 2/4",
    "knas: 7/10 archs in 2:18, 0.0507 archs/s",
  ]


def test_notes_on_a_terminal(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  monkeypatch.setenv("TERM", "xterm")
  monkeypatch.setenv("COLUMNS", "200")
  out = Terminal()
  with report.Progress(4, "archs", stream=out) as bar:
    bar.note("training 3/20")
    bar.note("epoch 2/12", 1)
    bar._bar.refresh()
  assert "0/4 archs, estimating, training 3/20, epoch 2/12" in out.getvalue()


def test_progress_from_several_threads():
  with report.Progress(2000, "archs", stream=io.StringIO(), interval=0) as bar:

    def work(name):
      for i in range(500):
        bar.advance()
        bar.note(f"{name} {i}", i % 3)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert bar.done == 2000


def knas_command(folder):
  return command(
    "--algorithm=knas", "--knas_fine=train", "--knas_candidates=4",
    "--knas_shortlist=2", "--knas_score=params", "--knas_batch=2", "--knas_channels=1", "--knas_cells=1",
    "--train_epochs=1", "--train_batch=1000", "--train_channels=1", "--train_cells=1", f"--workdir={folder}",
  )  # fmt: skip


@pytest.mark.slow
def test_command_line_with_trainings(tmp_path):
  """Killed in or after the first training, it goes on with what is left and ends as an uninterrupted run."""
  env = environment(cache=tmp_path / "cache")
  killed = tmp_path / "killed"
  process = subprocess.Popen(knas_command(killed), env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
  deadline = time.monotonic() + 600
  while not list(killed.glob("trainings/*/metrics.jsonl")):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = (killed / "scores.jsonl").read_bytes()
  runs = {}
  for folder in (killed, tmp_path / "whole"):
    done = subprocess.run(knas_command(folder), env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    runs[folder] = json.loads((folder / "result.json").read_text())["results"]
    assert len(list(folder.glob("trainings/*_seed0/metrics.jsonl"))) == 2
    assert (folder / "scores.jsonl").read_bytes().count(b"\n") == 4 + 2
  assert (killed / "scores.jsonl").read_bytes().startswith(before.rpartition(b"\n")[0])
  assert runs[killed] == runs[tmp_path / "whole"]
  assert "training 2/2, epoch 1/1" in done.stderr


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
def test_bad_settings(unchecked, given, word):
  with pytest.raises(ConfigError, match=word):
    KNASConfig(**given)


def test_every_coarse_score_is_a_proxy():
  for name in get_args(knas.Coarse):
    assert proxies.get(name).name == name
    assert KNAS().proxies(KNASConfig(knas_score=name), SPACE) == (proxies.get(name),)
  assert jax.tree.leaves(proxies.get("mgm").higher_is_better) == [True]


def test_the_fine_stage_needs_a_table_of_12_epochs(source):
  def work(benchmark):
    return KNAS().work(Context(SPACE, source, KNASConfig(), benchmark=benchmark))

  with pytest.raises(ConfigError, match="--knas_fine=table needs --benchmark"):
    work(None)
  table = MadeUpTable(accuracy)
  assert work(table) == (300 + 20, "architectures")
  table.columns = {}
  with pytest.raises(ConfigError, match="made up has no accuracies after 12 epochs; give --knas_fine=train"):
    work(table)
