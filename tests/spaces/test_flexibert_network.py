"""The fast network of encoders against the plain Flax module, in float64; padding, gates, kernels, many at once."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from module_checks import assert_trees

from jaxnas import base, spaces
from jaxnas.errors import ArchitectureError, ConfigError, DatasetError
from jaxnas.nets.choose import capacities
from jaxnas.proxies.evaluation import Evaluation, sum_of_squares
from jaxnas.proxies.ntk_condition_number import NTKConditionNumber
from jaxnas.proxies.trace_norm import OUTPUTS, squared_rows
from jaxnas.spaces.flexibert import costs, encoding, mapping, operations, parameters
from jaxnas.spaces.flexibert.module import FlexiBERTLayer
from jaxnas.spaces.mapping import gather, scatter

SPACE = spaces.get("flexibert")
CHANNELS, CLASSES, N, T = 4, 3, 3, 11
PAIRS = [  # every operation with both numbers of heads, both depths
  "256|sdp:2:512x1|wma:4:512x3",
  "256|sdp:4:512x3|wma:2:512x1",
  "256|dft:2:512x1|dct:4:512x1",
  "256|dft:4:512x1|dct:2:512x3",
  "256|dsc5:2:512x1|dsc9:4:512x1",
  "256|dsc5:4:512x3|dsc9:2:512x1",
]
SMALL = "128|sdp:2:512x1|dsc9:4:512x3"  # its hidden size is that of the embeddings


def config_of(arch, channels=CHANNELS):
  return base.NetworkConfig(channels, 1, CLASSES, shape=SPACE.shape(encoding.parse(arch)))


def network_of(arch):
  network = SPACE.network(config_of(arch))
  return network, jnp.asarray(network.encode(encoding.parse(arch)[None])[0])


def tokens(seed=0, n=N, t=T, padding=(0, 3, 4)):
  """Random tokens in two segments, of which some are padding."""
  rng = np.random.default_rng(seed)
  found = np.stack([rng.integers(0, 99, (n, t)), rng.integers(0, 2, (n, t)), np.ones((n, t), int)], -1)
  for row, count in zip(found, padding, strict=False):
    row[t - count :, 2] = 0
  return jnp.asarray(found, jnp.int32)


def random_params(network, seed=1):
  """Scales and biases not 1 and 0, in float64; the vocabulary's first entries only matter."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  spread = {"kernel": (0, 0.5), "embedding": (0, 1), "scale": (1, 0.2), "bias": (0, 0.3)}
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.asarray(rng.normal(*spread[path[-1].key], leaf.shape)), shapes
  )


def logits_of(network, params, tokens, arch, mode="batch", **options):
  return network.apply(params, network.embed(params, tokens), arch, mode, **options).logits


@functools.cache
def forward(network, mode="batch"):
  """(parameters, tokens, architecture) -> logits."""
  return jax.jit(lambda params, tokens, arch: logits_of(network, params, tokens, arch, mode, stats={}))


@functools.cache
def program(network):
  """(parameters, tokens, architecture, cotangents [N, K]) -> (logits, gradient); one a shape, for several tests."""

  def run(params, tokens, arch, cotangents):
    logits, pull = jax.vjp(lambda p: logits_of(network, p, tokens, arch), params)
    return logits, pull(cotangents)[0]

  return jax.jit(run)


