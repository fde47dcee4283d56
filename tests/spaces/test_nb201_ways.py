"""The network's ways of choosing operations against each other, and what a single architecture shows to proxies."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nb201_trees import flat, random_params, shapes_of, unflat

from jaxnas import base
from jaxnas.errors import ConfigError
from jaxnas.nets import node
from jaxnas.spaces.nb201 import NB201, Backbone, SingleNetwork, Supernet, costs, encoding
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import useful
from jaxnas.spaces.nb201.parameters import CONVS, STAGES, edge_name

SINGLE, MIXED = SingleNetwork(4, 2, 3), Supernet(4, 2, 3, order=2)
# One cell a stage, for what compiles long. The mixture of second order is plain autodiff of plain formulas.
SHORT, SHORT_MIXED, SHORT_MANY = SingleNetwork(4, 1, 3), Supernet(4, 1, 3, order=2), Supernet(4, 1, 3)
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


def encoded(network, arch):
  """As data, in float64 where it is weights."""
  row = jnp.asarray(network.encode(np.array([arch]))[0])
  return row.astype(jnp.float64) if jnp.issubdtype(row.dtype, jnp.floating) else row


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


# All ways are one function


@functools.cache
def program(network, mode, rows=False, static=None):
  """(gradients of the loss, logits); in mode `running` by the statistics of other images.

  Plain formulas run as they stand: compiling their fusions takes longer than all that they are asked.
  """

  def run(params, images, others, arch=static):
    stats = network.apply(params, others, arch, collect=("stats",)).stats if mode == "running" else None

    def loss(params):
      logits = network.apply(params, images, arch, mode, stats=stats, rows=rows).logits
      return loss_of(logits), logits

    return jax.grad(loss, has_aux=True)(params)

  return run if network == SHORT_MIXED else jax.jit(run)


@pytest.mark.parametrize(
  ("mode", "rows"),
  [
    pytest.param(mode, rows, marks=pytest.mark.slow)
    for mode in ("batch", "running", "batch_frozen", "identity")
    for rows in (False, True)
  ],
)
def test_switch_is_the_mixture_of_one_hot_weights(x64, mode, rows):
  params = random_params(SHORT)
  for name, arch in ARCHS.items():
    given = params, images_of(), images_of(1)
    gradient, logits = program(SHORT, mode, rows)(*given, encoded(SHORT, arch))
    wanted_gradient, wanted = program(SHORT_MIXED, mode)(*given, encoded(SHORT_MIXED, arch))
    np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-11, err_msg=name)
    assert_tree(gradient, wanted_gradient, name)


@pytest.mark.parametrize("name", ["every op", pytest.param("useless node", marks=pytest.mark.slow)])
def test_static_is_switch(x64, name):
  params = random_params(SHORT)
  given = params, images_of(), images_of(1)
  gradient, logits = program(SHORT, "batch", static=ARCHS[name])(*given)
  wanted_gradient, wanted = program(SHORT, "batch")(*given, encoded(SHORT, ARCHS[name]))
  np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-11)
  assert_tree(gradient, wanted_gradient, name)


def test_edges_in_a_loop_are_edges_written_out(x64, monkeypatch):
  """An accelerator's form, with what its operations show."""
  params = random_params(SHORT)

  def run(params, arch):
    def loss(params):
      output = SHORT.apply(params, images_of(), arch, collect=("stats", "observation"))
      return loss_of(output.logits), (output.stats, output.observation.agreement, output.logits)

    return jax.grad(loss, has_aux=True)(params)

  def of_all(program):
    return [program(params, encoded(SHORT, ARCHS[name])) for name in ("every op", "dead nodes feed convolutions")]

  with monkeypatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "tpu")
    looped = of_all(jax.jit(lambda params, arch: run(params, arch)))
  for found, wanted in zip(looped, of_all(jax.jit(run)), strict=True):
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-9 * max(1, np.abs(other).max()))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "running", "batch_frozen", "identity"])
def test_both_mixtures_are_one_function_of_any_weights(x64, mode):
  params = random_params(SHORT_MANY)
  weights = np.random.default_rng(1).dirichlet(np.ones(len(OPS)), (1, len(EDGES)))
  weights[0, 2, 3] = weights[0, 4] = 0  # a pruned operation, a pruned edge
  given = params, images_of(), images_of(1), jnp.asarray(weights)
  gradient, logits = program(SHORT_MANY, mode)(*given)
  wanted_gradient, wanted = program(SHORT_MIXED, mode)(*given)
  np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-11)
  assert_tree(gradient, wanted_gradient, mode)


@pytest.mark.slow
def test_hessian_vector_product(x64):
  """Reverse mode twice, through the branches' own pull-backs and the convolutions'."""

  def product(network):
    def slope(params, along, images, arch):
      gradient = jax.grad(lambda p: loss_of(network.apply(p, images, arch).logits))(params)
      return sum(jnp.vdot(g, a) for g, a in zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True))

    return jax.jit(jax.grad(slope))

  params, along = random_params(SHORT), random_params(SHORT, 1)
  single, mixed = product(SHORT), product(SHORT_MIXED)
  for name in ("convolutions", "pools", "no path"):
    found = single(params, along, images_of(), encoded(SHORT, ARCHS[name]))
    wanted = mixed(params, along, images_of(), encoded(SHORT_MIXED, ARCHS[name]))
    assert_tree(found, wanted, name, 1e-8)


