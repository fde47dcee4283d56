"""Networks of Network Design Spaces: GenNAS's own outputs, layers, and what proxies are told."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from nds_cases import ENAS, EVERY_OP, RESNEXT, any_cells, fixture_tree

from jaxnas import spaces
from jaxnas.base import NetworkConfig, SampleGram, Single, TappedNetwork
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.gennas.heads import SignalNetwork
from jaxnas.nets import plain_layers
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.log_synflow import LogSynFlow
from jaxnas.proxies.synflow import SynFlow
from jaxnas.spaces import mapping
from jaxnas.spaces.nds import BlockTable, NDSBlockNetwork, NDSCellNetwork
from jaxnas.spaces.nds.blocks import costs as stages
from jaxnas.spaces.nds.blocks import mapping as block_mapping
from jaxnas.spaces.nds.blocks.grouped import convolve_in_groups
from jaxnas.spaces.nds.blocks.module import NDSBlockModule
from jaxnas.spaces.nds.cells import encoding
from jaxnas.spaces.nds.cells import mapping as cell_mapping
from jaxnas.spaces.nds.cells.module import NDSCellModule
from jaxnas.spaces.nds.pooling import average_along, max_along

WIDTHS = (3, 2, 4)
FLOWS = (SynFlow(), LogSynFlow())


@pytest.fixture(scope="module")
def published(fixtures):
  return json.loads((fixtures / "gennas/g5_nds.json").read_text())["forward"], np.load(
    fixtures / "gennas/g5_nds_forward.npz"
  )


def cell_names(module):
  """(path of a layer in the fixture, in the module), convolutions and their BN."""
  order = {"dw": 0, "row": 0, "conv": 0, "conv0": 0, "pw": 1, "column": 1, "conv1": 1}
  stem = (
    [("stem", "stem")] if module.form == "cifar" else [("stem0", "stem_a"), ("stem0", "stem_b"), ("stem1", "stem_c")]
  )
  for fixture, name in stem:
    number = int(name == "stem_b")
    yield (fixture, f"conv{number}"), (name, "conv")
    yield (fixture, f"bn{number}"), (name, "bn")
  names = {path[:-1] for path in cell_mapping.parameters(module)}
  for path in sorted(names, key=lambda path: (path[:2], path[2:-1], order.get(path[-1], 2))):
    if not path[0].startswith("cell_"):
      continue
    cell = path[0].replace("_", "")
    if path[1].startswith("input_"):
      block = f"preprocess{path[1][-1]}"
    else:
      node, i = int(path[1][4]), int(path[1][-1])
      block = f"op{2 * (node - encoding.FIRST_NODE) + i}"
    second = len(path) == 4 and path[2] == "b"
    kind = "bn" if path[-1] == "bn" else "conv"
    number = second + (0 if kind == "bn" else second + order[path[-1]])
    yield (cell, block, f"{kind}{number}"), path


def block_names(module):
  places = {"a": 0, "b": 1, "c": 2}
  for own, path, where in block_mapping._layers(module):
    if path[0] == "stem":
      block, number = ("stem",), 0
    else:
      index = where[0] + 2 if where else 1
      block = (f"s{int(path[0][-1]) + 1}", f"b{index}", "projection" if path[-1] == "shortcut" else "branch")
      number = 0 if path[-1] == "shortcut" else places[path[-1]]
    yield (*block, f"conv{number}"), (*own, "conv")
    yield (*block, f"bn{number}"), (*own, "bn")


def network_of(name, forward):
  """(network, module, parts of its parameters, names of its layers in the fixture)."""
  config = NetworkConfig(classes=1)
  if "genotype" in forward:
    table = any_cells(len(forward["genotype"]["normal"]) // 2)
    text = encoding.format(table, encoding.from_net(table, forward))
    config = NetworkConfig(forward["width"], forward["depth"], 1)
    form = "code" if name == "darts_imagenet" else "cifar"
    module = NDSCellModule(text, table, *config.size, 1, form)
    return NDSCellNetwork(config, table, form), module, cell_mapping.parameters(module), cell_names(module)
  net = stages.staged(forward, "code")
  table = BlockTable("any", forward["block_type"], tuple(forward["ss"]), (2,), (1,), (1,))
  module = NDSBlockModule(net, 1)
  return NDSBlockNetwork(config, table, (0,), net), module, block_mapping.parameters(module), block_names(module)


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("resnext", "basic"))) for n in
           ("darts", "mixed", "darts_imagenet", "resnext", "basic")]
)  # fmt: skip
def test_outputs_are_gennas_own(published, x64, name):
  """With its heads, by the batch's statistics and then by the running ones."""
  forward, arrays = published
  network, module, parts, names = network_of(name, forward[name])
  given = fixture_tree(arrays, f"{name}/params/")
  params = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(network.init, jax.random.key(0)))
  collection = mapping.gather(parts, params)
  used = set()
  for theirs, ours in names:
    inner = collection
    for key in ours:
      inner = inner[key]
    for leaf in inner:
      assert inner[leaf].shape == given[(*theirs, leaf)].shape, (theirs, ours)
      inner[leaf] = jnp.asarray(given[(*theirs, leaf)])
      used.add((*theirs, leaf))
  assert used == {path for path in given if not path[0].startswith("head")}
  whole = SignalNetwork(network, WIDTHS)
  heads = [head_of(given, i, channels) for i, channels in enumerate(network.tap_channels)]
  params = {"backbone": mapping.scatter(parts, collection, params), "heads": heads}
  arch = jnp.asarray(encoding.parse(module.table, module.arch) if "genotype" in forward[name] else [0], jnp.int32)
  images = jnp.asarray(arrays["images"], jnp.float64)
  stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), whole.init_stats())
  predict = jax.jit(whole.predict, static_argnames="train")
  shown, stats = predict(params, stats, images, arch, train=True)
  after, _ = predict(params, stats, images, arch, train=False)
  for i in range(3):
    for found, kind in ((shown, "train"), (after, "eval_after_one_train_pass")):
      wanted = arrays[f"{name}/{kind}/out{i}"]
      np.testing.assert_allclose(found[i], wanted, rtol=0, atol=2e-11 * np.abs(wanted).max(), err_msg=f"{kind} {i}")


