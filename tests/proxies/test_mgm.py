"""KNAS's score: the acceptance tests 1 to 5 of its specification, and the order and heads of the released code."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import CONV, SKIP, Tiny, contents, evaluation, program, raw

from jaxnas import ntk, spaces
from jaxnas.base import Batch, NetworkConfig, Output, Parametrised, Reading, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation, cross_entropy
from jaxnas.proxies.mgm import (
  MGM,
  MGMCode,
  MGMOutput,
  MGMTruncated,
  code_score,
  first_tensors,
  head_of,
  in_definition_order,
  output_gradient,
)
from jaxnas.proxies.trace_norm import TraceNorm
from jaxnas.scoring.checks import checked

NETWORK = Tiny()
MODES = ("batch", "batch_frozen", "batch1")
ALL = (
  *(kind(batch_norm=mode) for kind in (MGM, MGMOutput) for mode in MODES),
  TraceNorm(),
  TraceNorm(batch_norm="batch_frozen"),
  MGMCode(samples=2),
)


def small(arch=CONV, **changed):
  return evaluation(NETWORK, arch, samples=4, size=4, dtype=np.float64, rows=1, **changed)


def everything(e):
  """What the traced parts give by name, from one program."""
  return dict(zip([p.name for p in ALL], raw(ALL, e), strict=True))


@functools.cache
def gram_program(target):
  """The n x n Gram matrix of single-image gradients, and of the gradients with frozen statistics."""

  def run(e_params, alphas, images, labels):
    stats = NETWORK.apply(e_params, images, alphas, collect=("stats",)).stats

    def scalars(p, x, y, **kwargs):
      logits = NETWORK.apply(p, x, alphas, **kwargs).logits
      return (cross_entropy(logits, y) if target == "loss" else logits.sum(1))[:, None]

    def single(p, sample):
      return scalars(p, *sample)

    def frozen(p, sample):
      return scalars(p, *sample, mode="running", stats=stats)

    return [ntk.gram_matrix(f, e_params, (images, labels), coupled=False) for f in (single, frozen)]

  return jax.jit(run)


# Test 1 and 2: the mean of the Gram matrix, and its parts


@pytest.mark.parametrize("target", ["loss", "output"])
def test_one_pass_is_the_mean_of_the_gram_matrix(x64, target):
  e = small()
  grams = gram_program(target)(e.params, e.arch, e.inputs, e.labels)
  kind = {"loss": MGM, "output": MGMOutput}[target]
  proxies = [kind(batch_norm=mode) for mode in ("batch1", "batch_frozen")]
  found = [proxy.finish(everything(e)[proxy.name]).value for proxy in proxies]
  np.testing.assert_allclose(found, [np.asarray(g).mean() for g in grams], rtol=1e-9)


def test_tensors_add_up_and_their_mean_counts_the_executed(x64):
  by_tensor, executed = everything(small(SKIP))["mgm"]
  assert by_tensor.shape == executed.shape == (3 + 2 * 3 + 2 + 2,)
  assert executed.sum() == 7
  assert (by_tensor[executed == 0] == 0).all()
  assert MGM().finish((by_tensor, executed)).value == by_tensor.sum()
  assert MGM(reduce="layer_mean").finish((by_tensor, executed)).value == by_tensor.sum() / 7
  conv = everything(small(CONV))["mgm"]
  assert conv[1].sum() == 13
  assert (conv[0] > 0).all()


def test_order_of_parameters_inside_a_tensor_does_not_matter():
  """The same function of parameters whose classifier is stored upside down."""

  class Turned(Tiny):
    def apply(self, params, *args, **kwargs):
      return super().apply(turn(params), *args, **kwargs)

  def turn(params):
    return {**params, "classifier": {**params["classifier"], "kernel": params["classifier"]["kernel"][::-1]}}

  network = Tiny(cells=1)
  start = raw([MGM()], evaluation(network))[0][0]
  turned = raw([MGM()], evaluation(Turned(cells=1), params=turn(network.init())))[0][0]
  np.testing.assert_allclose(turned, start, rtol=1e-5)


def test_modes_and_targets_differ(x64):
  found = everything(small())
  totals = [float(found[proxy.name][0].sum()) for proxy in ALL[:6]]
  assert len(set(totals)) == 6
  assert min(totals) > 0


# Test 3: NASI's approximated trace


def test_loss_target_is_the_approximated_trace(x64):
  found = everything(small())
  for suffix in ("", "_batch_frozen"):
    np.testing.assert_allclose(found[f"mgm{suffix}"][0].sum(), found[f"trace_norm{suffix}"], rtol=1e-12)


# Test 4: the released code's score, and which tensors it takes


def test_code_score_by_loops():
  heads = np.random.default_rng(0).normal(1, 1, (50, 2, 100)).astype(np.float32)
  rows = heads.astype(np.float64)[:, :, :50]
  centre = [sum(rows[i : i + 25]) / 25 for i in (0, 25)]
  expected = 0.0
  for k in range(25):
    for t in range(2):
      for c in range(50):
        expected += (rows[k, t, c] - centre[0][t, c]) * (rows[25 + k, t, c] - centre[1][t, c])
  reading = MGMCode().finish(heads)
  assert reading.status == "ok"
  np.testing.assert_allclose(reading.value, expected / 2500, rtol=1e-12)
  heads[:, :, 50:] += 100
  assert MGMCode().finish(heads).value == reading.value


def test_truncated_score_is_the_mean_of_the_gram_matrix():
  heads = np.random.default_rng(0).normal(1, 1, (50, 2, 100))
  rows = heads.reshape(50, 200)
  np.testing.assert_allclose(MGMTruncated().finish(heads).value, (rows @ rows.T).mean(), rtol=1e-12)


def tensors(sizes, start=1.0):
  """A network of one stage with a tensor of each size, in whose entries the tensor's place is to be read."""
  tree = {f"edge{i:02d}": {"bn": {"scale": jnp.full((1, size), start + i)}} for i, size in enumerate(sizes)}
  return {"stage_0": tree}


