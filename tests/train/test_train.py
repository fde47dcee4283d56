"""The trainer: recipe against hand calculations, augmentation, evaluation, kills and continuations, divergence."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Counted
from tiny_trainable import toy

from jaxnas import data, spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError, ConfigError, WorkdirError
from jaxnas.spaces.nb201 import Supernet
from jaxnas.train import TrainConfig, checkpoint, evaluate, total_steps, train, trained_network, trainer
from jaxnas.train.augment import flip_and_crop, normalise
from jaxnas.train.recipe import optimizer, schedule
from jaxnas.train.steps import cross_entropy, initial_state

SPACE = spaces.get("nb201")
ARCH = np.array([1, 1, 0, 4, 1, 2], np.int8)
OTHER = np.array([3, 1, 0, 2, 4, 1], np.int8)
CLASSES = 3
CONFIG = TrainConfig(train_epochs=3, train_batch=8, learning_rate=0.05, eval_batch=8)


TRAIN, VALID = toy(45, 0), toy(21, 1)


SHAPE = NetworkConfig(channels=2, cells=1, classes=CLASSES, init="kaiming_fan_out")
NETWORK = SPACE.trained_network(SHAPE)


def encoded(arch):
  return jnp.asarray(NETWORK.encode(arch[None])[0])


def tiny(arch=ARCH):
  return NETWORK, arch


def start(config, key):
  return initial_state(NETWORK, encoded(ARCH), config, 15, key, (8, 8, 3))


def run(config=CONFIG, arch=ARCH, seed=0, **kwargs):
  return train(*tiny(arch), TRAIN, VALID, config, seed=seed, **kwargs)


def assert_same(result, other):
  """Bit for bit, but for the clock."""
  strip = [[{k: v for k, v in r.items() if k != "seconds"} for r in x.history] for x in (result, other)]
  assert strip[0] == strip[1]
  jax.tree.map(np.testing.assert_array_equal, result.params, other.params)
  jax.tree.map(np.testing.assert_array_equal, result.batch_stats, other.batch_stats)
  assert result.status == other.status


def lines(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def quick():
  """Compiling is most of the time here: XLA and LLVM without their expensive passes."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole():
  """An uninterrupted training, what it told, and what it logged."""
  told, logged = Counted(), []
  return run(advance=told, log=logged.append), told, logged


# Recipe


def test_schedule_by_hand():
  rate = schedule(TrainConfig(), 200)
  expected = {0: 0.1, 50: 0.05 * (1 + math.sqrt(0.5)), 100: 0.05, 150: 0.05 * (1 - math.sqrt(0.5)), 200: 0.0}
  for step, value in expected.items():
    assert float(np.asarray(rate(step))) == pytest.approx(value, abs=1e-8)


def test_optimizer_is_pytorchs_nesterov_with_coupled_decay():
  config, steps = TrainConfig(learning_rate=0.3, momentum=0.8, weight_decay=0.02), 4
  rng = np.random.default_rng(0)
  params, velocity = rng.normal(size=5).astype(np.float32), np.zeros(5, np.float32)
  method = optimizer(config, steps)
  ours = jnp.asarray(params)
  state = method.init(ours)
  for t in range(steps):
    grad = rng.normal(size=5).astype(np.float32)
    updates, state = method.update(jnp.asarray(grad), state, ours)
    ours = optax.apply_updates(ours, updates)
    decayed = grad + 0.02 * params
    velocity = 0.8 * velocity + decayed
    params = params - 0.15 * (1 + math.cos(math.pi * t / steps)) * (decayed + 0.8 * velocity)
    np.testing.assert_allclose(np.asarray(ours), params, rtol=1e-5, atol=1e-6)


def test_smoothed_cross_entropy_by_hand():
  logits = np.array([[0.0, math.log(2), math.log(5)]], np.float32)  # p = 1/8, 2/8, 5/8
  loss = cross_entropy(jnp.asarray(logits), jnp.array([2]), 0.3)
  expected = -(0.8 * math.log(5 / 8) + 0.1 * math.log(1 / 8) + 0.1 * math.log(2 / 8))
  assert float(loss[0]) == pytest.approx(expected, rel=1e-6)


