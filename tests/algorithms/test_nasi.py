"""NASI: the relaxation, the mixture network, the loop, and the search as a library call, on both spaces."""

import dataclasses
import functools
import json
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Counted

from jaxnas import data, spaces
from jaxnas.algorithms import nasi, nasi_ascent, nasi_samples
from jaxnas.algorithms.nasi import NASI, NASIConfig
from jaxnas.algorithms.nasi_ascent import Step
from jaxnas.base import Context, NetworkConfig, Output
from jaxnas.errors import ConfigError
from jaxnas.nets import relaxation
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb201 import NB201, SingleNetwork, Supernet

SPACE = spaces.get("nb201")
SHAPE = (1, 6, 5)
CELLS = (2, 14, 8)  # DARTS


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


def test_relaxation_refuses(unchecked):
  zeros = jnp.zeros(SHAPE)
  with pytest.raises(ConfigError, match="kind='gumbel'"):
    relaxation.relax(zeros, zeros, "gumbel")
  with pytest.raises(ConfigError, match="tau=0"):
    relaxation.relax(zeros, zeros, "soft", 0)


@pytest.mark.parametrize("kind", relaxation.RELAXATIONS)
def test_operations_that_are_not_allowed(kind):
  """Weight and derivative 0, also on an edge that has nothing else; the others are a sample of themselves."""
  alphas, noise, probe = jax.random.normal(jax.random.key(0), (3, *SHAPE))
  noise = noise.at[0, :, 1].add(100.0)  # what is most likely is not allowed
  allowed = np.ones(SHAPE, bool)
  allowed[0, :, 1] = allowed[0, 2] = False

  def relaxed(a, kept=slice(None), mask=allowed):
    return relaxation.relax(a[..., kept], noise[..., kept], kind, 0.7, mask)

  weights = relaxed(alphas)
  np.testing.assert_array_equal(weights[~allowed], 0)
  edges, ops = [0, 1, 3, 4, 5], [0, 2, 3, 4]
  alone = relaxed(alphas, np.array(ops), None)
  np.testing.assert_allclose(weights[0, edges][:, ops], alone[0, edges], rtol=1e-6)
  slope = jax.grad(lambda a: (relaxed(a) * probe).sum())(alphas)
  expected = jax.grad(lambda a: (relaxed(a, np.array(ops), None) * probe[..., ops])[0, edges].sum())(alphas)
  assert np.abs(expected).max() > 0.01
  np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


# The network of a sample, and T~.


def mixture(channels=6, cells=1, samples=3, size=4):
  """The space's mixture, parameters, images, labels, soft weights; all float64."""
  network = SPACE.mixture(NetworkConfig(channels, cells, 3, "kaiming_fan_out"))
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network.init(jax.random.key(0)))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(samples, size, size, 3)))
  labels = jnp.asarray(rng.integers(0, 3, samples))
  weights = jax.nn.softmax(jnp.asarray(rng.normal(size=SHAPE)))
  return network, params, images, labels, weights


def losses(logits, labels):
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


@pytest.mark.parametrize("cells", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_mixture_is_the_fused_supernet(x64, cells):
  network, params, images, _, weights = mixture(cells=cells)
  expected = jax.jit(lambda *args: Supernet(6, cells, 3).apply(*args).logits)(params, images, weights)
  found = jax.jit(lambda *args: network.apply(*args).logits)(params, images, weights)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_mixture_of_the_space():
  network = SPACE.mixture(NetworkConfig(3, 1, 4))
  own = network.init(jax.random.key(5))
  jax.tree.map(np.testing.assert_array_equal, own, SingleNetwork(3, 1, 4, "torch_default").init(jax.random.key(5)))
  images, weights = jnp.zeros((2, 4, 4, 3)), jnp.zeros(SHAPE)
  with pytest.raises(ConfigError, match="needs stats"):
    network.apply(own, images, weights, "running")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "batch_frozen"])
