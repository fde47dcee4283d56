"""Synthetic signals: the published targets from recorded draws, and the distribution of our own."""

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.errors import ConfigError
from jaxnas.gennas import signals, tasks
from jaxnas.gennas.tasks import Dots, Resize, Signals, SignalTask, Sines

BETAS = (0.3, 0.105, 0.42, 0.38, 0.016, 0.2, 0.1, 0.25, 0.5, 0.05)
IMAGES = np.random.default_rng(9).normal(size=(16, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def recorded(fixtures):
  folder = fixtures / "gennas"
  with np.load(folder / "g1_signals.npz") as arrays:
    return dict(arrays), json.loads((folder / "g1_signals.json").read_text())


def published_dots(seed: int, samples: int, channels: int, count: int, grid: tuple[int, int]):
  """Cells and signs, [samples, channels, count], by rejection from numpy's and Python's legacy generators."""
  numpy_random, python_random = np.random.RandomState(seed), random.Random(seed)
  cells, signs = np.zeros((2, samples, channels, count), np.int64)
  for place in np.ndindex(samples, channels):
    taken: list[int] = []
    for n in range(count):
      while (cell := numpy_random.randint(0, grid[0]) * grid[1] + numpy_random.randint(0, grid[1])) in taken:
        pass
      taken.append(cell)
      signs[place][n] = 1 if python_random.random() > 0.5 else -1
    cells[place] = taken
  return cells, signs


def case(recorded, name):
  arrays, figures = recorded
  (facts,) = (c for c in figures["cases"] if c["name"] == name)
  grid = facts.get("grid", 8)
  grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
  return {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}, facts, grid


def batched(maps, reference):
  """The maps of one draw or of one a sample, over the batch; sequences have one channel, which is left out."""
  maps = maps if reference.ndim == 4 else maps[..., 0]
  return np.broadcast_to(maps, reference.shape)


@pytest.mark.parametrize("name", ["sin1d_local", "sin1d_global", "nlp_sin1d_local"])
def test_sin1d_is_the_published(recorded, name):
  arrays, facts, grid = case(recorded, name)
  maps = signals.sin1d(arrays["betas"], arrays["phases"], arrays["perm"], grid)
  assert maps.dtype == jnp.float32
  assert len(maps) == (facts["batch"] if facts["local"] else 1)
  np.testing.assert_allclose(batched(maps, arrays["target"]), arrays["target"], atol=2e-5)


@pytest.mark.parametrize("name", ["sin2d_local", "sin2d_global", "nlp_sin2d_local"])
def test_sin2d_is_the_published(recorded, name):
  arrays, _, grid = case(recorded, name)
  maps = signals.sin2d(arrays["betas"], arrays["phases"], arrays["perm"], grid)
  np.testing.assert_allclose(batched(maps, arrays["target"]), arrays["target"], atol=2e-5)


@pytest.mark.parametrize("name", ["dot_local", "dot_global", "dot_sparse_local", "nlp_dot_local"])
def test_dots_are_the_published_from_their_seeds(recorded, name):
  arrays, facts, grid = case(recorded, name)
  samples = facts["batch"] if facts["local"] else 1
  cells, signs = published_dots(facts["numpy_and_python_seed"], samples, facts["channels"], facts["n"], grid)
  maps = signals.dot(cells.astype(np.int32), signs.astype(np.float32), grid)
  np.testing.assert_array_equal(batched(maps, arrays["dot"]), arrays["dot"])
  blurred = signals.dot_gaussian(maps)
  np.testing.assert_allclose(batched(blurred, arrays["dot_gaussian"]), arrays["dot_gaussian"], atol=1e-6)


def test_resize_is_the_published(recorded):
  arrays, _, _ = case(recorded, "resize")
  maps = signals.resize(arrays["images"], arrays["perm"])
  np.testing.assert_allclose(maps, arrays["target"], atol=1e-6)
  assert float(maps.min()) == -1 and float(maps.max()) == 1


def test_stages_are_sums_in_the_published_order(recorded):
  arrays, figures = recorded
  facts = figures["compose"]
  assert tuple(facts["order_of_addition"]) == signals.ORDER
  total = np.zeros_like(arrays["compose/total"])
  for basis in signals.ORDER:
    if basis in facts["levels"]:
      total = total + np.float32(facts["levels"][basis]) * arrays[f"compose/{basis}"]
  np.testing.assert_allclose(total, arrays["compose/total"], atol=1e-5)
  stage = tasks.get("CONF_NB101").stages[1]
  assert tasks.dot_count(stage.dot_gaussian.partial) == facts["dot_count"]
  assert {b: getattr(stage, b).level for b in signals.ORDER if getattr(stage, b)} == facts["levels"]


def test_a_stage_is_the_sum_of_its_bases():
  whole = Signals(
    Sines(1.5, BETAS, True), Sines(0.5, BETAS, False), Dots(2.0, 0.5, True), Dots(0.7, 0.25, False), Resize(3.0)
  )
  key = jax.random.key(4)
  parts = [signals.stage_target(Signals(**{basis: getattr(whole, basis)}), 12, IMAGES, key) for basis in signals.ORDER]
  np.testing.assert_allclose(signals.stage_target(whole, 12, IMAGES, key), sum(parts[1:], parts[0]), atol=1e-5)
  for part, level in zip(parts, (1.5, 0.5, 3.0, 2.0, 0.7), strict=True):
    assert 0.9 * level < float(jnp.abs(part).max()) <= level * (1 + 1e-6)


def test_local_is_a_draw_for_every_image():
  for make in (lambda local: Signals(sin1d=Sines(1.0, BETAS, local)), lambda local: Signals(dot=Dots(1.0, 1.0, local))):
    each, one = (np.asarray(signals.stage_target(make(local), 5, IMAGES, jax.random.key(0))) for local in (True, False))
    assert len(np.unique(each, axis=0)) == 16
    assert len(np.unique(one, axis=0)) == 1


def test_rows_columns_and_upside_down():
  pair = np.array([0.1, 0.3])
  phases = np.random.default_rng(1).uniform(0, 6, (1, 4, 32))
  along_rows, along_columns = np.moveaxis(signals.sin1d(pair, phases[:, :2], np.array([[64 + 5, 96 + 5]]))[0], 2, 0)
  np.testing.assert_array_equal(along_rows, along_columns.T)
  np.testing.assert_array_equal(along_rows, along_rows[:, :1].repeat(8, 1))
  np.testing.assert_allclose(along_rows[2, 0], np.cos(2 * np.pi * 0.3 * 3 + float(phases[0, 1, 5])), atol=1e-6)
  up, down = np.moveaxis(signals.sin2d(pair, phases, np.array([[64 + 4, 96 + 4]]))[0], 2, 0)
  np.testing.assert_array_equal(down, up[::-1])
  angle = 2 * np.pi * (0.1 * 1 + 0.3 * 2) + 2 * float(phases[0, 1, 4])  # block 1: beta_1 0.1, beta_2 0.3
  np.testing.assert_allclose(up[0, 1], np.sin(angle), atol=1e-6)


def test_draws():
  phases, indices = signals.draw_waves(jax.random.key(0), 3, 100, 640)
  assert phases.shape == (3, 100, 32) and indices.shape == (3, 640)
  assert all(len(set(row)) == 640 for row in indices.tolist())
  assert indices.min() >= 0 and 6000 < int(indices.max()) < 6400
  assert 0 <= float(phases.min()) < 0.01 and 6.27 < float(phases.max()) < 2 * np.pi
  cells, signs = signals.draw_dots(jax.random.key(1), 4, 50, 10)
  maps = np.asarray(signals.dot(cells, signs))
  np.testing.assert_array_equal(np.abs(maps).sum((1, 2)), 10)
  assert abs(maps.mean()) < 0.02  # the signs are even: its standard deviation is 0.0035
  assert np.abs(maps).mean((0, 3)).min() > 0.05  # all cells alike: 10/64 = 0.156, standard deviation 0.026
  planes = signals.draw_colours(jax.random.key(2), 90) % 3
  assert (np.bincount(planes, minlength=3) > 10).all()


@pytest.mark.parametrize("name", ["CONF_NB101", "CONF_DARTS", "CONF_RESNET", "CONF_COMBO"])
def test_targets_have_the_published_statistics(recorded, name):
  """Shape, spread and extremes; means and extremes of `resize` depend on the images, which are not in the record."""
  task = tasks.get(name)
  got = signals.targets(task, IMAGES, jax.random.key(3))
  assert tuple(t.shape[3] for t in got) == task.channels
  for target, stage, facts in zip(got, task.stages, recorded[1]["target_statistics_8_seeds"][name], strict=True):
    assert target.dtype == jnp.float32 and target.shape == tuple(facts["shape_nhwc"])
    assert np.isfinite(target).all()
    if stage.resize is None:
      slack = 4 * facts["std_sd_over_seeds"] + 0.01 * facts["std"]
      np.testing.assert_allclose(float(target.std()), facts["std"], atol=slack)
      np.testing.assert_allclose([target.min(), target.max()], [facts["min"], facts["max"]], rtol=0.05)


def test_targets_depend_on_the_key_alone():
  task = SignalTask("uniform", 0.0, (0.25, 0.25, 0.25), (Signals(sin1d=Sines(1.0, BETAS, True)),) * 3)
  first, again, other = (signals.targets(task, IMAGES[:2], jax.random.key(k)) for k in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(np.subtract(first, other)).max() > 0.5
  assert np.abs(first[0] - first[1]).max() > 0.5  # the stages differ too


def test_targets_refuse(unchecked):
  bad = SignalTask("uniform", 0.0, (1.0, 1.0, 1.0), (Signals(), Signals(dot=Dots(1.0, 0.015, True)), Signals()))
  with pytest.raises(ConfigError, match=r"feature\.1\.dot\.partial: got 0\.015; pass a number from 1/64"):
    signals.targets(bad, IMAGES, jax.random.key(0))
  with pytest.raises(ConfigError, match=r"images: got shape \(32, 32, 3\)"):
    signals.targets(tasks.get("CONF_COMBO"), IMAGES[0], jax.random.key(0))
