"""Proxy tasks: the published figures, the JSON schema, and what is refused."""

import copy
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.tasks import Dots, Signals

COMBO = tasks.get("CONF_COMBO")


def test_published_figures(fixtures):
  published = json.loads((fixtures / "gennas" / "configs.json").read_text())
  ours = {n: tasks.get(n) for n in tasks.names()} | {n: tasks.get_sequence(n) for n in tasks.sequence_names()}
  for name, document in published.items():
    read = tasks.sequence_from_json if "dimension" in document else tasks.from_json
    assert read(document) == ours[name]
    if "dimension" in document:
      for stage in document["feature"].values():
        assert stage.pop("resize", None) is None  # some say null; we leave it out
    assert json.dumps(tasks.to_json(ours[name])) == json.dumps(document)  # the order of the keys too
  assert set(ours) - set(published) == {n for n in ours if n.startswith("single_")}


def test_every_task_is_valid_hashable_and_round_trips(tmp_path):
  for name in tasks.names():
    task = tasks.get(name)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(tasks.to_json(task)))
    assert tasks.get(str(path)) == task == tasks.get(name)
    assert {task: 1}[tasks.get(str(path))] == 1
  path = tmp_path / "nlp.json"
  path.write_text(json.dumps(tasks.to_json(tasks.get_sequence("CONF_NLP"))))
  assert tasks.get_sequence(str(path)).dimension == 48


def test_channels_and_weights():
  assert tasks.get("CONF_NB101").channels == (64, 48, 16)
  assert COMBO.loss_weights == COMBO.eval_weights == (0.25, 0.5, 1.0)
  document = {**tasks.to_json(COMBO), "train_weights": [1, 0, 2.5], "eval_weights": [0, 0, 1]}
  task = tasks.from_json(document)
  assert task.loss_weights == (1, 0, 2.5) and task.eval_weights == (0, 0, 1)
  assert tasks.to_json(task) == document


@pytest.mark.parametrize("basis", tasks.ORDER)
def test_single(basis):
  task = tasks.get(f"single_{basis}")
  assert task.channels == (64, 64, 64)
  for signals in task.stages:
    assert [b for b in tasks.ORDER if getattr(signals, b)] == [basis]


def test_bands():
  ranges = [tasks.get(f"single_sin1d{band}").stages[0].sin1d.range for band in ("_low", "_mid", "")]
  assert ranges[1][0] == 0.125 and ranges[1][-1] == 0.35 and ranges[2][-1] == 0.4875
  assert ranges[2] == COMBO.stages[0].sin1d.range
  assert list(sum(ranges, ())) == sorted(sum(ranges, ()))
  for band in ("_low", "_mid", ""):
    assert tasks.get(f"single_sin2d{band}").stages[2].sin2d == tasks.get(f"single_sin1d{band}").stages[2].sin1d


def test_noise():
  shape, key = (16, 32, 32, 3), jax.random.key(0)
  uniform = dataclasses.replace(COMBO, noise_type="uniform", noise_level=0.4)
  values = np.asarray(tasks.noise(uniform, key, shape))
  assert values.shape == shape and values.dtype == jnp.float32
  assert -0.4 <= float(values.min()) < -0.39 and 0.39 < float(values.max()) <= 0.4
  np.testing.assert_allclose(float(values.std()), 0.4 / 3**0.5, rtol=0.02)
  gaussian = dataclasses.replace(COMBO, noise_level=0.4)
  np.testing.assert_allclose(np.asarray(tasks.noise(gaussian, key, shape)).std(), 0.4, rtol=0.02)
  np.testing.assert_array_equal(tasks.noise(COMBO, key, shape), 0)


def changed(path: str, value):
  """CONF_NB101's document with one value replaced, or one key added, or (with ...) removed."""
  document = copy.deepcopy(tasks.to_json(tasks.get("CONF_NB101")))
  *parents, last = path.split(".")
  here = document
  for name in parents:
    here = here[name]
  if value is ...:
    del here[last]
  else:
    here[last] = value
  return document


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    ("feature.1.dot_gaussian.partial", 0.015, "got 0.015; pass a number from 1/64 (one dot) to 1"),
    ("feature.1.dot_gaussian.partial", 1.5, "got 1.5; pass"),
    ("feature.1.dot_gaussian.partial", float("nan"), "got nan; pass"),
    ("feature.1.dot_gaussian.count", 3, "unknown key; allowed are level, partial, local"),
    ("feature.1.sin3d", None, "unknown key; allowed are sin1d, sin2d, dot, dot_gaussian, resize"),
    ("feature.1.sin2d", ..., "missing; required are sin1d"),
    ("feature.1.sin2d", [1], "got [1]; pass an object with level, range, local"),
    ("feature.1.sin2d.range", [0.1, 0.2], "got (0.1, 0.2); pass 10 finite numbers"),
    ("feature.1.sin2d.range", 0.1, "got 0.1; pass a list of numbers"),
    ("feature.1.sin2d.range", ["a"], "got 'a'; pass a number"),
    ("feature.1.sin2d.level", "1", "got '1'; pass a number"),
    ("feature.1.sin2d.level", float("inf"), "got inf; pass a finite number"),
    ("feature.1.sin2d.local", 1, "got 1; pass true or false"),
    ("feature.3", {}, "unknown key; allowed are 0, 1, 2"),
    ("feature.2", ..., "missing; required are 0, 1, 2"),
    ("feature", [], "got []; pass an object with 0, 1, 2"),
    ("noise.type", "salt", "got 'salt'; pass uniform or gaussian"),
    ("noise.noise_level", -0.1, "got -0.1; pass a number >= 0"),
    ("noise.noise_level", True, "got True; pass a number"),
    ("last_channel_l1", 0.01, "got 0.01; pass a number from 1/64 to 10"),
    ("last_channel_l1", ..., "missing; required are"),
    ("batchsize", 0, "got 0; pass an integer >= 1"),
    ("batchsize", 1.5, "got 1.5; pass an integer"),
    ("train_weights", [1, 2], "got [1, 2]; pass three numbers"),
    ("eval_weights", [1, 2, -3], "got (1.0, 2.0, -3.0); pass three numbers >= 0"),
    ("extra", 0, "unknown key; allowed are batchsize"),
  ],
)
def test_refused_with_its_key(path, value, message):
  with pytest.raises(ConfigError) as caught:
    tasks.from_json(changed(path, value), "my.json")
  text = str(caught.value)
  key = f"my.json: {path}"
  assert text.startswith((f"{key}: ", f"{key} ")) and message in text and "\n" not in text


def test_a_drawn_task_that_is_out_of_range_can_be_read_unchecked():
  task = dataclasses.replace(COMBO, stages=(Signals(dot=Dots(1.0, 0.001, True)), Signals(), Signals()))
  assert tasks.from_json(tasks.to_json(task), check=False) == task
  with pytest.raises(ConfigError, match=r"task: feature\.0\.dot\.partial"):
    tasks.validate(task)


def test_not_a_task(tmp_path):
  for get, name, message in (
    (tasks.get, "CONF_NB102", "task 'CONF_NB102', which is no readable file .*did you mean CONF_NB101"),
    (tasks.get, str(tmp_path), "no readable file"),
    (tasks.get, "CONF_NLP", "CONF_NLP: got a task of sequences"),
    (tasks.get_sequence, "CONF_COMBO", "CONF_COMBO: got a task of images"),
  ):
    with pytest.raises(ConfigError, match=message):
      get(name)
  for text, message in (("{", "not JSON"), ("[1]", r"got \[1\]; pass an object with batchsize"), ("\xff", "not JSON")):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
      tasks.get(str(path))