def test_running_by_a_batchs_own_statistics_is_batch(x64):
  """Then samples do not mix: the half of a batch has the outputs that it has in the whole."""
  params, images = random_params(SINGLE), images_of()

  @jax.jit
  def both(params, images, arch):
    whole = SINGLE.apply(params, images, arch, collect=("stats",))
    return whole.logits, SINGLE.apply(params, images[:2], arch, "running", stats=whole.stats, rows=True).logits

  for name, arch in ARCHS.items():
    logits, found = both(params, images, encoded(SINGLE, arch))
    np.testing.assert_allclose(found, logits[:2], rtol=1e-9, atol=1e-11, err_msg=name)


def test_edges_that_reach_no_output_are_left_out():
  assert useful(ARCHS["no path"]) == (0,) * 6
  assert useful(ARCHS["useless node"]) == (3, 0, 0, 3, 2, 0)
  assert useful(ARCHS["dead nodes feed convolutions"]) == ARCHS["dead nodes feed convolutions"]
  for arch in encoding.sample(jax.random.key(1), 30).tolist():
    assert useful(jnp.asarray(arch, jnp.int32)).tolist() == list(useful(tuple(arch)))


def test_take_is_the_chosen_state():
  states = [jnp.full((2,), float(i)) for i in range(3)]
  assert node.take(states, 1) is states[1]
  found = jax.jit(node.take)(states, jnp.int32(2))
  np.testing.assert_array_equal(found, states[2])


# What it shows


@functools.cache
def observer():
  return jax.jit(functools.partial(SINGLE.apply, collect=("observation",)))


@functools.cache
def collector():
  """The patterns, statistics and taps of the mixture."""
  return jax.jit(functools.partial(MIXED.apply, collect=("stats", "taps", "patterns")))


