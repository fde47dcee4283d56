"""NASI: the relaxation, the mixture network, the loop, and the search as a library call."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data, spaces
from jaxnas.algorithms import nasi
from jaxnas.algorithms.nasi import NASIConfig, Step
from jaxnas.errors import ConfigError
from jaxnas.spaces import NetworkConfig, relaxation
from jaxnas.spaces.nb201 import plain

SPACE = spaces.nb201()
SHAPE = (1, 6, 5)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick = functools.partial(jax.jit, compiler_options=QUICK)


# The relaxation.


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_relaxed_samples(tau):
  alphas, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  soft = relaxation.relax(alphas, noise, "soft", tau)
  hard = relaxation.relax(alphas, noise, "straight_through", tau)
  expected = np.exp(np.asarray(alphas + noise, np.float64) / tau)
  np.testing.assert_allclose(soft, expected / expected.sum(-1, keepdims=True), rtol=1e-5)
  np.testing.assert_array_equal(hard, np.eye(5)[np.argmax(alphas + noise, -1)])  # exactly one-hot
  probe = jax.random.normal(jax.random.key(1), SHAPE)
  slopes = [
    jax.grad(lambda a, kind=kind: (relaxation.relax(a, noise, kind, tau) * probe).sum())(alphas)
    for kind in relaxation.RELAXATIONS
  ]
  np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_sampled_operations_follow_the_softmax():
  alphas = jnp.log(jnp.array([[[0.5, 0.2, 0.2, 0.1]]]))
  noise = jax.random.gumbel(jax.random.key(2), (20000, 1, 1, 4))
  shares = jax.vmap(lambda g: relaxation.relax(alphas, g))(noise).mean(0)
  np.testing.assert_allclose(shares, np.exp(alphas), atol=0.015)


def test_relaxation_refuses():
  zeros = jnp.zeros(SHAPE)
  with pytest.raises(ConfigError, match="kind='gumbel'"):
    relaxation.relax(zeros, zeros, "gumbel")
  with pytest.raises(ConfigError, match="tau=0"):
    relaxation.relax(zeros, zeros, "soft", 0)
  with pytest.raises(ConfigError, match="batch_norm='running'"):
    relaxation.mixture_logits({}, zeros, zeros, "running")


# The network of a sample, and T~.


def mixture(channels=6, cells=1, samples=3, size=4):
  """Config, parameters as `Network` and as `mixture_logits` have them, images, labels, soft weights; all float64."""
  config = NetworkConfig(channels=channels, cells=cells, classes=3)
  drawn = SPACE.network(config).init_params(jax.random.key(0))
  cast = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(samples, size, size, 3)))
  labels = jnp.asarray(rng.integers(0, 3, samples))
  weights = jax.nn.softmax(jnp.asarray(rng.normal(size=SHAPE)))
  return config, cast(drawn), cast(plain.stack(drawn, cells)), images, labels, weights


def losses(logits, labels):
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


@pytest.mark.parametrize("cells", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_mixture_is_the_flax_network(x64, cells):
  config, drawn, params, images, _, weights = mixture(cells=cells)
  expected = quick(lambda p, x, w: SPACE.network(config).apply({"params": p}, x, w))(drawn, images, weights)
  np.testing.assert_allclose(quick(relaxation.mixture_logits)(params, images, weights), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "batch_frozen"])
def test_gradients_of_the_mixture_are_those_of_the_flax_network(x64, mode):
  """T~ = ||grad of the mean loss||^2 = mean of the Gram matrix of the samples' gradients <= mean of its diagonal."""
  config, drawn, params, images, labels, weights = mixture()
  network = SPACE.network(config).with_batch_norm(mode)

  def mean_loss(p, share):
    return jnp.vdot(losses(network.apply({"params": p}, images, weights), labels), share)

  row = quick(jax.grad(mean_loss))
  gradients = [jax.tree.leaves(row(drawn, share)) for share in np.eye(len(images))]
  flat = np.stack([np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in gradients])
  gram = flat @ flat.T

  def loss(p, w):
    return losses(relaxation.mixture_logits(p, images, w, mode), labels).mean()

  found = float(quick(lambda p, w: nasi.trace_norm(loss, p, w))(params, weights))
  np.testing.assert_allclose(found, gram.mean(), rtol=1e-8)
  assert found <= np.diag(gram).mean()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "batch_frozen"])