def head_of(given, i, channels):
  """A head of the fixture, with zeros for channels that only other genotypes have."""
  own = {path[1:]: value for path, value in given.items() if path[0] == f"head{i}"}

  def wide(leaf, axis):
    pads = [(0, 0)] * leaf.ndim
    pads[axis] = (0, channels - leaf.shape[axis])
    return jnp.pad(jnp.asarray(leaf), pads)

  return {
    "bn": {"scale": wide(own["bn0", "scale"], 0), "bias": wide(own["bn0", "bias"], 0)},
    "conv": {"kernel": wide(own["conv0", "kernel"][0, 0], 0), "bias": jnp.asarray(own["conv0", "bias"])},
  }


# Layers


@pytest.mark.parametrize(("size", "stride"), list(itertools.product((3, 5, 7), (1, 2))))
def test_poolings_are_those_of_windows(x64, size, stride):
  x, pad = draw(0, 2, 2, 7, 8), size // 2

  def windows(fill):
    framed = np.pad(np.asarray(x), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    rows, columns = -(-7 // stride), -(-8 // stride)
    return np.array([
      [framed[:, :, stride * i : stride * i + size, stride * j : stride * j + size] for j in range(columns)]
      for i in range(rows)
    ])  # fmt: skip

  def along(fn, x):
    return fn(fn(x, 3, size, stride), 2, size, stride)

  found = np.asarray(along(max_along, x)).transpose(2, 3, 0, 1)
  np.testing.assert_array_equal(found, windows(-np.inf).max((-1, -2)))
  found = np.asarray(along(average_along, x)).transpose(2, 3, 0, 1)
  np.testing.assert_allclose(found, np.nanmean(windows(np.nan), (-1, -2)), rtol=1e-12)
  weights = draw(1, *along(max_along, x).shape)
  gradient = jax.grad(lambda x: (along(max_along, x) * weights).sum())(x)
  pads = ((0, 0), (0, 0), (pad, pad), (pad, pad))
  window = jax.grad(
    lambda x: (
      jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, size, size), (1, 1, stride, stride), pads) * weights
    ).sum()
  )(x)
  np.testing.assert_allclose(gradient, window, rtol=1e-12)