@pytest.mark.parametrize("text", [*PAIRS, pytest.param(SMALL, marks=pytest.mark.slow)])
def test_module_is_network(x64, text):
  network, arch = network_of(text)
  module, params = SPACE.module(encoding.parse(text), config_of(text)), random_params(network)
  parts, inputs, cotangents = mapping.parameters(module), tokens(), draw(5, N, CLASSES)
  own = gather(parts, params)
  with jax.numpy_dtype_promotion("standard"):  # Flax asks for the wider of float64 and float32
    initial = jax.eval_shape(module.init, jax.random.key(0), inputs)["params"]
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, initial)

    def run(own, cotangents):
      logits, pull = jax.vjp(lambda own: module.apply({"params": own}, inputs), own)
      return logits, pull(cotangents)[0]

    logits, gradient = jax.jit(run)(own, cotangents)
  fast, fast_gradient = program(network)(params, inputs, arch, cotangents)
  np.testing.assert_allclose(fast, logits, rtol=1e-9, atol=1e-9)
  assert np.ptp(logits, 0).min() > 1e-2
  assert_trees(scatter(parts, gradient, jax.tree.map(jnp.zeros_like, params)), fast_gradient)
  assert_trees(gather(parts, scatter(parts, own, jax.tree.map(jnp.zeros_like, params))), own, 0)
  count = sum(leaf.size for leaf in jax.tree.leaves(own))
  assert count == SPACE.costs(encoding.parse(text), config_of(text)).params
  executed = jax.tree.map(lambda leaf, mask: mask.sum() * (leaf.size / mask.size), params, network.executed(arch))
  assert sum(jax.tree.leaves(executed)) == count


def test_layers_are_those_of_pytorch(x64, fixtures):
  """Every operation with every number of heads, recorded; the README of the fixture says how."""
  cases = json.loads((fixtures / "flexibert" / "layers.json").read_text())
  assert len(cases) == len(parameters.OPERATIONS)
  shapes = parameters.layer_shapes(8, 32)
  for i, case in enumerate(cases):
    op, heads, depth = encoding.OPS.index(case["op"]), case["heads"], case["depth"]
    names = (*parameters.operation_layers(op, heads), *parameters.feed_forward_layers(depth))
    rng, own = np.random.default_rng(i), {name: {} for name in names}
    for path in sorted(f"{name}.{leaf}" for name in names for leaf in shapes[name]):
      name, leaf = path.split(".")
      own[name][leaf] = rng.normal(float(leaf == "scale"), 0.4, shapes[name][leaf])
    x = np.random.default_rng(100 + i).normal(size=(2, 7, 8))
    with jax.numpy_dtype_promotion("standard"):
      found = FlexiBERTLayer(op, heads, depth, 32).apply({"params": own}, jnp.asarray(x), jnp.ones((2, 7, 1)))
    np.testing.assert_allclose(found, case["output"], atol=1e-10, err_msg=case["op"])


@pytest.mark.parametrize("text", ["256|sdp:2:512x1|wma:4:512x1", "256|dsc5:2:512x1|dsc9:4:512x3"])
def test_the_length_of_the_padding_changes_nothing(x64, text):
  network, arch = network_of(text)
  params, inputs = random_params(network), tokens()
  longer = jnp.pad(inputs, ((0, 0), (0, 5), (0, 0)))
  other = longer.at[:, :, 0].set(jnp.where(longer[:, :, 2] > 0, longer[:, :, 0], 7))
  found = [forward(network)(params, x, arch) for x in (inputs, longer, other)]
  np.testing.assert_allclose(found[1], found[0], rtol=1e-10)
  np.testing.assert_array_equal(found[2], found[1])


def test_transforms_are_those_of_their_definitions(x64):
  x = draw(0, 2, 5, 3, 4)
  np.testing.assert_allclose(operations._fourier(x), np.fft.fft2(np.asarray(x), axes=(1, 3)).real, atol=1e-12)
  t, d = np.arange(5), np.arange(4)
  over_t = 2 * np.cos(np.pi * np.outer(t, 2 * t + 1) / 10)
  over_d = 2 * np.cos(np.pi * np.outer(d, 2 * d + 1) / 8)
  wanted = np.einsum("ut,nthd,ed->nuhe", over_t, x, over_d)
  np.testing.assert_allclose(operations._cosines(x), wanted, atol=1e-12)


