"""The network of one architecture against `Network` on one-hot alphas, and what it shows to proxies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces.nb201 import NetworkConfig, PlainNetwork, costs, encoding
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import CONVS, Network
from jaxnas.spaces.nb201.plain import STAGES, stack

# Compiling is most of the time here: LLVM without its expensive passes.

CONFIG = NetworkConfig(channels=4, cells=2, classes=3, fused=False)
PLAIN = PlainNetwork(CONFIG)
# `Network` with one convolution an edge compiles in half the time; PLAIN has them all.
MIXED = Network(
  dataclasses.replace(CONFIG, ops=((0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 3), (0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2)))
)
# One cell a stage, for what compiles long.
SHORT_PLAIN = PlainNetwork(dataclasses.replace(CONFIG, cells=1))
SHORT_MIXED = Network(dataclasses.replace(MIXED.config, cells=1))
LABELS = np.array([0, 2, 1])
ARCHS = {
  "convolutions": (3, 2, 3, 3, 2, 2),
  "every op": (3, 1, 0, 4, 2, 2),
  "pools": (4, 4, 3, 1, 4, 2),
  "all skip": (1, 1, 1, 1, 1, 1),
  "all none": (0, 0, 0, 0, 0, 0),
  "no path": (3, 2, 3, 0, 0, 0),  # nodes 1 and 2 lead nowhere
  "dead nodes feed convolutions": (0, 0, 3, 3, 2, 1),  # nodes 1 and 2 do not see the input
  "useless node": (3, 0, 3, 3, 2, 0),  # node 2 leads nowhere
}


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


def images_of(seed=0):
  return jnp.asarray(draw(seed, 3, 8, 8, 3))


def alphas(arch):
  return jnp.asarray(encoding.alphas(arch), jnp.float64)


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def full_params(seed=0, cells=CONFIG.cells):
  """Parameters of a `Network` with every operation, float64, BN scales and biases not 1 and 0."""
  rng = np.random.default_rng(seed)
  shapes = flat(jax.eval_shape(Network(dataclasses.replace(CONFIG, cells=cells)).init_params, jax.random.key(0)))
  spread = {"kernel": (0, 0.3), "scale": (1, 0.2), "bias": (0, 0.1)}
  leaves = {k: jnp.asarray(rng.normal(*spread[k.split("/")[-1]], v.shape)) for k, v in shapes.items()}
  return traverse_util.unflatten_dict(leaves, sep="/")


def mixed_params(full, network=MIXED):
  """Those of them that MIXED has."""
  kept, leaves = flat(jax.eval_shape(network.init_params, jax.random.key(0))), flat(full)
  return traverse_util.unflatten_dict({k: leaves[k] for k in kept}, sep="/")


def completed(tree, full):
  """A tree of SHORT_MIXED's parameters as SHORT_PLAIN's: zeros where the former has none, cells stacked."""
  leaves = {k: jnp.zeros_like(v) for k, v in flat(full).items()} | flat(tree)
  return stack(traverse_util.unflatten_dict(leaves, sep="/"), 1)


def assert_tree(found, wanted, name, tolerance=1e-9):
  """Leaf by leaf, relative to the largest entry of all."""
  found, wanted = flat(found), flat(wanted)
  assert found.keys() == wanted.keys()
  scale = max(np.abs(leaf).max() for leaf in wanted.values())
  for key, leaf in wanted.items():
    np.testing.assert_allclose(found[key], leaf, rtol=0, atol=tolerance * scale, err_msg=f"{name}: {key}")


def loss_of(logits):
  hot = jax.nn.one_hot(LABELS, logits.shape[-1], dtype=logits.dtype)
  return -(jax.nn.log_softmax(logits) * hot).sum(-1).mean()


# Against Network


@functools.cache
def program(network, mode):
  """(gradients of the loss, logits); in mode `running` by the statistics of other images."""

  def run(params, images, alphas, others):
    own = network.with_batch_norm(mode)
    stats = network.moments(params, others, alphas) if mode == "running" else None

    def loss(params):
      logits = own.logits(params, images, alphas, stats=stats)
      return loss_of(logits), logits

    return jax.grad(loss, has_aux=True)(params)

  return jax.jit(run)


@pytest.mark.parametrize(
  ("mode", "rows"),
  [
    ("batch", False),
    *(
      pytest.param(mode, rows, marks=pytest.mark.slow)
      for mode, rows in [
        ("batch", True),
        ("running", False),
        ("running", True),
        ("batch_frozen", False),
        ("batch_frozen", True),
        ("identity", False),
        ("identity", True),
      ]
    ),
  ],
)
def test_is_the_network_of_one_hot_alphas(x64, mode, rows):
  network, full = SHORT_PLAIN.for_rows() if rows else SHORT_PLAIN, full_params(cells=1)
  for name, arch in ARCHS.items():
    given = images_of(), alphas(arch), images_of(1)
    gradient, logits = program(network, mode)(stack(full, 1), *given)
    wanted_gradient, wanted = program(SHORT_MIXED, mode)(mixed_params(full, SHORT_MIXED), *given)
    np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-11, err_msg=name)
    assert_tree(gradient, completed(wanted_gradient, full), name)


@pytest.mark.slow
def test_hessian_vector_product(x64):
  """Reverse mode twice, through the branches' own pull-backs and the convolutions'."""

  def product(network):
    def slope(params, along, images, alphas):
      gradient = jax.grad(lambda p: loss_of(network.logits(p, images, alphas)))(params)
      return sum(jnp.vdot(g, a) for g, a in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))

    return jax.jit(jax.grad(slope))

  full, along = full_params(cells=1), full_params(1, cells=1)
  plain, mixed = product(SHORT_PLAIN), product(SHORT_MIXED)
  for name in ("convolutions", "pools", "no path"):
    given = images_of(), alphas(ARCHS[name])
    found = plain(stack(full, 1), stack(along, 1), *given)
    wanted = mixed(mixed_params(full, SHORT_MIXED), mixed_params(along, SHORT_MIXED), *given)
    assert_tree(found, completed(wanted, full), name, 1e-8)


def test_running_by_a_batchs_own_moments_is_batch(x64):
  """Then samples do not mix: the half of a batch has the outputs that it has in the whole."""
  params, images = stack(full_params(), CONFIG.cells), images_of()
  running = PLAIN.with_batch_norm("running").for_rows()

  @jax.jit
  def both(params, images, alphas):
    logits, stats = PLAIN.logits_and_moments(params, images, alphas)
    return logits, running.logits(params, images[:2], alphas, stats=stats)

  for name, arch in ARCHS.items():
    logits, found = both(params, images, alphas(arch))
    np.testing.assert_allclose(found, logits[:2], rtol=1e-9, atol=1e-11, err_msg=name)


def test_initialisation_is_that_of_network():
  config = dataclasses.replace(CONFIG, cells=1, channels=2)
  key = jax.random.key(3)
  found, one_by_one = PlainNetwork(config).init_params(key), Network(config).init_params(key)
  assert sum(leaf.size for leaf in jax.tree.leaves(found)) == sum(leaf.size for leaf in jax.tree.leaves(one_by_one))
  for name, leaf in flat(found["stage_2"]).items():
    np.testing.assert_array_equal(leaf[0], flat(one_by_one["cells_4"])[name])
  np.testing.assert_array_equal(
    found["reduce_2"]["downsample"]["conv"]["kernel"], one_by_one["cells_3"]["downsample"]["conv"]["kernel"]
  )


def test_stack_keeps_the_order_of_cells():
  numbered = {f"cells_{i}": {"kernel": jnp.asarray(float(i))} for i in range(8)}
  found = stack({"stem": {}, "last": {}, "classifier": {}, **numbered}, 2)
  order = [(name, found[name]["kernel"].tolist()) for name in ("stage_0", "reduce_1", "stage_1", "reduce_2", "stage_2")]
  assert order == [
    ("stage_0", [0, 1]),
    ("reduce_1", 2),
    ("stage_1", [3, 4]),
    ("reduce_2", 5),
    ("stage_2", [6, 7]),
  ]


# What it shows


@functools.cache
def observer():
  return jax.jit(PLAIN.observe)


@functools.cache
def collector():
  """`Network`'s collections."""

  def run(params, images, alphas):
    return MIXED.apply({"params": params}, images, alphas, mutable=["patterns", "moments", "features"])

  return jax.jit(run)