@pytest.mark.parametrize(
  ("groups", "stride", "sides", "channels"),
  [
    (1, 1, (5, 6), 8),
    (2, 2, (7, 6), 8),
    (4, 1, (3, 3), 8),
    (8, 2, (8, 8), 8),
    (4, 1, (3, 5), 132),
    (3, 2, (5, 4), 132),
  ],
)
def test_convolution_in_groups(x64, groups, stride, sides, channels):
  x, kernel = draw(0, 2, *sides, channels), draw(1, 3, 3, channels // groups, 2 * groups)

  def library(x, kernel):
    numbers, pads = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=groups
    )

  def ours(x, kernel):
    return convolve_in_groups(x, kernel, groups, stride)

  np.testing.assert_allclose(ours(x, kernel), library(x, kernel), rtol=1e-11, atol=1e-11)
  weights = draw(2, *ours(x, kernel).shape)
  found, wanted = (jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), (0, 1))(x, kernel) for f in (ours, library))
  for one, two in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "side"), [(3, 8), (5, 8), (7, 8), (7, 9)])
def test_convolutions_at_stride_2_have_any_odd_size(x64, size, side):
  x, kernel, pad = draw(0, 2, side, side, 3), draw(1, size, size, 3, 4), size // 2

  def library(x, kernel):
    pads = ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

  weights = draw(2, *library(x, kernel).shape)
  np.testing.assert_allclose(plain_layers.convolve(x, kernel, 2), library(x, kernel), rtol=1e-11, atol=1e-11)
  functions = (lambda *a: plain_layers.convolve(*a, 2), library)
  found, wanted = (jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), (0, 1))(x, kernel) for f in functions)
  for one, two in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-10)


# What proxies are told


@pytest.mark.parametrize(
  ("name", "factor"), [("nds_resnet_lr_wd", 2), pytest.param("nds_enas", 8, marks=pytest.mark.slow)]
)
def test_synflow_of_deep_networks_is_its_definition(x64, name, factor):
  """Flows beyond float32 in every form, which float64 holds as they are: by unit moments instead of none."""
  space = spaces.get(name)
  if name == "nds_enas":
    code, config = space.from_net(ENAS), NetworkConfig(4, 9, 3)
  else:
    code = np.array([16, 8, 24, 4, 1, 32, 16, 32, 16])
    config = NetworkConfig(classes=3, shape=space.shape(code))
  network = space.network(config)
  arch, drawn = jnp.asarray(network.encode(code[None])[0]), network.init(jax.random.key(0))
  drawn = jax.tree.map(lambda leaf: factor * leaf, drawn)
  ones = jnp.ones((1, 16, 16, 3), jnp.float32)
  (found, log_found) = jax.jit(lambda p: [x.measure(Evaluation(network, p, arch, ones)) for x in FLOWS])(drawn)

  def positive(path, w):
    name = path[-1].key
    return jnp.abs(w).astype(jnp.float64) if name == "kernel" else jnp.full(w.shape, float(name == "scale"))

  params = jax.tree_util.tree_map_with_path(positive, network.start(drawn, arch))
  stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init_stats())
  ones = ones.astype(jnp.float64)
  flow, gradient = jax.jit(
    jax.value_and_grad(lambda p: network.apply(p, ones, arch, "running", stats=stats).logits.sum())
  )(params)
  assert 1e80 < flow < np.inf
  pairs = [
    (np.asarray(w), np.asarray(g))
    for (path, w), g in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(gradient), strict=True)
    if path[-1].key == "kernel"
  ]
  np.testing.assert_allclose(found, np.log10(sum((w * g).sum() for w, g in pairs)), rtol=1e-5)
  np.testing.assert_allclose(log_found, sum((w * np.log1p(g)).sum() for w, g in pairs), rtol=1e-4)


def enas(**settings):
  space = spaces.get("nds_enas")
  return space, space.network(NetworkConfig(4, 3, 3, **settings)), space.from_net(ENAS)


def test_networks_have_what_proxies_and_gennas_ask_for():
  _, network, code = enas()
  resnext = spaces.get("nds_resnext_a")
  own = resnext.from_net(RESNEXT)
  other = resnext.network(NetworkConfig(classes=3, shape=resnext.shape(own)))
  for one, arch in ((network, code), (other, own)):
    assert isinstance(one, Single) and isinstance(one, SampleGram) and isinstance(one, TappedNetwork)
    assert one.encode(arch[None]).dtype == np.int32
  with pytest.raises(ArchitectureError, match="this network is of .*; make another"):
    other.encode(resnext.neighbours(own)[:1])
  assert network == enas()[1] and hash(network) == hash(enas()[1])