def test_modes_and_samples_do_not_mix(x64):
  text = PAIRS[4]
  network, arch = network_of(text)
  params, inputs = random_params(network), tokens()
  all_at_once = forward(network)(params, inputs, arch)
  np.testing.assert_array_equal(forward(network, "running")(params, inputs, arch), all_at_once)
  other = inputs.at[0, 1, 0].add(1)
  np.testing.assert_array_equal(forward(network)(params, other, arch)[1:], all_at_once[1:])
  assert np.abs(forward(network, "identity")(params, inputs, arch) - all_at_once).max() > 1e-3
  with pytest.raises(ConfigError, match="stats"):
    logits_of(network, params, inputs, arch, "running")


def test_gates_multiply_what_leaves_a_layer(x64):
  network, arch = network_of("256|dsc5:2:512x1|sdp:4:512x3")
  params, inputs, gates = random_params(network), tokens(), network.gates(N)
  gated = jax.jit(lambda gates: logits_of(network, params, inputs, arch, gates=gates))
  np.testing.assert_allclose(gated(gates), forward(network)(params, inputs, arch), rtol=1e-10)
  twice = {**gates, "layers": {**gates["layers"], "feed_out": gates["layers"]["feed_out"].at[1].set(2)}}
  kernel = params["layers"]["feed_out"]
  doubled = {**params, "layers": {**params["layers"], "feed_out": jax.tree.map(lambda p: p.at[1].multiply(2), kernel)}}
  np.testing.assert_allclose(gated(twice), forward(network)(doubled, inputs, arch), rtol=1e-10)
  names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(gates)}
  assert {"project", "query", "depthwise_5", "taps_2x5", "feed_1"} <= names


def test_the_kernel_in_one_pass_is_that_of_single_passes(x64):
  text = "256|dsc5:2:512x1|wma:4:512x3"
  network, arch = network_of(text)
  params, inputs = random_params(network), tokens()
  fast = jax.jit(lambda p: NTKConditionNumber(batch_norm="batch_frozen").measure(Evaluation(network, p, arch, inputs)))(
    params
  )

  def row(i):
    hot = jnp.zeros((N, CLASSES)).at[i].set(1)
    leaves = jax.tree_util.tree_leaves_with_path(program(network)(params, inputs, arch, hot)[1])
    return jnp.concatenate([leaf.ravel() for path, leaf in leaves if path[-1].key in ("kernel", "scale")])

  rows = jnp.stack([row(i) for i in range(N)])
  np.testing.assert_allclose(fast, rows @ rows.T, rtol=1e-9)


@pytest.mark.slow
def test_norms_of_gradients_have_the_embeddings(x64):
  network, arch = network_of("256|dsc5:2:512x1|wma:4:512x3")
  params, inputs, labels = random_params(network), tokens(), jnp.arange(N) % CLASSES
  logits, _ = program(network)(params, inputs, arch, jnp.zeros((N, CLASSES)))
  of_logits = jax.nn.softmax(logits) - jax.nn.one_hot(labels, CLASSES)
  cotangents = [jnp.where(jnp.arange(N)[:, None] == i, of_logits, 0) for i in range(N)]
  single = [program(network)(params, inputs, arch, own)[1] for own in cotangents]
  assert min(sum_of_squares(own["word"]) for own in single) > 0
  norms = squared_rows(Evaluation(network, params, arch, inputs), OUTPUTS["per_sample"], labels, "batch_frozen")
  np.testing.assert_allclose(norms.sum(), sum(map(sum_of_squares, single)), rtol=1e-9)


def test_units_agree_as_counted_one_by_one(x64):
  text = "256|sdp:2:512x3|dft:4:512x1"
  network, arch = network_of(text)
  params, inputs = random_params(network), tokens()
  seen = network.apply(params, network.embed(params, inputs), arch, collect=("observation",)).observation
  module, own = (
    SPACE.module(encoding.parse(text), config_of(text)),
    gather(mapping.parameters(SPACE.module(encoding.parse(text), config_of(text))), params),
  )
  with jax.numpy_dtype_promotion("standard"):
    _, kept = module.apply({"params": own}, inputs, capture_intermediates=True)
  there, wanted = np.asarray(inputs[..., 2]) > 0, np.zeros((N, N))
  for layer, names in (("layer_0", ("feed_in", "feed_1", "feed_2")), ("layer_1", ("feed_in",))):
    for name in names:
      active = np.asarray(kept["intermediates"][layer][name]["__call__"][0]) > 0
      for i in range(N):
        for j in range(N):
          wanted[i, j] += (active[i] == active[j])[there[i] & there[j]].sum()
  np.testing.assert_allclose(seen.agreement, wanted)
  assert seen.features.shape == (N, T, 1, 2 * CHANNELS) and seen.log_deviation == 0


