"""A finished training is loaded into plain Flax, where it classifies as it did in the trainer."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, environment, jaxnas
from tiny_trainable import toy

from jaxnas import spaces
from jaxnas.errors import WorkdirError
from jaxnas.train import Result, TrainConfig, export, train, trained_network

EXAMPLE = ROOT / "experiments" / "examples" / "load_trained.py"
sys.path.append(str(EXAMPLE.parent))
import load_trained  # noqa: E402

TRAIN, VALID = toy(45, 0), toy(21, 1)
CASES = {
  "nb201": (spaces.get("nb201"), "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"),
  "darts": (spaces.get("darts"), "DARTS_V2"),
}


@pytest.mark.parametrize("name", ["nb201", pytest.param("darts", marks=pytest.mark.slow)])
def test_exported_module_classifies_as_the_trainer_measured(name, tmp_path):
  space, text = CASES[name]
  code = space.parse(text)
  config = TrainConfig(train_epochs=2, train_batch=15, train_channels=4, train_cells=1 if name == "nb201" else 3)
  network = trained_network(space, config, TRAIN.classes, code)
  result = train(network, code, TRAIN, VALID, config, architecture=space.format(code))
  export(tmp_path, space, code, config, result, VALID)

  last = result.history[-1]
  assert load_trained.accuracy(tmp_path, VALID, batch=8) == pytest.approx(last["valid_accuracy"])
  module, variables, about = load_trained.load(tmp_path)
  assert module == space.module(code, config.network(TRAIN.classes)) and about["valid_top5"] == last["valid_top5"]
  images, labels = VALID.examples(np.arange(len(VALID)))
  normalised = (images / np.float32(255) - np.float32(0.4)) / np.float32(0.2)
  logits = jax.jit(module.apply)(variables, normalised)
  losses = -jax.nn.log_softmax(logits)[jnp.arange(len(VALID)), labels]
  np.testing.assert_allclose(losses.mean(), last["valid_loss"], rtol=1e-4)
  shapes = jax.eval_shape(module.init, jax.random.key(0), normalised)
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)


@pytest.mark.slow
def test_training_from_the_command_line_is_loaded(tmp_path):
  flags = [
    "--algorithm=train", "--space=nb201", f"--genotype={CASES['nb201'][1]}", "--train_channels=2", "--train_cells=1",
    "--train_images=64", "--eval_images=50", "--train_batch=16", "--train_epochs=2", f"--workdir={tmp_path}",
  ]  # fmt: skip
  jaxnas(*flags)
  (row,) = json.loads((tmp_path / "result.json").read_text())["results"]
  command = [sys.executable, str(EXAMPLE), str(tmp_path / "trainings" / "seed0"), "--images=50"]
  shown = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=300)
  assert shown.returncode == 0, shown.stderr
  again, logged = map(float, re.findall(r"([\d.]+) %", shown.stdout))
  assert again == logged == pytest.approx(row["valid_accuracy"])


def test_folder_that_cannot_be_written_is_told(tmp_path):
  space, text = CASES["nb201"]
  config, code = TrainConfig(train_channels=2, train_cells=1), space.parse(text)
  network = trained_network(space, config, VALID.classes, code)
  last = {"epoch": 1, "valid_loss": 1.0, "valid_accuracy": 50.0, "valid_top5": 100.0}
  result = Result("finished", [last], network.init(jax.random.key(0)), network.init_stats())
  with pytest.raises(WorkdirError, match=r"module\.msgpack"):
    export(tmp_path / "absent", space, code, config, result, VALID)