def expected_observation(arch, output):
  """(agreement, log deviation) by numpy: a convolution's ReLU and its BN are counted once for each edge and cell."""
  bits, found, variances = np.asarray(output.patterns), [], []

  def next_bits(*shape):
    nonlocal bits
    size = int(np.prod(shape))
    own, bits = bits[:, :size], bits[:, size:]
    return own

  variances += [output.stats["stem"][1], output.stats["last"][1]]
  found.append(next_bits(2, 2, 16))
  for stage, name in enumerate(STAGES):
    side, width = 8 // 2**stage, 4 * 2**stage
    if stage:
      found += [next_bits(2 * side, 2 * side, width // 2), next_bits(side, side, width)]
      variances += [output.stats[f"reduce_{stage}"][part][1] for part in ("conv_a", "conv_b")]
    own = next_bits(SINGLE.cells, 3, side, side, width).reshape(len(bits), SINGLE.cells, 3, -1)
    nodes = [own[:, :, node].reshape(len(bits), -1) for node in range(3)]
    for op, edge in zip(arch, EDGES, strict=True):
      if op in CONVS:
        found.append(nodes[edge[1]])
        variances += list(output.stats[name][edge_name(edge)][OPS[op]][1])
  assert bits.shape[1] == 0
  seen = np.concatenate(found, 1)
  means = [np.asarray(v).mean() for v in variances]
  return (seen[:, None] == seen[None]).sum(-1), sum(np.log(np.sqrt(v)) for v in means if v > 0)


@pytest.mark.parametrize("name", ARCHS)
def test_observation(x64, name):
  """In float32, as proxies see it, against counts in float64."""
  params, images, arch = random_params(SINGLE), images_of(), ARCHS[name]
  low = jax.tree.map(lambda a: a.astype(np.float32), (params, images))
  found = observer()(*low, encoded(SINGLE, arch))
  output = jax.tree.map(np.asarray, collector()(params, images, encoded(MIXED, arch)))
  agreement, deviation = expected_observation(arch, output)
  np.testing.assert_allclose(found.logits, output.logits, rtol=1e-4, atol=1e-4)
  last, (mean, variance) = jax.tree.map(np.asarray, params["last"]["bn"]), output.stats["last"]
  normal = (output.taps[2] - mean) / np.sqrt(variance + 1e-5) * last["scale"] + last["bias"]
  np.testing.assert_allclose(found.observation.features, np.maximum(normal, 0), rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(found.observation.agreement, agreement)
  np.testing.assert_allclose(found.observation.log_deviation, deviation, rtol=1e-5)


def scaled_kernels(params, gates, sample):
  """Every kernel's output channels times the gates of one sample, [C] or [cells, C]."""
  out = flat(params)
  for name, gate in flat(gates).items():
    gate = np.asarray(gate)[..., sample, :]
    for key in out:
      if key.startswith(f"{name}/") and key.endswith("kernel"):
        out[key] = out[key] * (gate[:, None, None, None] if name.startswith("stage") else gate[None, None, None])
  return unflat(out)


def test_gates_scale_the_outputs_of_convolutions(x64):
  """In mode `identity`, where samples do not mix: a sample's gates are factors on the kernels' output channels."""
  params, rng = random_params(SHORT), np.random.default_rng(0)
  ones = SHORT.gates(3)
  gates = jax.tree.map(lambda g: jnp.asarray(rng.uniform(0.5, 1.5, g.shape)), ones)
  arch, images = encoded(SHORT, ARCHS["convolutions"]), images_of()

  @jax.jit
  def derivatives(params, gates):
    def loss(params, gates):
      logits = SHORT.apply(params, images, arch, "identity", gates=gates).logits
      return loss_of(logits), logits

    return jax.grad(loss, (0, 1), has_aux=True)(params, gates)

  _, logits = derivatives(params, gates)
  plain = jax.jit(lambda params: SHORT.apply(params, images, arch, "identity").logits)
  for n in range(3):
    np.testing.assert_allclose(logits[n], plain(scaled_kernels(params, gates, n))[n], rtol=1e-9)
  # The derivative in a factor of 1 on a channel is the sum of map times gradient, so that of its kernel times weights.
  (by_param, by_gate), logits = derivatives(params, ones)
  np.testing.assert_allclose(logits, plain(params), rtol=1e-9)
  products = flat(jax.tree.map(operator.mul, params, by_param))
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
  archs, network = many_archs(), SingleNetwork(5, 2, 3)
  found = jax.vmap(lambda a: network.costs(a, 8))(network.encode(archs))
  size = {"channels": 5, "cells": 2, "classes": 3}
  assert found.params.tolist() == [costs.params(a, **size) for a in archs]
  assert found.macs.tolist() == [costs.macs(a, 8, **size) for a in archs]


def test_executed_parameters_are_those_counted():
  for arch in ARCHS.values():
    masks = SHORT.executed(encoded(SHORT, arch))
    sizes = jax.tree.map(lambda s, m: np.sum(m) * s.size / np.size(m), shapes_of(SHORT), masks)
    assert sum(jax.tree.leaves(sizes)) == costs.params(arch, 4, 1, 3)
    assert {np.shape(m) for m in jax.tree.leaves(masks)} == {(), (1,)}


def test_by_layer_takes_every_kernel_once(x64):
  params = random_params(SHORT)
  found = SHORT.by_layer(lambda w, v: (w * v).sum(), params, params)
  wanted = [np.square(leaf).sum() for name, leaf in flat(params).items() if name.endswith("kernel")]
  assert len(found) == 1 + 2 * 3 + 1 + 3 * 6 * 2
  np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=1e-5)
  assert set(STAGES) < set(params)


# Roles


def test_roles_keep_their_contracts():
  space, config = NB201(), base.NetworkConfig(4, 1)
  assert isinstance(space.network(config), base.Single)
  assert isinstance(space.trained_network(config), base.TrainableNetwork)
  assert isinstance(space.backbone(config), base.TappedNetwork)
  for network in (space.supernet(config), space.region_network(config), space.mixture(config)):
    assert isinstance(network, base.Network)
    assert not isinstance(network, base.Single | base.TappedNetwork | base.TrainableNetwork)
  assert not isinstance(space.backbone(config), base.Single)
  assert space.network(base.NetworkConfig()) == SingleNetwork(16, 5, 10, "torch_default")


def test_training_pass_has_running_statistics(x64):
  params, images, arch = random_params(SHORT), images_of(), encoded(SHORT, ARCHS["every op"])
  output = SHORT.train(params, images, arch, 0.0, None)
  whole = SHORT.apply(params, images, arch, collect=("stats",))
  first = jax.tree.map(jnp.shape, SHORT.init_stats())
  assert first == jax.tree.map(jnp.shape, output.stats)
  np.testing.assert_allclose(output.logits, whole.logits, rtol=1e-9)
  count = images[..., 0].size
  np.testing.assert_allclose(output.stats["stem"][0], whole.stats["stem"][0], rtol=1e-9)
  np.testing.assert_allclose(output.stats["stem"][1], whole.stats["stem"][1] * count / (count - 1), rtol=1e-9)
  with pytest.raises(ConfigError, match="drop_path"):
    SHORT.train(params, images, arch, 0.2, jax.random.key(0))


def test_backbone_costs():
  network, full = Backbone(5, 2), SingleNetwork(5, 2, 1)
  head = 4 * 5 + 1
  for arch in ARCHS.values():
    found, whole = network.costs(jnp.asarray(arch, jnp.int32), 8), full.costs(jnp.asarray(arch, jnp.int32), 8)
    idle = sum(op in CONVS for op in arch) * 2 * (5 + 10 + 20)  # one bias instead of a scale and a bias
    assert found.params == whole.params - idle - 2 * 4 * 5 - head
    assert found.macs == whole.macs - head
