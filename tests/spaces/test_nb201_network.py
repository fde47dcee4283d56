"""The NAS-Bench-201 network: parity with the reference code, parameters, transforms, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nb201_trees import flat, from_reference, place_of, random_params, shapes_of

from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import passes
from jaxnas.nets.initialise import Named, draw_named
from jaxnas.spaces.nb201 import NB201, Backbone, RegionNetwork, SingleNetwork, Supernet, costs, encoding
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import reduction
from jaxnas.spaces.nb201.operations import Operations
from jaxnas.spaces.nb201.parameters import CONVS

INITS = ("torch_default", "kaiming_fan_out", "kaiming_fan_in")
MODES = ("batch", "batch_frozen", "running", "identity")
ARCHS = ("with_none", "all_3x3", "all_skip", "mixed_pool")
SMALL = Supernet(2, 1, 3)
ONE_CELL = RegionNetwork(2, 1, 3)
LOSS = "train/ce_"


def draw(seed, *shape, dtype=np.float32):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def soft_weights(seed, *lead):
  """Rows of weights that sum to 1 over all operations."""
  weights = np.random.default_rng(seed).dirichlet(np.ones(len(OPS)), (*lead, 1, len(EDGES)))
  return jnp.asarray(weights, jnp.float32)


# Parity with the reference code


def of_reference(file, prefix):
  """The arrays under `prefix`, by the rest of their names."""
  return {k.removeprefix(prefix): file[k] for k in file if k.startswith(prefix)}


@pytest.fixture(scope="module", params=ARCHS)
def reference(request, fixtures):
  with np.load(fixtures / "tenas" / f"f1_infer_{request.param}.npz") as file:
    return dict(file)


def everything(network, params, stats, images, labels, arch):
  """What the fixture holds of one architecture."""

  def parts(mode):
    """What the stem, the stages and the reductions give."""
    own, given = Operations(passes.begin(mode, (), stats, able=()), "single"), stats if mode == "running" else {}
    output = network.apply(params, images, arch, mode, stats=given or None, collect=("taps",))
    found = [own.conv_bn(images, params["stem"], given.get("stem"))[0], output.taps[0]]
    for i in (1, 2):
      name = f"reduce_{i}"
      found += [reduction(own, output.taps[i - 1], params[name], given.get(name, {}))[0], output.taps[i]]
    return found, output.logits

  def loss(params):
    logits = network.apply(params, images, arch).logits
    hot = jax.nn.one_hot(labels, network.classes, dtype=logits.dtype)
    return -(jax.nn.log_softmax(logits) * hot).sum(-1).mean(), logits

  shown = network.apply(params, images, arch, collect=("running_stats", "observation"))
  return {
    "train": parts("batch"),
    "eval": parts("running"),
    "last": shown.observation.features,
    "stats": jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, shown.stats),
    "loss": jax.value_and_grad(loss, has_aux=True)(params),
  }


SWITCH, STATIC = jax.jit(everything, static_argnums=0), jax.jit(everything, static_argnums=(0, 5))


@pytest.fixture(scope="module", params=["static", "switch"])
def computed(request, reference):
  """Everything the fixture holds of one architecture, in float64."""
  with jax.enable_x64(True):
    network = SingleNetwork(int(reference["C"]), int(reference["N"]), int(reference["num_classes"]))
    code = encoding.parse(str(reference["arch"]))
    params = from_reference(of_reference(reference, "w/"), network)
    stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init_stats())
    given = params, stats, jnp.asarray(reference["x_nhwc"], jnp.float64), jnp.asarray(reference["train/ce_labels"])
    if request.param == "static":
      found = STATIC(network, *given, tuple(code.tolist()))
    else:
      found = SWITCH(network, *given, jnp.asarray(code, jnp.int32))
    return jax.tree.map(np.asarray, found) | {"network": network}


def assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_forward_is_the_reference(reference, computed, mode):
  parts, logits = computed[mode]
  assert_close(logits, reference[f"{mode}/logits"])
  for i, maps in enumerate(parts):
    assert_close(maps.mean((1, 2)), reference[f"{mode}/feat_mean_{i}"])
  if mode == "train":
    assert_close(computed["last"].mean((1, 2)), reference["train/pooled"])
    last = reference["train/feat_last_nhwc"]  # stored in float32
    np.testing.assert_allclose(computed["last"], last, rtol=1e-6, atol=1e-6)


def test_running_statistics_after_one_step(reference, computed):
  expected = of_reference(reference, "after_one_train_step/")
  actual, network = flat(computed["stats"]), computed["network"]
  assert len(expected) >= 2 * 6  # all of skips: the stem, the reductions and the last
  for name, value in expected.items():
    own, cell = place_of(name, network.cells)
    *layer, bn, moment = own.split("/")
    assert bn == "bn"
    layer = layer[:2] if layer[0].startswith("stage") else layer  # an edge has one BN at most
    found = actual["/".join([*layer, "0" if moment == "mean" else "1"])]
    assert_close(found if cell is None else found[cell], value)


def test_loss_and_gradients_are_the_reference(reference, computed):
  (loss, logits), gradients = computed["loss"]
  assert_close(logits, reference["train/logits"])
  assert_close(loss, reference[f"{LOSS}loss"])
  actual, norms = flat(gradients), of_reference(reference, f"{LOSS}gradnorm/")
  assert len(norms) == len(of_reference(reference, "w/"))

  def own(name):
    place, cell = place_of(name, computed["network"].cells)
    return actual[place] if cell is None else actual[place][cell]

  for name, norm in norms.items():
    assert_close(np.linalg.norm(own(name)), norm)
  total = np.sqrt(sum(np.square(leaf).sum() for leaf in actual.values()))
  assert_close(total, np.sqrt(sum(np.square(norm) for norm in norms.values())))  # nothing else has a gradient
  full = of_reference(reference, f"{LOSS}grad/")
  assert full
  for name, value in full.items():
    assert_close(own(name), value)


def test_executed_parameters_are_those_of_the_reference(reference):
  network = SingleNetwork(int(reference["C"]), int(reference["N"]), int(reference["num_classes"]))
  ones = {name: np.ones(value.shape) for name, value in of_reference(reference, "w/").items()}
  masks = network.executed(jnp.asarray(encoding.parse(str(reference["arch"])), jnp.int32))
  for name, leaf in flat(from_reference(ones, network)).items():
    mask = np.asarray(flat(masks)[name])
    np.testing.assert_array_equal(
      leaf, np.broadcast_to(mask.reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim)), leaf.shape)
    )
  assert sum(np.sum(v) for v in ones.values()) == reference["n_params"]


@functools.cache
def supernet_forward(channels, classes):
  network = Supernet(channels, 1, classes)
  return network, jax.jit(lambda *args: [network.apply(*args, mode).logits for mode in ("batch", "identity")])


def test_one_hot_supernet_is_the_single_network(x64, reference):
  network, forward = supernet_forward(int(reference["C"]), int(reference["num_classes"]))
  others = random_params(network)  # the other operations have weights too
  params = from_reference(of_reference(reference, "w/"), network, others)
  weights = network.encode(encoding.parse(str(reference["arch"]))[None])[0]
  train, evaluation = forward(params, jnp.asarray(reference["x_nhwc"], jnp.float64), jnp.asarray(weights, jnp.float64))
  assert_close(train, reference["train/logits"])
  assert_close(evaluation, reference["eval/logits"])


# Parameters


def size(tree):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def executed_size(network, arch):
  masks = network.executed(jnp.asarray(arch, jnp.int32))
  return sum(jax.tree.leaves(jax.tree.map(lambda s, m: np.sum(m) * s.size / np.size(m), shapes_of(network), masks)))


def test_parameter_counts_are_the_formula():
  network = SingleNetwork(3, 2, 7)
  for arch in encoding.sample(jax.random.key(5), 20):
    assert executed_size(network, arch) == costs.params(arch, channels=3, cells=2, classes=7)


@pytest.mark.parametrize("arch", [(3, 3, 3, 3, 3, 3), (1, 2, 0, 4, 3, 2)])
def test_parameter_counts_of_the_benchmark(arch):
  assert executed_size(SingleNetwork(16, 5, 10), arch) == costs.params(arch)


def test_parameter_count_of_the_supernet(fixtures):
  assert size(shapes_of(Supernet(3, 1, 10))) == 14_677
  with np.load(fixtures / "tenas" / "f2_ntk_nb201_generic.npz") as file:
    assert int(file["n_params_without_alpha"]) == 14_677


@pytest.mark.parametrize("init", INITS)
def test_roles_share_the_values_of_a_key(init):
  """And a parameter's value depends on its own name and shape only."""
  key = jax.random.key(3)
  single, mixed = SingleNetwork(2, 2, 3, init).init(key), Supernet(2, 2, 3, init, order=2).init(key)
  jax.tree.map(np.testing.assert_array_equal, single, mixed)
  (alone,) = draw_named([Named((3, 3, 4, 4), (("cells_4", "edge2_1", "nor_conv_3x3", "conv", 1),))], init, key)
  np.testing.assert_array_equal(single["stage_1"]["edge2_1"]["nor_conv_3x3"]["conv"]["kernel"][1], alone)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(single))


