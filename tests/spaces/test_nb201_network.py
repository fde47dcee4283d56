"""The NAS-Bench-201 network: parity with the reference code, parameters, transforms, bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets.numerics import BATCH_NORMS, INITS
from jaxnas.spaces.nb201 import costs, encoding
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import ALL_OPS, CONVS, Network, NetworkConfig

# Compiling is most of the time here: LLVM without its expensive passes.

ARCHS = ("with_none", "all_3x3", "all_skip", "mixed_pool")
SMALL = NetworkConfig(channels=2, cells=1, classes=3)
# Fewer operations compile sooner; every kind is there, alone and in mixtures.
SPARSE = dataclasses.replace(SMALL, ops=((2, 3), (1, 3), (4,), (1, 4), (0, 2), (3,)))
ONE_CELL = dataclasses.replace(SMALL, first_cell_only=True)
LOSS = "train/ce_"


def draw(seed, *shape, dtype=np.float32):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def soft_alphas(seed, *lead):
  """Rows of weights that sum to 1 over all operations."""
  weights = np.random.default_rng(seed).dirichlet(np.ones(len(OPS)), (*lead, 1, len(EDGES)))
  return jnp.asarray(weights, jnp.float32)


def flat(tree):
  """{"cells_0/conv_a/bn/scale": array}."""
  return traverse_util.flatten_dict(tree, sep="/")


def random_params(network, key=0, dtype=jnp.float32):
  """Parameters with BN scales and biases that are not 1 and 0."""
  rng = np.random.default_rng(key)
  shapes = jax.eval_shape(network.init_params, jax.random.key(0))
  spread = {"kernel": (0, 0.5), "scale": (1, 0.2), "bias": (0, 0.1)}
  drawn = {k: rng.normal(*spread[k.split("/")[-1]], v.shape) for k, v in flat(shapes).items()}
  return traverse_util.unflatten_dict({k: jnp.asarray(v, dtype) for k, v in drawn.items()}, sep="/")


# Parity with the reference code


def fixture_tree(file, prefix):
  """Nested float64 parameters or statistics under `prefix`; `cells.3.x` becomes `cells_3/x`."""
  names = {k: k.removeprefix(prefix).replace("cells.", "cells_").replace(".", "/") for k in file}
  leaves = {names[k]: jnp.asarray(file[k], jnp.float64) for k in file if k.startswith(prefix)}
  return traverse_util.unflatten_dict(leaves, sep="/")


def single_network(file):
  """The network with only the architecture's operations, and its alphas [1, 6, 5]."""
  arch = encoding.parse(str(file["arch"]))
  ops = tuple((int(op),) for op in arch)
  config = NetworkConfig(int(file["C"]), int(file["N"]), int(file["num_classes"]), ops=ops)
  return Network(config), encoding.alphas(arch)