def test_gradient_through_the_mixture(x64, mode):
  """Central difference along a random direction; the statistics' dependence on the weights counts in both modes."""
  _, _, params, images, labels, weights = mixture()

  def loss(p, w):
    return losses(relaxation.mixture_logits(p, images, w, mode), labels).mean()

  program = quick(jax.value_and_grad(lambda w: nasi.trace_norm(loss, params, w)))
  direction = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))
  up, down = (program(weights + s * 1e-6 * direction)[0] for s in (1, -1))
  np.testing.assert_allclose((up - down) / 2e-6, jnp.vdot(program(weights)[1], direction), rtol=1e-4)


def tanh_net(params, images, weights):
  """Logits of a smooth stand-in for a supernet: operation o of edge e is c[e, o] tanh(x theta[e, o])."""
  hidden = jnp.einsum("nd,eodh->neoh", images.reshape(len(images), -1), params["theta"])
  mixed = jnp.einsum("neoh,eo->nh", jnp.tanh(hidden), weights[0] * params["size"][0])
  return mixed @ params["head"]


def tanh_params(key, inputs, shape=SHAPE, hidden=4, classes=3, size=None, dtype=jnp.float32):
  theta, head = jax.random.split(key)
  size = jnp.ones(shape, dtype) if size is None else jnp.asarray(size, dtype)
  return {
    "theta": jax.random.normal(theta, (*shape[1:], inputs, hidden), dtype) * inputs**-0.5,
    "head": jax.random.normal(head, (hidden, classes), dtype),
    "size": size,
  }


def sampled_trace_norm(alphas, params, noise, images, labels, kind):
  """T~ of a sample; `size` is a constant of the planted network, not one of its parameters."""
  trained = {k: v for k, v in params.items() if k != "size"}

  def loss(p, w):
    return losses(tanh_net({**p, "size": params["size"]}, images, w), labels).mean()

  return nasi.trace_norm(loss, trained, relaxation.relax(alphas, noise, kind))


def test_trace_norm_is_the_mean_of_the_gram_matrix(x64):
  rng = np.random.default_rng(4)
  params = tanh_params(jax.random.key(1), 6, dtype=jnp.float64)
  images, labels = jnp.asarray(rng.normal(size=(5, 6))), jnp.asarray(rng.integers(0, 3, 5))
  noise = jnp.asarray(rng.gumbel(size=SHAPE))
  weights = relaxation.relax(jnp.zeros(SHAPE), noise, "soft")
  found = jax.jit(functools.partial(sampled_trace_norm, kind="soft"))(jnp.zeros(SHAPE), params, noise, images, labels)
  rows = jax.jit(jax.jacrev(lambda p: losses(tanh_net({**params, **p}, images, weights), labels)))(
    {k: v for k, v in params.items() if k != "size"}
  )
  flat = np.concatenate([np.reshape(leaf, (len(images), -1)) for leaf in jax.tree.leaves(rows)], 1)
  gram = flat @ flat.T
  np.testing.assert_allclose(found, gram.mean(), rtol=1e-10)
  np.testing.assert_allclose(found, np.square(flat.mean(0)).sum(), rtol=1e-10)
  assert found <= np.diag(gram).mean()


def test_gradient_in_alpha_by_finite_differences(x64):
  rng = np.random.default_rng(3)
  params = tanh_params(jax.random.key(1), 6, dtype=jnp.float64)
  alphas, noise = (jnp.asarray(rng.normal(size=SHAPE)) for _ in range(2))
  images, labels = jnp.asarray(rng.normal(size=(5, 6))), jnp.asarray(rng.integers(0, 3, 5))

  def value(a):
    return sampled_trace_norm(a, params, noise, images, labels, "soft")

  shifts = 1e-5 * jnp.eye(alphas.size).reshape(-1, *SHAPE)
  up, down = (jax.jit(jax.vmap(value))(alphas[None] + sign * shifts) for sign in (1, -1))
  expected = ((up - down) / 2e-5).reshape(SHAPE)
  np.testing.assert_allclose(jax.jit(jax.grad(value))(alphas), expected, rtol=1e-4, atol=1e-8)


# The loop.


def given(trace_norms, gradients):
  """`gradient_of_step` that replays."""
  return lambda t: Step(trace_norms[t - 1], np.asarray(gradients[t - 1], np.float64)[None])


