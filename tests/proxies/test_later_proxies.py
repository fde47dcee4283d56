"""The proxies of 2021-26 against their formulas written out, on a network of a few layers."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import CONV, SKIP, Tiny, contents, evaluation, program, raw, read, values

from jaxnas import proxies
from jaxnas.base import Reading, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.az_expressivity import AZExpressivity, entropies
from jaxnas.proxies.az_progressivity import AZProgressivity
from jaxnas.proxies.az_trainability import AZTrainability
from jaxnas.proxies.effective_params import EffectiveParams
from jaxnas.proxies.gradsign import GradSign
from jaxnas.proxies.log_synflow import LogSynFlow
from jaxnas.proxies.meco import MeCo
from jaxnas.proxies.naswot import NASWOT
from jaxnas.proxies.skip_length import SkipLength
from jaxnas.proxies.swap import SWAP, different
from jaxnas.proxies.synflow import SynFlow
from jaxnas.proxies.zico import ZiCo

NETWORK = Tiny()
FACTORIES = (
  LogSynFlow,
  AZExpressivity,
  AZProgressivity,
  AZTrainability,
  ZiCo,
  GradSign,
  SWAP,
  MeCo,
  EffectiveParams,
  SkipLength,
)
LABELLED = (ZiCo, GradSign)
ALL = tuple(f() for f in FACTORIES)
BOTH = pytest.mark.parametrize("arch", [CONV, SKIP], ids=["conv", "skip"])


def everything(e):
  """Readings of all proxies by name, from one program."""
  return dict(zip([p.name for p in ALL], read(ALL, e), strict=True))


def kernels(tree, arch):
  """The executed convolution and linear kernels, cells apart."""
  cells = tree["stage_0"]["edge1_0"]["nor_conv_3x3"]["conv"]["kernel"] if arch is CONV else ()
  own = [tree["stem"]["conv"]["kernel"], *cells, tree["classifier"]["kernel"]]
  return [np.asarray(kernel).ravel() for kernel in own]


@functools.cache
def loss_gradient():
  def loss(p, images, labels, arch):
    logits = NETWORK.forward(p, images, arch)[0]
    return -sum(jax.nn.log_softmax(logits)[i, labels[i]] for i in range(len(images))) / len(images)

  return jax.jit(jax.grad(loss))


# The formulas


@BOTH
def test_zico_by_loops_over_weights(x64, arch):
  e = evaluation(NETWORK, arch, dtype=np.float64)
  halves = [loss_gradient()(e.params, e.inputs[i : i + 3], e.labels[i : i + 3], e.arch) for i in (0, 3)]
  expected = 0.0
  for layer in zip(*(kernels(gradient, arch) for gradient in halves), strict=True):
    total = 0.0
    for own in zip(*layer, strict=True):
      deviation = math.sqrt(sum((g - sum(own) / 2) ** 2 for g in own) / 2)
      total += 0 if deviation == 0 else sum(map(abs, own)) / 2 / deviation
    expected += math.log(total) if total else 0
  np.testing.assert_allclose(everything(e)["zico"].value, expected, rtol=1e-9)


def test_zico_of_three_batches_leaves_the_rest_out(x64):
  e = evaluation(NETWORK, samples=8, dtype=np.float64)
  parts = [loss_gradient()(e.params, e.inputs[i : i + 2], e.labels[i : i + 2], e.arch) for i in (0, 2, 4)]
  expected = 0.0
  for layer in zip(*(kernels(gradient, CONV) for gradient in parts), strict=True):
    g = np.stack(layer)
    expected += math.log((np.abs(g).mean(0) / g.std(0)).sum())
  np.testing.assert_allclose(values([ZiCo(batches=3)], e), expected, rtol=1e-9)


def test_zico_leaves_out_what_does_not_vary(x64):
  """Two equal halves: no weight varies."""
  e = evaluation(NETWORK, samples=6, dtype=np.float64)
  e.inputs, e._labels = jnp.concatenate([e.inputs[:3]] * 2), jnp.concatenate([e.labels[:3]] * 2)
  assert read([ZiCo()], e) == [Reading(0.0, Status.OK)]


@BOTH
def test_gradsign_by_a_pass_a_sample(x64, arch):
  e = evaluation(NETWORK, arch, dtype=np.float64)
  each = [loss_gradient()(e.params, e.inputs[i : i + 1], e.labels[i : i + 1], e.arch) for i in range(6)]
  signs = [np.sign(np.concatenate(kernels(gradient, arch))) for gradient in each]
  expected = sum(abs(sum(sign[w] for sign in signs)) for w in range(len(signs[0])))
  assert everything(e)["gradsign"] == Reading(expected, Status.OK)
  for rows in (1, 2, 4):
    assert values([GradSign()], evaluation(NETWORK, arch, dtype=np.float64, rows=rows)) == [expected]


@BOTH
def test_swap_by_sets(x64, arch):
  e = evaluation(NETWORK, arch, dtype=np.float64)
  relus = NETWORK.forward(e.params, e.inputs, e.arch)[1]["relu"]
  found = set()
  for name in ("cell0", "cell1", "last") if arch is CONV else ("last",):
    found |= {tuple(column) for column in (np.asarray(relus[name]).reshape(6, -1) > 0).T.tolist()}
  found -= {(False,) * 6}
  assert 1 < len(found) < 64
  assert everything(e)["swap"] == Reading(len(found), Status.OK)
  thousands = float(NETWORK.costs(e.arch).params) / 1000
  regularised = SWAP(mu=0.3, sigma=2.0)
  assert regularised.name == "swap_regularised"
  expected = len(found) * math.exp(-((thousands - 0.3) ** 2) / 2.0)
  np.testing.assert_allclose(values([regularised], e), expected, rtol=1e-6)  # parameters are counted in float32


@pytest.mark.parametrize("samples", [1, 5, 32, 33, 70])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_different_columns(samples, density):
  rng = np.random.default_rng(samples)
  patterns = rng.random((samples, 40)) < density
  patterns = patterns[:, rng.integers(0, 40, 100)]
  wanted = {tuple(column) for column in patterns.T.tolist()} - {(False,) * samples}
  assert different(jnp.asarray(patterns)) == len(wanted)


@BOTH
def test_meco_is_the_least_eigenvalue_of_numpy_s_correlations(x64, arch):
  e = evaluation(NETWORK, arch, dtype=np.float64)
  image = jax.random.normal(jax.random.fold_in(e.key, 2), (1, 64, 64, 3), jnp.float64)
  record = NETWORK.forward(e.params, image, e.arch)[1]
  expected = 0.0
  for name in ("stem", "cell0", "cell1", "last") if arch is CONV else ("stem", "last"):
    maps = np.asarray(record["normal"][name][0])
    expected += np.linalg.eigvalsh(np.corrcoef(maps.reshape(-1, 4).T)).min()
  np.testing.assert_allclose(everything(e)["meco"].value, expected, rtol=1e-8)


def az_cells(e):
  """(outputs, random signs) of what AZ-NAS's proxies look at."""
  inputs, signs = jax.random.split(jax.random.fold_in(e.key, 3))
  images = jax.random.normal(inputs, e.inputs.shape, e.inputs.dtype)
  outputs = NETWORK.forward(e.params, images, e.arch)[1]["cells"]
  bits = np.asarray(jax.random.bits(signs, (-(-3 * outputs[0].size // 32),), jnp.uint32))
  flat = [1 - 2 * (1 - (int(word) >> place) % 2) for word in bits for place in range(32)][: 3 * outputs[0].size]
  return outputs, np.array(flat, float).reshape(3, *outputs[0].shape)


def entropy(maps):
  """By loops over channels, of the dense covariance."""
  rows = np.asarray(maps).reshape(-1, maps.shape[-1])
  covariance = np.zeros((rows.shape[1],) * 2)
  for i in range(rows.shape[1]):
    for j in range(rows.shape[1]):
      covariance[i, j] = ((rows[:, i] - rows[:, i].mean()) * (rows[:, j] - rows[:, j].mean())).mean()
  p = np.linalg.eigvalsh(covariance)
  p = p / p.sum()
  return -sum(v * math.log(v) for v in p)


@BOTH
def test_az_expressivity_and_progressivity(x64, arch):
  e = evaluation(NETWORK, arch, dtype=np.float64)
  found, own = everything(e), [entropy(maps) for maps in az_cells(e)[0]]
  np.testing.assert_allclose(found["az_expressivity"].value, sum(own), rtol=1e-9)
  expected = min(after - before for before, after in itertools.pairwise(own))
  np.testing.assert_allclose(found["az_progressivity"].value, expected, rtol=1e-7, atol=1e-12)
  assert (arch is SKIP) == (abs(expected) < 1e-12)


def test_az_trainability_by_a_pull_back_a_cell(x64):
  """The cell's dense Jacobian, each of whose rows is a backward pass of the cell alone."""
  e = evaluation(NETWORK, samples=3, size=2, dtype=np.float64)
  outputs, signs = az_cells(e)
  expected = 0.0
  for i, g_out in enumerate(signs[1:]):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], e.params["stage_0"]["edge1_0"]["nor_conv_3x3"])

    def cell(x, own=own):
      z = jax.lax.conv_general_dilated(
        jax.nn.relu(x), own["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      mean, deviation = z.mean((0, 1, 2), keepdims=True), jnp.sqrt(z.var((0, 1, 2), keepdims=True) + 1e-5)
      return (z - mean) / deviation * own["bn"]["scale"][None, None, None] + own["bn"]["bias"][None, None, None]

    np.testing.assert_allclose(cell(outputs[i]), outputs[i + 1], rtol=1e-9, atol=1e-12)
    jacobian = np.asarray(jax.jacfwd(cell)(outputs[i])).reshape(g_out.size, -1)
    g_in = (g_out.ravel() @ jacobian).reshape(-1, 4)
    largest = np.linalg.svd(g_in.T @ g_out.reshape(-1, 4) / len(g_in), compute_uv=False).max()
    expected += (-largest - 1 / (largest + 1e-6) + 2) / 2
  np.testing.assert_allclose(values([AZTrainability()], e), expected, rtol=1e-8)


def test_the_identity_cell_is_the_worst(x64):
  e = evaluation(NETWORK, SKIP, dtype=np.float64)
  (reading,) = read([AZTrainability()], e)
  assert reading == Reading(-math.inf, Status.NON_FINITE)
  assert AZTrainability().ranking_value(reading) == -math.inf
  assert AZTrainability().finish(([np.zeros((2, 3, 3))], np.zeros(2, bool))).value == pytest.approx(-1e6, rel=1e-4)


@BOTH
def test_log_synflow_by_loops_over_weights(x64, arch):
  """Absolute weights, no batch normalisation, an image of ones."""
  e = evaluation(NETWORK, arch, dtype=np.float64)
  p = jax.tree.map(jnp.abs, e.params)
  for bn in (p["stem"]["bn"], p["stage_0"]["edge1_0"]["nor_conv_3x3"]["bn"], p["last"]["bn"]):
    bn["scale"], bn["bias"] = jnp.ones_like(bn["scale"]), jnp.zeros_like(bn["bias"])
  ones = jnp.ones_like(e.inputs[:1])
  gradient = jax.grad(lambda p: NETWORK.apply(p, ones, e.arch, "identity").logits.sum())(p)
  expected = 0.0
  for weights, gradients in zip(kernels(p, arch), kernels(gradient, arch), strict=True):
    for w, g in zip(weights, gradients, strict=True):
      expected += w * math.log(1 + g)
  np.testing.assert_allclose(everything(e)["log_synflow"].value, expected, rtol=1e-10)


def test_log_synflow_passes_the_range_of_float32(x64):
  """Weights scaled in each of three convolutions: gradients from 1e-20 to 1e54."""
  for factor, status in ((1e-8, "ok"), (1e4, "ok"), (1e18, "ok"), (1e26, "non_finite")):
    start = NETWORK.init(dtype=np.float64)
    large = jax.tree.map(lambda leaf, f=factor: leaf * f if leaf.ndim in (4, 5) else leaf, start)
    (double,) = read([LogSynFlow()], evaluation(NETWORK, params=large, dtype=np.float64))
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), large)
    found, flow = read([LogSynFlow(), SynFlow()], evaluation(NETWORK, params=single, dtype=np.float32))
    assert found.status == flow.status == status, factor
    if status == "ok":
      np.testing.assert_allclose(found.value, double.value, rtol=1e-4)


def test_counts_of_the_graph(x64):
  for arch in (CONV, SKIP):
    e = evaluation(NETWORK, arch, dtype=np.float64)
    found = everything(e)
    assert found["effective_params"].value == float(NETWORK.costs(e.arch).params)
    assert found["skip_length"].value == 2 * (arch is SKIP)


# What is shared, and what is looked at


def test_one_pass_for_all_that_is_shown(x64, monkeypatch):
  """NASWOT and SWAP share the forward pass, the two SynFlows theirs, AZ-NAS's three theirs."""
  asked = []
  inner = Tiny.forward

  def counted(self, params, images, arch, mode="batch", *rest, **given):
    asked.append((mode, images.shape[1]))
    return inner(self, params, images, arch, mode, *rest, **given)

  def passes(some):
    e = evaluation(NETWORK, dtype=np.float64)
    e._collects = tuple({what for proxy in some for what in proxy.collects})
    asked.clear()
    monkeypatch.setattr(Tiny, "forward", counted)
    jax.eval_shape(lambda: [proxy.measure(e) for proxy in some])
    monkeypatch.setattr(Tiny, "forward", inner)
    return len(asked)

  for some in ((NASWOT(), SWAP()), (SynFlow(), LogSynFlow()), (AZExpressivity(), AZProgressivity(), AZTrainability())):
    assert passes(some) == max(passes(some[:1]), passes(some[1:2])), some
  assert passes(ALL) <= sum(passes((proxy,)) for proxy in ALL) - 4


def test_what_each_proxy_looks_at(x64):
  start, other_data, other_key, other_weights = (
    {name: reading.value for name, reading in everything(evaluation(NETWORK, dtype=np.float64, **changed)).items()}
    for changed in ({}, {"seed": 2}, {"key": 1}, {"params": NETWORK.init(dtype=np.float64, seed=5)})
  )
  az, counts = {"az_expressivity", "az_progressivity", "az_trainability"}, {"effective_params", "skip_length"}
  assert {name for name in start if start[name] == other_data[name]} == az | counts | {"log_synflow", "meco"}
  assert {name for name in start if start[name] != other_key[name]} == az | {"meco"}
  assert {name for name in start if start[name] == other_weights[name]} - {"swap"} == counts


# Declarations, degenerate networks, bad input


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_declaration(factory):
  proxy = factory()
  assert proxy == factory() and hash(proxy) == hash(factory())
  assert proxy.name == factory.__module__.rpartition(".")[2]
  assert isinstance(proxies.get(proxy.name), factory)
  assert proxy.higher_is_better
  assert proxy.needs_labels == (factory in LABELLED)


def test_network_that_ignores_its_input(x64):
  """A stem of zeros: nothing raises, and nothing is better than the worst."""
  start = NETWORK.init(dtype=np.float64, plain=True)
  dead = {**start, "stem": {**start["stem"], "conv": {"kernel": jnp.zeros_like(start["stem"]["conv"]["kernel"])}}}
  found = everything(evaluation(NETWORK, params=dead, dtype=np.float64))
  for name in ("az_expressivity", "az_progressivity"):
    assert found[name] == Reading(-math.inf, Status.NON_FINITE)
  for name in ("zico", "gradsign", "log_synflow", "swap", "meco"):
    assert found[name] == Reading(0.0, Status.OK), name
  assert found["az_trainability"].value < -1e5


def test_network_that_is_not_finite(x64):
  start = NETWORK.init(dtype=np.float64)
  broken = {
    **start,
    "stem": {**start["stem"], "conv": {"kernel": jnp.full_like(start["stem"]["conv"]["kernel"], np.nan)}},
  }
  found = everything(evaluation(NETWORK, params=broken, dtype=np.float64))
  counted = ("effective_params", "skip_length")
  assert {name for name, reading in found.items() if reading.status == "ok"} <= {*counted}
  assert entropies([np.full((1, 2, 2), np.nan)]).tolist() == [pytest.approx(math.nan, nan_ok=True)]


@pytest.mark.parametrize("factory", LABELLED, ids=lambda f: f.__name__)
def test_missing_labels_are_named(factory):
  with pytest.raises(ConfigError, match="labels"):
    jax.eval_shape(program((factory(),), NETWORK), *contents(evaluation(NETWORK, labels=False)))


def test_settings_are_checked():
  with pytest.raises(ConfigError, match="batches=1 must be at least 2"):
    ZiCo(batches=1)
  with pytest.raises(ConfigError, match=r"mu=1.0, sigma=None: give both"):
    SWAP(mu=1.0)
  with pytest.raises(ConfigError, match=r"sigma=0.0 must be positive"):
    SWAP(mu=1.0, sigma=0.0)
  assert ZiCo(batches=3).least_inputs == 3


def test_raw_values_of_az_are_what_the_host_needs_only():
  products, identities = raw([AZTrainability()], evaluation(NETWORK))[0]
  assert [p.shape for p in products] == [(2, 4, 4)] and identities.shape == (2,)