@pytest.fixture(scope="module", params=ARCHS)
def reference(request, fixtures):
  with np.load(fixtures / "tenas" / f"f1_infer_{request.param}.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def computed(reference):
  """Everything the fixture holds of one architecture, from one program in float64."""
  with jax.enable_x64(True):
    network, alphas = single_network(reference)
    alphas = jnp.asarray(alphas, jnp.float64)
    params = fixture_tree(reference, "w/")
    after = fixture_tree(reference, "after_one_train_step/")
    fresh = {k: jnp.full_like(v, float(k.endswith("var"))) for k, v in flat(after).items()}
    stats = traverse_util.unflatten_dict(fresh, sep="/")
    labels = jax.nn.one_hot(reference["train/ce_labels"], network.config.classes)

    @jax.jit
    def program(params, stats, images):
      def run(mode, *mutable):
        variables = {"params": params, "batch_stats": stats}
        return network.with_batch_norm(mode).apply(variables, images, alphas, mutable=[*mutable])

      def loss(params):
        logits = network.apply({"params": params}, images, alphas)
        return -(jax.nn.log_softmax(logits) * labels).sum(-1).mean(), logits

      return {
        "train": run("batch", "features", "batch_stats"),
        "eval": run("running", "features"),
        "loss": jax.value_and_grad(loss, has_aux=True)(params),
      }

    images = jnp.asarray(reference["x_nhwc"], jnp.float64)
    return jax.tree.map(np.asarray, program(params, stats, images))


def assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forward_is_the_reference(reference, computed, mode):
  logits, state = computed[mode]
  features = {name: sown[0] for name, sown in state["features"].items()}
  assert_close(logits, reference[f"{mode}/logits"])
  assert_close(features["after_stem"].mean((1, 2)), reference[f"{mode}/feat_mean_0"])
  for cell in range(5):
    mean = features[f"after_cell{cell}"].mean((1, 2))
    assert_close(mean, reference[f"{mode}/feat_mean_{cell + 1}"])
  assert_close(features["after_last"].mean((1, 2)), reference[f"{mode}/pooled"])
  last = reference[f"{mode}/feat_last_nhwc"]  # stored in float32
  np.testing.assert_allclose(features["after_last"], last, rtol=1e-6, atol=1e-6)


def test_running_statistics_after_one_step(reference, computed):
  actual = flat(computed["train"][1]["batch_stats"])
  prefix = "after_one_train_step/"
  expected = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
  renamed = {k.replace("cells.", "cells_").replace(".", "/"): v for k, v in expected.items()}
  assert actual.keys() == renamed.keys()
  for name, value in renamed.items():
    assert_close(actual[name], value)


def test_loss_and_gradients_are_the_reference(reference, computed):
  (loss, logits), gradients = computed["loss"]
  assert_close(logits, reference["train/logits"])
  assert_close(loss, reference[f"{LOSS}loss"])
  actual = flat(gradients)
  norms = {k: v for k, v in reference.items() if k.startswith(f"{LOSS}gradnorm/")}
  assert len(norms) == len(actual)
  for name, norm in norms.items():
    key = name.removeprefix(f"{LOSS}gradnorm/").replace("cells.", "cells_").replace(".", "/")
    assert_close(np.linalg.norm(actual[key]), norm)
  full = [k for k in reference if k.startswith(f"{LOSS}grad/")]
  assert full
  for name in full:
    assert_close(actual[name.removeprefix(f"{LOSS}grad/").replace(".", "/")], reference[name])


def test_single_network_has_only_its_parameters(reference):
  network, _ = single_network(reference)
  own = flat(jax.eval_shape(network.init_params, jax.random.key(0)))
  names = {k: k.removeprefix("w/").replace("cells.", "cells_").replace(".", "/") for k in reference}
  expected = {names[k]: v.shape for k, v in reference.items() if k.startswith("w/")}
  assert {k: v.shape for k, v in own.items()} == expected
  assert sum(v.size for v in own.values()) == reference["n_params"]


@functools.cache
def supernet_forward(channels, classes):
  network = Network(NetworkConfig(channels, 1, classes))

  @jax.jit
  def forward(params, images, alphas):
    modes = ("batch", "identity")
    return [network.with_batch_norm(m).apply({"params": params}, images, alphas) for m in modes]

  return network, forward


def test_one_hot_supernet_is_the_single_network(x64, reference):
  network, forward = supernet_forward(int(reference["C"]), int(reference["num_classes"]))
  shared = flat(fixture_tree(reference, "w/"))
  params = flat(random_params(network, dtype=jnp.float64))  # the other operations have weights too
  assert shared.keys() <= params.keys()
  params = traverse_util.unflatten_dict({**params, **shared}, sep="/")
  _, alphas = single_network(reference)
  train, evaluation = forward(params, jnp.asarray(reference["x_nhwc"], jnp.float64), jnp.asarray(alphas, jnp.float64))
  assert_close(train, reference["train/logits"])
  assert_close(evaluation, reference["eval/logits"])


# Parameters


def count(network):
  return sum(v.size for v in jax.tree.leaves(jax.eval_shape(network.init_params, jax.random.key(0))))


def test_parameter_counts_are_the_formula():
  for arch in encoding.sample(jax.random.key(5), 20):
    config = NetworkConfig(3, 2, 7, ops=tuple((int(op),) for op in arch))
    assert count(Network(config)) == costs.params(arch, channels=3, cells=2, classes=7)


@pytest.mark.parametrize("arch", [(3, 3, 3, 3, 3, 3), (1, 2, 0, 4, 3, 2)])
def test_parameter_counts_of_the_benchmark(arch):
  network = Network(NetworkConfig(16, 5, 10, ops=tuple((op,) for op in arch)))
  assert count(network) == costs.params(arch)


def test_parameter_count_of_the_supernet(fixtures):
  assert count(Network(NetworkConfig(3, 1))) == 14_677
  with np.load(fixtures / "tenas" / "f2_ntk_nb201_generic.npz") as file:
    assert int(file["n_params_without_alpha"]) == 14_677


@pytest.mark.parametrize("changes", [{}, {"first_cell_only": True}, {"stem": False, "channels": 3}])
def test_init_params_has_the_tree_of_init(changes):
  network = Network(dataclasses.replace(SMALL, **changes))
  images, alphas = jnp.zeros((2, 4, 4, 3)), jnp.zeros((1, 6, 5))
  whole = jax.eval_shape(lambda key: network.init(key, images, alphas), jax.random.key(0))
  own = jax.eval_shape(network.init_params, jax.random.key(0))
  assert jax.tree.structure(own) == jax.tree.structure(whole["params"])
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, whole["params"])


