"""GenNAS's regression on NAS-Bench-201: parity with the published training, its bookkeeping and its engine."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.gennas.proxy import SignalRegression
from jaxnas.gennas.regression import WIDTHS, Curve, Problem, Training, pose, regress
from jaxnas.scoring import Batch, Engine

SPACE = spaces.get("nb201")
SMALL = SignalNetwork(SPACE.backbone(NetworkConfig(4, 1)), WIDTHS)
ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def published(fixtures):
  folder = fixtures / "gennas"
  return dict(np.load(folder / "g2_nb201_train.npz")), json.loads((folder / "g2_nb201_train.json").read_text())


def columns(text=ARCH):
  return jnp.asarray(SPACE.parse(text), jnp.int32)


def names_of(path, cells):
  """A parameter's names in the fixture, one a cell; empty where it belongs to an operation that the edge has not."""
  part, *rest = (getattr(p, "key", getattr(p, "idx", None)) for p in path)
  if part == "heads":
    number, *leaf = rest
    return [f"head{number}/{'/'.join(leaf if isinstance(leaf[-1], str) else ['bn', ('mean', 'var')[leaf[-1]]])}"]
  name, *leaf = rest
  leaf = leaf if isinstance(leaf[-1], str) else [*leaf[:-1], "bn", ("mean", "var")[leaf[-1]]]
  if name == "stem":
    return [f"stem/{'/'.join(leaf)}"]
  if name.startswith("reduce"):
    block, layer, value = leaf
    names = {"downsample": "shortcut"} if layer == "conv" else {"conv_a": "bn_a", "conv_b": "bn_b"}
    return [f"reduction{name[-1]}/{names.get(block, block)}/{value}"]
  edge, op, *_ = leaf
  target, source = int(edge[4]), int(edge[6])
  return [f"stage{int(name[-1]) + 1}/cell{i}/edge_{source}to{target}/conv/kernel#{op}" for i in range(cells)]


def read(data, tree, prefix, cells=5):
  """The fixture's values in the places of `tree`; what it has not stays as it is."""
  arch = SPACE.parse(ARCH)
  chosen = {f"edge_{s}to{t}": SPACE.ops[o] for (t, s), o in zip(SPACE.edges, arch, strict=True)}

  def place(path, leaf):
    names = names_of(path, cells)
    op = names[0].partition("#")[2]
    if op:
      if chosen[names[0].split("/")[2]] != op:
        return jnp.asarray(leaf, jnp.float64)
      return jnp.stack([data[f"{prefix}/{n.partition('#')[0]}"] for n in names])
    return jnp.asarray(data[f"{prefix}/{names[0]}"])

  return jax.tree_util.tree_map_with_path(place, tree)


def compare(tree, data, prefix):
  wanted = read(data, tree, prefix)
  for (path, found), want in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-9, err_msg=jax.tree_util.keystr(path))


def test_published_training(x64, published):
  data, figures = published
  network = SignalNetwork(SPACE.backbone(NetworkConfig(4, 5)), (8, 6, 2))
  params = read(data, network.init(jax.random.key(0)), "init")
  draws = jnp.asarray(data["noise"], jnp.float64)
  weights = tuple(jnp.full(c, w / c) for w, c in zip((0.25, 0.5, 1.0), network.widths, strict=True))
  problem = Problem(
    tuple(jnp.asarray(data[f"target{i}"], jnp.float64) for i in range(3)),
    weights,
    weights,
    draws[:5],
    jnp.stack([draws[5]] * 5),
  )

  @jax.jit
  def train(params):
    return regress(network, params, columns(), jnp.asarray(data["images"], jnp.float64), problem, Training(5, 1))

  curve, params, stats = train(params)
  np.testing.assert_allclose(curve.train, [r["loss"] for r in figures["train_loss"]][:5], rtol=0, atol=1e-9)
  for record in figures["eval_loss"][1:]:
    np.testing.assert_allclose(curve.evaluation[record["after_updates"] - 1], record["loss"], rtol=1e-7)
  compare(params, data, "after5")
  assert len(jax.tree.leaves(stats)) == 2 * (1 + 4 + 3)
  compare(stats, data, "after5")