@pytest.mark.parametrize(
  ("network", "recorded"),
  [
    (
      SingleNetwork(3, 1, 10, "torch_default"),
      {
        "stem/conv/kernel": (0.07635988295078278, 0.09729687869548798),
        "reduce_2/conv_b/conv/kernel": (-0.05197707563638687, 0.08309777826070786),
        "stage_1/edge2_1/nor_conv_3x3/conv/kernel": (0.02081984281539917, 0.01972830295562744),
        "classifier/kernel": (0.1162775456905365, -0.2309507578611374),
        "classifier/bias": (0.07973676919937134, 0.09892690181732178),
      },
    ),
    (
      Supernet(3, 1, 10, "kaiming_fan_out"),
      {
        "stem/conv/kernel": (0.14146409928798676, 0.18596503138542175),
        "stage_1/edge2_1/nor_conv_3x3/conv/kernel": (0.03713130205869675, 0.035162169486284256),
        "classifier/kernel": (0.23631992936134338, -0.5731741786003113),
      },
    ),
    (
      RegionNetwork(1, 1, 10, "torch_default"),
      {
        "stage_0/edge3_0/nor_conv_3x3/conv/kernel": (-0.18477582931518555, -0.33204007148742676),
        "classifier/bias": (0.2762162685394287, 0.34269285202026367),
      },
    ),
    (
      Backbone(4, 2),
      {
        "stem/conv/kernel": (0.14140096306800842, 0.0383283793926239),
        "reduce_1/downsample/conv/kernel": (0.2643934488296509, -0.3619271516799927),
        "stage_2/edge3_1/nor_conv_1x1/conv/kernel": (0.19589883089065552, 0.21375715732574463),
      },
    ),
  ],
)
def test_values_of_a_key_stay(network, recorded):
  """Searches are found again from their seeds: first and last values of parameters, recorded of the first networks."""
  leaves = flat(network.init(jax.random.key(7)))
  for name, pair in recorded.items():
    np.testing.assert_allclose(np.ravel(leaves[name])[[0, -1]], np.float32(pair), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("network", [SingleNetwork(2, 1, 3), RegionNetwork(1, 1, 3), Backbone(2, 1)])
def test_init_can_be_traced(network):
  key = jax.random.key(1)
  found, eager = jax.jit(network.init)(key), network.init(key)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), found, eager)