def test_init_params_has_the_values_of_init():
  network = Network(dataclasses.replace(ONE_CELL, ops=((3,), (), (1,), (), (2,), (4,))))
  images, alphas = jnp.zeros((2, 4, 4, 3)), jnp.zeros((1, 6, 5))
  whole = network.init(jax.random.key(3), images, alphas)["params"]
  own = network.init_params(jax.random.key(3))
  jax.tree.map(np.testing.assert_array_equal, own, whole)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(own))


def test_batch_norm_mode_does_not_change_the_parameters():
  network = Network(SMALL)
  own = jax.eval_shape(network.init_params, jax.random.key(0))
  for mode in BATCH_NORMS:
    other = jax.eval_shape(network.with_batch_norm(mode).init_params, jax.random.key(0))
    assert jax.tree.structure(own) == jax.tree.structure(other)


def test_equal_configs_are_one_static_argument():
  assert Network(SMALL) == Network(SMALL)
  assert hash(Network(SMALL)) == hash(Network(SMALL).with_batch_norm("batch"))
  assert Network(SMALL) != Network(SMALL).with_batch_norm("identity")


# Initialisation


@pytest.mark.parametrize("init", INITS)
def test_initial_weights_follow_the_scheme(init):
  """Kernels large enough to tell fan in from fan out: conv_a 12 -> 24, the classifier 48 -> 200."""
  ops = ((3,), (2,), (0,), (0,), (0,), (0,))
  network = Network(NetworkConfig(12, 1, 200, init=init, ops=ops))
  params = flat(jax.jit(network.init_params)(jax.random.key(1)))
  for name in ("cells_1/conv_a/conv", "cells_3/conv_b/conv", "cells_4/edge1_0/nor_conv_3x3/conv"):
    check_spread(init, np.asarray(params[f"{name}/kernel"]))
  check_spread(init, np.asarray(params["classifier/kernel"]))
  for name, value in params.items():
    if name.endswith("scale"):
      np.testing.assert_array_equal(value, 1)
    elif name.endswith("bn/bias"):
      np.testing.assert_array_equal(value, 0)
  bias = np.asarray(params["classifier/bias"])
  if init == "torch_default":
    bound = 48**-0.5
    assert np.abs(bias).max() <= bound
    assert abs(bias.std() / (bound / 3**0.5) - 1) < 0.15
  else:
    np.testing.assert_array_equal(bias, 0)


def check_spread(init, kernel):
  window = int(np.prod(kernel.shape[:-2]))
  if init == "torch_default":
    bound = (window * kernel.shape[-2]) ** -0.5
    assert np.abs(kernel).max() <= bound
    expected = bound / 3**0.5
  else:
    fan = window * kernel.shape[-1 if init == "kaiming_fan_out" else -2]
    expected = (2 / fan) ** 0.5
    assert np.abs(kernel).max() > 2.5 * expected  # not truncated
  assert abs(kernel.std() / expected - 1) < 5 / (2 * kernel.size) ** 0.5
  assert abs(kernel.mean()) < 5 * expected / kernel.size**0.5


def test_initial_weights_differ_between_layers_and_keys():
  network = Network(ONE_CELL)
  one, two, again = (flat(network.init_params(jax.random.key(k))) for k in (0, 1, 0))
  kernels = [k for k in one if k.endswith("kernel")]
  assert len({np.asarray(one[k]).ravel()[0].item() for k in kernels}) == len(kernels)
  for name in kernels:
    assert not np.array_equal(one[name], two[name])
    np.testing.assert_array_equal(one[name], again[name])


# Transforms


@functools.cache
def small_forward(mode="batch", fused=True, over_alphas=False):
  network = Network(dataclasses.replace(SPARSE, batch_norm=mode, fused=fused))

  def forward(params, images, alphas):
    return network.apply({"params": params}, images, alphas)

  return jax.jit(jax.vmap(forward, (None, None, 0)) if over_alphas else forward)


def test_modes_agree_in_value_in_float32():
  params = random_params(Network(SPARSE))
  images, alphas = draw(0, 3, 8, 8, 3), soft_alphas(1)
  expected = small_forward()(params, images, alphas)
  assert expected.shape == (3, 3)
  assert expected.dtype == jnp.float32
  assert np.ptp(expected, axis=0).min() > 1e-3  # the output depends on the image
  for mode, fused in (("batch", False), ("batch_frozen", True)):
    np.testing.assert_allclose(small_forward(mode, fused)(params, images, alphas), expected, rtol=1e-3, atol=1e-4)


def test_vmap_over_alphas_is_the_loop():
  params, images, alphas = random_params(Network(SPARSE)), draw(0, 3, 8, 8, 3), soft_alphas(2, 4)
  together = small_forward(over_alphas=True)(params, images, alphas)
  apart = [small_forward()(params, images, row) for row in alphas]
  np.testing.assert_allclose(together, np.stack(apart), rtol=1e-4, atol=1e-5)
  assert not np.allclose(apart[0], apart[1], atol=1e-3)