def expected_observation(arch, state):
  """(agreement, log deviation) by numpy: a convolution's ReLU and its BN are counted once for each edge and cell."""
  patterns, moments = state["patterns"], state["moments"]
  found, layers = [], [moments["stem"], moments["last"]]
  for i in range(3 * CONFIG.cells + 2):
    own, seen = moments[f"cells_{i}"], patterns[f"cells_{i}"]
    if "conv_a" in own:
      found += [seen["before_conv_a"][0], seen["before_conv_b"][0]]
      layers += [own["conv_a"], own["conv_b"]]
    else:
      for op, (target, source) in zip(arch, EDGES, strict=True):
        if op in CONVS:
          found.append(seen[f"node{source}"][0])
          layers.append(own[f"edge{target}_{source}"][OPS[op]])
  found.append(patterns["after_last"][0])
  bits = np.concatenate([np.asarray(b).reshape(len(b), -1) for b in found], 1)
  variances = [layer["bn"]["var"].mean() for layer in layers]
  return (bits[:, None] == bits[None]).sum(-1), sum(np.log(np.sqrt(v)) for v in variances if v > 0)


@pytest.mark.parametrize("name", ARCHS)
def test_observation(x64, name):
  """In float32, as proxies see it, against counts in float64."""
  full, given = full_params(), (images_of(), alphas(ARCHS[name]))
  found = observer()(*jax.tree.map(lambda a: a.astype(np.float32), (stack(full, CONFIG.cells), *given)))
  logits, state = collector()(mixed_params(full), *given)
  agreement, deviation = expected_observation(ARCHS[name], jax.tree.map(np.asarray, state))
  np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found.features, state["features"]["after_last"][0], rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found.agreement, agreement)
  np.testing.assert_allclose(found.log_deviation, deviation, rtol=1e-5)