def test_trained_network_is_the_benchmarks():
  network = trained_network(SPACE, TrainConfig(), 100)
  assert network == SPACE.trained_network(NetworkConfig(channels=16, cells=5, classes=100, init="torch_default"))
  assert (network.classes, network.auxiliary) == (100, False)


@pytest.mark.parametrize(
  "setting",
  [
    {"train_epochs": 0},
    {"train_batch": 0},
    {"learning_rate": -0.1},
    {"learning_rate": math.nan},
    {"momentum": 1.0},
    {"weight_decay": -1e-4},
    {"label_smoothing": 1.0},
    {"checkpoint_every": 0},
  ],
)
def test_bad_settings_name_their_flag(setting):
  with pytest.raises(ConfigError, match=f"--{next(iter(setting))}="):
    TrainConfig(**setting)


def test_bad_data(unchecked):
  with pytest.raises(ConfigError, match="--train_batch=46"):
    total_steps(dataclasses.replace(CONFIG, train_batch=46), TRAIN)
  with pytest.raises(ConfigError, match="image_shape"):
    train(*tiny(), TRAIN, dataclasses.replace(VALID, image_shape=(16, 16, 3)), CONFIG)
  four = [dataclasses.replace(source, classes=4) for source in (TRAIN, VALID)]
  with pytest.raises(ConfigError, match="classes=3"):
    train(*tiny(), four[0], four[1], CONFIG)
  with pytest.raises(ArchitectureError, match=r"shape \(1, 6, 5\) and type float32 .* one architecture's integers"):
    train(NETWORK, np.full((1, 6, 5), 0.2, np.float32), TRAIN, VALID, CONFIG)
  with pytest.raises(ArchitectureError):
    train(NETWORK, np.full(6, 9), TRAIN, VALID, CONFIG)


# Augmentation


def test_augmented_images_are_windows_of_the_framed_and_flipped_ones():
  images = np.random.default_rng(0).integers(1, 256, (64, 16, 16, 3)).astype(np.uint8)
  augment = jax.jit(flip_and_crop)
  crops = np.asarray(augment(jax.random.key(1), images))
  assert crops.shape == images.shape and crops.dtype == np.uint8
  np.testing.assert_array_equal(crops, augment(jax.random.key(1), images))
  assert (crops != np.asarray(augment(jax.random.key(2), images))).any()
  seen = set()
  for image, crop in zip(images, crops, strict=True):
    windows = {
      (flipped, y, x): np.pad(source, ((2, 2), (2, 2), (0, 0)))[y : y + 16, x : x + 16]
      for flipped, source in enumerate((image, image[:, ::-1]))
      for y in range(5)
      for x in range(5)
    }
    found = [place for place, window in windows.items() if (window == crop).all()]
    assert len(found) == 1  # and so the label is still the image's
    seen.add(found[0])
  for axis, values in enumerate((2, 5, 5)):
    assert len({place[axis] for place in seen}) == values


def test_normalise():
  images = np.array([[[[0, 51, 255]]]], np.uint8)
  normal = normalise(jnp.asarray(images), jnp.array([0.5, 0.2, 0.0]), jnp.array([0.25, 0.5, 2.0]))
  np.testing.assert_allclose(normal[0, 0, 0], [-2.0, 0.0, 0.5], atol=1e-6)


# One step


BF16 = pytest.param((ARCH, True), id="bf16", marks=pytest.mark.slow)


@pytest.fixture(
  scope="module", params=[pytest.param((ARCH, False), id="arch"), pytest.param((OTHER, False), id="other"), BF16]
)
def stepped(request):
  """A step of the compiled function that trainings use: architecture, config, states, tally, and the batch it saw."""
  arch, bf16 = request.param
  config = dataclasses.replace(CONFIG, bf16=bf16)
  state = start(config, jax.random.key(0))
  state = state._replace(batch_stats=jax.tree.map(lambda x: x + 0.5, state.batch_stats))
  images, labels = TRAIN.examples(np.arange(8))
  old = jax.tree.map(np.array, state)  # the step takes the state's memory
  step = trainer._train_step(NETWORK, *trainer.colours_of(TRAIN), trainer._numerics(config), 15)
  new, tally = step(state, encoded(arch), images, labels, jax.random.key(1))
  return arch, config, old, new, tally, *seen_by_step()


