"""A pre-trained encoder's network: the released model's numbers, its variants, the plain Flax module, in float64."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_encoder
from helpers import draw, needs_encoder
from module_checks import assert_trees

from jaxnas import base, data, spaces
from jaxnas.errors import ArchitectureError, ConfigError, DatasetError
from jaxnas.nets.passes import linear
from jaxnas.proxies.evaluation import Evaluation, losses, sum_of_squares
from jaxnas.proxies.mgm import first_gradients, first_tensors, tensor_mgm
from jaxnas.proxies.ntk_condition_number import NTKConditionNumber
from jaxnas.spaces.encoder import encoding, mapping, weights
from jaxnas.spaces.mapping import gather, scatter

CLASSES, N, T = 3, 3, 11
CONFIG = base.NetworkConfig(classes=CLASSES)
VARIANTS = ["unchanged", "keep:par:1|share:seq:2|keep:par:2", "drop|keep:seq:2|share:par:1", "drop|drop|keep:par:2"]


@pytest.fixture(scope="module")
def space(tmp_path_factory):
  return spaces.get("encoder").opened(tiny_encoder.written(tmp_path_factory.mktemp("encoder")))


def network_of(space, text, classes=CLASSES):
  """The network of a variant, and the variant as data."""
  code = space.parse(text)
  network = space.network(base.NetworkConfig(classes=classes, shape=space.shape(code)))
  return network, jnp.asarray(network.encode(code[None])[0])


def wide(params, seed=5):
  """Parameters in float64, with a classifier that shows more than a fresh one."""
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
  return {**params, "classifier": jax.tree.map(lambda leaf: draw(seed, *leaf.shape), params["classifier"])}


def tokens(seed=0, padding=(0, 3, 4)):
  rng = np.random.default_rng(seed)
  found = np.stack([rng.integers(0, 12, (N, T)), rng.integers(0, 2, (N, T)), np.ones((N, T), int)], -1)
  for row, count in zip(found, padding, strict=True):
    row[T - count :, 2] = 0
  return jnp.asarray(found, jnp.int32)


def logits_of(network, params, inputs, arch, mode="batch", **options):
  return network.apply(params, network.embed(params, inputs), arch, mode, **options).logits


@needs_encoder
def test_outputs_are_those_of_the_released_encoder(x64, fixtures):
  """An independent PyTorch program's; the README of the fixture says how."""
  case = json.loads((fixtures / "encoder" / "minilm.json").read_text())
  space = spaces.get("encoder")
  network, arch = network_of(space, "unchanged", 2)
  params, inputs = wide(network.init(jax.random.key(0))), jnp.asarray(case["tokens"], jnp.int32)
  states = jax.jit(network.states)(params, inputs, arch)
  there = np.asarray(inputs)[..., 2] > 0
  np.testing.assert_allclose(states[..., :8][there], np.array(case["states"])[there], atol=1e-9)
  pooled = jnp.tanh(linear(states[:, 0], params["pooler"]))
  np.testing.assert_allclose(pooled[:, :16], case["pooled"], atol=1e-9)
  assert space.costs(space.parse("unchanged")).params == 22_713_216 + 2 * 385
  on_tokens = space.costs_on(space.parse("unchanged"), data.load("tokens", tokens=data.TokenConfig(length=64)))
  assert on_tokens == space.costs(space.parse("unchanged"), base.NetworkConfig(classes=2), 64)


@pytest.mark.parametrize("text", VARIANTS)
def test_module_is_network(x64, space, text):
  network, arch = network_of(space, text)
  code = space.parse(text)
  module, params = space.module(code, CONFIG), wide(network.init(jax.random.key(0)))
  parts, inputs, cotangents = mapping.parameters(module, space.sizes), tokens(), draw(5, N, CLASSES)
  own = space.module_variables(module, params, {})["params"]
  with jax.numpy_dtype_promotion("standard"):  # Flax asks for the wider of float64 and float32
    initial = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, initial)
    logits, pull = jax.vjp(lambda own: module.apply({"params": own}, inputs), own)
    gradient = pull(cotangents)[0]
  fast, pull = jax.vjp(lambda params: logits_of(network, params, inputs, arch), params)
  fast_gradient = pull(cotangents)[0]
  np.testing.assert_allclose(fast, logits, rtol=1e-9, atol=1e-9)
  assert np.ptp(logits, 0).min() > 1e-2
  assert_trees(scatter(parts, gradient, jax.tree.map(jnp.zeros_like, params)), fast_gradient)
  assert_trees(gather(parts, scatter(parts, own, jax.tree.map(jnp.zeros_like, params))), own, 0)
  count = sum(leaf.size for leaf in jax.tree.leaves(own))
  assert count == space.costs(code, CONFIG).params
  masks = network.executed(arch)
  assert count == sum(m.sum() * (p.size / m.size) for p, m in zip(*map(jax.tree.leaves, (params, masks)), strict=True))
  np.testing.assert_allclose(network.costs(arch, 9), space.costs(code, CONFIG, 9), rtol=1e-6)


