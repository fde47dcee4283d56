"""Ageing evolution, and the random proxy tasks that it is replayed with."""

import json
import math
import random

import numpy as np
import pytest

from jaxnas.errors import ConfigError
from jaxnas.gennas import evolution, task_moves, tasks
from jaxnas.gennas.evolution import Individual, best, evolve
from jaxnas.tabular import metrics


@pytest.fixture(scope="module")
def recorded(fixtures):
  return json.loads((fixtures / "gennas" / "g4_proxy_search.json").read_text())


def test_random_tasks_are_the_published(recorded):
  for entry in recorded["generate"]:
    task = task_moves.random_task(np.random.RandomState(entry["seed"]))
    assert tasks.to_json(task) == entry["config"]
  for entry in recorded["generate_nlp"]:
    task = task_moves.random_sequence_task(np.random.RandomState(entry["seed"]))
    assert tasks.to_json(task) == entry["config"]


def test_mutations_are_the_published(recorded):
  for entry in recorded["mutate"]:
    parent, rng = tasks.get(entry["parent"]), np.random.RandomState(entry["seed"])
    child = task_moves.mutate_task(parent, rng, entry["keep_probability"])
    assert tasks.to_json(child) == entry["child"]
  for entry in recorded["mutate_nlp"]:
    parent, rng = tasks.get_sequence(entry["parent"]), np.random.RandomState(entry["seed"])
    child = task_moves.mutate_sequence_task(parent, rng, entry["keep_probability"])
    assert tasks.to_json(child) == entry["child"]


def test_mutation_statistics(recorded):
  facts = recorded["mutation_statistics_p0.8_parent_CONF_NB101"]
  parent, rng = tasks.get("CONF_NB101"), np.random.RandomState(0)
  children = [task_moves.mutate_task(parent, rng) for _ in range(2000)]
  noise = np.mean([(c.noise_type, c.noise_level) != (parent.noise_type, parent.noise_level) for c in children])
  first = np.mean([c.channel_multipliers[0] != 1.0 for c in children])
  changed = np.mean(
    [
      sum(getattr(a, b) != getattr(z, b) for a, z in zip(c.stages, parent.stages, strict=True) for b in tasks.ORDER)
      for c in children
    ]
  )
  assert abs(noise - facts["prob_noise_changed"]) < 0.04
  assert abs(first - facts["prob_l0_changed"]) < 0.04
  assert abs(changed - facts["mean_signals_changed_of_15"]) < 0.15


def test_fitness_of_the_published_search_is_our_correlation(recorded):
  facts = recorded["fitness_example"]
  rho = metrics.spearman(facts["losses"], facts["accuracies"])
  np.testing.assert_allclose([-rho, abs(rho)], facts["fitness"], rtol=1e-12)


def test_keep_all_or_nothing():
  parent = tasks.get("CONF_COMBO")
  assert task_moves.mutate_task(parent, np.random.RandomState(0), 1.0) == parent
  assert task_moves.mutate_task(parent, np.random.RandomState(0), 0.0).stages != parent.stages
  with pytest.raises(ConfigError, match=r"keep: got 1\.5"):
    task_moves.mutate_task(parent, np.random.RandomState(0), 1.5)


def test_weights_of_the_loss_are_inherited():
  parent = tasks.from_json({**tasks.to_json(tasks.get("CONF_COMBO")), "train_weights": [1, 1, 1]})
  assert task_moves.mutate_task(parent, np.random.RandomState(0), 0.0).loss_weights == (1, 1, 1)


def levels_minus_noise(task):
  """The stand-in for the rank correlation in the recorded trace."""
  levels = [getattr(s, b).level for s in task.stages for b in task_moves._BASES if getattr(s, b)]
  return sum(levels) - task.noise_level


def replay(facts, **how):
  rng = np.random.RandomState(facts["seed"])
  return evolve(
    lambda: task_moves.random_task(rng),
    lambda task: task_moves.mutate_task(task, rng, facts["keep_probability"]),
    how.pop("fitness", levels_minus_noise),
    population=facts["population"],
    tournament=facts["tournament"],
    children=facts["generations"],
    random=random.Random(facts["seed"]),
    maximise=True,
    **how,
  )