def test_many_at_once_are_what_each_is_alone(x64):
  texts = ["256|sdp:2:512x1|dct:4:512x3", "256|dsc9:2:512x3|dct:4:512x3", "256|sdp:2:512x1|sdp:2:512x1"]
  network, _ = network_of(texts[0])
  archs = network.encode(np.stack([encoding.parse(text) for text in texts]))
  params, inputs = random_params(network), tokens()
  which, depths = network.choices(archs)
  assert (which.operations, depths.operations) == (12, 2)
  slots = {
    own.operations: tuple(max(1, (own.which == op).sum(0).max().item()) for op in range(own.operations))
    for own in (which, depths)
  }
  with capacities(slots):
    together = jax.jit(jax.vmap(lambda arch: logits_of(network, params, inputs, arch)))(jnp.asarray(archs))
  for arch, found in zip(archs, together, strict=True):
    np.testing.assert_allclose(found, forward(network)(params, inputs, jnp.asarray(arch)), rtol=1e-9)


def test_costs_of_the_network_are_those_of_the_space():
  for text in (*PAIRS, SMALL):
    network, arch = network_of(text)
    np.testing.assert_allclose(
      network.costs(arch, 20), SPACE.costs(encoding.parse(text), config_of(text), 20), rtol=1e-6
    )


def test_fresh_parameters_are_the_models():
  network, _ = network_of(PAIRS[0])
  params = network.init(jax.random.key(0))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    assert leaf.dtype == jnp.float32
    if path[-1].key in ("kernel", "embedding"):
      assert leaf.std() == pytest.approx(parameters.SPREAD, rel=0.6 if leaf.size < 500 else 0.1)
    else:
      assert (leaf == float(path[-1].key == "scale")).all()
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), params, network.init(jax.random.key(0))))


# Wrong input


def test_other_inputs_are_refused(unchecked):
  network, arch = network_of(PAIRS[0])
  params = jax.eval_shape(network.init, jax.random.key(0))
  for shape, dtype in (((2, 8, 8, 3), jnp.float32), ((2, 8), jnp.int32), ((2, 513, 3), jnp.int32)):
    with pytest.raises(DatasetError, match="tokens"):
      jax.eval_shape(network.embed, params, jax.ShapeDtypeStruct(shape, dtype))
  with pytest.raises(DatasetError, match="int32"):
    jax.eval_shape(network.embed, params, jax.ShapeDtypeStruct((2, 8, 3), jnp.float32))
  with pytest.raises(DatasetError, match="embed"):
    jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, 8, 5), jnp.float32), arch)


def test_a_token_that_there_is_not_gives_nan():
  network, arch = network_of(PAIRS[0])
  inputs = tokens().at[1, 2, 0].set(parameters.VOCABULARY)
  found = forward(network)(network.init(jax.random.key(0)), inputs, arch)
  assert np.isnan(found[1]).all() and np.isfinite(found[0]).all()


def test_architectures_of_another_shape_are_refused():
  network, _ = network_of(PAIRS[0])
  with pytest.raises(ArchitectureError, match=r"not of the shape \(256, 2\)"):
    network.encode(encoding.parse(SMALL)[None])
  with pytest.raises(ConfigError, match="shape=None"):
    SPACE.network(base.NetworkConfig())
  assert costs.checked(base.NetworkConfig(128, 1))