def all_executed(tree):
  return jax.tree.map(lambda leaf: jnp.ones(len(leaf)), tree)


def test_first_eleven_of_fifteen_tensors():
  tree = tensors([64] * 15)
  heads, there = first_tensors(tree, all_executed(tree))
  np.testing.assert_array_equal(heads[:, 0], np.arange(1, 12))
  np.testing.assert_array_equal(there, np.ones(11))
  np.testing.assert_array_equal(heads[:, 64:], 0)


def test_small_tensors_are_skipped():
  tree = tensors([49, 50, 16, 200])
  heads, there = first_tensors(tree, all_executed(tree))
  np.testing.assert_array_equal(heads[:, 0], [2, 4])
  np.testing.assert_array_equal(there, [1, 1])


def test_tensors_of_other_operations_are_skipped():
  tree = tensors([64] * 15)
  masks = all_executed(tree)
  for i in (0, 3, 4, 7):
    masks["stage_0"][f"edge{i:02d}"]["bn"]["scale"] = jnp.zeros(1)
  heads = first_tensors(tree, masks)[0]
  np.testing.assert_array_equal(heads[:, 0], [2, 3, 6, 7, 9, 10, 11, 12, 13, 14, 15])
  masks["stage_0"]["edge14"]["bn"]["scale"] = jnp.zeros(1)
  np.testing.assert_array_equal(first_tensors(tree, masks)[1], [1] * 10 + [0])


