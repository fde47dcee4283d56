"""The network of one genotype against the same network in NumPy, and what proxies and training ask of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from darts_oracle import Oracle
from nb201_trees import shapes_of

from jaxnas import proxies, spaces
from jaxnas.base import Batch, NetworkConfig, Single, TappedNetwork, TrainableNetwork
from jaxnas.errors import ArchitectureError, ConfigError, DatasetError
from jaxnas.proxies.evaluation import Evaluation, sum_of_squares
from jaxnas.proxies.mgm import MGMCode, MGMTruncated
from jaxnas.scoring import engine
from jaxnas.spaces.darts import DARTSNetwork, auxiliary, costs, encoding, genotypes, layout

CONFIG = NetworkConfig(channels=2, cells=9, classes=3, init="kaiming_fan_out")  # stages of 3, 2 and 2 cells
DATA = DARTSNetwork(CONFIG)
ARCHS = encoding.sample(jax.random.key(3), 6)
MOBILE = {"stem": "imagenet", "cells": 3}  # a stage of one cell, two reductions side by side


def static(arch, **changes):
  return DARTSNetwork(dataclasses.replace(CONFIG, **changes), tuple(arch.tolist()))


def code_of(arch):
  return jnp.asarray(DATA.encode(arch[None])[0])


NONE = jnp.zeros(32, jnp.int32)  # no operation anywhere; what static networks get, who do not read it


def images_of(side=8, samples=3, seed=0):
  return np.random.default_rng(seed).normal(size=(samples, side, side, 3))


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
  def run(params, images, code):
    traces.append(1)
    out = DATA.apply(params, images, code, collect=("stats",))
    return out.logits, out.stats

  params, images = random_like(shapes_of(DATA)), images_of()
  for arch in ARCHS:
    logits, moments = run(params, images, code_of(arch))
    wanted = Oracle(params, images, arch, CONFIG)
    np.testing.assert_allclose(logits, wanted.logits, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moments["stem"]["a"][1], wanted.variances[0], rtol=1e-10)
    np.testing.assert_allclose(moments["stage_0"]["input_0"]["a"][1][0], wanted.variances[1], rtol=1e-10)
  logits, _ = run(params, images, NONE)
  np.testing.assert_allclose(logits, np.tile(params["classifier"]["bias"], (3, 1)))  # no operations: zeros
  assert len(traces) == 1


def gradient_program(network):
  return jax.jit(jax.grad(lambda params, images, code: loss_of(jnp, network.apply(params, images, code).logits)))


@pytest.mark.parametrize("network", [
  DARTSNetwork(dataclasses.replace(CONFIG, cells=1)),  # a reduction cell alone
  pytest.param(DATA, marks=pytest.mark.slow),
  pytest.param(DARTSNetwork(dataclasses.replace(CONFIG, **MOBILE)), marks=pytest.mark.slow),
])  # fmt: skip
def test_data_has_the_oracles_derivatives(x64, network):
  config, params = network.config, random_like(shapes_of(network))
  images, run = images_of(24 if config.stem == "imagenet" else 8), gradient_program(network)
  for arch in ARCHS[: 2 if config.cells == 1 else 4]:
    gradient = run(params, images, code_of(arch))
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
  gradient = gradient_program(network)(params, images, NONE)
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
  seen, gated = observed_and_gated(network)(params, images, NONE, gates)
  oracle = Oracle(params, images, arch, network.config)
  assert_observation(seen, oracle)
  wanted = Oracle(merged(params, gates), images, arch, network.config).logits
  np.testing.assert_allclose(gated, wanted, rtol=1e-9)
  kernels = sum(k[-1].key == "kernel" for k, _ in jax.tree_util.tree_leaves_with_path(params))
  assert len(jax.tree.leaves(gates)) == kernels - 1  # the classifier's has none


def observed_and_gated(network):
  def run(params, images, code, gates):
    seen = network.apply(params, images, code, collect=("observation", "taps"))
    return seen, network.apply(params, images, code, gates=gates).logits

  return jax.jit(run)


def assert_observation(out, oracle):
  seen = out.observation
  np.testing.assert_allclose(out.logits, oracle.logits, rtol=1e-9)
  np.testing.assert_array_equal(seen.features, out.taps[-1])
  np.testing.assert_allclose(seen.features, oracle.cells[-1].transpose(0, 2, 3, 1), rtol=1e-8, atol=1e-9)
  codes = np.concatenate([(r > 0).reshape(len(r), -1) for r in oracle.reads], 1)
  np.testing.assert_array_equal(seen.agreement, (codes[:, None] == codes[None]).sum(-1))
  deviations = [np.log(v.mean()) / 2 for v in oracle.variances if v.mean() > 0]
  np.testing.assert_allclose(seen.log_deviation, sum(deviations), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MOBILE])
def test_observation_and_gates_of_the_data_network(x64, changes):
  network, images = DARTSNetwork(dataclasses.replace(CONFIG, **changes)), images_of(24 if changes else 8)
  params = random_like(shapes_of(network))
  gates = jax.tree.map(lambda g: np.random.default_rng(g.size).uniform(0.5, 1.5, g.shape), network.gates(len(images)))
  run = observed_and_gated(network)
  for arch in ARCHS[:3]:
    seen, gated = run(params, images, code_of(arch), gates)
    assert_observation(seen, Oracle(params, images, arch, network.config))
    wanted = Oracle(merged(params, gates), images, arch, network.config).logits
    np.testing.assert_allclose(gated, wanted, rtol=1e-9)


# Training


def test_drop_path_and_statistics(x64):
  network, images = static(ARCHS[2], cells=3), images_of()
  params, key = random_like(shapes_of(network)), jax.random.key(5)

  @jax.jit
  def run(params, images, drop_path):
    dropped, batch = (
      network.train(params, images, NONE, drop_path, key),
      network.apply(params, images, NONE, collect=("stats",)),
    )
    running = network.apply(params, images, NONE, "running", stats=batch.stats).logits
    return dropped.logits, batch.logits, running, batch.stats, dropped.stats

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
  network, images, key = DARTSNetwork(config), images_of(), jax.random.key(5)
  params, drop = (
    random_like(shapes_of(network)),
    np.asarray(jax.random.uniform(key, (4, 8, 3), jnp.float32) < 0.5) / 0.5,
  )
  run = jax.jit(lambda p, x, a: network.train(p, x, a, 0.5, key).logits)
  moments = jax.jit(lambda p, x, a: network.apply(p, x, a, collect=("stats",)).stats)
  running = jax.jit(lambda p, x, a, s: network.apply(p, x, a, "running", stats=s).logits)
  for arch in ARCHS[:3]:
    code = code_of(arch)
    wanted = Oracle(params, images, arch, config, drop).logits
    np.testing.assert_allclose(run(params, images, code), wanted, rtol=1e-9)
    stats = moments(params, images, code)
    wanted = Oracle(params, images, arch, config).logits
    np.testing.assert_allclose(running(params, images, code, stats), wanted, rtol=1e-9)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_auxiliary_head_is_counted_and_computes_its_formula(x64, stem):
  side, stride, second = (8, 3, True) if stem == "cifar" else (7, 2, False)
  params = random_like(auxiliary_shapes(4, 3, second))
  x = np.random.default_rng(0).normal(size=(4, 2, side, side))

  def norm(_, z, bn):
    return z * bn["scale"][:, None, None, None] + bn["bias"][:, None, None, None]

  found = auxiliary.logits(jnp.asarray(x), jax.tree.map(jnp.asarray, params), norm, stride)
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
  params, images = jax.jit(network.init)(jax.random.key(0)), jnp.asarray(images_of(32), jnp.float32)
  out = jax.jit(lambda p, x: network.train(p, x, NONE, 0.0, None))(params, images)
  np.testing.assert_allclose(out.logits, plain.apply(params, images, NONE).logits, rtol=1e-4, atol=1e-5)
  assert out.auxiliary.shape == (3, 3) and np.abs(out.auxiliary - out.logits).max() > 1e-3
  assert out.stats["auxiliary"]["b"][0].shape == (768,)
  running = network.apply(params, images, NONE, "running", stats=out.stats)
  np.testing.assert_allclose(running.logits, out.logits, rtol=0.02, atol=0.02)  # these variances are of n - 1
  assert running.auxiliary is None
  assert jax.tree.structure(network.init_stats()) == jax.tree.structure(out.stats)


# Counts


@pytest.mark.parametrize(("network", "published"), [(costs.CIFAR10, 3_349_342), (costs.IMAGENET, 4_718_752)])
def test_trained_model_has_the_published_parameters(network, published):
  arch = genotypes.get("DARTS_V2")
  config, genotype = (
    NetworkConfig(network.channels, network.cells, network.classes, stem=network.stem),
    (*arch.tolist(),),
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(DARTSNetwork(config, genotype)))) == published
  with_head = DARTSNetwork(dataclasses.replace(config, auxiliary=True), genotype)
  extra = costs.auxiliary_cost(network).params
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(with_head))) == published + extra
  counted = with_head.costs(NONE, network.image_size)
  assert counted.params == published
  np.testing.assert_allclose(counted.macs, costs.macs(arch, network), 1e-7)


@pytest.mark.parametrize("changes", [{}, MOBILE])
def test_counts_are_those_of_the_formulas(changes):
  network = DARTSNetwork(dataclasses.replace(CONFIG, **changes))
  side, sizes = 64, jax.tree.map(lambda leaf: leaf.size, shapes_of(network))
  evaluation = layout.evaluation(network.config, side)

  @jax.jit
  def run(code):
    executed = jax.tree.map(lambda size, mask: size * mask.mean(), sizes, network.executed(code))
    return network.costs(code, side), sum(jax.tree.leaves(executed))

  for arch in (*ARCHS, genotypes.get("DARTS_V1")):
    counted, executed = run(code_of(arch))
    assert counted.params == executed == costs.params(arch, evaluation)
    np.testing.assert_allclose(counted.macs, costs.macs(arch, evaluation), rtol=1e-6)
  own = static(ARCHS[0], **changes)
  assert all(np.all(np.asarray(mask) == 1) for mask in jax.tree.leaves(own.executed(NONE)))
  assert own.costs(NONE, side).params == costs.params(ARCHS[0], evaluation)


def test_layers_are_all_convolutions_and_the_classifier():
  network = static(genotypes.get("DARTS_V2"), cells=3)
  params = jax.jit(network.init)(jax.random.key(0))
  sizes = network.by_layer(lambda w: jnp.asarray(w.size, jnp.float32), params)
  # stem, classifier; cell 0: two inputs, five separable and one dilated; cells 1 and 2: their inputs only
  assert len(sizes) == 2 + 2 + 5 * 4 + 2 + 2 + 3
  deviation = np.asarray(params["stage_0"]["node2_input0"]["sep_conv_3x3"]["a"]["dw"]["kernel"]).std()
  assert 0.2 < deviation / (2 / 18) ** 0.5 < 2  # fan out of one depthwise layer: 9 x 2 channels


# Proxies

MEASURED = [n for n in proxies.names() if n not in ("linear_regions", "signal_regression", "mgm_code", "mgm_truncated")]


def test_proxies_score_a_static_network():
  network, images = static(ARCHS[0], cells=1), jnp.asarray(images_of(8, 6), jnp.float32)
  params, names = jax.jit(network.init)(jax.random.key(0)), ("naswot", "grad_norm", "l2_norm", "params")

  @jax.jit
  def measure(params, images):
    evaluation = Evaluation(network, params, NONE, images, jnp.arange(6) % 3)
    return [proxies.get(name).measure(evaluation) for name in names]

  for name, raw in zip(names, measure(params, images), strict=True):
    assert proxies.get(name).finish(np.asarray(raw)).status == "ok", name


@pytest.mark.slow
@pytest.mark.parametrize("network", [static(ARCHS[0], cells=3), DARTSNetwork(dataclasses.replace(CONFIG, cells=1))])
def test_all_proxies_are_finite(network):
  names = MEASURED
  batch = Batch(jnp.asarray(images_of(8, 6), jnp.float32), jnp.arange(6) % 3)
  params = jax.jit(network.init)(jax.random.key(0))
  measured = [proxies.get(name) for name in names] + [kind(samples=6) for kind in (MGMCode, MGMTruncated)]
  codes = network.encode(ARCHS[:2])
  readings = engine.Engine(block=2).score(measured, network, params, codes, batch, key=jax.random.key(1))
  for name, own in zip([proxy.name for proxy in measured], readings, strict=True):
    assert all(np.isfinite(r.value) for r in own), (name, own)
    assert network.genotype or len({r.value for r in own}) == 2, name


@pytest.mark.slow
def test_gradient_is_that_of_the_genotype_alone():
  """Operations that the architecture lacks have no gradient, the others that of the static network."""
  config = dataclasses.replace(CONFIG, channels=4, cells=3)
  network, own = DARTSNetwork(config), static(ARCHS[0], channels=4, cells=3)
  params, images = jax.jit(network.init)(jax.random.key(0)), jnp.asarray(images_of(), jnp.float32)
  code = code_of(ARCHS[0])
  gradient = gradient_program(network)(params, images, code)
  masked = jax.tree.map(
    lambda g, m: g * m.reshape(m.shape + (1,) * (g.ndim - m.ndim)), gradient, network.executed(code)
  )
  np.testing.assert_array_equal(sum_of_squares(gradient), sum_of_squares(masked))
  wanted = gradient_program(own)(restricted(shapes_of(own), params), images, code)
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
  found = restricted(shapes_of(own), gradient)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale), found, wanted)


# GenNAS's backbone

BACKBONE = spaces.get("darts").backbone(NetworkConfig(channels=2, cells=3))


@pytest.fixture(scope="module")
def drawn():
  images = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
  return BACKBONE.init(jax.random.key(0)), BACKBONE.init_stats(), images


def test_taps_are_the_stages_outputs(drawn):
  params, _, images = drawn
  code = code_of(genotypes.get("DARTS_V2"))
  out = jax.jit(lambda p, x: BACKBONE.apply(p, x, code, collect=("taps", "running_stats", "observation")))(
    params, images
  )
  assert [tap.shape for tap in out.taps] == [(3, 8, 8, 8), (3, 4, 4, 16), (3, 2, 2, 32)]
  assert tuple(tap.shape[-1] for tap in out.taps) == BACKBONE.tap_channels
  np.testing.assert_array_equal(out.taps[-1], out.observation.features)
  mean, variance = out.stats["stem"]["a"]
  np.testing.assert_array_less(1e-9, np.abs(mean))
  np.testing.assert_array_less(0, variance)
  assert BACKBONE.variants() == (BACKBONE,) and BACKBONE.variant(code) == 0


def test_samples_do_not_see_each_other_in_running_mode(drawn):
  params, stats, images = drawn
  code = code_of(genotypes.get("DARTS_V2"))
  run = jax.jit(lambda p, s, x: BACKBONE.apply(p, x, code, "running", stats=s, collect=("taps",)).taps)
  both, one = run(params, stats, images), run(params, stats, images[:1])
  np.testing.assert_allclose(both[-1][:1], one[-1], rtol=1e-4, atol=1e-5)


def test_fewer_than_three_taps_are_refused():
  with pytest.raises(ConfigError, match="cells=2 must be at least 3"):
    spaces.get("darts").backbone(NetworkConfig(cells=2))


# Bad input


def test_bad_settings_are_named(unchecked):
  for changes, message in (
    ({"cells": 0}, "cells=0"),
    ({"channels": 3, "stem": "imagenet"}, "channels=3 must be even"),
    ({"stem": "mnist"}, "stem='mnist'"),
    ({"init": "ones"}, "init='ones'"),
  ):
    with pytest.raises(ConfigError, match=message):
      DARTSNetwork(dataclasses.replace(CONFIG, **changes))
  with pytest.raises(ArchitectureError, match="node 2, input 0: 0 is no op"):
    DARTSNetwork(CONFIG, (0,) * 32)
  swapped = ARCHS[0].reshape(16, 2).copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  assert static(swapped.ravel()) == static(ARCHS[0])


def test_bad_arguments_are_named(unchecked):
  images, params = jnp.zeros((2, 8, 8, 3)), shapes_of(DATA)
  with pytest.raises(ConfigError, match=r"arch of shape \(2, 14, 8\): expected \(32,\)"):
    DATA.apply(params, images, jnp.zeros((2, 14, 8)))
  with pytest.raises(DatasetError, match=r"images of shape \(2, 8, 8, 1\)"):
    DATA.apply(params, jnp.zeros((2, 8, 8, 1)), NONE)
  with pytest.raises(ConfigError, match="needs stats"):
    DATA.apply(params, images, NONE, "running")
  with pytest.raises(ConfigError, match="mode='group'"):
    DATA.apply(params, images, NONE, "group")
  with pytest.raises(ConfigError, match="collect='maps': this network has only stats,"):
    DATA.apply(params, images, NONE, collect=("maps",))


def test_it_keeps_the_contracts():
  assert isinstance(DATA, Single) and isinstance(DATA, TappedNetwork) and isinstance(DATA, TrainableNetwork)
  assert hash(DATA) == hash(DARTSNetwork(CONFIG)) and DARTSNetwork(CONFIG) == DATA
  params, images = {"a": NONE}, jnp.zeros((1, 4, 4, 3))
  assert DATA.start(params, NONE) is params and DATA.embed(params, images) is images
  assert DATA.used_channels(NONE) is None