def test_trace_is_the_published(recorded):
  facts = recorded["evolution_trace"]
  log = replay(facts)
  expected = facts["initial"] + [step["child"] for step in facts["trace"]]
  assert [tasks.to_json(i.genome) for i in log] == [e["config"] for e in expected]
  assert [i.id for i in log] == [e["id"] for e in expected]
  np.testing.assert_allclose([i.fitness for i in log], [e["fitness"] for e in expected], rtol=1e-14)
  children = log[facts["population"] :]
  assert [list(c.tournament) for c in children] == [step["sampled_ids"] for step in facts["trace"]]
  assert [c.parent for c in children] == [step["parent"] for step in facts["trace"]]


@pytest.mark.parametrize("done", [0, 3, 6, 8, 12])
def test_interrupted_run_continues(recorded, done):
  facts = recorded["evolution_trace"]
  whole, evaluated, kept = replay(facts), [], []

  def fitness(task):
    evaluated.append(task)
    return levels_minus_noise(task)

  again = replay(facts, fitness=fitness, known=[i.fitness for i in whole[:done]], keep=kept.append)
  assert again == whole
  assert evaluated == [i.genome for i in whole[done:]] and kept == whole[done:]


def integers(fitness, *, population=8, tournament=3, children=60, maximise=True, seed=0):
  rng = random.Random(seed + 1)
  return evolve(
    lambda: rng.randrange(100),
    lambda n: n + rng.choice([-3, -1, 1, 3]),
    fitness,
    population=population,
    tournament=tournament,
    children=children,
    random=random.Random(seed),
    maximise=maximise,
  )


def test_it_ages_and_improves():
  log = integers(float, maximise=False)
  assert len(log) == 68 and [i.id for i in log] == list(range(68))
  for child in log[8:]:
    assert all(child.id - 8 <= i < child.id for i in child.tournament)  # the oldest is gone, whatever its fitness
    assert len(set(child.tournament)) == 3
    assert log[child.parent].fitness == min(log[i].fitness for i in child.tournament)
  assert best(log, maximise=False).fitness < min(i.fitness for i in log[:8])
  assert best(integers(float), maximise=True).fitness > max(i.fitness for i in integers(float)[:8])


@pytest.mark.parametrize("maximise", [True, False])
def test_nan_is_the_worst(maximise):
  log = integers(lambda n: math.nan if n % 2 else float(n), maximise=maximise)
  for child in log[8:]:
    rivals = [log[i].fitness for i in child.tournament]
    if not all(map(math.isnan, rivals)):
      assert not math.isnan(log[child.parent].fitness)
  assert not math.isnan(best(log, maximise=maximise).fitness)
  infinite = -math.inf if maximise else math.inf
  assert best([Individual(0, 0, math.nan), Individual(1, 1, infinite)], maximise=maximise).id == 1
  assert best([Individual(0, 0, math.nan), Individual(1, 1, math.nan)], maximise=maximise).id == 0


def test_ties_go_to_the_first_drawn():
  for child in integers(lambda n: 1.0)[8:]:
    assert child.parent == child.tournament[0]


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"population": 0}, "population: got 0"),
    ({"tournament": 9}, "tournament: got 9; pass an integer from 1 to the population's 8"),
    ({"tournament": 0}, "tournament: got 0"),
    ({"children": -1}, "children: got -1"),
  ],
)
def test_sizes_out_of_range(sizes, message):
  with pytest.raises(ConfigError, match=message):
    integers(float, **sizes)


def test_one_individual_and_no_children():
  assert [i.genome for i in integers(float, population=1, tournament=1, children=0)] == [
    i.genome for i in integers(float, population=1, tournament=1, children=5)[:1]
  ]
  assert evolution.best(integers(float, children=0), maximise=True).parent is None