def scaled_kernels(params, gates, sample):
  """Every kernel's output channels times the gates of one sample, [C] or [cells, C]."""
  out = flat(params)
  for name, gate in flat(gates).items():
    gate = np.asarray(gate)[..., sample, :]
    for key in out:
      if key.startswith(f"{name}/") and key.endswith("kernel"):
        out[key] = out[key] * (gate[:, None, None, None] if name.startswith("stage") else gate[None, None, None])
  return traverse_util.unflatten_dict(out, sep="/")


def test_gates_scale_the_outputs_of_convolutions(x64):
  """In mode `identity`, where samples do not mix: a sample's gates are factors on the kernels' output channels."""
  network, params = SHORT_PLAIN.with_batch_norm("identity"), stack(full_params(cells=1), 1)
  rng = np.random.default_rng(0)
  ones = network.gates(3)
  gates = jax.tree.map(lambda g: jnp.asarray(rng.uniform(0.5, 1.5, g.shape)), ones)
  weighted, images = alphas(ARCHS["convolutions"]), images_of()

  @jax.jit
  def derivatives(params, gates):
    def loss(params, gates):
      logits = network.logits(params, images, weighted, gates=gates)
      return loss_of(logits), logits

    return jax.grad(loss, (0, 1), has_aux=True)(params, gates)

  _, logits = derivatives(params, gates)
  plain = jax.jit(functools.partial(network.logits, images=images, alphas=weighted))
  for n in range(3):
    np.testing.assert_allclose(logits[n], plain(scaled_kernels(params, gates, n))[n], rtol=1e-9)
  # The derivative in a factor of 1 on a channel is the sum of map times gradient, so that of its kernel times weights.
  (by_param, by_gate), logits = derivatives(params, ones)
  np.testing.assert_allclose(logits, plain(params), rtol=1e-9)
  products = flat(jax.tree.map(lambda w, g: w * g, params, by_param))
  for name, gradient in flat(by_gate).items():
    cells = name.startswith("stage")
    own = [v for k, v in products.items() if k.startswith(f"{name}/") and k.endswith("kernel")]
    wanted = sum(np.asarray(v).sum((1, 2, 3) if cells else (0, 1, 2)) for v in own)
    assert gradient.shape[-2] == 3
    np.testing.assert_allclose(gradient.sum(-2), wanted, rtol=1e-8, atol=1e-12, err_msg=name)


