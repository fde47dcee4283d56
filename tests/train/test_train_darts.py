"""Training by the DARTS recipe: settings against hand calculations, resume, data parallelism, the command line."""

import colorsys
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from helpers import ROOT, Counted, jaxnas, python, refused
from tiny_trainable import ALPHAS, CODE, TinyTrainable, toy

from jaxnas import main, registry, spaces
from jaxnas.algorithms import train as algorithm
from jaxnas.algorithms.train import Train, TrainingConfig
from jaxnas.algorithms.training_plots import plot_training
from jaxnas.base import Context
from jaxnas.errors import ArchitectureError, ConfigError, DatasetError, WorkdirError
from jaxnas.spaces.nb201 import costs as nb201_costs
from jaxnas.train import TrainConfig, evaluate, seen_shape, train, trained_costs, trained_network, trainer
from jaxnas.train.augment import cut_out, flip_and_crop, flip_and_resize, jitter_colors, middle, normalise, shift_hue
from jaxnas.train.recipe import drop_probability, optimizer, schedule
from jaxnas.train.steps import cross_entropy, initial_state, right_answers

DARTS = TrainConfig(
  train_epochs=4,
  train_batch=8,
  learning_rate=0.05,
  nesterov=False,
  weight_decay=3e-4,
  clip_norm=0.5,
  auxiliary=0.4,
  drop_path=0.3,
  cutout=3,
  eval_batch=8,
)
TRAIN, VALID = toy(45, 0), toy(21, 1)
NETWORK = TinyTrainable(auxiliary=True)


def run(config=DARTS, code=CODE, **kwargs):
  return train(NETWORK, code, TRAIN, VALID, config, **kwargs)


def numbers(result):
  return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


@pytest.fixture(scope="module")
def whole():
  return run()


# Recipe


def rates(steps, **settings):
  rate = schedule(TrainConfig(**settings), steps)
  return [float(np.asarray(rate(t))) for t in range(steps)]


def test_schedules_by_hand():
  found = rates(8, train_epochs=4, learning_rate=0.035, final_learning_rate=0.001)
  np.testing.assert_allclose(found, [0.001 + 0.017 * (1 + math.cos(math.pi * t / 8)) for t in range(8)], rtol=1e-5)
  found = rates(5, train_epochs=5, learning_rate=0.5, learning_rate_shape="linear")
  np.testing.assert_allclose(found, [0.5, 0.4, 0.3, 0.2, 0.1], rtol=1e-6)
  found = rates(5, train_epochs=5, learning_rate=0.5, final_learning_rate=0.1, learning_rate_shape="linear")
  np.testing.assert_allclose(found, [0.5, 0.42, 0.34, 0.26, 0.18], rtol=1e-6)
  found = rates(8, train_epochs=4, learning_rate=0.8, learning_rate_shape="linear", warmup_epochs=2)
  np.testing.assert_allclose(found, [0.2, 0.35, 0.45, 0.5, 0.4, 0.3, 0.2, 0.1], rtol=1e-6)


def test_drop_path_ramp_by_hand():
  config = TrainConfig(train_epochs=4, drop_path=0.2)
  found = [float(drop_probability(config, 12, jnp.int32(t))) for t in range(12)]
  np.testing.assert_allclose(found, np.repeat([0, 0.05, 0.1, 0.15], 3), rtol=1e-6)


def test_clipping_is_over_all_gradients_and_before_the_decay():
  config = TrainConfig(learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.1, clip_norm=1.0)
  params = {"a": jnp.array([1.0]), "b": jnp.array([2.0, 0.0])}
  method = optimizer(config, 10**6)  # the learning rate stays where it is
  state = method.init(params)
  large, small = ({"a": jnp.array([3.0]), "b": jnp.array([0.0, 4.0])}, {"a": jnp.array([0.3]), "b": jnp.zeros(2)})
  updates, state = method.update(large, state, params)  # norm 5: divided by it
  first = {"a": 0.6 + 0.1, "b": np.array([0.2, 0.8])}
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, -0.1 * v, rtol=1e-5), updates, first)
  updates, _ = method.update(small, state, params)  # norm 0.3: as it is
  second = {"a": 0.9 * first["a"] + 0.4, "b": 0.9 * first["b"] + np.array([0.2, 0.0])}
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, -0.1 * v, rtol=1e-5), updates, second)


