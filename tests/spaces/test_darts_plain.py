"""The network of one genotype against the same network in NumPy, and what proxies and training ask of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from darts_oracle import Oracle

from jaxnas import proxies
from jaxnas.base import Batch
from jaxnas.errors import ArchitectureError, ConfigError, DatasetError
from jaxnas.proxies.evaluation import Evaluation, sum_of_squares
from jaxnas.proxies.mgm import MGMCode, MGMTruncated
from jaxnas.scoring import engine
from jaxnas.spaces.adapter import AdaptedSingle
from jaxnas.spaces.darts import auxiliary, costs, encoding, genotypes
from jaxnas.spaces.darts.encoding import OPS
from jaxnas.spaces.darts.plain import NetworkConfig, PlainNetwork

CONFIG = NetworkConfig(channels=2, cells=9, classes=3)  # stages of 3, 2 and 2 cells
DATA = PlainNetwork(CONFIG)
ARCHS = encoding.sample(jax.random.key(3), 6)
MOBILE = {"stem": "imagenet", "cells": 3}  # a stage of one cell, two reductions side by side


def static(arch, **changes):
  return PlainNetwork(dataclasses.replace(CONFIG, genotype=tuple(arch.tolist()), **changes))


def alphas_of(arch, dtype=jnp.float64):
  return jnp.asarray(encoding.alphas(arch), dtype)


def images_of(side=8, samples=3, seed=0):
  return np.random.default_rng(seed).normal(size=(samples, side, side, 3))


@functools.cache
def shapes_of(network):
  return jax.eval_shape(network.init_params, jax.random.key(0))


def random_like(shapes, seed=0):
  """Float64 arrays, BN scales and biases not 1 and 0."""
  rng = np.random.default_rng(seed)
  spread = {"kernel": (0, 0.4), "scale": (1, 0.2), "bias": (0, 0.1)}
  return jax.tree_util.tree_map_with_path(lambda path, s: rng.normal(*spread[path[-1].key], s.shape), shapes)


def restricted(shapes, tree):
  """The leaves of `tree` that another network has."""
  return {k: restricted(v, tree[k]) for k, v in shapes.items()} if isinstance(shapes, dict) else tree


def loss_of(xp, logits):
  """Any smooth function."""
  return (xp.sin(logits) * np.arange(1.0, 1 + logits.size).reshape(logits.shape)).sum()


def along(f, tree, direction):
  """The derivative of f at the tree in this direction, exact up to rounding: a complex step."""
  return f(jax.tree.map(lambda x, d: x + 1e-100j * d, tree, direction)).imag / 1e-100


def assert_gradient(gradient, f, tree, names):
  """In random directions, one for each kind of leaf."""
  for name in names:
    direction = jax.tree_util.tree_map_with_path(
      lambda path, x, name=name: np.random.default_rng(x.size).normal(size=x.shape) * (path[-1].key == name), tree
    )
    found = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradient, direction)))
    np.testing.assert_allclose(found, along(f, tree, direction), rtol=1e-10, err_msg=name)


# Values and derivatives


def test_data_is_the_oracle_with_one_compilation(x64):
  traces = []

  @jax.jit
  def run(params, images, alphas):
    traces.append(1)
    return DATA.logits_and_moments(params, images, alphas)

  params, images = random_like(shapes_of(DATA)), images_of()
  for arch in ARCHS:
    logits, moments = run(params, images, alphas_of(arch))
    wanted = Oracle(params, images, arch, CONFIG)
    np.testing.assert_allclose(logits, wanted.logits, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moments["stem"]["a"][1], wanted.variances[0], rtol=1e-10)
    np.testing.assert_allclose(moments["stage_0"]["input_0"]["a"][1][0], wanted.variances[1], rtol=1e-10)
  logits, _ = run(params, images, jnp.zeros((2, 14, 8)))
  np.testing.assert_allclose(logits, np.tile(params["classifier"]["bias"], (3, 1)))  # no operations: zeros
  assert len(traces) == 1


def gradient_program(network):
  return jax.jit(jax.grad(lambda params, images, alphas: loss_of(jnp, network.logits(params, images, alphas))))


@pytest.mark.parametrize("network", [
  PlainNetwork(dataclasses.replace(CONFIG, cells=1)),  # a reduction cell alone
  pytest.param(DATA, marks=pytest.mark.slow),
  pytest.param(PlainNetwork(dataclasses.replace(CONFIG, **MOBILE)), marks=pytest.mark.slow),
])  # fmt: skip
def test_data_has_the_oracles_derivatives(x64, network):
  config, params = network.config, random_like(shapes_of(network))
  images, run = images_of(24 if config.stem == "imagenet" else 8), gradient_program(network)
  for arch in ARCHS[: 2 if config.cells == 1 else 4]:
    gradient = run(params, images, alphas_of(arch))
    wanted = lambda p, arch=arch: loss_of(np, Oracle(p, images, arch, config).logits)  # noqa: E731
    assert_gradient(gradient, wanted, params, ("kernel", "scale", "bias"))


@pytest.mark.parametrize("changes", [
  MOBILE,
  pytest.param({}, marks=pytest.mark.slow),
  pytest.param({"cells": 2}, marks=pytest.mark.slow),
  pytest.param({"cells": 6, "stem": "imagenet"}, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("arch", [ARCHS[0], pytest.param(genotypes.get("PC_DARTS_CIFAR"), marks=pytest.mark.slow)])
def test_static_has_the_oracles_derivatives(x64, arch, changes):
  network = static(arch, **changes)
  params, images = random_like(shapes_of(network)), images_of(24 if "stem" in changes else 8)
  gradient = gradient_program(network)(params, images, None)
  assert_gradient(
    gradient, lambda p: loss_of(np, Oracle(p, images, arch, network.config).logits), params, ("kernel", "scale", "bias")
  )


def merged(params, gates):
  """Gates beside their kernels."""
  if not isinstance(gates, dict):
    return {**params, "gate": gates}
  return {k: merged(v, gates[k]) if k in gates else v for k, v in params.items()}


def test_observation_and_gates_of_the_static_network(x64):
  arch, images = ARCHS[1], images_of(24)
  network = static(arch, **MOBILE)
  params = random_like(shapes_of(network))
  gates = jax.tree.map(lambda g: np.random.default_rng(g.size).uniform(0.5, 1.5, g.shape), network.gates(len(images)))
  seen, gated = jax.jit(lambda p, x, g: (network.observe(p, x, None), network.logits(p, x, None, gates=g)))(
    params, images, gates
  )
  oracle = Oracle(params, images, arch, network.config)
  assert_observation(seen, oracle)
  wanted = Oracle(merged(params, gates), images, arch, network.config).logits
  np.testing.assert_allclose(gated, wanted, rtol=1e-9)
  kernels = sum(k[-1].key == "kernel" for k, _ in jax.tree_util.tree_leaves_with_path(params))
  assert len(jax.tree.leaves(gates)) == kernels - 1  # the classifier's has none


def assert_observation(seen, oracle):
  np.testing.assert_allclose(seen.logits, oracle.logits, rtol=1e-9)
  np.testing.assert_allclose(seen.features, oracle.cells[-1].transpose(0, 2, 3, 1), rtol=1e-8, atol=1e-9)
  codes = np.concatenate([(r > 0).reshape(len(r), -1) for r in oracle.reads], 1)
  np.testing.assert_array_equal(seen.agreement, (codes[:, None] == codes[None]).sum(-1))
  deviations = [np.log(v.mean()) / 2 for v in oracle.variances if v.mean() > 0]
  np.testing.assert_allclose(seen.log_deviation, sum(deviations), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MOBILE])
def test_observation_and_gates_of_the_data_network(x64, changes):
  network, images = PlainNetwork(dataclasses.replace(CONFIG, **changes)), images_of(24 if changes else 8)
  params = random_like(shapes_of(network))
  gates = jax.tree.map(lambda g: np.random.default_rng(g.size).uniform(0.5, 1.5, g.shape), network.gates(len(images)))
  run = jax.jit(lambda p, x, a, g: (network.observe(p, x, a), network.logits(p, x, a, gates=g)))
  for arch in ARCHS[:3]:
    seen, gated = run(params, images, alphas_of(arch), gates)
    assert_observation(seen, Oracle(params, images, arch, network.config))
    wanted = Oracle(merged(params, gates), images, arch, network.config).logits
    np.testing.assert_allclose(gated, wanted, rtol=1e-9)


# Training


def test_drop_path_and_statistics(x64):
  network, images = static(ARCHS[2], cells=3), images_of()
  params, key = random_like(shapes_of(network)), jax.random.key(5)

  @jax.jit
  def run(params, images, drop_path):
    dropped, unbiased = network.logits_and_moments(params, images, None, unbiased=True, drop_path=drop_path, key=key)
    logits, moments = network.logits_and_moments(params, images, None)
    running = network.with_batch_norm("running").logits(params, images, None, stats=moments)
    return dropped, logits, running, moments, unbiased

  dropped, logits, running, moments, unbiased = run(params, images, jnp.float64(0.5))
  np.testing.assert_allclose(running, logits, rtol=1e-10)
  drop = np.asarray(jax.random.uniform(key, (3, 8, 3), jnp.float32) < 0.5) / 0.5
  np.testing.assert_allclose(dropped, Oracle(params, images, ARCHS[2], network.config, drop).logits, rtol=1e-9)
  assert np.abs(dropped - logits).max() > 1e-3
  none_dropped, logits, *_ = run(params, images, jnp.float64(0))
  np.testing.assert_array_equal(none_dropped, logits)
  count = len(images) * 8 * 8
  np.testing.assert_allclose(unbiased["stem"]["a"][1], moments["stem"]["a"][1] * count / (count - 1), rtol=1e-12)
  start = network.init_stats()
  assert jax.tree.structure(start) == jax.tree.structure(moments)
  assert [leaf.shape for leaf in jax.tree.leaves(start)] == [leaf.shape for leaf in jax.tree.leaves(moments)]
  np.testing.assert_array_equal(start["stem"]["a"][1], np.ones(6))


@pytest.mark.slow
def test_drop_path_and_statistics_where_the_architecture_is_data(x64):
  config = dataclasses.replace(CONFIG, cells=4)
  network, images, key = PlainNetwork(config), images_of(), jax.random.key(5)
  params, drop = (
    random_like(shapes_of(network)),
    np.asarray(jax.random.uniform(key, (4, 8, 3), jnp.float32) < 0.5) / 0.5,
  )
  run = jax.jit(lambda p, x, a: network.logits_and_moments(p, x, a, drop_path=0.5, key=key)[0])
  moments = jax.jit(network.moments)
  running = jax.jit(lambda p, x, a, s: network.with_batch_norm("running").logits(p, x, a, stats=s))
  for arch in ARCHS[:3]:
    alphas = alphas_of(arch)
    wanted = Oracle(params, images, arch, config, drop).logits
    np.testing.assert_allclose(run(params, images, alphas), wanted, rtol=1e-9)
    stats = moments(params, images, alphas)
    wanted = Oracle(params, images, arch, config).logits
    np.testing.assert_allclose(running(params, images, alphas, stats), wanted, rtol=1e-9)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_auxiliary_head_is_counted_and_computes_its_formula(x64, stem):
  side, stride, second = (8, 3, True) if stem == "cifar" else (7, 2, False)
  params = random_like(auxiliary_shapes(4, 3, second))
  x = np.random.default_rng(0).normal(size=(4, 2, side, side))

  def norm(_, z, bn):
    return z * bn["scale"][:, None, None, None] + bn["bias"][:, None, None, None]

  found = auxiliary.logits(jnp.asarray(x), params, norm, stride)
  x = np.maximum(x, 0)
  starts = (0, stride)
  pooled = np.array([[x[:, :, i : i + 5, j : j + 5].mean((2, 3)) for j in starts] for i in starts])  # [2, 2, C, N]
  z = np.einsum("ijcn,cd->ijdn", pooled, params["a"]["conv"]["kernel"][0, 0])
  z = np.maximum(z * params["a"]["bn"]["scale"][:, None] + params["a"]["bn"]["bias"][:, None], 0)
  y = np.einsum("ijdn,ijdf->nf", z, params["b"]["conv"]["kernel"])
  if second:
    y = y * params["b"]["bn"]["scale"] + params["b"]["bn"]["bias"]
  wanted = np.maximum(y, 0) @ params["classifier"]["kernel"] + params["classifier"]["bias"]
  np.testing.assert_allclose(found, wanted, rtol=1e-10)
  with pytest.raises(DatasetError, match="maps of 3x3"):
    auxiliary.logits(jnp.zeros((4, 2, 3, 3)), params, norm, stride)


def auxiliary_shapes(channels, classes, second):
  shapes = auxiliary.shapes(channels, classes, second)
  return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float64), shapes, is_leaf=lambda s: isinstance(s, tuple))


@pytest.mark.slow
def test_auxiliary_head_within_the_network():
  network = static(ARCHS[3], cells=3, auxiliary=True)
  plain = dataclasses.replace(network, config=dataclasses.replace(network.config, auxiliary=False))
  params, images = jax.jit(network.init_params)(jax.random.key(0)), jnp.asarray(images_of(32), jnp.float32)
  (logits, side), moments = jax.jit(lambda p, x: network.logits_and_moments(p, x, None))(params, images)
  np.testing.assert_allclose(logits, plain.logits(params, images, None), rtol=1e-4, atol=1e-5)
  assert side.shape == (3, 3) and np.abs(side - logits).max() > 1e-3
  assert moments["auxiliary"]["b"][0].shape == (768,)
  frozen = network.with_batch_norm("running")
  np.testing.assert_allclose(frozen.logits(params, images, None, stats=moments), logits, rtol=1e-4, atol=1e-4)
  assert jax.tree.structure(network.init_stats()) == jax.tree.structure(moments)


# Counts


@pytest.mark.parametrize(("network", "published"), [(costs.CIFAR10, 3_349_342), (costs.IMAGENET, 4_718_752)])
def test_trained_model_has_the_published_parameters(network, published):
  arch = genotypes.get("DARTS_V2")
  config = NetworkConfig(network.channels, network.cells, network.classes, network.stem, genotype=tuple(arch.tolist()))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(PlainNetwork(config)))) == published
  with_head = PlainNetwork(dataclasses.replace(config, auxiliary=True))
  extra = costs.auxiliary_cost(network).params
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(with_head))) == published + extra
  assert with_head.parameter_count(jnp.zeros(())) == published
  np.testing.assert_allclose(with_head.mac_count(jnp.zeros(()), network.image_size), costs.macs(arch, network), 1e-7)


@pytest.mark.parametrize("changes", [{}, MOBILE])
def test_counts_are_those_of_the_formulas(changes):
  network = PlainNetwork(dataclasses.replace(CONFIG, **changes))
  side, sizes = 64, jax.tree.map(lambda leaf: leaf.size, shapes_of(network))
  evaluation = network.config.evaluation(side)

  @jax.jit
  def run(alphas):
    executed = jax.tree.map(lambda size, mask: size * mask.mean(), sizes, network.executed(alphas))
    return network.parameter_count(alphas), sum(jax.tree.leaves(executed)), network.mac_count(alphas, side)

  for arch in (*ARCHS, genotypes.get("DARTS_V1")):
    count, executed, macs = run(alphas_of(arch, jnp.float32))
    assert count == executed == costs.params(arch, evaluation)
    np.testing.assert_allclose(macs, costs.macs(arch, evaluation), rtol=1e-6)
  own = static(ARCHS[0], **changes)
  assert all(np.all(np.asarray(mask) == 1) for mask in jax.tree.leaves(own.executed(jnp.zeros(()))))
  assert own.parameter_count(jnp.zeros(())) == costs.params(ARCHS[0], evaluation)


def test_layers_are_all_convolutions_and_the_classifier():
  network = static(genotypes.get("DARTS_V2"), cells=3)
  params = jax.jit(network.init_params)(jax.random.key(0))
  sizes = network.by_layer(lambda w: jnp.asarray(w.size, jnp.float32), params)
  # stem, classifier; cell 0: two inputs, five separable and one dilated; cells 1 and 2: their inputs only
  assert len(sizes) == 2 + 2 + 5 * 4 + 2 + 2 + 3
  deviation = np.asarray(params["stage_0"]["node2_input0"]["sep_conv_3x3"]["a"]["dw"]["kernel"]).std()
  assert 0.2 < deviation / (2 / 18) ** 0.5 < 2  # fan out of one depthwise layer: 9 x 2 channels


# Proxies

MEASURED = [n for n in proxies.names() if n not in ("linear_regions", "signal_regression", "mgm_code", "mgm_truncated")]


def test_proxies_score_a_static_network():
  network, images = static(ARCHS[0], cells=1), jnp.asarray(images_of(8, 6), jnp.float32)
  params, names = jax.jit(network.init_params)(jax.random.key(0)), ("naswot", "grad_norm", "l2_norm", "params")

  @jax.jit
  def measure(params, images):
    own, arch = AdaptedSingle(network, encoding.alphas), jnp.zeros((2, 14, 8))
    evaluation = Evaluation(own, params, arch, images, jnp.arange(6) % 3)
    return [proxies.get(name).measure(evaluation) for name in names]

  for name, raw in zip(names, measure(params, images), strict=True):
    assert proxies.get(name).finish(np.asarray(raw)).status == "ok", name


@pytest.mark.slow
@pytest.mark.parametrize("network", [static(ARCHS[0], cells=3), PlainNetwork(dataclasses.replace(CONFIG, cells=1))])
def test_all_proxies_are_finite(network):
  names = MEASURED
  batch = Batch(jnp.asarray(images_of(8, 6), jnp.float32), jnp.arange(6) % 3)
  params = jax.jit(network.init_params)(jax.random.key(0))
  alphas = np.asarray(encoding.alphas(ARCHS[:2]), np.float32)
  measured = [proxies.get(name) for name in names] + [kind(samples=6) for kind in (MGMCode, MGMTruncated)]
  readings = engine.Engine(block=2).score(
    measured, AdaptedSingle(network, encoding.alphas), params, alphas, batch, key=jax.random.key(1)
  )
  for name, own in zip([proxy.name for proxy in measured], readings, strict=True):
    assert all(np.isfinite(r.value) for r in own), (name, own)
    assert network.config.genotype or len({r.value for r in own}) == 2, name


@pytest.mark.slow
def test_gradient_is_that_of_the_genotype_alone():
  """Operations that the architecture lacks have no gradient, the others that of the static network."""
  config = dataclasses.replace(CONFIG, channels=4, cells=3)
  network, own = PlainNetwork(config), static(ARCHS[0], channels=4, cells=3)
  params, images = jax.jit(network.init_params)(jax.random.key(0)), jnp.asarray(images_of(), jnp.float32)
  alphas = alphas_of(ARCHS[0], jnp.float32)
  gradient = gradient_program(network)(params, images, alphas)
  masked = jax.tree.map(
    lambda g, m: g * m.reshape(m.shape + (1,) * (g.ndim - m.ndim)), gradient, network.executed(alphas)
  )
  np.testing.assert_array_equal(sum_of_squares(gradient), sum_of_squares(masked))
  wanted = gradient_program(own)(restricted(shapes_of(own), params), images, alphas)
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
  found = restricted(shapes_of(own), gradient)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale), found, wanted)


# Bad input


def test_bad_settings_are_named():
  for changes, message in (
    ({"cells": 0}, "cells is 0"),
    ({"channels": 3, "stem": "imagenet"}, "channels=3 must be even"),
    ({"stem": "mnist"}, "stem='mnist'"),
    ({"batch_norm": "group"}, "batch_norm='group'"),
    ({"init": "ones"}, "init='ones'"),
  ):
    with pytest.raises(ConfigError, match=message):
      NetworkConfig(**changes)
  with pytest.raises(ArchitectureError, match="node 2, input 0: 0 is no op"):
    NetworkConfig(genotype=(0,) * 32)
  swapped = ARCHS[0].reshape(16, 2).copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert static(swapped.ravel()) == static(ARCHS[0])


def test_bad_arguments_are_named():
  images, alphas, params = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 14, 8)), shapes_of(DATA)
  with pytest.raises(ConfigError, match=r"alphas of shape \(1, 6, 5\): expected \(2, 14, 8\)"):
    DATA.logits(params, images, jnp.zeros((1, 6, 5)))
  with pytest.raises(DatasetError, match=r"images of shape \(2, 8, 8, 1\)"):
    DATA.logits(params, jnp.zeros((2, 8, 8, 1)), alphas)
  with pytest.raises(ConfigError, match="needs stats"):
    DATA.with_batch_norm("running").logits(params, images, alphas)
  with pytest.raises(ConfigError, match="key=None"):
    DATA.logits_and_moments(params, images, alphas, drop_path=0.1)
  assert OPS[0] == "none"