# Counts


def many_archs():
  return np.concatenate([list(ARCHS.values()), encoding.sample(jax.random.key(0), 60)])


def test_costs():
  archs, network = many_archs(), PlainNetwork(dataclasses.replace(CONFIG, channels=5))
  found = jax.vmap(lambda a: (network.parameter_count(a), network.mac_count(a, 8)))(encoding.alphas(archs))
  size = {"channels": 5, "cells": CONFIG.cells, "classes": CONFIG.classes}
  assert found[0].tolist() == [costs.params(a, **size) for a in archs]
  assert found[1].tolist() == [costs.macs(a, 8, **size) for a in archs]


def test_executed_parameters_are_those_counted():
  shapes = jax.eval_shape(SHORT_PLAIN.init_params, jax.random.key(0))
  for arch in ARCHS.values():
    masks = SHORT_PLAIN.executed(jnp.asarray(encoding.alphas(arch)))
    sizes = jax.tree.map(lambda s, m: np.sum(m) * s.size / np.size(m), shapes, masks)
    assert sum(jax.tree.leaves(sizes)) == costs.params(arch, CONFIG.channels, 1, CONFIG.classes)
    assert {np.shape(m) for m in jax.tree.leaves(masks)} == {(), (1,)}


def test_by_layer_takes_every_kernel_once():
  full = full_params(cells=1)
  stacked = stack(full, 1)
  found = SHORT_PLAIN.by_layer(lambda w, v: (w * v).sum(), stacked, stacked)
  wanted = [np.square(leaf).sum() for name, leaf in flat(full).items() if name.endswith("kernel")]
  assert len(found) == 1 + 2 * 3 + 1 + 3 * 6 * 2
  np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=1e-5)
  assert set(STAGES) < set(stacked)


# Bad input


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 3, 8, 3), (8, 8, 3), (1, 2, 8, 8, 3)])
def test_bad_images(shape):
  with pytest.raises(DatasetError, match="images of shape"):
    jax.eval_shape(PLAIN.logits, full_shapes(), jnp.zeros(shape), jnp.zeros((1, 6, 5)))


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5), (1, 6, 4)])
def test_bad_alphas(shape):
  with pytest.raises(ConfigError, match=r"alphas of shape .*expected \(1, 6, 5\)"):
    jax.eval_shape(PLAIN.logits, full_shapes(), jnp.zeros((2, 8, 8, 3)), jnp.zeros(shape))


def full_shapes():
  return jax.eval_shape(PLAIN.init_params, jax.random.key(0))


def test_running_needs_statistics():
  network = PLAIN.with_batch_norm("running")
  with pytest.raises(ConfigError, match="needs stats"):
    jax.eval_shape(network.logits, full_shapes(), jnp.zeros((2, 8, 8, 3)), jnp.zeros((1, 6, 5)))


@pytest.mark.parametrize("change", [{"first_cell_only": True}, {"stem": False}])
def test_reduced_networks_are_refused(change):
  with pytest.raises(ConfigError, match="whole network"):
    PlainNetwork(dataclasses.replace(CONFIG, **change))