@pytest.mark.parametrize(
  "settings",
  [
    {"final_learning_rate": 0.2},
    {"warmup_epochs": 12},
    {"clip_norm": -1.0},
    {"auxiliary": math.inf},
    {"drop_path": 1.0},
    {"cutout": -1},
    {"color_jitter": 1.0},
    {"image_size": -1},
    {"learning_rate_shape": "step"},
    {"train_init": "zeros"},
    {"train_stem": "tiny"},
  ],
)
def test_bad_settings_name_their_flag(unchecked, settings):
  with pytest.raises(ConfigError, match=f"--{next(iter(settings))}="):
    TrainConfig(**settings)


# Augmentation


def test_cutout_is_a_square_around_any_pixel():
  images = 1 + np.random.default_rng(0).random((400, 6, 5, 2)).astype(np.float32)
  cut = np.asarray(jax.jit(cut_out, static_argnums=2)(jax.random.key(0), images, 4))
  rows, columns = np.arange(6), np.arange(5)
  squares = {}
  for y in range(6):
    for x in range(5):
      inside = (rows >= y - 2) & (rows < y + 2), (columns >= x - 2) & (columns < x + 2)
      squares[np.outer(*inside).tobytes()] = (y, x)
  assert len(squares) == 30
  seen = set()
  for image, result in zip(images, cut, strict=True):
    gone = (result == 0).all(-1)
    np.testing.assert_array_equal(result[~gone], image[~gone])
    seen.add(squares[gone.tobytes()])
  assert len(seen) == 30  # every centre, the corners among them


def test_random_parts_have_the_published_sizes():
  y, x = np.mgrid[0:40, 0:30]
  ramps = np.stack([4 * y, 4 * x, 0 * x + 77], -1).astype(np.uint8)  # positions of the part's pixels, and a constant
  parts = np.asarray(jax.jit(flip_and_resize, static_argnums=2)(jax.random.key(0), np.stack([ramps] * 300), 8))
  assert parts.shape == (300, 8, 8, 3)
  np.testing.assert_allclose(parts[..., 2], 77, atol=1e-3)
  height = (parts[:, 5, 4, 0] - parts[:, 2, 4, 0]) / 4 * 8 / 3  # inner pixels: at the border there is less to average
  width = (parts[:, 4, 5, 1] - parts[:, 4, 2, 1]) / 4 * 8 / 3
  assert 0.3 < (width > 0).mean() < 0.7  # the others are flipped
  width = np.abs(width)
  assert (height < 40.5).all() and (width < 30.5).all()
  share = height * width / 1200
  assert 0.07 < share.min() < 0.15 and 0.8 < share.max() < 1.02
  free = (height < 39) & (width < 29)
  ratio = (width / height)[free]
  assert 0.73 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.37


def test_hue_is_shifted_as_in_hsv():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (3, 5, 4, 3)).astype(np.float32)
  images[0, 0] = [[0, 0, 0], [9, 9, 9], [255, 7, 7], [0, 200, 200]]  # grey, and two channels alike
  turns = np.asarray([-0.2, 0.0, 0.37], np.float32)
  shifted = np.asarray(shift_hue(jnp.asarray(images), jnp.asarray(turns)[:, None, None, None]))

  def by_hand(pixel, turn):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
    return 255 * np.asarray(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))

  expected = [[[by_hand(p, t) for p in row] for row in image] for image, t in zip(images, turns, strict=True)]
  np.testing.assert_allclose(shifted, expected, atol=1e-3)