def test_gradients_of_the_mixture_are_those_of_the_fused_supernet(x64, mode):
  """T~ = ||grad of the mean loss||^2 = mean of the Gram matrix of the samples' gradients <= mean of its diagonal."""
  network, params, images, labels, weights = mixture()
  fused = Supernet(6, 1, 3)

  def mean_loss(p, share):
    return jnp.vdot(losses(fused.apply(p, images, weights, mode).logits, labels), share)

  row = jax.jit(jax.grad(mean_loss))
  gradients = [jax.tree.leaves(row(params, share)) for share in np.eye(len(images))]
  flat = np.stack([np.concatenate([np.ravel(leaf) for leaf in leaves]) for leaves in gradients])
  gram = flat @ flat.T

  def loss(p, w):
    return losses(nasi_samples.logits_of(network, mode)(p, images, w), labels).mean()

  found = float(jax.jit(lambda p, w: nasi_samples.trace_norm(loss, p, w))(params, weights))
  np.testing.assert_allclose(found, gram.mean(), rtol=1e-8)
  assert found <= np.diag(gram).mean()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "batch_frozen"])
def test_gradient_through_the_mixture(x64, mode):
  """Central difference along a random direction; the statistics' dependence on the weights counts in both modes."""
  network, params, images, labels, weights = mixture()

  def loss(p, w):
    return losses(nasi_samples.logits_of(network, mode)(p, images, w), labels).mean()

  program = jax.jit(jax.value_and_grad(lambda w: nasi_samples.trace_norm(loss, params, w)))
  direction = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))
  up, down = (program(weights + s * 1e-6 * direction)[0] for s in (1, -1))
  np.testing.assert_allclose((up - down) / 2e-6, jnp.vdot(program(weights)[1], direction), rtol=1e-4)


def tanh_net(params, images, weights):
  """Logits of a smooth stand-in for a supernet: operation o of edge e is size[e, o] tanh(x theta[e, o])."""
  hidden = jnp.einsum("nd,ceodh->nceoh", images.reshape(len(images), -1), params["theta"])
  mixed = jnp.einsum("nceoh,ceo->nh", jnp.tanh(hidden), weights * params["size"])
  return mixed @ params["head"]


def tanh_params(key, inputs, shape=SHAPE, hidden=4, classes=3, size=None, dtype=jnp.float32):
  theta, head = jax.random.split(key)
  size = jnp.ones(shape, dtype) if size is None else jnp.asarray(size, dtype)
  return {
    "theta": jax.random.normal(theta, (*shape, inputs, hidden), dtype) * inputs**-0.5,
    "head": jax.random.normal(head, (hidden, classes), dtype),
    "size": size,
  }


def sampled_trace_norm(alphas, params, noise, images, labels, kind, allowed=False):
  """T~ of a sample, of DARTS's operations if `allowed`; `size` is a constant of the network, not a parameter."""
  mask = spaces.get("darts").choices() if allowed else None
  trained = {k: v for k, v in params.items() if k != "size"}

  def loss(p, w):
    return losses(tanh_net({**p, "size": params["size"]}, images, w), labels).mean()

  return nasi_samples.trace_norm(loss, trained, relaxation.relax(alphas, noise, kind, allowed=mask))


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
  found = nasi_ascent.ascend(steps, steps=3, nu=5.0, mode="fixed", mu=2.0, xi=6.0)
  np.testing.assert_allclose(found.path[:, 0, 0], [[0.6, 0.8], [-0.4, 0.8], [-0.4, 0.6]])
  np.testing.assert_allclose(found.alphas, [[[-0.8, 1.2]]])
  assert [h["gmax"] for h in found.history] == [5, 10, 10]
  assert [h["above"] for h in found.history] == [False, True, False]