def test_equal_networks_are_one_static_argument():
  assert Supernet(2, 1, 3) == SMALL
  assert hash(Supernet(2, 1, 3)) == hash(SMALL)
  assert len({SMALL, Supernet(2, 1, 3, order=2), SingleNetwork(2, 1, 3), RegionNetwork(2, 1, 3), Backbone(2, 1)}) == 5


# Initialisation


@pytest.mark.parametrize("init", INITS)
def test_initial_weights_follow_the_scheme(init):
  """Kernels large enough to tell fan in from fan out: conv_a 12 -> 24, the classifier 48 -> 200."""
  params = flat(SingleNetwork(12, 1, 200, init).init(jax.random.key(1)))
  for name in ("reduce_1/conv_a/conv", "reduce_2/conv_b/conv", "stage_2/edge1_0/nor_conv_3x3/conv"):
    kernel = np.asarray(params[f"{name}/kernel"])
    check_spread(init, kernel[0] if name.startswith("stage") else kernel)
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
  network = SingleNetwork(2, 2, 3)
  one, two, again = (flat(network.init(jax.random.key(k))) for k in (0, 1, 0))
  kernels = [k for k in one if k.endswith("kernel")]
  apart = {k: np.asarray(one[k]).reshape(2 if k.startswith("stage") else 1, -1)[:, 0] for k in kernels}
  assert len(set(np.concatenate(list(apart.values())).tolist())) == sum(len(v) for v in apart.values())
  for name in kernels:
    assert not np.array_equal(one[name], two[name])
    np.testing.assert_array_equal(one[name], again[name])