def test_one_program_for_architectures_of_equal_sizes():
  """Whatever the width and depth of their codes, if a config says otherwise."""
  space = spaces.get("nds_darts")
  codes = space.sample(jax.random.key(0), 20)
  own = {space.network(NetworkConfig(4, 3, 3, shape=space.shape(code))) for code in codes}
  assert len(own) == 1 and len({space.shape(code) for code in codes}) > 3


def test_parameters_start_as_those_of_a_network_without_padding(x64):
  """Rows that a genotype lacks are 0, and the others have the spread of its own fan in."""
  _, network, code = enas(init="torch_default")
  params = network.init(jax.random.key(0))
  arch = jnp.asarray(network.encode(code[None])[0])
  fresh, used = network.start(params, arch), network.used_channels(arch)
  rows, columns = np.asarray(used["classifier"]["kernel"])
  assert (rows, columns) == (3 * 16, 3)  # the last cell reduces: three states of 16 channels
  kernel = np.asarray(fresh["classifier"]["kernel"])
  assert (kernel[rows:] == 0).all() and 0.9 * rows**-0.5 < np.abs(kernel[:rows]).max() <= rows**-0.5
  assert np.abs(fresh["classifier"]["bias"]).max() <= rows**-0.5
  entry = np.asarray(fresh["reduce_2"]["input_1"]["conv"]["kernel"])[0, 0]
  rows, columns = np.asarray(used["reduce_2"]["input_1"]["conv"]["kernel"])
  assert (rows, columns) == (3 * 8, 16)
  assert (entry[rows:] == 0).all() and 0.9 * rows**-0.5 < np.abs(entry[:rows]).max() <= rows**-0.5


@pytest.mark.slow
def test_agreement_counts_every_relu_once(x64):
  """All samples agree with themselves in every unit: as many as the costs count."""
  space = spaces.get("nds_nasnet")
  codes = space.sample(jax.random.key(3), 6)
  for cells, stem, side in ((7, "cifar", 6), (4, "imagenet", 24)):
    network = space.network(NetworkConfig(4, cells, 3, stem=stem))
    params = network.init(jax.random.key(0))

    def observe(arch, network=network, params=params, side=side):
      images = jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)
      return network.apply(network.start(params, arch), images, arch, collect=("observation",)).observation.agreement

    run = jax.jit(observe)
    for code in codes[:2]:
      np.testing.assert_allclose(np.diag(run(network.encode(code[None])[0])), relus(space, code, network, side))


def relus(space, code, network, side):
  """Elements that ReLUs read, of the module."""
  config = NetworkConfig(*network.config.size, 3, stem="cifar" if network.form == "cifar" else "imagenet")
  module = space.module(code, config)
  images = jnp.zeros((1, side, side, 3))
  with jax.numpy_dtype_promotion("standard"):
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, images)
  return elements(jaxpr.jaxpr)


def elements(jaxpr):
  """Of the inputs of all calls that are called relu."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.params.get("name") == "relu":
      total += equation.invars[0].aval.size
    elif equation.primitive.name == "custom_jvp_call":
      total += sum(v.aval.size for v in equation.invars)
    else:
      for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
        inner = getattr(inner, "jaxpr", inner)
        total += elements(inner) if hasattr(inner, "eqns") else 0
  return total


def test_sizes_that_networks_do_not_have_are_refused(unchecked):
  space = spaces.get("nds_enas")
  with pytest.raises(ConfigError, match="auxiliary=True"):
    space.network(NetworkConfig(4, 3, 3, auxiliary=True))
  with pytest.raises(ConfigError, match="channels=1 must be at least 2"):
    space.network(NetworkConfig(1, 3, 3))
  with pytest.raises(ConfigError, match="cells=2 must be at least 3: the taps"):
    space.backbone(NetworkConfig(4, 2, 3))
  with pytest.raises(ConfigError, match="variant='paper'"):
    space.network(NetworkConfig(4, 3, 3), "paper")
  assert EVERY_OP.count("none") == 1