def test_three_steps_by_hand():
  """|G| = 5, 10, 2 and gmax = 5, 10, 10; T~ is above nu in the second step only, whose sign flips."""
  steps = given([1.0, 9.0, 2.0], [[[3, 4]], [[10, 0]], [[0, -2]]])
  found = nasi.ascend(steps, steps=3, nu=5.0, mode="fixed", mu=2.0, xi=6.0)
  np.testing.assert_allclose(found.path[:, 0, 0], [[0.6, 0.8], [-0.4, 0.8], [-0.4, 0.6]])
  np.testing.assert_allclose(found.alphas, [[[-0.8, 1.2]]])
  assert [h["gmax"] for h in found.history] == [5, 10, 10]
  assert [h["above"] for h in found.history] == [False, True, False]


def test_bounds_by_hand():
  steps = given([6.0, 1.0, 100.0], np.ones((3, 1, 2)))
  nus = {
    mode: [h["nu"] for h in nasi.ascend(steps, steps=3, nu=2.0, mode=mode).history]
    for mode in ("adaptive", "fixed", "quantile")
  }
  assert nus == {"adaptive": [2.0, 4.0, 3.0], "fixed": [2.0] * 3, "quantile": [2.0] * 3}


def random_steps(seed=0, steps=20, scale=1.0):
  rng = np.random.default_rng(seed)
  gradients = rng.normal(size=(steps, 6, 5)) * rng.lognormal(sigma=2, size=(steps, 1, 1)) * scale
  return given(rng.lognormal(size=steps).tolist(), gradients), steps


def test_penalty():
  source, steps = random_steps()
  run = functools.partial(nasi.ascend, source, steps=steps, mode="fixed")
  plain, flipped, dead = (run(nu=0.0, mu=mu) for mu in (0.0, 2.0, 0.5))
  np.testing.assert_array_equal(flipped.path, -plain.path)
  np.testing.assert_allclose(dead.path, plain.path)  # half the slope everywhere: gmax halves too
  np.testing.assert_array_equal(run(nu=1e30, mu=2.0).path, plain.path)
  stopped = run(nu=1.0, mu=1.0)
  above = np.array([h["above"] for h in stopped.history])
  assert 0 < above.sum() < steps
  np.testing.assert_array_equal(np.diff(stopped.path, axis=0, prepend=0)[above], 0)
  with pytest.raises(ConfigError, match="--nasi_mu=1 and T~ is above nu in all 20"):
    run(nu=0.0, mu=1.0)


@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed):
  source, steps = random_steps(seed)
  kwargs = {"steps": steps, "nu": 1.0, "mode": "adaptive", "xi": 0.3}
  found = nasi.ascend(source, **kwargs)
  assert 0 < np.linalg.norm(found.alphas) <= 0.3
  scaled = nasi.ascend(random_steps(seed, scale=1e-6)[0], **kwargs)
  np.testing.assert_allclose(scaled.alphas, found.alphas, rtol=1e-10)
  shorter = nasi.ascend(source, **{**kwargs, "steps": 5})
  np.testing.assert_array_equal(shorter.path, found.path[:5])
  assert shorter.history == found.history[:5]


def test_steps_that_are_not_finite_are_left_out():
  gradients = np.ones((4, 1, 2))
  gradients[1, 0, 0] = np.nan
  found = nasi.ascend(given([1.0, 5.0, np.inf, 3.0], gradients), steps=4, nu=1.0, mode="adaptive", mu=0.0)
  assert [h["status"] for h in found.history] == ["ok", "non_finite", "non_finite", "ok"]
  assert [h["nu"] for h in found.history] == [1.0] * 4  # 5 and inf do not enter the mean
  np.testing.assert_allclose(found.alphas, np.full((1, 1, 2), 2 / 4 / 2**0.5))
  with pytest.raises(ConfigError, match="not finite in all 4"):
    nasi.ascend(given([np.nan] * 4, gradients), steps=4, nu=1.0, mode="adaptive")
  with pytest.raises(ConfigError, match="is zero in all 4"):
    nasi.ascend(given([1.0] * 4, np.zeros((4, 1, 2))), steps=4, nu=2.0, mode="fixed")