# Transforms


@functools.cache
def small_forward(mode="batch", order=1, over_weights=False):
  network = Supernet(2, 1, 3, order=order)

  def forward(params, images, weights):
    return network.apply(params, images, weights, mode).logits

  return jax.jit(jax.vmap(forward, (None, None, 0)) if over_weights else forward)


def small_params():
  return random_params(SMALL, dtype=jnp.float32, kernels=0.5)


def test_modes_agree_in_value_in_float32():
  params = small_params()
  images, weights = draw(0, 3, 8, 8, 3), soft_weights(1)
  expected = small_forward()(params, images, weights)
  assert expected.shape == (3, 3)
  assert expected.dtype == jnp.float32
  assert np.ptp(expected, axis=0).min() > 1e-3  # the output depends on the image
  for mode, order in (("batch", 2), ("batch_frozen", 1)):
    np.testing.assert_allclose(small_forward(mode, order)(params, images, weights), expected, rtol=1e-3, atol=1e-4)


def test_vmap_over_weights_is_the_loop():
  params, images, weights = small_params(), draw(0, 3, 8, 8, 3), soft_weights(2, 4)
  together = small_forward(over_weights=True)(params, images, weights)
  apart = [small_forward()(params, images, row) for row in weights]
  np.testing.assert_allclose(together, np.stack(apart), rtol=1e-4, atol=1e-5)
  assert not np.allclose(apart[0], apart[1], atol=1e-3)


def test_jit_is_eager():
  params, images, weights = random_params(ONE_CELL, dtype=jnp.float32), draw(0, 3, 8, 8, 2), soft_weights(3)
  compiled = jax.jit(ONE_CELL.apply)(params, images, weights).logits
  np.testing.assert_allclose(compiled, ONE_CELL.apply(params, images, weights).logits, rtol=1e-4, atol=1e-5)


def test_permuted_samples_permute_the_output():
  params, images, weights = small_params(), draw(0, 3, 8, 8, 3), soft_weights(1)
  order = np.array([2, 0, 1])
  permuted = small_forward()(params, images[order], weights)
  expected = small_forward()(params, images, weights)[order]
  np.testing.assert_allclose(permuted, expected, rtol=1e-4, atol=1e-5)


def test_disconnected_cell_gives_one_output_for_all_images():
  params, images = small_params(), draw(0, 3, 8, 8, 3)
  logits = small_forward()(params, images, jnp.asarray(SMALL.encode(np.zeros((1, 6), int))[0]))
  assert np.isfinite(logits).all()
  assert np.ptp(logits, axis=0).max() < 1e-6