def test_dropped_and_shared_layers_are_those_of_an_encoder_without_or_with_copies(x64, space, tmp_path):
  """Other folders, whose layers are left out or copied by hand, say the same unchanged."""
  found, inputs, own = tiny_encoder.tensors(), tokens(), "encoder.layer."
  for text, sources in (("keep:seq:1|drop|keep:seq:1", (0, 2)), ("drop|keep:seq:1|share:seq:1", (1, 1))):
    outer = {name: value for name, value in found.items() if not name.startswith(own)}
    layers = {
      f"{own}{place}{name.removeprefix(f'{own}{source}')}": value
      for place, source in enumerate(sources)
      for name, value in found.items()
      if name.startswith(f"{own}{source}.")
    }
    config = {**tiny_encoder.CONFIG, "num_hidden_layers": 2}
    other = spaces.get("encoder").opened(tiny_encoder.written(tmp_path / text[:4], config, {**outer, **layers}))
    logits = [
      logits_of(network, wide(network.init(jax.random.key(0))), inputs, arch)
      for network, arch in (network_of(space, text), network_of(other, "unchanged"))
    ]
    np.testing.assert_allclose(*logits, rtol=1e-12)


def test_every_setting_of_a_layer_changes_what_it_computes(x64, space):
  """But for the residual of the first, which has one state before it."""
  inputs, rest = tokens(), "|keep:seq:1|keep:seq:1"
  network, _ = network_of(space, "unchanged")
  params = wide(network.init(jax.random.key(0)))

  def logits(text):
    network, arch = network_of(space, text)
    return np.asarray(logits_of(network, params, inputs, arch))

  second = [logits(f"keep:seq:1|{op}|keep:seq:1") for op in encoding.OPS]
  for i, one in enumerate(second):
    assert all(np.abs(one - other).max() > 1e-3 for other in second[:i])
  np.testing.assert_array_equal(logits(f"keep:seq:1{rest}"), logits(f"keep:seq:2{rest}"))


def test_padding_modes_and_samples(x64, space):
  network, arch = network_of(space, VARIANTS[1])
  params, inputs = wide(network.init(jax.random.key(0))), tokens()
  logits = logits_of(network, params, inputs, arch)
  longer = jnp.pad(inputs, ((0, 0), (0, 5), (0, 0)))
  other = longer.at[:, :, 0].set(jnp.where(longer[:, :, 2] > 0, longer[:, :, 0], 7))
  for padded in (longer, other):
    np.testing.assert_allclose(logits_of(network, params, padded, arch), logits, rtol=1e-10)
  np.testing.assert_array_equal(logits_of(network, params, inputs, arch, "running", stats={}), logits)
  assert np.abs(logits_of(network, params, inputs, arch, "identity") - logits).max() > 1e-3
  changed = logits_of(network, params, inputs.at[0, 1, 0].set((inputs[0, 1, 0] + 1) % 12), arch)
  np.testing.assert_array_equal(changed[1:], logits[1:])
  assert np.abs(changed[0] - logits[0]).max() > 1e-6
  unknown = logits_of(network, params, inputs.at[1, 2, 0].set(12), arch)
  assert np.isnan(unknown[1]).all() and np.isfinite(unknown[0]).all()


