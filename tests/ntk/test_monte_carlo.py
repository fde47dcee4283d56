"""Monte Carlo kernels against their definition, the mean over networks, and against infinite width."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import python

from jaxnas import ntk
from jaxnas.errors import ConfigError

X, Z = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
Z = Z[:2]
WIDTH = 8


def init_fn(key, shape):
  first, second = jax.random.split(key)
  params = {"a": jax.random.normal(first, (shape[-1], WIDTH)), "b": jax.random.normal(second, (WIDTH, 2))}
  return (*shape[:-1], 2), params


def apply_fn(params, x):
  return jax.nn.relu(x @ params["a"]) @ params["b"] / np.sqrt(WIDTH).astype(np.float32)


def noisy(params, x, rng, scale=1.0, shift=0.0):
  return scale * apply_fn(params, x) * jax.random.uniform(rng, x.shape[:1])[:, None] + shift


def networks(key, n):
  """The parameters and the noise's keys that the documentation promises."""
  for _ in range(n):
    key, sample = jax.random.split(key)
    first, second = jax.random.split(sample)
    yield init_fn(first, X.shape)[1], second


def mean_ntk(x1, x2, n, key, **options):
  kernel_fn = jax.jit(ntk.empirical_ntk_fn(apply_fn, **options))
  return np.mean([kernel_fn(x1, x2, params) for params, _ in networks(key, n)], axis=0)


def near(got, expected, tolerance=1e-5):
  np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3)])
def test_mean_over_networks(key):
  got = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, key, 3)(X, Z)
  one = ntk.empirical_kernel_fn(apply_fn)(X, Z, None, init_fn(key, X.shape)[1])
  assert type(got).__name__ == "EmpiricalKernel" and jax.tree.structure(got) == jax.tree.structure(one)
  outputs = [(apply_fn(p, X), apply_fn(p, Z)) for p, _ in networks(key, 3)]
  near(got.nngp, np.mean([a @ b.T / 2 for a, b in outputs], axis=0))
  near(got.ntk, mean_ntk(X, Z, 3, key))


def test_converges_to_infinite_width():
  """One hidden layer: the NNGP kernel is the arc-cosine kernel at any width."""
  got = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 1000)(X, None, "nngp")
  norms = np.linalg.norm(X, axis=1)
  angle = np.arccos(np.clip(X @ X.T / np.outer(norms, norms), -1, 1))
  expected = np.outer(norms, norms) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
  np.testing.assert_allclose(got, expected, atol=0.08 * expected.max())


def test_generator():
  key = jax.random.key(1)
  generator = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, key, [4, 1, np.int64(2), 2], vmap_axes=0)(X, None, "ntk")
  assert isinstance(generator, types.GeneratorType)
  found = list(generator)
  assert len(found) == 3
  for n, kernel in zip((1, 2, 4), found, strict=True):
    near(kernel, mean_ntk(X, None, n, key))
    near(kernel, ntk.monte_carlo_kernel_fn(init_fn, apply_fn, key, n)(X, None, "ntk"))


def test_get(unchecked):
  kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 1)
  both = kernel_fn(X, get=("ntk", "nngp"))
  assert both._fields == ("ntk", "nngp")
  near(kernel_fn(X, None, "nngp"), both.nngp)
  near(kernel_fn(X, None, ("ntk",)).ntk, both.ntk)
  near(kernel_fn(X, None, "NTK"), both.ntk)
  assert kernel_fn(X, None, ["NTK", "NNGP"])._fields == both._fields
  for get in (3, (1,)):
    with pytest.raises(ConfigError, match="get="):
      kernel_fn(X, None, get)
  with pytest.raises(ConfigError, match="get='cov'"):
    kernel_fn(X, None, "cov")


@pytest.mark.parametrize(("batch_size", "store_on_device"), [(3, True), (3, False), (10, True)])
def test_blocks_are_the_whole(batch_size, store_on_device):
  options = {"trace_axes": (), "vmap_axes": 0}
  blocks = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 2, batch_size, 0, store_on_device, **options)
  for x2 in (None, Z):
    got = blocks(X, x2, "ntk")
    assert got.shape == (4, 4 if x2 is None else 2, 2, 2)
    assert isinstance(got, jax.Array if store_on_device else np.ndarray)
    near(got, mean_ntk(X, x2, 2, jax.random.key(0), **options))