@pytest.mark.parametrize("threshold", [0.005, 0.02])
def test_pattern_of_a_node_shows_only_executed_convolutions(threshold):
  """A convolution with a weight of at most 0.01 is not executed, so it shows no ReLU."""
  weights = np.zeros((1, 6, 5), np.float32)
  weights[0, :, OPS.index("skip_connect")] = 1
  weights[0, EDGES.index((3, 1)), min(CONVS)] = threshold
  images = draw(0, 3, 8, 8, 2)
  bits = jax.jit(functools.partial(ONE_CELL.apply, collect=("patterns",)))(
    random_params(ONE_CELL, dtype=jnp.float32), images, jnp.asarray(weights)
  ).patterns
  last, nodes = np.split(np.asarray(bits).reshape(3, 4, 8, 8, 2), [1], 1)  # the last ReLU; nodes 0, 1 and 2
  assert not nodes[:, 0].any()
  assert not nodes[:, 2].any()
  np.testing.assert_array_equal(nodes[:, 1], (np.asarray(images) > 0) & (threshold > 0.01))  # node 1 is a copy of 0
  assert last.any()


# Bad input


@pytest.mark.parametrize(
  ("network", "shape", "parts"),
  [
    (SMALL, (2, 8, 8), ["(2, 8, 8)", "(N, H, W, 3)"]),
    (SMALL, (2, 8, 8, 1), ["(2, 8, 8, 1)", "(N, H, W, 3)"]),
    (ONE_CELL, (2, 8, 8, 3), ["(2, 8, 8, 3)", "(N, H, W, 2)"]),
    (SMALL, (2, 3, 8, 3), ["(2, 3, 8, 3)", "multiples of 4"]),
    (SingleNetwork(4, 2, 3), (2, 6, 8, 3), ["(2, 6, 8, 3)", "multiples of 4"]),
    (SingleNetwork(4, 2, 3), (1, 2, 8, 8, 3), ["(1, 2, 8, 8, 3)", "(N, H, W, 3)"]),
  ],
)
def test_images_of_another_shape(unchecked, network, shape, parts):
  arch = jnp.zeros((6,), jnp.int32) if isinstance(network, SingleNetwork) else jnp.zeros((1, 6, 5))
  with pytest.raises(DatasetError) as error:
    jax.eval_shape(network.apply, shapes_of(network), jnp.zeros(shape), arch)
  assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5), (1, 6, 4), (6,)])
def test_weights_of_another_shape(unchecked, shape):
  with pytest.raises(ConfigError, match=r"weights of shape .*expected \(1, 6, 5\)"):
    jax.eval_shape(SMALL.apply, shapes_of(SMALL), jnp.zeros((2, 8, 8, 3)), jnp.zeros(shape))


@pytest.mark.parametrize("arch", [(1, 2, 3), np.zeros((1, 6, 5)), np.zeros((2, 6), np.int32)])
def test_architecture_of_another_shape(unchecked, arch):
  network = SingleNetwork(2, 1, 3)
  with pytest.raises(ConfigError, match=r"arch of shape .*expected \(6,\)"):
    jax.eval_shape(lambda p, x: network.apply(p, x, arch), shapes_of(network), jnp.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize(
  ("asked", "part"),
  [
    ({"mode": "eval"}, "mode='eval'"),
    ({"mode": "running"}, "needs stats"),
    ({"collect": ("maps",)}, "collect='maps'"),
    ({"mode": "identity", "collect": ("stats",)}, "mode='identity' with collect"),
  ],
)
def test_passes_that_there_are_not(unchecked, asked, part):
  network = SingleNetwork(2, 1, 3)
  run = functools.partial(network.apply, **asked)
  with pytest.raises(ConfigError, match=part):
    jax.eval_shape(run, shapes_of(network), jnp.zeros((2, 8, 8, 3)), jnp.zeros((6,), jnp.int32))


@pytest.mark.parametrize(
  ("changes", "part"),
  [
    ({"channels": 0}, "channels=0"),
    ({"cells": 0}, "cells=0"),
    ({"classes": 0}, "classes=0"),
    ({"init": "kaiming"}, "init='kaiming'"),
  ],
)
def test_bad_sizes(unchecked, changes, part):
  with pytest.raises(ConfigError, match=part):
    NB201().network(NetworkConfig(**changes))


@pytest.mark.parametrize("changes", [{"stem": "imagenet"}, {"auxiliary": True}, {"shape": 3}])
def test_settings_that_the_networks_lack(changes):
  with pytest.raises(ConfigError, match=f"{next(iter(changes))}=.*nb201"):
    NB201().network(NetworkConfig(**changes))