def test_bounds_by_hand():
  steps = given([6.0, 1.0, 100.0], np.ones((3, 1, 2)))
  nus = {
    mode: [h["nu"] for h in nasi_ascent.ascend(steps, steps=3, nu=2.0, mode=mode).history]
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
  found = nasi_ascent.ascend(source, **kwargs)
  assert 0 < np.linalg.norm(found.alphas) <= 0.3
  scaled = nasi_ascent.ascend(random_steps(seed, scale=1e-6)[0], **kwargs)
  np.testing.assert_allclose(scaled.alphas, found.alphas, rtol=1e-10)
  shorter = nasi_ascent.ascend(source, **{**kwargs, "steps": 5})
  np.testing.assert_array_equal(shorter.path, found.path[:5])
  assert shorter.history == found.history[:5]


def test_steps_that_are_not_finite_are_left_out():
  gradients = np.ones((4, 1, 2))
  gradients[1, 0, 0] = np.nan
  found = nasi_ascent.ascend(given([1.0, 5.0, np.inf, 3.0], gradients), steps=4, nu=1.0, mode="adaptive", mu=0.0)
  assert [h["status"] for h in found.history] == ["ok", "non_finite", "non_finite", "ok"]
  assert [h["nu"] for h in found.history] == [1.0] * 4  # 5 and inf do not enter the mean
  np.testing.assert_allclose(found.alphas, np.full((1, 1, 2), 2 / 4 / 2**0.5))
  with pytest.raises(ConfigError, match="not finite in all 4"):
    nasi_ascent.ascend(given([np.nan] * 4, gradients), steps=4, nu=1.0, mode="adaptive")
  with pytest.raises(ConfigError, match="is zero in all 4"):
    nasi_ascent.ascend(given([1.0] * 4, np.zeros((4, 1, 2))), steps=4, nu=2.0, mode="fixed")


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

    path = nasi_ascent.ascend(step, steps=100, nu=1e6, mode="fixed").path
    found += np.array_equal(SPACE.from_weights(path[-1]), planted)
  assert found >= 9


# The search.


@pytest.fixture(scope="module")
def source():
  return data.load()


@dataclasses.dataclass(frozen=True)
class Smooth:
  """The smooth stand-in as a space's mixture; it has no batch normalisation."""

  shape: tuple[int, ...]
  classes: int
  size: Any = None
  rows_on_cpu: ClassVar[int] = 1

  def encode(self, codes):
    return np.eye(self.shape[-1], dtype=np.float32)[codes]

  def start(self, params, arch):
    return params

  def init(self, key):
    return tanh_params(key, 4 * 4 * 3, self.shape, classes=self.classes, size=self.size)

  def embed(self, params, inputs):
    return inputs[:, ::8, ::8]

  def apply(self, params, inputs, arch, mode="batch", **given):
    assert mode == "batch" and not given
    return Output(tanh_net(params, inputs, arch))


class StandIn(NB201):
  """NAS-Bench-201 with the smooth network."""

  def mixture(self, config):
    return Smooth(SHAPE, config.classes)


class StandInDARTS(DARTS):
  """DARTS with the smooth network."""

  def mixture(self, config):
    return Smooth(CELLS, config.classes)


def run(source, seed=0, records=(), space=StandIn(), **settings):  # noqa: B008
  """(result, records kept, steps that progress was told of)."""
  kept, done = [], Counted()
  config = NASIConfig(**{"nasi_steps": 6, "nasi_batch": 8, **settings})
  context = Context(space, source, config, records=records, keep=kept.append, advance=done)
  result = NASI().search(context, seed).found
  assert NASI().work(context).amount == nasi.evaluations(config)
  assert sum(done) == nasi.evaluations(config)
  assert set(done) == {1} and done.earlier == sum(done) - len(kept)
  return result, kept


def same(a, b):
  np.testing.assert_array_equal(a.archs, b.archs)
  np.testing.assert_array_equal(a.alphas, b.alphas)
  assert (a.history, a.summary) == (b.history, b.summary)


def test_search_resumes_exactly(source):
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


def test_a_longer_search_contains_the_shorter_one(source):
  short, kept = run(source)
  long, _ = run(source, nasi_steps=24)
  np.testing.assert_array_equal(long.archs[:6], short.archs)
  np.testing.assert_array_equal(long.archs[5], short.arch)
  assert long.history[:6] == short.history
  grown, added = run(source, nasi_steps=24, records=kept)
  assert len(added) == 18
  same(grown, long)


def test_calibration(source):
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


def test_xi_does_not_matter(source):
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
def test_variants_differ_and_repeat(source, settings):
  base, _ = run(source, nasi_nu=1.0)
  first, _ = run(source, nasi_nu=1.0, **settings)
  second, _ = run(source, nasi_nu=1.0, **settings)
  same(first, second)
  assert first.history[0]["trace_norm"] != base.history[0]["trace_norm"]


def test_a_disconnected_cell_is_said_to_be_one(source):
  none = np.zeros(SHAPE)
  none[..., SPACE.none_op] = 1
  records = [
    {"kind": "nasi", "seed": 0, "phase": "search", "step": t, "trace_norm": 1.0, "gradient": none.tolist()}
    for t in range(1, 7)
  ]
  result, kept = run(source, records=records, nasi_nu=5.0)
  assert kept == []
  assert result.status == result.summary["status"] == "disconnected"
  assert not result.arch.any()


def test_architectures_before_the_first_gradient(source):
  skip = SPACE.alphas([1] * 6)
  records = [
    {
      "kind": "nasi",
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
  result, kept = run(source, space=SPACE, **settings)
  again, _ = run(source, space=SPACE, records=kept[:1], **settings)
  same(again, result)
  config = NASIConfig(**{"nasi_batch": 8, **settings})
  init, _, search_key = jax.random.split(jax.random.key(0), 3)
  noise_key, batch_key = jax.random.split(jax.random.fold_in(search_key, 1))
  cell = np.argmax(jax.random.gumbel(noise_key, SHAPE, jnp.float32), -1)[0]
  images, labels = nasi_samples.draw_batch(source, batch_key, config.nasi_batch, gaussian=False, random_labels=False)
  network = SingleNetwork(4, 1, 10, config.nasi_init)

  def loss(p):
    return losses(network.apply(p, images, jnp.asarray(cell, jnp.int32)).logits, labels).mean()

  gradient = jax.jit(jax.grad(loss))(network.init(init))
  expected = sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
  np.testing.assert_allclose(result.history[0]["trace_norm"], expected, rtol=1e-3)


# The DARTS space.


def test_what_is_sampled():
  assert SPACE.choices().all()
  allowed = spaces.get("darts").choices()
  assert allowed.shape == CELLS
  assert not allowed[..., spaces.get("darts").none_op].any() and allowed.sum() == 2 * 14 * 7
  reduced = spaces.get("darts").choices(reduced=True)
  kept = [e for e, (target, source) in enumerate(spaces.get("darts").edges) if source >= target - 2]
  assert len(kept) == 8
  np.testing.assert_array_equal(reduced[:, kept], allowed[:, kept])
  assert reduced.sum() == 2 * 8 * 7


def test_cells_by_hand():
  """Node 5 (edges 9 to 13) of the normal cell: the strongest operations are those of its sources 1 and 4."""
  space, alphas = spaces.get("darts"), np.zeros((3, *CELLS))
  alphas[0, 0, 9:14, 4] = [0.2, 0.5, 0.3, 0.1, 0.4]
  alphas[0, 0, 10, 0] = 9.0  # `none` was never sampled: whatever stands there does not count
  alphas[0, 0, 11] = 0.8  # no operation of this edge is stronger than its others
  alphas[1], alphas[2] = 1e-9 * alphas[0], 1e5 * alphas[0]
  found, small, large = (space.to_cells(a)[0][6:] for a in space.derive(alphas))
  assert found == small == [("sep_conv_3x3", 1), ("sep_conv_3x3", 4)]
  assert {op for op, _ in large} == {"sep_conv_3x3"}
  preceding = space.to_cells(space.derive(alphas[0], reduced=True))[0][6:]
  assert preceding == [("sep_conv_3x3", 3), ("sep_conv_3x3", 4)]


@pytest.mark.parametrize("reduced", [False, True])
def test_search_of_darts(source, reduced):
  space = StandInDARTS()
  result, kept = run(source, space=space, nasi_reduced=reduced)
  allowed = space.choices(reduced)
  gradients = np.array([r["gradient"] for r in kept])
  assert np.isfinite(gradients).all()
  np.testing.assert_array_equal(gradients[:, ~allowed], 0)
  assert (np.abs(gradients).sum(0)[allowed] > 0).all()
  assert result.archs.shape == (6, 32) and result.status == "ok"
  np.testing.assert_array_equal(result.arch, space.parse(space.format(result.arch)))
  np.testing.assert_array_equal(result.arch, space.derive(result.alphas, reduced))
  if reduced:
    sources = [s for cell in space.to_cells(result.arch) for _, s in cell]
    assert sources == [0, 1, 1, 2, 2, 3, 3, 4] * 2
  json.dumps([result.history, result.summary])
  again, rest = run(source, space=space, nasi_reduced=reduced, records=json.loads(json.dumps(kept))[:35])
  assert rest == kept[35:]
  same(again, result)
  longer, _ = run(source, space=space, nasi_reduced=reduced, nasi_steps=8, records=kept)
  np.testing.assert_array_equal(longer.archs[:6], result.archs)


def test_planted_cells_are_found():
  """As above, with one operation of larger activations on two edges of every node."""
  planted = spaces.get("darts").sample(jax.random.key(1), 1)[0]
  size = np.maximum(1, 3 * spaces.get("darts").alphas(planted))
  program = jax.jit(jax.value_and_grad(functools.partial(sampled_trace_norm, kind="soft", allowed=True)))
  rng = np.random.default_rng(0)
  params = tanh_params(jax.random.key(2), 8, CELLS, size=size)

  def step(t):
    images = rng.normal(size=(16, 8)).astype(np.float32)
    labels, noise = rng.integers(0, 3, 16).astype(np.int32), rng.gumbel(size=CELLS).astype(np.float32)
    value, gradient = program(jnp.zeros(CELLS), params, noise, images, labels)
    return Step(float(value), np.asarray(gradient))

  alphas = nasi_ascent.ascend(step, steps=100, nu=1e6, mode="fixed").alphas
  np.testing.assert_array_equal(spaces.get("darts").derive(alphas), planted)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "batch_frozen"])
def test_gradient_through_the_darts_supernet(x64, mode):
  """As through the mixture, of a reduction cell."""
  network = spaces.get("darts").mixture(NetworkConfig(1, 1, 3))
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network.init(jax.random.key(0)))
  rng = np.random.default_rng(0)
  images, labels = jnp.asarray(rng.normal(size=(2, 8, 8, 3))), jnp.asarray(rng.integers(0, 3, 2))
  weights, direction = jax.nn.softmax(jnp.asarray(rng.normal(size=CELLS))), jnp.asarray(rng.normal(size=CELLS))

  def loss(p, w):
    return losses(nasi_samples.logits_of(network, mode)(p, images, w), labels).mean()

  program = jax.jit(jax.value_and_grad(lambda w: nasi_samples.trace_norm(loss, params, w)))
  up, down = (program(weights + s * 1e-6 * direction)[0] for s in (1, -1))
  np.testing.assert_allclose((up - down) / 2e-6, jnp.vdot(program(weights)[1], direction), rtol=1e-4)