def test_blocks_of_a_diagonal():
  key = jax.random.key(0)
  options = {"trace_axes": (), "diagonal_axes": (0,), "vmap_axes": 0}
  got = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, key, 2, batch_size=3, **options)(X, None, "ntk")
  assert got.shape == (4, 2, 2)
  near(got, mean_ntk(X, None, 2, key, **options))


def test_batch_takes_any_kernel_function():
  """The empirical kernel, with the parameters as a positional tree of two arrays; and a tree of two kernels."""
  params = tuple(init_fn(jax.random.key(0), X.shape)[1].values())
  kernel_fn = ntk.empirical_ntk_fn(lambda p, x: apply_fn({"a": p[0], "b": p[1]}, x), vmap_axes=0)
  near(ntk.batch(kernel_fn, 3)(X, Z, params), kernel_fn(X, Z, params))
  near(ntk.batch(kernel_fn, np.int64(3))(X, None, params), kernel_fn(X, None, params))
  got = ntk.batch(lambda x1, x2, power: [x1 @ x2.T, (x1**power) @ x2.T], 1)(Z, X, power=2)
  near(got[0], Z @ X.T)
  near(got[1], Z**2 @ X.T)
  with pytest.raises(ConfigError, match=r"batch_size=3: .* \[1, 2\] times"):
    ntk.batch(lambda x1, x2: (x1 @ x2.T, jnp.sum(x1 * x2, 1)), 3)(X, X)


def test_rule_switches_are_taken_as_upstreams():
  """By position, as neural_tangents 0.6.5 has them."""
  params = init_fn(jax.random.key(0), X.shape)[1]
  by_rules = ntk.empirical_kernel_fn(apply_fn, (-1,), (), None, 1, True, False, None)
  near(by_rules(X, None, "ntk", params), ntk.empirical_ntk_fn(apply_fn)(X, None, params))
  own = (init_fn, apply_fn, jax.random.key(0), 1, 0, -1, True, (-1,), (), None, 1)
  near(ntk.monte_carlo_kernel_fn(*own, False, True, True)(X), ntk.monte_carlo_kernel_fn(*own)(X))


def test_what_is_no_array_is_compiled_in():
  params = {**init_fn(jax.random.key(0), X.shape)[1], "scale": 2.0}
  kernel_fn = ntk.empirical_kernel_fn(lambda p, x: p["scale"] * apply_fn(p, x))
  expected = kernel_fn(X, Z, "nngp", params)
  near(ntk.batch(kernel_fn, 2, 0)(X, Z, ["NNGP"], params).nngp, expected)
  near(ntk.batch(kernel_fn, 2, 0)(X, Z, get=["nngp"], params=params).nngp, expected)
  with pytest.raises(ConfigError, match=r"argument 2=\{'ntk'\}"):
    ntk.batch(kernel_fn, 2)(X, Z, {"ntk"}, params)
  with pytest.raises(ConfigError, match=r"get=\{'ntk'\}"):
    ntk.batch(kernel_fn, 2)(X, Z, get={"ntk"}, params=params)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_pairs_that_are_not_rows_are_not_cut(make_key):
  keys = make_key(0), make_key(1)
  params = init_fn(jax.random.key(0), X.shape)[1]

  def at_both(params, x, rng, shift):
    return apply_fn(params, x) * jax.random.uniform(rng, (1, 2)) + shift

  kernel_fn = ntk.empirical_nngp_fn(at_both)
  how = dict(rng=keys, shift=(jnp.float32(1), jnp.float32(2)))
  for x1, x2 in ((X, Z), (X[:2], Z)):  # as many rows as a raw key has numbers
    near(ntk.batch(kernel_fn, 1)(x1, x2, params, **how), kernel_fn(x1, x2, params, **how))