@pytest.mark.parametrize("kind", relaxation.RELAXATIONS)
def test_planted_operations_are_found(kind):
  """On each edge one operation has activations, and so a T~, clearly larger than the others'; nu is above it."""
  found = 0
  program = jax.jit(jax.value_and_grad(functools.partial(sampled_trace_norm, kind=kind)))
  for seed in range(10):
    rng = np.random.default_rng(seed)
    planted = rng.integers(0, 5, 6)
    size = np.where(np.arange(5) == planted[:, None], 3.0, 1.0)[None]
    params = tanh_params(jax.random.key(seed), 8, size=size)

    def step(t, rng=rng, params=params):
      images = rng.normal(size=(16, 8)).astype(np.float32)
      labels, noise = rng.integers(0, 3, 16).astype(np.int32), rng.gumbel(size=SHAPE).astype(np.float32)
      value, gradient = program(jnp.zeros(SHAPE), params, noise, images, labels)
      return Step(float(value), np.asarray(gradient))

    path = nasi.ascend(step, steps=100, nu=1e6, mode="fixed").path
    found += np.array_equal(SPACE.from_alphas(path[-1]), planted)
  assert found >= 9


# The search.


@pytest.fixture(scope="module")
def source():
  return data.load()


@pytest.fixture
def stand_in(monkeypatch):
  """The search on the smooth network instead of NAS-Bench-201's."""

  def mixture_params(config, key):
    return tanh_params(key, 4 * 4 * 3, classes=config.classes)

  monkeypatch.setattr(relaxation, "mixture_params", mixture_params)
  monkeypatch.setattr(relaxation, "mixture_logits", lambda p, x, w, mode: tanh_net(p, x[:, ::8, ::8], w))
  nasi._program.cache_clear()
  yield
  nasi._program.cache_clear()


def run(source, seed=0, records=(), **settings):
  """(result, records kept, steps that progress was told of)."""
  kept, done = [], []
  config = NASIConfig(**{"nasi_steps": 6, "nasi_batch": 8, **settings})
  result = nasi.search(SPACE, source, config, seed=seed, records=records, keep=kept.append, advance=done.append)
  assert sum(done) == nasi.evaluations(config)
  assert set(done) == {1}
  return result, kept


def same(a, b):
  np.testing.assert_array_equal(a.archs, b.archs)
  np.testing.assert_array_equal(a.alphas, b.alphas)
  assert (a.history, a.summary) == (b.history, b.summary)


def test_search_resumes_exactly(stand_in, source):
  result, kept = run(source)
  assert len(kept) == nasi.CALIBRATION + 6
  stored = json.loads(json.dumps(kept))
  assert stored == kept
  json.dumps([result.history, result.summary])
  for done in (0, 10, nasi.CALIBRATION + 3, len(kept)):
    again, rest = run(source, records=stored[:done])
    assert rest == kept[done:]
    same(again, result)
  other, others = run(source, seed=1, records=stored)
  assert len(others) == len(kept)
  assert other.history[0]["trace_norm"] != result.history[0]["trace_norm"]


def test_a_longer_search_contains_the_shorter_one(stand_in, source):
  short, kept = run(source)
  long, _ = run(source, nasi_steps=24)
  np.testing.assert_array_equal(long.archs[:6], short.archs)
  np.testing.assert_array_equal(long.archs[5], short.arch)
  assert long.history[:6] == short.history
  grown, added = run(source, nasi_steps=24, records=kept)
  assert len(added) == 18
  same(grown, long)


def test_calibration(stand_in, source):
  result, kept = run(source)
  samples = [r["trace_norm"] for r in kept if r["phase"] == "calibration"]
  assert result.summary["nu_initial"] == result.history[0]["nu"] == np.median(samples)
  lower, more = run(source, nasi_nu_mode="quantile", nasi_quantile=0.25, records=kept)
  assert more == []  # the records serve any nu
  assert {h["nu"] for h in lower.history} == {np.quantile(samples, 0.25)}
  fixed, few = run(source, nasi_nu_mode="fixed", nasi_nu=1e9, records=kept)
  assert few == []
  assert fixed.summary["share_above_nu"] == 0
  assert "idle" in fixed.summary["warnings"][0]
  tight, _ = run(source, nasi_nu_mode="fixed", nasi_nu=1e-9, records=kept)
  assert tight.summary["share_above_nu"] == 1
  assert "every step" in tight.summary["warnings"][0]
  np.testing.assert_array_equal(tight.alphas, -fixed.alphas)


def test_xi_does_not_matter(stand_in, source):
  one, kept = run(source)
  small, _ = run(source, nasi_xi=1e-3, records=kept)
  np.testing.assert_array_equal(one.archs, small.archs)
  np.testing.assert_allclose(small.alphas, 1e-3 * one.alphas)