def test_color_jitter_blends_by_factors_of_its_range():
  """Grey images have no hue: brightness and contrast make an affine map of them, whose factors are seen."""
  rows = np.repeat(np.asarray([100, 116, 148], np.uint8), 4)  # their mean is 121 1/3; nothing is clipped
  images = np.broadcast_to(rows[None, :, None, None], (500, 12, 2, 3))
  jitter = jax.jit(jitter_colors, static_argnums=2)
  out = np.asarray(jitter(jax.random.key(0), images, 0.4))
  np.testing.assert_allclose(out, np.broadcast_to(out[..., :1], out.shape), atol=1e-3)  # still grey
  brightness = out[:, :, 0, 0].mean(1) / rows.mean()  # contrast leaves the mean
  contrast = (out[:, 8, 0, 0] - out[:, 0, 0, 0]) / 48 / brightness
  for factor in (brightness, contrast):
    assert 0.6 <= factor.min() < 0.62 and 1.38 < factor.max() <= 1.4001
  assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.15
  red = np.broadcast_to(np.asarray([200, 40, 40], np.uint8), (300, 2, 2, 3))
  spread = (
    np.ptp(np.asarray(jitter(jax.random.key(1), red, 0.2)), -1) / 160
  )  # three factors of 0.8 .. 1.2; hue has none
  assert 0.8**3 <= spread.min() < 0.9 * 0.8 and 1.1 * 1.2 < spread.max() <= 255 / 160
  np.testing.assert_allclose(jitter(jax.random.key(1), red, 0.0), red, atol=1e-3)


def test_middle_and_the_shape_that_is_seen():
  images = jnp.arange(2 * 7 * 9 * 1).reshape(2, 7, 9, 1)
  np.testing.assert_array_equal(middle(images, 4), images[:, 1:5, 2:6])
  assert seen_shape(DARTS, TRAIN) == (8, 8, 3)
  assert seen_shape(dataclasses.replace(DARTS, image_size=6), TRAIN) == (6, 6, 3)
  for settings in ({"image_size": 9}, {"cutout": 8}, {"image_size": 4, "cutout": 4}):
    with pytest.raises(ConfigError, match=f"--{list(settings)[-1]}="):
      seen_shape(dataclasses.replace(DARTS, **settings), TRAIN)


# One step


def test_right_answers_are_those_of_a_stable_sort():
  rng = np.random.default_rng(0)
  logits, labels = rng.integers(0, 4, (50, 9)).astype(np.float32), rng.integers(-1, 9, 50)
  order = np.argsort(-logits, axis=1, kind="stable")
  known = labels >= 0
  expected = [int(((order[:, :k] == labels[:, None]).any(1) & known).sum()) for k in (1, 5)]
  assert [int(n) for n in right_answers(jnp.asarray(logits), jnp.asarray(labels))] == expected
  assert [int(n) for n in right_answers(jnp.zeros((9, 9)), jnp.arange(9))] == [1, 5]