def test_batch_of_inputs_without_rows():
  params = init_fn(jax.random.key(0), X.shape)[1]
  kernel_fn = ntk.empirical_ntk_fn(apply_fn, vmap_axes=0)
  for x1, x2, shape in [(X[:0], Z, (0, 2)), (X, Z[:0], (4, 0)), (X[:0], None, (0, 0))]:
    assert ntk.batch(kernel_fn, 1)(x1, x2, params).shape == shape
  for x in (2.0, {}):
    got = ntk.batch(ntk.empirical_ntk_fn(lambda p, x: p["a"][0] * sum(jax.tree.leaves(x)), ()), 2)(x, None, params)
    near(got, np.eye(WIDTH) * sum(jax.tree.leaves(x)) ** 2)
  with pytest.raises(ConfigError, match=r"x1: arrays with first axes of sizes \[\(2,\), \(4,\)\]"):
    ntk.batch(kernel_fn, 1)((X, Z), None, params)


def test_noise_and_keyword_arguments():
  key, shift = jax.random.key(0), jnp.ones((1, 2))
  got = ntk.monte_carlo_kernel_fn(init_fn, noisy, key, 2)(X, None, "nngp", scale=2.0, shift=shift)
  outputs = [noisy(p, X, rng, 2.0, shift) for p, rng in networks(key, 2)]
  near(got, np.mean([f @ f.T / 2 for f in outputs], axis=0))


def test_keyword_arguments_are_cut_with_the_rows():
  def shifted(params, x, shift):
    return apply_fn(params, x) * shift

  shifts = np.arange(1, 5, dtype=np.float32)[:, None], np.arange(5, 7, dtype=np.float32)[:, None]
  whole, blocks = (
    ntk.monte_carlo_kernel_fn(init_fn, shifted, jax.random.key(0), 1, batch_size=b)(X, Z, shift=shifts) for b in (0, 2)
  )
  jax.tree.map(near, blocks, whole)
  assert not np.allclose(blocks.ntk, ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 1)(X, Z, "ntk"))


def test_trees():
  def init(key, shape):
    return None, init_fn(key, shape["x"])[1]

  def apply(params, inputs):
    return [apply_fn(params, inputs["x"])]

  for batch_size in (0, 2):
    got = ntk.monte_carlo_kernel_fn(init, apply, jax.random.key(0), 2, batch_size)({"x": X}, {"x": None}, "ntk")
    near(got[0], mean_ntk(X, None, 2, jax.random.key(0)))


def test_compiles_once():
  traced = []

  def counted(params, x):
    traced.append(x.shape)
    return apply_fn(params, x)

  kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, counted, jax.random.key(0), 3)
  kernel_fn(X, None, "ntk")
  first = len(traced)
  kernel_fn(X + 1, None, "ntk")
  assert len(traced) == first > 0


DEVICES = """
import sys
sys.path[:0] = ["tests", "tests/ntk"]
import jax, numpy as np
import test_monte_carlo as own
from jaxnas import ntk
def kernel(count, batch_size=0):
  fn = ntk.monte_carlo_kernel_fn(own.init_fn, own.noisy, jax.random.key(0), 2, batch_size, count)
  return fn(own.X, own.Z, "ntk")
one, four = kernel(1), kernel(-1)
assert len(jax.devices()) == 4 and len(four.sharding.device_set) == 4
own.near(four, one)
own.near(kernel(2), one)
own.near(kernel(2, 4), one)
for count in (3, 5):
  with own.pytest.raises(own.ConfigError, match=f"device_count={count}"):
    kernel(count)
"""


def test_devices():
  python(DEVICES, devices=4)


@pytest.mark.parametrize(
  ("options", "word"),
  [
    ({"n_samples": 0}, "n_samples=0"),
    ({"n_samples": []}, "n_samples: empty"),
    ({"n_samples": [1, -1]}, "n_samples=-1"),
    ({"n_samples": 1.5}, "n_samples=1.5"),
    ({"batch_size": -1}, "batch_size=-1"),
    ({"device_count": -2}, "device_count=-2"),
    ({"trace_axes": (0,), "batch_size": 2}, "batch_size=2"),
    ({"key": "text"}, "key='text'"),
    ({"key": jax.random.split(jax.random.key(0), 3)}, "key="),
  ],
)
def test_bad_input(unchecked, options, word):
  arguments = {"n_samples": 1, "key": jax.random.key(0)} | options
  with pytest.raises(ConfigError, match=word):
    ntk.monte_carlo_kernel_fn(init_fn, apply_fn, **arguments)(X, None, "ntk")