@pytest.mark.parametrize(("train", "name"), [(True, "train0"), (False, "eval0")])
def test_published_outputs(x64, published, train, name):
  data, _ = published
  network = SignalNetwork(SPACE.backbone(NetworkConfig(4, 5)), (8, 6, 2))
  params = read(data, network.init(jax.random.key(0)), "init")
  stats = read(data, network.init_stats(), "init")
  images = data["images"].astype(np.float64) + data["noise"][0 if train else 5]
  found, _ = jax.jit(network.predict, static_argnums=4)(params, stats, images, columns(), train)
  for i, output in enumerate(found):
    np.testing.assert_allclose(output, data[f"{name}/out{i}"], rtol=0, atol=1e-9)


def test_published_parameter_counts(fixtures):
  figures = json.loads((fixtures / "gennas" / "g2_nb201_params.json").read_text())
  network = SignalNetwork(SPACE.backbone(NetworkConfig(16, 5)), tuple(figures["last_channels"]))
  for entry in figures["archs"]:
    assert int(network.costs(columns(entry["arch_string"])).params) == entry["total_used"], entry["arch_string"]


# In the engine

TASK = tasks.get("CONF_NB101")
QUICK = Training(steps=4, interval=2)
ENGINE = Engine(block=2)


def batch(key=0):
  images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
  return Batch(images, problem=pose(TASK, images, jax.random.key(key), QUICK))


def curves(archs, key=0):
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), np.array([SPACE.index_of(a) for a in archs]))
  proxies = [SignalRegression()]
  return ENGINE.measure(proxies, SMALL, None, SMALL.encode(archs), batch(key), init_keys=keys)[0]


@pytest.mark.slow
def test_scores_depend_on_the_draws_and_not_on_company():
  archs = np.stack([SPACE.parse(ARCH), *SPACE.sample(jax.random.key(0), 2)])
  together = curves(archs)
  (alone,) = curves(archs[:1])
  np.testing.assert_array_equal(together[0].evaluation, alone.evaluation)
  assert alone.train.shape == (4,)
  assert alone.evaluation.shape == (2,)
  assert alone.train[-1] < alone.train[0]  # it learns
  (other,) = curves(archs[:1], key=1)
  assert not np.array_equal(other.evaluation, alone.evaluation)
  assert len(ENGINE._programs) == 1  # other targets and noise are data


def test_one_program_for_all_tasks():
  """Other channels, other noise: the same shapes; and channels that a task does not have do not enter."""
  images = batch().inputs
  problems = [pose(tasks.get(name), images, jax.random.key(0), QUICK) for name in ("CONF_NB101", "CONF_RESNET")]
  shapes = [jax.tree.map(np.shape, p) for p in problems]
  assert shapes[0] == shapes[1]
  channels = [int((w > 0).sum()) for w in problems[0].weights]
  assert tuple(channels) == TASK.channels
  np.testing.assert_allclose([w.sum() for w in problems[0].weights], TASK.loss_weights, rtol=1e-6)
  assert not problems[0].targets[2][..., channels[2] :].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_losses_rank_last(bad):
  proxy = SignalRegression()
  good, reading = (proxy.finish(Curve(np.ones(4), np.array([1.0, last]))) for last in (2.0, bad))
  assert (good.value, good.status) == (2.0, "ok")
  assert reading.status == "non_finite"
  assert proxy.ranking_value(reading) == -np.inf < proxy.ranking_value(good)


@pytest.mark.parametrize(("steps", "interval"), [(0, 1), (10, 3), (10, 0)])
def test_bad_training(steps, interval):
  with pytest.raises(ConfigError, match=f"steps={steps} must be a positive multiple of interval={interval}"):
    Training(steps, interval)


def test_needs_targets():
  images = np.zeros((4, 16, 16, 3), np.float32)
  with pytest.raises(ConfigError, match="signal_regression needs targets"):
    ENGINE.measure([SignalRegression()], SMALL, SMALL.init(jax.random.key(0)), SPACE.parse(ARCH)[None], Batch(images))