def seen_by_step():
  """The normalised images and the labels of the first step with key 1."""
  images, labels = TRAIN.examples(np.arange(8))
  images = np.asarray(flip_and_crop(jax.random.fold_in(jax.random.key(1), 0), jnp.asarray(images)))
  return (images / 255 - 0.4) / 0.2, labels


def test_running_statistics_follow_pytorchs_rule(stepped):
  _, config, old, new, _, x, _ = stepped
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))  # [N, H, W, C, 3, 3]
  kernel = np.asarray(old.params["stem"]["conv"]["kernel"], np.float64)
  z = np.einsum("nhwcij,ijco->nhwo", windows, kernel).reshape(-1, kernel.shape[-1])
  before, after = old.batch_stats["stem"], new.batch_stats["stem"]
  tolerance = 4e-3 if config.bf16 else 1e-6
  np.testing.assert_allclose(after[0], 0.9 * before[0] + 0.1 * z.mean(0), atol=tolerance)
  np.testing.assert_allclose(after[1], 0.9 * before[1] + 0.1 * z.var(0, ddof=1), atol=tolerance)


@pytest.fixture(scope="module")
def gradient():
  """Of an architecture and this mini-batch: loss, logits, gradients, statistics, by plain autodiff of the mixture."""
  network = Supernet(2, 1, CLASSES, order=2)
  params = network.init(jax.random.key(0))
  x, labels = seen_by_step()
  x = jnp.asarray(x, jnp.float32)

  def measured(params, weights):  # compiling its fusions takes longer
    def loss(params):
      output = network.apply(params, x, weights, collect=("stats",))
      return -jax.nn.log_softmax(output.logits)[jnp.arange(8), labels].mean(), (output.logits, output.stats)

    return jax.value_and_grad(loss, has_aux=True)(params)

  def expected(arch):
    (value, (logits, stats)), grads = measured(params, jnp.asarray(network.encode(arch[None])[0]))
    return value, logits, dict(jax.tree_util.tree_leaves_with_path(grads)), stats

  return expected


def test_a_step_is_sgd_on_the_mini_batch(stepped, gradient):
  """Against the network that mixes all operations; what the architecture does not execute keeps its value."""
  arch, config, old, new, tally, _, labels = stepped
  value, logits, grads, _ = gradient(arch)
  rtol = 0.03 if config.bf16 else 1e-5
  assert float(tally.loss) == pytest.approx(8 * float(value), rel=rtol)
  assert config.bf16 or int(tally.right) == int((logits.argmax(-1) == labels).sum())
  assert int(new.step) == 1

  def check(path, before, after, executed):
    assert after.dtype == jnp.float32
    if np.all(executed == 1):
      expected = before - 0.05 * 1.9 * (grads[path] + 5e-4 * before)
      np.testing.assert_allclose(after, expected, atol=0.03 if config.bf16 else 1e-6)
    else:
      np.testing.assert_array_equal(after, before)

  executed = NETWORK.executed(encoded(arch))
  assert 0 < sum(not np.any(mask) for mask in jax.tree.leaves(executed)) < len(jax.tree.leaves(executed))
  jax.tree_util.tree_map_with_path(check, old.params, new.params, executed)


def test_running_statistics_are_those_of_the_mixture(stepped, gradient):
  arch, config, old, new, *_ = stepped
  found, before, (*_, seen) = new.batch_stats, old.batch_stats, gradient(arch)
  edges = [(e, SPACE.ops[op]) for e, op in zip(("edge1_0", "edge3_2"), arch[[0, -1]], strict=True) if op in (2, 3)]
  layers = [  # side of the maps
    (2, found["last"], before["last"], seen["last"]),
    (4, *(tree["reduce_1"]["conv_b"] for tree in (found, before, seen))),
    (2, *(tree["reduce_2"]["conv_a"] for tree in (found, before, seen))),
  ]
  for e, conv in edges:
    layers += [(8 >> i, found[f"stage_{i}"][e], before[f"stage_{i}"][e], seen[f"stage_{i}"][e][conv]) for i in range(3)]
  for side, (mean, variance), (old_mean, old_variance), (own_mean, own_variance) in layers:
    count = 8 * side * side
    unbiased = own_variance * (count / (count - 1))
    tolerance = 0.02 if config.bf16 else 1e-6
    np.testing.assert_allclose(mean, 0.9 * old_mean + 0.1 * own_mean, atol=tolerance)
    np.testing.assert_allclose(variance, 0.9 * old_variance + 0.1 * unbiased, atol=tolerance)