@pytest.mark.parametrize(
  "settings",
  [
    {"nasi_labels": "random"},
    {"nasi_labels": "random", "nasi_inputs": "gaussian"},
    {"nasi_relaxation": "soft", "nasi_tau": 2.0},
  ],
)
def test_variants_differ_and_repeat(stand_in, source, settings):
  base, _ = run(source, nasi_nu=1.0)
  first, _ = run(source, nasi_nu=1.0, **settings)
  second, _ = run(source, nasi_nu=1.0, **settings)
  same(first, second)
  assert first.history[0]["trace_norm"] != base.history[0]["trace_norm"]


def test_a_disconnected_cell_is_said_to_be_one(stand_in, source):
  none = np.zeros(SHAPE)
  none[..., SPACE.none_op] = 1
  records = [
    {"algorithm": "nasi", "seed": 0, "phase": "search", "step": t, "trace_norm": 1.0, "gradient": none.tolist()}
    for t in range(1, 7)
  ]
  result, kept = run(source, records=records, nasi_nu=5.0)
  assert kept == []
  assert result.status == result.summary["status"] == "disconnected"
  assert not result.arch.any()


def test_architectures_before_the_first_gradient(stand_in, source):
  skip = SPACE.alphas([1] * 6)
  records = [
    {
      "algorithm": "nasi",
      "seed": 0,
      "phase": "search",
      "step": t,
      "trace_norm": 1.0,
      "gradient": ((t > 2) * skip).tolist(),
    }
    for t in range(1, 7)
  ]
  result, _ = run(source, records=records, nasi_nu=5.0)
  np.testing.assert_array_equal(result.archs, [[-1] * 6] * 2 + [[1] * 6] * 4)
  assert result.status == "ok"


def test_a_batch_larger_than_the_data_set(source):
  with pytest.raises(ConfigError, match=f"--nasi_batch={len(source) + 1}"):
    run(source, nasi_batch=len(source) + 1)


@pytest.mark.slow
def test_search_on_the_real_network(source):
  """T~ of a straight-through sample is that of the sampled cell, and the search ends with a cell."""
  settings = {"nasi_channels": 4, "nasi_cells": 1, "nasi_nu": 10.0, "nasi_steps": 3}
  result, kept = run(source, **settings)
  again, _ = run(source, records=kept[:1], **settings)
  same(again, result)
  config = NASIConfig(**{"nasi_batch": 8, **settings})
  init, _, search_key = jax.random.split(jax.random.key(0), 3)
  noise_key, batch_key = jax.random.split(jax.random.fold_in(search_key, 1))
  cell = np.argmax(jax.random.gumbel(noise_key, SHAPE, jnp.float32), -1)[0]
  images, labels = nasi._batch(source, config, batch_key)
  network = SPACE.network(NetworkConfig(channels=4, cells=1, init=config.nasi_init))

  def loss(p):
    return losses(network.apply({"params": p}, images, SPACE.alphas(cell)), labels).mean()

  gradient = jax.jit(jax.grad(loss))(network.init_params(init))
  expected = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
  np.testing.assert_allclose(result.history[0]["trace_norm"], expected, rtol=1e-3)


@pytest.mark.parametrize(
  ("settings", "word"),
  [
    ({"nasi_steps": 0}, "--nasi_steps=0"),
    ({"nasi_batch": 0}, "--nasi_batch=0"),
    ({"nasi_cells": 0}, "--nasi_cells=0"),
    ({"nasi_mu": -1.0}, "--nasi_mu=-1"),
    ({"nasi_mu": float("nan")}, "--nasi_mu=nan"),
    ({"nasi_nu": float("inf")}, "--nasi_nu=inf"),
    ({"nasi_tau": 0.0}, "--nasi_tau=0"),
    ({"nasi_xi": 0.0}, "--nasi_xi=0"),
    ({"nasi_quantile": 1.5}, "--nasi_quantile=1.5"),
    ({"nasi_nu_mode": "ada"}, "--nasi_nu_mode='ada' must be one of adaptive, fixed, quantile"),
    ({"nasi_init": "xavier"}, "--nasi_init='xavier'"),
    ({"nasi_relaxation": "hard"}, "--nasi_relaxation='hard'"),
    ({"nasi_batch_norm": "running"}, "--nasi_batch_norm='running'"),
    ({"nasi_nu_mode": "quantile", "nasi_nu": 3.0}, "--nasi_nu=3.0 has no meaning"),
    ({"nasi_inputs": "gaussian"}, "--nasi_labels='true' with --nasi_inputs=gaussian"),
  ],
)
def test_bad_settings(settings, word):
  with pytest.raises(ConfigError, match=word):
    NASIConfig(**settings)