def test_jit_is_eager():
  network = Network(dataclasses.replace(SPARSE, first_cell_only=True))
  params = random_params(network)
  images, alphas = draw(0, 3, 8, 8, 3), soft_alphas(3)
  compiled = jax.jit(network.apply)({"params": params}, images, alphas)
  eager = network.apply({"params": params}, images, alphas)
  np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


def test_permuted_samples_permute_the_output():
  params, images, alphas = random_params(Network(SPARSE)), draw(0, 4, 8, 8, 3), soft_alphas(1)
  order = np.array([2, 0, 3, 1])
  permuted = small_forward()(params, images[order], alphas)
  expected = small_forward()(params, images, alphas)[order]
  np.testing.assert_allclose(permuted, expected, rtol=1e-4, atol=1e-5)


def test_disconnected_cell_gives_one_output_for_all_images():
  params, images = random_params(Network(SPARSE)), draw(0, 3, 8, 8, 3)
  logits = small_forward()(params, images, jnp.asarray(encoding.alphas([0] * 6)))
  assert np.isfinite(logits).all()
  assert np.ptp(logits, axis=0).max() < 1e-6


@pytest.mark.parametrize("threshold", [0.005, 0.02])
def test_pattern_of_a_node_shows_only_executed_convolutions(threshold):
  """A convolution with a weight of at most 0.01 is not executed, so it shows no ReLU."""
  network = Network(ONE_CELL)
  alphas = np.zeros((1, 6, 5), np.float32)
  alphas[0, :, OPS.index("skip_connect")] = 1
  alphas[0, EDGES.index((3, 1)), min(CONVS)] = threshold
  arguments = {"params": random_params(network)}, draw(0, 3, 8, 8, 3), jnp.asarray(alphas)
  run = jax.jit(functools.partial(network.apply, mutable=["patterns", "features"]))
  _, state = run(*arguments)
  nodes = {k: np.asarray(v[0]) for k, v in state["patterns"]["cells_0"].items()}
  assert not nodes["node0"].any()
  assert not nodes["node2"].any()
  stem = np.asarray(state["features"]["after_stem"][0])  # node 1 is a copy of it
  np.testing.assert_array_equal(nodes["node1"], (stem > 0) & (threshold > 0.01))


# Bad input


@pytest.mark.parametrize(
  ("shape", "changes", "parts"),
  [
    ((2, 8, 8), {}, ["(2, 8, 8)", "(N, H, W, 3)"]),
    ((2, 8, 8, 1), {}, ["(2, 8, 8, 1)", "(N, H, W, 3)"]),
    ((2, 8, 8, 3), {"stem": False}, ["(2, 8, 8, 3)", "(N, H, W, 2)"]),
    ((2, 3, 8, 3), {}, ["3x8", "4x4"]),
  ],
)
def test_images_of_another_shape(shape, changes, parts):
  network = Network(dataclasses.replace(SMALL, **changes))
  with pytest.raises(DatasetError) as error:
    network.apply({"params": {}}, jnp.zeros(shape), jnp.zeros((1, 6, 5)))
  assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5), (1, 5, 6), (1, 14, 8)])
def test_alphas_of_another_shape(shape):
  with pytest.raises(ConfigError, match=r"alphas of shape .*\(1, 6, 5\)"):
    Network(SMALL).apply({"params": {}}, jnp.zeros((2, 8, 8, 3)), jnp.zeros(shape))


def test_small_images_suit_one_cell():
  network = Network(dataclasses.replace(ONE_CELL, channels=1, stem=False))
  images, alphas = draw(0, 5, 3, 3, 1), soft_alphas(0)
  output = jax.eval_shape(network.apply, {"params": random_params(network)}, images, alphas)
  assert output.shape == (5, 3)


@pytest.mark.parametrize(
  ("changes", "parts"),
  [
    ({"channels": 0}, ["channels=0", "at least 1"]),
    ({"cells": -1}, ["cells=-1", "at least 1"]),
    ({"classes": 0}, ["classes=0", "at least 1"]),
    ({"batch_norm": "eval"}, ["batch_norm='eval'", *BATCH_NORMS]),
    ({"init": "kaiming_normal"}, ["init='kaiming_normal'", *INITS]),
    ({"ops": ALL_OPS[:5]}, ["ops=", "6 edges"]),
    ({"ops": (*ALL_OPS[:5], (5,))}, ["ops=", "0..4"]),
  ],
)
def test_bad_config(changes, parts):
  with pytest.raises(ConfigError) as error:
    NetworkConfig(**changes)
  assert all(part in str(error.value) for part in parts)
  assert "\n" not in str(error.value)


def test_bad_batch_norm_mode():
  with pytest.raises(ConfigError, match="batch_norm='eval'"):
    Network(SMALL).with_batch_norm("eval")