# Evaluation


def test_evaluation_counts_every_image_once():
  network, alphas = NETWORK, encoded(ARCH)
  state = start(CONFIG, jax.random.key(4))
  stats = jax.tree.map(lambda x: x + 0.25, state.batch_stats)
  images, labels = VALID.examples(np.arange(21))
  x = jnp.asarray((images / 255 - 0.4) / 0.2, jnp.float32)
  logits = np.asarray(
    jax.jit(lambda p, x, s: network.apply(p, x, alphas, "running", stats=s).logits)(state.params, x, stats), np.float64
  )
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  expected = -log_p[np.arange(21), labels].mean(), 100 * (logits.argmax(1) == labels).mean(), 100
  for batch in (8, 500):  # a partial last batch; one that is larger than the data
    assert evaluate(network, ARCH, state.params, stats, VALID, batch) == pytest.approx(expected, rel=1e-5)
  count_nothing = trainer._eval_step(network, *trainer.colours_of(VALID))
  tally = count_nothing(state.params, stats, alphas, images, np.full(21, -1))
  assert (float(tally.loss), int(tally.right), int(tally.in_five)) == (0, 0, 0)


# Whole trainings


def test_loss_falls_and_history_is_whole(whole):
  result, told, logged = whole
  assert result.status == "finished"
  assert sum(told) == total_steps(CONFIG, TRAIN) == 15
  assert logged == result.history and [r["epoch"] for r in logged] == [1, 2, 3]
  assert [r["step"] for r in logged] == [5, 10, 15]
  assert logged[0]["learning_rate"] == pytest.approx(0.025 * (1 + math.cos(math.pi * 4 / 15)), rel=1e-5)
  assert logged[-1]["train_loss"] < 0.8 * logged[0]["train_loss"]
  assert logged[-1]["valid_accuracy"] > 60
  assert logged[-1]["valid_accuracy"] == pytest.approx(
    evaluate(*tiny(), result.params, result.batch_stats, VALID, 21).accuracy
  )


def test_an_epoch_is_shuffled_anew_and_has_no_image_twice(unchecked, whole):
  seen = []
  source = dataclasses.replace(TRAIN)
  source._cache.fetch = lambda indices, read: (seen.append(indices), read(indices))[1]
  assert_same(train(*tiny(), source, VALID, CONFIG), whole[0])
  epochs = np.concatenate(seen).reshape(3, 40)
  assert all(len(set(epoch.tolist())) == 40 for epoch in epochs)
  assert (epochs[0] != epochs[1]).any()


@pytest.fixture
def compilations():
  """Grows by one at every compilation."""
  found = []

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      found.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.unregister_event_duration_listener(listen)


def test_architectures_share_one_compilation(whole, compilations):
  other = run(arch=OTHER)
  assert compilations == []
  assert other.history[0]["train_loss"] != whole[0].history[0]["train_loss"]
  assert_same(run(), whole[0])  # and leave nothing behind in one another
  jax.jit(lambda x: x + 3)(np.ones(17))
  assert len(compilations) == 1  # the counter counts


@pytest.mark.slow
def test_an_architecture_alone_is_as_one_of_several(whole):
  several = run(arch=OTHER)
  trainer._train_step.cache_clear()
  trainer._eval_step.cache_clear()
  assert_same(run(arch=OTHER), several)


def test_what_is_not_executed_is_as_it_was_drawn(whole):
  drawn_params = start(CONFIG, jax.random.fold_in(jax.random.key(0), 0)).params
  executed = NETWORK.executed(encoded(ARCH))

  def check(drawn, trained, mask):
    assert np.array_equal(drawn, trained) != bool(np.all(mask))

  jax.tree.map(check, drawn_params, whole[0].params, executed)