def test_definition_order():
  """The order of a PyTorch network's parameters; the number of cells is 2."""

  def conv_bn(*lead):
    return {"conv": {"kernel": lead}, "bn": {"scale": lead, "bias": lead}}

  edges = {
    f"edge{t}_{s}": {"nor_conv_1x1": conv_bn(2), "nor_conv_3x3": conv_bn(2)} for t in (1, 2, 3) for s in range(t)
  }
  reduction = {"conv_a": conv_bn(), "conv_b": conv_bn(), "downsample": {"conv": {"kernel": ()}}}
  shapes = {
    "classifier": {"bias": (), "kernel": ()},
    "last": {"bn": {"scale": (), "bias": ()}},
    "reduce_1": reduction,
    "stage_1": {"edge1_0": {"nor_conv_3x3": conv_bn(2)}},
    "stage_0": edges,
    "stem": conv_bn(),
  }
  leaves, treedef = jax.tree.flatten_with_path(shapes, is_leaf=lambda node: isinstance(node, tuple))
  numbers = jax.tree.unflatten(treedef, [jnp.full(lead, float(i)) for i, (_, lead) in enumerate(leaves)])
  numbers = jax.tree.map(lambda leaf: leaf + 1000 * jnp.arange(2.0) if leaf.ndim else leaf, numbers)
  masks = jax.tree.map(jnp.ones_like, numbers)
  names = ["/".join(p.key for p in path) for path, _ in leaves]
  found = [(names[int(leaf) % 1000], int(leaf) // 1000) for leaf, _ in in_definition_order(numbers, masks)]
  block = ("conv/kernel", "bn/scale", "bn/bias")
  expected = [(f"stem/{part}", 0) for part in block]
  for cell in (0, 1):
    for edge in ("1_0", "2_0", "2_1", "3_0", "3_1", "3_2"):
      for op in ("nor_conv_1x1", "nor_conv_3x3"):
        expected += [(f"stage_0/edge{edge}/{op}/{part}", cell) for part in block]
  expected += [(f"reduce_1/{conv}/{part}", 0) for conv in ("conv_a", "conv_b") for part in block]
  expected.append(("reduce_1/downsample/conv/kernel", 0))
  expected += [(f"stage_1/edge1_0/nor_conv_3x3/{part}", cell) for cell in (0, 1) for part in block]
  expected += [("last/bn/scale", 0), ("last/bn/bias", 0), ("classifier/kernel", 0), ("classifier/bias", 0)]
  assert found == expected


def test_heads_are_in_pytorch_s_layout():
  kernel = np.arange(3 * 3 * 4 * 5).reshape(3, 3, 4, 5)
  found = np.asarray(head_of(jnp.asarray(kernel)))
  np.testing.assert_array_equal(found, kernel.transpose(3, 2, 0, 1).ravel()[:100])
  assert (found[:36] % 5 == 0).all()  # all weights of the first output channel come first
  linear = np.arange(60).reshape(12, 5)
  np.testing.assert_array_equal(head_of(jnp.asarray(linear)), np.pad(linear.T.ravel(), (0, 40)))


def test_heads_are_those_of_single_image_gradients(x64):
  e = small()
  heads = everything(e)["mgm_code"]
  assert heads.shape == (2, 3, 100)

  def loss(p, image, label):
    return -jax.nn.log_softmax(NETWORK.apply(p, image[None], e.arch).logits[0])[label]

  gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(e.params, e.inputs[:2], e.labels[:2])
  cells = gradients["stage_0"]["edge1_0"]["nor_conv_3x3"]["conv"]["kernel"]
  for i in range(2):
    kernels = [gradients["stem"]["conv"]["kernel"][i], cells[i, 0], cells[i, 1]]
    expected = [np.asarray(k).transpose(3, 2, 0, 1).ravel()[:100] for k in kernels]
    np.testing.assert_allclose(heads[i], expected, rtol=1e-9, atol=1e-12)
  skipped = everything(small(SKIP))["mgm_code"]
  assert (skipped[:, 1:] == 0).all()
  assert (skipped[:, 0] != 0).any()


# Test 5: it is noise


def test_code_score_is_noise_around_zero_over_pairings():
  rng = np.random.default_rng(0)
  heads = rng.normal(1, 1, (50, 2, 100)) * rng.uniform(0.5, 2, (1, 2, 100))
  scores = [code_score(np.concatenate([heads[:25], rng.permutation(heads[25:])])) for _ in range(200)]
  first, second = (part.reshape(25, -1) for part in (heads[:25, :, :50], heads[25:, :, :50]))
  product = (first - first.mean(0)) @ (second - second.mean(0)).T
  deviation = np.linalg.norm(product) / (2500 * math.sqrt(24))
  assert abs(np.mean(scores)) < 0.25 * deviation
  np.testing.assert_allclose(np.std(scores), deviation, rtol=0.15)


# What it declares, and bad input


def test_declarations():
  names = {
    "mgm": MGM(),
    "mgm_output": MGMOutput(),
    "mgm_layer_mean": MGM(reduce="layer_mean"),
    "mgm_batch_frozen": MGM(batch_norm="batch_frozen"),
    "mgm_output_layer_mean_batch1": MGMOutput(reduce="layer_mean", batch_norm="batch1"),
    "mgm_code": MGMCode(),
    "mgm_truncated": MGMTruncated(),
  }
  for name, proxy in names.items():
    assert proxy.name == name
    assert proxy.higher_is_better
    assert proxy.needs_labels == ("output" not in name)
  assert names["mgm_output_layer_mean_batch1"].batch_norm == "batch1"
  assert MGM() == MGM() and hash(MGM()) == hash(MGM())
  assert len(set(names.values())) == len(names)
  assert MGMCode().ranking_value(Reading(math.nan, Status.NON_FINITE)) == -math.inf
  assert MGM().ranking_value(Reading(math.inf, Status.NON_FINITE)) == 0.0


@pytest.mark.parametrize(
  ("kind", "arguments", "message"),
  [
    (MGM, {"reduce": "mean"}, "reduce='mean'.*sum, layer_mean"),
    (MGMOutput, {"batch_norm": "running"}, "batch_norm='running'.*batch, batch_frozen, batch1"),
    (MGMCode, {"samples": 0}, "samples=0.*even"),
    (MGMTruncated, {"samples": 7}, "samples=7.*even"),
  ],
)
def test_settings_are_checked(unchecked, kind, arguments, message):
  with pytest.raises(ConfigError, match=message):
    kind(**arguments)


def test_values_that_are_no_numbers():
  assert MGM().finish((np.asarray([1.0, np.inf]), np.ones(2))).status == "non_finite"
  assert MGMCode().finish(np.full((50, 2, 100), np.nan)).status == "non_finite"
  assert MGMTruncated().finish(np.full((50, 2, 100), np.inf)).status == "non_finite"


@pytest.mark.parametrize(
  ("proxy", "labels", "message"),
  [
    (MGM(), False, "labels"),
    (MGM(batch_norm="batch1"), False, "labels"),
    (MGMCode(samples=4), False, "labels"),
  ],
)
def test_batches_that_do_not_do(proxy, labels, message):
  e = evaluation(NETWORK, labels=labels)
  with pytest.raises(ConfigError, match=message):
    jax.eval_shape(program((proxy,), NETWORK), *contents(e))


def test_the_codes_score_needs_50_images():
  e = evaluation(NETWORK)
  with pytest.raises(ConfigError, match="proxy 'mgm_code' needs 50 inputs or more and the batch has 6"):
    checked(Batch(e.inputs, e.labels), NETWORK, [MGMCode()])


@pytest.mark.parametrize("mode", MODES)
def test_outputs_need_no_labels(mode):
  e = evaluation(NETWORK, labels=False)
  assert jax.eval_shape(program((MGMOutput(batch_norm=mode),), NETWORK), *contents(e))


class Pooled(Parametrised):
  """A linear layer on the mean of each map; the maps, [C, N, H, W] as in DARTS cells, are given as arch."""

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def apply(self, params, inputs, arch, mode="batch", *, stats=None):
    return Output(jnp.tensordot(arch.mean((2, 3)), params, ((0,), (0,))))


def test_outputs_of_means_of_maps():
  """In float32, and of a size at which jaxlib 0.10.2 on a CPU is wrong where the samples' weights are a constant."""
  maps = np.random.default_rng(0).normal(size=(256, 16, 4, 4)).astype(np.float32)
  images, params = np.ones((16, 2, 2, 3), np.float32), np.ones((256, 10), np.float32)
  gradient = jax.jit(lambda p, x, maps: output_gradient(Evaluation(Pooled(), p, maps, x)))(params, images, maps)
  np.testing.assert_allclose(gradient, np.repeat(maps.mean((1, 2, 3), np.float64)[:, None], 10, 1), atol=1e-6)


def test_definition_order_of_darts_puts_the_kernels_of_a_cell_into_it():
  space = spaces.get("darts")
  network = space.network(NetworkConfig(1, 8, 3))

  def number(path, leaf):  # of the cell that a part of a stack is named after
    return jnp.zeros_like(leaf) + sum(int(p.key[5:]) for p in path if p.key.startswith("cell_"))

  params = jax.tree_util.tree_map_with_path(number, network.init(jax.random.key(0)))
  executed = network.executed(jnp.asarray(network.encode(space.parse("DARTS_V2")[None])[0]))
  found = [int(leaf.ravel()[0]) for leaf, _ in in_definition_order(params, executed)]
  # cells 3 and 4 share the shape of the second input's kernel, which is named after cell 3; so do 6 and 7
  assert [n for n, _ in itertools.groupby(found) if n] == [1, 3, 3, 4, 3, 6, 6, 7, 6]