@pytest.mark.parametrize("step_number", [0, 11])
def test_a_step_by_hand(step_number):
  """Auxiliary loss, drop-path of the epoch, cutout, clipping; epochs have 5 steps."""
  steps, key = 20, jax.random.key(3)
  state = initial_state(NETWORK, jnp.asarray(ALPHAS), DARTS, steps, jax.random.key(0), (8, 8, 3))
  state = state._replace(step=jnp.int32(step_number))
  params = jax.tree.map(np.array, state.params)
  images, labels = TRAIN.examples(np.arange(8))
  step = trainer._train_step(NETWORK, *trainer.colours_of(TRAIN), trainer._numerics(DARTS), steps)
  new, tally = step(state, jnp.asarray(ALPHAS), images, labels, key)

  @jax.jit
  def by_hand(params, key):
    x = normalise(flip_and_crop(key, jnp.asarray(images)), jnp.full(3, 0.4), jnp.full(3, 0.2))
    x = cut_out(jax.random.fold_in(key, 2), x, 3)
    return jax.grad(lambda params: losses(params, x, key), has_aux=True)(params)

  def losses(params, x, key):
    drop = jnp.float32(0.3 * (step_number // 5) / 4)
    output = NETWORK.train(params, x, jnp.asarray(ALPHAS), drop, jax.random.fold_in(key, 3))
    outputs = output.logits, output.auxiliary
    main, auxiliary = (cross_entropy(out, jnp.asarray(labels), 0.0).mean() for out in outputs)
    return main + 0.4 * auxiliary, main

  grads, main = by_hand(params, jax.random.fold_in(key, step_number))
  assert float(tally.loss) == pytest.approx(8 * float(main), rel=1e-5)
  norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
  assert norm > 0.5
  mask = jax.tree.map(np.ones_like, params) | {"branch": ALPHAS[..., 1, None, None]}

  def check(before, after, grad, used):
    expected = before - 0.05 * (grad * 0.5 / norm + 3e-4 * before * used)
    np.testing.assert_allclose(after, expected, atol=1e-6)

  jax.tree.map(check, params, new.params, grads, mask)


# Whole trainings


def test_records(whole):
  assert whole.status == "finished" and [r["step"] for r in whole.history] == [5, 10, 15, 20]
  assert whole.history[-1]["valid_top5"] == 100 > whole.history[-1]["valid_accuracy"] > 60
  measured = evaluate(NETWORK, CODE, whole.params, whole.batch_stats, VALID, 21)
  assert measured.loss == pytest.approx(whole.history[-1]["valid_loss"], rel=1e-5)


def test_drop_path_begins_in_the_second_epoch(whole):
  without = numbers(run(dataclasses.replace(DARTS, drop_path=0.0)))
  assert without[0]["train_loss"] == pytest.approx(whole.history[0]["train_loss"], rel=1e-6)
  assert without[1]["train_loss"] != whole.history[1]["train_loss"]


def test_smaller_parts_of_the_images():
  config = dataclasses.replace(DARTS, image_size=6, train_epochs=1)
  result = run(config)
  middles = dataclasses.replace(
    VALID,
    image_shape=(6, 6, 3),
    read=lambda i: (np.asarray(middle(jnp.asarray(VALID.read(i)[0]), 6)), VALID.read(i)[1]),
  )
  for source, size in ((VALID, 6), (middles, 0)):
    found = evaluate(NETWORK, CODE, result.params, result.batch_stats, source, image_size=size)
    assert found.loss == pytest.approx(result.history[0]["valid_loss"], rel=1e-5)


def test_killed_inside_a_checkpoint_it_ends_as_uninterrupted(whole, tmp_path, monkeypatch):
  import orbax.checkpoint as ocp

  finish, metrics = ocp.StandardCheckpointHandler.finalize, tmp_path / "metrics.jsonl"

  def killed(self, directory):
    if metrics.read_bytes().count(b"\n") == 3:
      raise KeyboardInterrupt
    finish(self, directory)

  with monkeypatch.context() as patched:
    patched.setattr(ocp.StandardCheckpointHandler, "finalize", killed)
    with pytest.raises(KeyboardInterrupt):
      run(workdir=tmp_path, architecture="one")
  told = Counted()
  result = run(workdir=tmp_path, architecture="one", advance=told)
  assert told[0] == 10 and sum(told) == 20
  assert numbers(result) == numbers(whole)
  jax.tree.map(np.testing.assert_array_equal, result.params, whole.params)
  with pytest.raises(WorkdirError, match=r"architecture.*one.*other"):
    run(workdir=tmp_path, architecture="other")
  (tmp_path / "config.json").unlink()  # the checkpoint itself says what it is of
  (tmp_path / "scores.jsonl").unlink(missing_ok=True)
  with pytest.raises(WorkdirError, match="architecture: was one, now other"):
    run(workdir=tmp_path, architecture="other")


def test_what_is_no_architecture(unchecked):
  for code in (CODE[None], CODE.astype(np.float32), ALPHAS, np.int64(3), "one"):
    with pytest.raises(ArchitectureError, match=r"one architecture's integers \[L\]"):
      run(code=code)
  with pytest.raises(ConfigError, match="auxiliary"):
    train(TinyTrainable(), CODE, TRAIN, VALID, DARTS)


PARALLEL = """
import dataclasses, json, sys
sys.path[:0] = sys.argv[1:]
import jax
from test_train_darts import DARTS, numbers, run
from jaxnas.errors import ConfigError
assert len(jax.devices()) == 4
config = dataclasses.replace(DARTS, data_parallel=True, train_epochs=3)
shared = run(config)
assert shared.params["stem"].sharding.is_fully_replicated and len(shared.params["stem"].devices()) == 4
try:
  run(dataclasses.replace(config, train_batch=10))
except ConfigError as error:
  print(json.dumps([numbers(run(dataclasses.replace(config, data_parallel=False))), numbers(shared), str(error)]))
"""


def test_four_devices_train_as_one():
  """An evaluation batch that does not divide (21 images) included."""
  done = python(PARALLEL, ROOT / "tests", ROOT / "tests" / "train", devices=4)
  one, four, error = json.loads(done.stdout.splitlines()[-1])
  for a, b in zip(one, four, strict=True):
    assert a.pop("status") == b.pop("status") == "ok"
    assert a == pytest.approx(b, rel=1e-4)
  assert "--train_batch=10" in error and "--data_parallel" in error and "4" in error


# Networks and images of the spaces


def test_networks_and_their_costs():
  darts, nb201 = spaces.get("darts"), spaces.get("nb201")
  config = TrainConfig(train_channels=36, train_cells=20, auxiliary=0.4, drop_path=0.2)
  arch = darts.parse("DARTS_V2")
  network = trained_network(darts, config, 10, arch)
  assert network.auxiliary and network.genotype == tuple(arch.tolist())
  assert network.config.init == "torch_default" and network.config.stem == "cifar"
  assert trained_costs(darts, arch, config, 10, 32)[0] == 3_349_342
  with pytest.raises(ConfigError, match="image_size=48"):
    trained_costs(darts, arch, config, 10, 48)  # the auxiliary head cannot pool it
  narrow = TrainConfig(train_channels=4, train_cells=1)
  cell = nb201.from_index(6111)
  assert trained_costs(nb201, cell, narrow, 10, 32) == (
    nb201_costs.params(cell, 4, 1),
    nb201_costs.macs(cell, 32, 4, 1),
  )
  for settings in ({"drop_path": 0.2}, {"auxiliary": 0.4}, {"train_stem": "imagenet"}):
    with pytest.raises(ConfigError, match=f"--{next(iter(settings))}=.*drop"):
      trained_network(nb201, TrainConfig(**settings), 10)
  with pytest.raises(ConfigError, match="--space=nb101"):
    trained_network(spaces.get("nb101"), narrow, 10)


def test_evaluation_images():
  def open_split(name):
    if name != "test":
      raise DatasetError(f"no {name}")
    return VALID

  def split(source=TRAIN, opens=open_split, **settings):
    context = Context(spaces.get("darts"), source, TrainingConfig(**settings), open_split=opens)
    return algorithm.split_images(context)

  found = split(train_images=30)
  assert (len(found.train), found.valid, found.description) == (30, VALID, "test split of toy, 21 images")
  found = split(opens=None, held_out="half", eval_images=10)
  assert (len(found.train), len(found.valid), found.description) == (22, 10, "second half of toy, 10 images")
  np.testing.assert_array_equal(found.valid.images(np.arange(3)), TRAIN.images(np.arange(22, 25)))
  with pytest.raises(ConfigError, match="--train_images=46"):
    split(train_images=46)
  with pytest.raises(DatasetError, match="no validation.*--held_out=half"):
    split(dataclasses.replace(TRAIN, name="imagenet2012"))
  with pytest.raises(ConfigError, match="--held_out"):
    split(opens=None)


@pytest.mark.parametrize(("channels", "warned"), [(48, False), (56, True)])
def test_a_network_above_the_mobile_limit_is_told(channels, warned, caplog):
  """DARTS_V2 has 529.9 M multiply-adds at 48 channels and fits up to 50."""
  recipe = TrainConfig(train_stem="imagenet", train_channels=channels, train_cells=14, image_size=224, train_batch=8)
  config = TrainingConfig(training=recipe, genotype="DARTS_V2")
  large = dataclasses.replace(TRAIN, image_shape=(256, 256, 3), classes=1000)
  context = Context(spaces.get("darts"), large, config, open_split=lambda name: large)
  assert Train().work(context) == (recipe.train_epochs * (len(large) // 8), "steps")
  assert ("--train_channels=50 keeps it" in caplog.text) == ("600 M" in caplog.text) == warned


# Curves and the command line


def test_curves(whole, tmp_path):
  lost = [{**whole.history[0], "valid_loss": math.nan, "valid_accuracy": math.nan, "status": "diverged"}]
  path = plot_training({"a": [whole.history, lost], "b": [whole.history]}, tmp_path / "curves.png", title="t")
  assert path.read_bytes().startswith(b"\x89PNG")
  for histories in ({}, {"a": []}, {"a": [[]]}, {str(i): [whole.history] for i in range(8)}):
    with pytest.raises(ConfigError, match="histories"):
      plot_training(histories, tmp_path / "none.png")


CELL = "[('skip_connect', 0), ('max_pool_3x3', 1)" + ", ('skip_connect', 0), ('skip_connect', 1)" * 3 + "]"
GENOTYPE = f"Genotype(normal={CELL}, normal_concat=range(2, 6), reduce={CELL}, reduce_concat=range(2, 6))"


def test_command_line(tmp_path):
  flags = [
    "--algorithm=train", "--space=darts", f"--genotype={GENOTYPE}", "--train_channels=2", "--train_cells=2",
    "--train_images=32", "--eval_images=20", "--train_batch=16", "--train_epochs=2", "--drop_path=0.2", "--clip_norm=5",
    "--nesterov=false", f"--workdir={tmp_path}",
  ]  # fmt: skip
  done = jaxnas(*flags)
  assert "4/4 steps" in done.stderr and "test split of synthetic, 20 images" in done.stdout and "top-5" in done.stdout
  result = json.loads((tmp_path / "result.json").read_text())
  (row,) = result["results"]
  assert row["arch"] == GENOTYPE and 0 <= row["valid_accuracy"] <= row["valid_top5"] <= 100
  darts = spaces.get("darts")
  config = TrainConfig(train_channels=2, train_cells=2)
  assert (row["params"], row["macs"]) == trained_costs(darts, darts.parse(GENOTYPE), config, 10, 32)
  assert len(result["records"][0]["epochs"]) == 2
  page = (tmp_path / "report.html").read_text()
  assert (tmp_path / "training.png").exists() and page.count("data:image/png") >= 2
  jaxnas(*flags)  # finished: nothing is trained
  assert json.loads((tmp_path / "result.json").read_text())["results"] == [row]
  refused(jaxnas(*flags, "--genotype=DARTS_V2", check=False), "DARTS_V2", "max_pool_3x3")


def test_bad_input():
  refused(jaxnas("--algorithm=train", check=False), "--genotype")
  for space, text, words in (
    (spaces.get("darts"), "DARTS_V3", "--genotype.*DARTS_V3.*DARTS_V2"),
    (spaces.get("darts"), "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "--genotype.*--space=darts"),
    (spaces.get("nb201"), "DARTS_V2", "--genotype.*--space=nb201"),
  ):
    with pytest.raises(ArchitectureError, match=words):
      algorithm.resolve(space, text)


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "subset"])
def test_flagfiles(name):
  with flagsaver.flagsaver():
    main.parse(["jaxnas", f"--preset=train_darts_{name}", "--genotype=DARTS_V2"])
    darts = spaces.get(main.FLAGS.space)
    settings, _ = main._settings(registry.get("algorithm", main.FLAGS.algorithm)(), darts)
  recipe = settings.training
  network = trained_network(darts, recipe, 10, darts.parse(settings.genotype))
  assert network.auxiliary == (recipe.auxiliary > 0) and not recipe.nesterov
  assert Train().image_size(settings) == (256 if recipe.image_size == 224 else 0)
  side = recipe.image_size or 32
  low, high = {"cifar10": (3.349, 3.35), "imagenet": (4.718, 4.719), "subset": (0.01, 0.1)}[name]
  classes = 1000 if name == "imagenet" else 10
  params, _ = trained_costs(darts, darts.parse(settings.genotype), recipe, classes, side)
  assert low < params / 1e6 < high