@pytest.mark.slow
def test_search_on_the_darts_supernet(source):
  """Three cells: a normal one and two reduction cells."""
  settings = {"nasi_channels": 1, "nasi_cells": 3, "nasi_nu": 10.0, "nasi_steps": 2, "nasi_batch": 4}
  result, kept = run(Cut(source), space=spaces.get("darts"), **settings)
  allowed = spaces.get("darts").choices()
  for record in kept:
    gradient = np.array(record["gradient"])
    assert np.isfinite(gradient).all()
    assert (gradient[~allowed] == 0).all() and (np.abs(gradient).sum((1, 2)) > 0).all()
  assert result.status == "ok"


class Cut:
  """The middle 8 x 8 pixels of a source's images."""

  def __init__(self, source):
    self.source, self.image_shape = source, (8, 8, 3)

  def __getattr__(self, name):
    return getattr(self.source, name)

  def __len__(self):
    return len(self.source)

  def examples(self, indices):
    images, labels = self.source.examples(indices)
    return images[:, 12:20, 12:20], labels


# Settings.


def test_what_it_cannot_search(source):
  for name, settings, words in (
    ("nb201", NASIConfig(nasi_reduced=True), "nb201 has no reduced form; drop --nasi_reduced"),
    ("nb101", NASIConfig(), "--space=nb101"),
  ):
    with pytest.raises(ConfigError, match=words):
      NASI().work(Context(spaces.get(name), source, settings))


def test_the_outcome_is_for_the_reader(source):
  """A row with what a search of a quarter of the steps finds; the summary is kept."""
  context = Context(StandIn(), source, NASIConfig(nasi_steps=8, nasi_batch=8, nasi_nu=1.0))
  outcome = NASI().search(context, 0)
  (row,) = outcome.rows
  assert row["arch"] == SPACE.format(outcome.found.arch) and row["quarter_arch"] == SPACE.format(outcome.found.archs[1])
  assert {column.key for column in outcome.columns} <= row.keys()
  assert outcome.record == outcome.found.summary


@pytest.mark.parametrize(
  ("settings", "word"),
  [
    ({"nasi_steps": 0}, "--nasi_steps=0"),
    ({"nasi_batch": 0}, "--nasi_batch=0"),
    ({"nasi_cells": 0}, "--nasi_cells=0"),
    ({"nasi_nu": -1.0}, "--nasi_nu=-1"),
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
def test_bad_settings(unchecked, settings, word):
  with pytest.raises(ConfigError, match=word):
    NASIConfig(**settings)