@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_training_ends_as_an_uninterrupted_one(whole, tmp_path, monkeypatch, every):
  """Killed in the middle of writing epoch 2's checkpoint: the half-written folder stays behind."""
  import orbax.checkpoint as ocp

  config = dataclasses.replace(CONFIG, checkpoint_every=every)
  finish = ocp.StandardCheckpointHandler.finalize

  def killed(self, directory):
    if len(lines(tmp_path)) == 2:
      raise KeyboardInterrupt
    finish(self, directory)

  with monkeypatch.context() as patched:
    patched.setattr(ocp.StandardCheckpointHandler, "finalize", killed)
    with pytest.raises(KeyboardInterrupt):
      run(config, workdir=tmp_path)
  left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
  assert any(name.startswith("2.") for name in left) and "2" not in left
  assert [r["epoch"] for r in lines(tmp_path)] == [1, 2]
  told = Counted()
  result = run(config, workdir=tmp_path, advance=told)
  assert told[0] == (5 if every == 1 else 1) and sum(told) == 15 and told.earlier == (5 if every == 1 else 0)
  assert_same(result, whole[0])
  assert [r["epoch"] for r in lines(tmp_path)] == [1, 2, 3]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, tmp_path, caplog):
  run(workdir=tmp_path)
  assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2", "3"}
  for file in (tmp_path / "checkpoints" / "3" / "state").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  told = Counted()
  assert_same(run(workdir=tmp_path, advance=told), whole[0])
  assert told[0] == 10 and "checkpoint 3" in caplog.text
  told.clear()
  assert_same(run(workdir=tmp_path, advance=told), whole[0])  # finished: nothing is trained
  assert told == [15] and [r["epoch"] for r in lines(tmp_path)] == [1, 2, 3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp("finished")
  run(workdir=folder)
  return folder


def test_another_training_is_refused(finished):
  with pytest.raises(WorkdirError, match="architecture"):
    run(CONFIG, arch=np.array([1, 1, 0, 4, 1, 3], np.int8), workdir=finished)
  with pytest.raises(WorkdirError, match=r"learning_rate: was 0\.05, now 0\.1"):
    run(dataclasses.replace(CONFIG, learning_rate=0.1), workdir=finished)
  with pytest.raises(WorkdirError, match="seed: was 0, now 7"):
    run(CONFIG, seed=7, workdir=finished)
  (finished / "config.json").unlink()  # the checkpoint itself says what it is of
  (finished / "scores.jsonl").unlink(missing_ok=True)
  with pytest.raises(WorkdirError, match="another training.*train_batch: was 8, now 9"):
    run(dataclasses.replace(CONFIG, train_batch=9), workdir=finished)


def test_a_folder_in_use_is_refused(tmp_path):
  with checkpoint.opened(tmp_path, {"a": 1}), pytest.raises(WorkdirError, match="in use"):
    run(workdir=tmp_path)


def test_divergence_is_recorded(tmp_path, monkeypatch):
  """Logits beyond float32's end: the history is kept, and a second call trains nothing."""

  def huge(*args):
    state = initial_state(*args)
    head = jax.tree.map(lambda x: jnp.full_like(x, 3e38), state.params["classifier"])
    return state._replace(params=state.params | {"classifier": head})

  monkeypatch.setattr(trainer, "initial_state", huge)
  result = run(workdir=tmp_path)
  assert result.status == "diverged"
  last = result.history[-1]
  assert last["status"] == "diverged" and not math.isfinite(last["train_loss"]) and math.isnan(last["valid_loss"])
  assert last["step"] < 5 and len(result.history) == 1
  assert lines(tmp_path)[0]["status"] == "diverged" and lines(tmp_path)[0]["valid_loss"] == "NaN"
  told = Counted()
  assert run(workdir=tmp_path, advance=told).status == "diverged"
  assert told == [last["step"]]


@pytest.mark.slow
def test_trains_on_cifar10(shared):
  """Cell 6111 at C=8, N=1 on 10,000 images: two epochs are far above chance (10 %)."""
  jax.config.update("jax_disable_most_optimizations", False)
  sources = [data.load("cifar10", split=split, data_dir=shared / "data" / "tfds") for split in ("train", "test")]
  config = TrainConfig(train_epochs=2, train_batch=64, train_channels=8, train_cells=1)
  result = train(trained_network(SPACE, config, 10), SPACE.from_index(6111), sources[0], sources[1], config, seed=0)
  assert result.status == "finished"
  assert result.history[-1]["valid_accuracy"] > 35
  assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
