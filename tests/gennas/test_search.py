"""GenNAS's two searches: determinism, resume, what they refuse, and the command line."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import Counted, jaxnas, refused

from jaxnas import data, spaces
from jaxnas.algorithms import score
from jaxnas.base import Accuracies, Context
from jaxnas.errors import ConfigError
from jaxnas.gennas import task_search
from jaxnas.gennas.evolution import EvolutionConfig
from jaxnas.gennas.proxy import RegressionConfig, SignalConfig
from jaxnas.gennas.search import GenNAS, GenNASConfig
from jaxnas.gennas.task_search import GenNASTask, GenNASTaskConfig
from jaxnas.scoring import Engine

SPACE, SOURCE = spaces.get("nb201"), data.load("synthetic")
TINY = RegressionConfig(signal_steps=2, signal_interval=1, signal_batch=4, signal_channels=4, signal_cells=1)
SMALL = EvolutionConfig(evolution_population=4, evolution_tournament=2, evolution_children=5)
CONFIG = GenNASConfig(SMALL, SignalConfig(TINY))
ENGINE = Engine()  # one program for all tests: the task is data


def run(seed=3, **given):
  return GenNAS().search(Context(SPACE, SOURCE, CONFIG, engine=ENGINE, **given), seed).found


@pytest.mark.slow
def test_search_finds_the_lowest_loss_of_all_that_lived():
  kept, done = [], Counted()
  found = run(keep=lambda *r: kept.extend(r), advance=done)
  assert len(found.log) == SMALL.individuals == sum(done)
  losses = {r["arch"]: r["value"] for r in kept}
  assert {one.genome for one in found.log} == set(losses)
  assert losses[SPACE.format(found.code)] == min(losses.values())
  assert all(one.fitness == losses[one.genome] for one in found.log)
  assert all(len(c) == 2 for c in found.curves.values())
  assert SPACE.format(found.code) in found.curves
  # Every child differs from its parent in what one mutation can do, and its parent won its tournament.
  for one in found.log[SMALL.evolution_population :]:
    assert one.parent in one.tournament
    assert found.log[one.parent].fitness == min(found.log[i].fitness for i in one.tournament)

  again = []
  resumed = run(records=kept[:6], keep=lambda *r: again.extend(r))
  assert resumed.log == found.log
  assert {r["arch"] for r in again} == {r["arch"] for r in kept[6:]}  # nothing is regressed twice
  assert len(ENGINE._programs) == 1


def test_seeds_differ():
  assert run(seed=4).log != run().log


class Table(Accuracies):
  """A benchmark of a few architectures."""

  name, datasets, split, unread = "few", ("cifar10",), "test", frozenset()
  archs, columns = (), {}

  def __init__(self, count):
    self.archs = tuple(SPACE.format(a) for a in SPACE.sample(jax.random.key(9), count))
    self.columns = {"cifar10_valid": np.arange(count, dtype=np.float64)}

  def accuracies(self, dataset, split):
    return self.columns[f"{dataset}_{split}"]


TASK = GenNASTaskConfig(SMALL, TINY, task_archs=4)


def search_task(**given):
  return GenNASTask().search(Context(SPACE, SOURCE, TASK, engine=ENGINE, benchmark=Table(5), **given), 1).found


def test_task_search_resumes_and_compiles_once():
  kept, done = [], Counted()
  found = search_task(keep=lambda r: kept.append(json.loads(json.dumps(r))), advance=done)
  assert sum(done) == SMALL.individuals * TASK.task_archs
  assert [r["id"] for r in kept] == list(range(SMALL.individuals))
  assert found.fitness == max(r["fitness"] for r in kept)
  assert all(0 <= r["fitness"] <= 1 for r in kept)
  assert len({r["fitness"] for r in kept}) > 1
  again = []
  resumed = search_task(records=kept[:6], keep=again.append)
  assert resumed.log == found.log
  assert [r["id"] for r in again] == [6, 7, 8]
  assert len(ENGINE._programs) == 1


def test_fitness():
  accuracies = np.array([90.0, 80.0, 70.0, 60.0])
  assert task_search.fitness(np.array([1.0, 2.0, 3.0, 4.0]), accuracies) == 1
  assert task_search.fitness(np.array([4.0, 3.0, 2.0, 1.0]), accuracies) == 1  # its magnitude counts
  assert task_search.fitness(np.array([1.0, 2.0, 3.0, np.nan]), accuracies) == 1  # diverged: last
  assert task_search.fitness(np.full(4, np.inf), accuracies) == 0


def test_task_search_needs_enough_architectures():
  with pytest.raises(ConfigError, match="--task_archs=4: the benchmark knows the accuracy of 3"):
    task_search.architectures(Table(3), 4)


@pytest.mark.parametrize(
  ("config", "values", "message"),
  [
    (EvolutionConfig, {"evolution_population": 0}, "--evolution_population=0 must be at least 1"),
    (EvolutionConfig, {"evolution_tournament": 51}, "--evolution_tournament=51 is more than --evolution_population=50"),
    (RegressionConfig, {"signal_steps": 15}, "--signal_steps=15 must be a multiple of --signal_interval=10"),
    (RegressionConfig, {"signal_batch": 0}, "--signal_batch=0 must be at least 1"),
    (SignalConfig, {"signal_task": "CONF_X"}, "--signal_task: .*CONF_X"),
    (GenNASConfig, {"gennas_mutation": 0.0}, "--gennas_mutation=0.0 must be above 0"),
    (GenNASTaskConfig, {"task_archs": 2}, "--task_archs=2 must be at least 3"),
    (GenNASTaskConfig, {"task_keep": 1.5}, "--task_keep=1.5 must be from 0 to 1"),
  ],
)
def test_bad_settings(config, values, message):
  with pytest.raises(ConfigError, match=message):
    config(**values)


def test_resample_changes_what_the_rate_says():
  arch = SPACE.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
  keys = jax.random.split(jax.random.key(0), 100)
  children = np.stack([SPACE.resample(key, arch) for key in keys])
  share = (children != arch).mean()  # redrawn with 1/5, and then another op with 4/5
  assert abs(share - 0.16) < 4 * np.sqrt(0.16 * 0.84 / children.size)
  with pytest.raises(ConfigError, match="changes=6"):
    SPACE.resample(keys[0], arch, 6)


def test_benchmark_architectures_can_be_named():
  table = Table(5)
  found = score.resolve(SPACE, ("benchmark:3",), table)
  assert {SPACE.format(a) for a in found} < set(table.archs)
  assert len(score.resolve(SPACE, ("benchmark",), table)) == 5
  with pytest.raises(ConfigError, match="benchmark:N with N from 1 to 5"):
    score.resolve(SPACE, ("benchmark:6",), table)
  with pytest.raises(ConfigError, match="needs --benchmark"):
    score.resolve(SPACE, ("benchmark",))
  with pytest.raises(ConfigError, match="nb101 is too large to list"):
    score.resolve(spaces.get("nb101"), ("all",))


FLAGS = [f"--{f.name}={getattr(TINY, f.name)}" for f in dataclasses.fields(TINY)]
FLAGS += [f"--{f.name}={getattr(SMALL, f.name)}" for f in dataclasses.fields(SMALL)]


def test_command_line(tmp_path):
  done = jaxnas("--noprogress", "--algorithm=gennas", f"--workdir={tmp_path / 'run'}", *FLAGS)
  assert done.returncode == 0, done.stderr
  assert "regression loss" in done.stdout
  for name in ("report.html", "evolution.png", "loss_curves.png", "targets.png", "cell.png", "result.json"):
    assert (tmp_path / "run" / name).stat().st_size > 0, name


def test_command_line_refuses():
  done = jaxnas("--algorithm=gennas_task", "--benchmark=none", *FLAGS, check=False)
  refused(done, "--algorithm=gennas_task needs --benchmark")
  done = jaxnas("--algorithm=tenas", "--space=nb101", check=False)
  refused(done, "--algorithm=tenas does not search --space=nb101; take --space=nb201 or darts")


@pytest.mark.slow
def test_nb101_search():
  """The same search on NAS-Bench-101, one population and two children."""
  config = GenNASConfig(EvolutionConfig(2, 1, 2), SignalConfig(dataclasses.replace(TINY, signal_channels=4)))
  found = GenNAS().search(Context(spaces.get("nb101"), SOURCE, config), 0).found
  assert len(found.log) == 4
  assert np.isfinite([one.fitness for one in found.log]).all()
  assert spaces.get("nb101").is_connected(found.code)