def test_gates_observations_and_the_kernel(x64, space):
  network, arch = network_of(space, VARIANTS[1])
  params, inputs, gates = wide(network.init(jax.random.key(0))), tokens(), network.gates(N)
  plain = logits_of(network, params, inputs, arch)
  np.testing.assert_allclose(logits_of(network, params, inputs, arch, gates=gates), plain, rtol=1e-12)
  doubled = {"layers": {**gates["layers"], "feed_out": 2 * gates["layers"]["feed_out"]}}
  kernel = jax.tree.map(lambda leaf: 2 * leaf, params["layers"]["feed_out"])
  twice = {**params, "layers": {**params["layers"], "feed_out": kernel}}
  wanted = logits_of(network, twice, inputs, arch)
  np.testing.assert_allclose(logits_of(network, params, inputs, arch, gates=doubled), wanted, rtol=1e-10)
  seen = network.apply(params, network.embed(params, inputs), arch, collect=("observation",)).observation
  there = np.asarray(inputs)[..., 2]
  np.testing.assert_allclose(np.diag(seen.agreement), 3 * 16 * there.sum(1))  # layers, units, tokens
  assert seen.features.shape == (N, T, 1, 8)
  kernel = NTKConditionNumber(batch_norm="batch_frozen").measure(Evaluation(network, params, arch, inputs))

  def row(i):
    gradient = jax.grad(lambda p: logits_of(network, p, inputs, arch)[i].sum())(params)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return jnp.concatenate([leaf.ravel() for path, leaf in leaves if path[-1].key in ("kernel", "scale")])

  rows = jnp.stack([row(i) for i in range(N)])
  np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-9)


def test_gradients_of_single_samples_are_in_the_embeddings_too(x64, space):
  """Samples never see each other, so one at a time they have the gradients that they have together."""
  network, arch = network_of(space, VARIANTS[1])
  params, inputs, labels = wide(network.init(jax.random.key(0))), tokens(), jnp.array([0, 2, 1])
  e = Evaluation(network, params, arch, inputs, labels)

  def gradient(rows):
    return jax.grad(lambda p: losses(logits_of(network, p, inputs[rows], arch), labels[rows]).mean())(params)

  together = gradient(slice(None))
  assert sum_of_squares(together["word"]) > 1e-3 * sum_of_squares(together)
  for mode in ("batch", "batch1"):
    np.testing.assert_allclose(tensor_mgm(e, batch_norm=mode)[0].sum(), sum_of_squares(together), rtol=1e-9)
  heads = first_gradients(e, N)
  for i in range(N):
    own, _ = first_tensors(gradient(slice(i, i + 1)), network.executed(arch))
    np.testing.assert_allclose(heads[i], own, rtol=1e-7, atol=1e-12)


def test_only_the_head_is_drawn(space):
  network, _ = network_of(space, "unchanged")
  first, again, other = (network.init(jax.random.key(seed)) for seed in (0, 0, 1))
  body = weights.read(network.folder, network.sizes)
  for params in (first, other):
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), {k: params[k] for k in body}, body))
  assert (first["classifier"]["kernel"] == again["classifier"]["kernel"]).all()
  assert (first["classifier"]["kernel"] != other["classifier"]["kernel"]).any()


def test_names_may_begin_with_bert(space, tmp_path):
  other = spaces.get("encoder").opened(tiny_encoder.written(tmp_path, weights=tiny_encoder.tensors("bert.")))
  own, theirs = (network_of(one, "unchanged")[0].init(jax.random.key(0)) for one in (space, other))
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), own, theirs))


# Wrong input


def test_other_inputs_are_refused(space, unchecked):
  network, arch = network_of(space, "unchanged")
  params = jax.eval_shape(network.init, jax.random.key(0))
  with pytest.raises(DatasetError, match="T of 1 to 16, its positions.*--tokens of 16"):
    jax.eval_shape(network.embed, params, jax.ShapeDtypeStruct((2, 17, 3), jnp.int32))
  with pytest.raises(DatasetError, match="embed"):
    jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, 8, 5), jnp.float32), arch)
  with pytest.raises(ConfigError, match="arch of shape"):
    network.apply(network.init(jax.random.key(0)), jnp.zeros((2, 8, 8)), arch[:2])


def test_other_variants_and_settings_are_refused(space):
  network, _ = network_of(space, "unchanged")
  with pytest.raises(ArchitectureError, match="executes 2 layers, not 3"):
    network.encode(space.parse(VARIANTS[2])[None])
  for wrong in ({"shape": None}, {"shape": 4}, {"shape": 3, "cells": 2}, {"shape": 3, "stem": "imagenet"}):
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
      space.network(dataclasses.replace(CONFIG, **wrong))
  with pytest.raises(ConfigError, match="image_size=17"):
    space.costs(space.parse("unchanged"), CONFIG, 17)
