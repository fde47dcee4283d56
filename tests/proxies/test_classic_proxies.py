"""The classic zero-cost proxies against their formulas written out, on a network of a few layers."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import CONV, SKIP, Tiny, contents, evaluation, program, read, values

from jaxnas import proxies
from jaxnas.base import Reading, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.fisher import Fisher
from jaxnas.proxies.flops import Flops
from jaxnas.proxies.grad_norm import GradNorm
from jaxnas.proxies.grasp import GraSP
from jaxnas.proxies.jacob_cov import JacobCov
from jaxnas.proxies.l2_norm import L2Norm
from jaxnas.proxies.naswot import NASWOT
from jaxnas.proxies.params import Params
from jaxnas.proxies.plain import Plain
from jaxnas.proxies.snip import SNIP
from jaxnas.proxies.synflow import SynFlow
from jaxnas.proxies.zen import Zen, gaussian_params

NETWORK = Tiny()
FACTORIES = (GradNorm, SNIP, Plain, L2Norm, Params, Flops, NASWOT, JacobCov, GraSP, Fisher, SynFlow, Zen)
LABELLED = (GradNorm, SNIP, Plain, GraSP, Fisher)
ALL = (*(f() for f in FACTORIES), Fisher(weighting="channels"))
ARCHITECTURES = pytest.mark.parametrize("alphas", [CONV, SKIP], ids=["conv", "skip"])


def everything(e):
  """Values of all proxies by name, from one program."""
  return dict(zip([p.name for p in ALL], values(ALL, e), strict=True))


@functools.cache
def pieces():
  """One program for what the oracles need: gradients, maps, patterns."""

  def run(p, alphas, images, labels, problem, key):
    def forward(p, images, **kwargs):
      return NETWORK.forward(p, images, alphas, **kwargs)

    def loss(p, bumps=None, shift=0.0):
      logits = forward(p, images, bumps=bumps)[0] + shift
      return -sum(jax.nn.log_softmax(logits)[i, labels[i]] for i in range(len(images))) / len(images)

    logits, record = forward(p, images)
    bumps = jax.tree.map(jnp.zeros_like, record["z"])
    by_layer = jax.grad(lambda b, s: loss(p, b, s), (0, 1))(bumps, jnp.zeros_like(logits))
    weights, inputs, noise = jax.random.split(jax.random.fold_in(key, 1), 3)
    x = jax.random.normal(inputs, images.shape, images.dtype)
    gauss = gaussian_params(weights, p)
    moved = forward(gauss, x + 0.01 * jax.random.normal(noise, x.shape, x.dtype))[1]
    gradient = jax.grad(loss)(p)
    along = jax.tree.map(lambda g, w: g if is_kernel(w) else jnp.zeros_like(g), gradient, p)
    return {
      "gradient": gradient,
      "hessian_gradient": jax.jvp(jax.grad(loss), (p,), (along,))[1],
      "outputs": {**record["z"], "classifier": logits},
      "cotangents": {**by_layer[0], "classifier": by_layer[1]},
      "relu": record["relu"],
      "jacobian": jax.grad(lambda x: forward(p, x)[0].sum())(images),
      "zen": (forward(gauss, x)[1], moved["features"]),
    }

  return jax.jit(run)


def is_kernel(leaf):
  return leaf.ndim >= 4 or leaf.shape == (NETWORK.channels, NETWORK.classes)


def oracle(e):
  return jax.tree.map(np.asarray, pieces()(*contents(e)))


@functools.cache
def flow_gradient(network):
  def flow(p, ones, alphas):
    return network.apply(p, ones, alphas, "identity").logits.sum()

  return jax.jit(jax.grad(flow))


def linear_flow(e, alphas=CONV):
  """SynFlow's sum straight from its definition: absolute weights, no batch normalisation, an image of ones."""
  p = jax.tree.map(jnp.abs, e.params)
  for bn in (p["stem"]["bn"], p["stage_0"]["edge1_0"]["nor_conv_3x3"]["bn"], p["last"]["bn"]):
    bn["scale"], bn["bias"] = jnp.ones_like(bn["scale"]), jnp.zeros_like(bn["bias"])
  gradient = flow_gradient(e.network)(p, jnp.ones_like(e.inputs[:1]), e.arch)
  return sum(np.abs(w * g).sum() for w, g in zip(kernels(p, alphas), kernels(gradient, alphas), strict=True))


def kernels(tree, alphas=CONV):
  """The executed convolution and linear kernels, cells apart."""
  cells = tree["stage_0"]["edge1_0"]["nor_conv_3x3"]["conv"]["kernel"]
  own = [np.asarray(k) for k in cells] if alphas is CONV else []
  return [np.asarray(tree["stem"]["conv"]["kernel"]), *own, np.asarray(tree["classifier"]["kernel"])]


# The formulas


@ARCHITECTURES
def test_weights_and_loss_gradient(x64, alphas):
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  expected = {"grad_norm": 0.0, "snip": 0.0, "plain": 0.0, "l2_norm": 0.0}
  for weight, gradient in zip(kernels(e.params, alphas), kernels(oracle(e)["gradient"], alphas), strict=True):
    expected["grad_norm"] += math.sqrt(sum(g * g for g in gradient.ravel()))
    expected["l2_norm"] += math.sqrt(sum(w * w for w in weight.ravel()))
    for w, g in zip(weight.ravel(), gradient.ravel(), strict=True):
      expected["snip"] += abs(w * g)
      expected["plain"] += w * g
  found = everything(e)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_plain_sees_only_layers_without_batch_norm_behind_them(x64):
  """A kernel in front of BN can be scaled freely, so along itself the loss does not change."""
  e = evaluation(NETWORK, dtype=np.float64)
  *convolutions, head = zip(kernels(e.params), kernels(oracle(e)["gradient"]), strict=True)
  classifier = float((head[0] * head[1]).sum())
  assert all(abs((w * g).sum()) < 1e-4 * abs(classifier) for w, g in convolutions)
  np.testing.assert_allclose(everything(e)["plain"], classifier, rtol=1e-3)


@ARCHITECTURES
def test_grasp_by_forward_over_reverse(x64, alphas):
  """The other way to H g: the gradient's derivative along g, g being zero for all but kernels."""
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  products = kernels(oracle(e)["hessian_gradient"], alphas)
  expected = -sum((w * h).sum() for w, h in zip(kernels(e.params, alphas), products, strict=True))
  np.testing.assert_allclose(everything(e)["grasp"], expected, rtol=1e-9)


@ARCHITECTURES
def test_fisher_by_loops_over_layers_and_channels(x64, alphas):
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  seen = oracle(e)
  expected = {"fisher": 0.0, "fisher_channels": 0.0}
  for name, fan_in in {"stem": 27, "cell0": 36, "cell1": 36, "classifier": 4}.items():
    z, dz = seen["outputs"][name], seen["cotangents"][name]
    for c in range(z.shape[-1]):
      importance = 0.0
      for n in range(len(z)):
        importance += 0.5 * (z[n, ..., c] * dz[n, ..., c]).sum() ** 2 / len(z)
      expected["fisher"] += fan_in * importance
      expected["fisher_channels"] += importance
  found = everything(e)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_jacob_cov_is_numpy_s_correlation(x64):
  e = evaluation(NETWORK, dtype=np.float64)
  eigen = np.linalg.eigvalsh(np.corrcoef(oracle(e)["jacobian"].reshape(len(e.inputs), -1)))
  expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigen)
  np.testing.assert_allclose(everything(e)["jacob_cov"], expected, rtol=1e-8)


@ARCHITECTURES
def test_naswot_by_loops_over_pairs(x64, alphas):
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  relus = oracle(e)["relu"]
  agreement = np.zeros((6, 6))
  for name in ("cell0", "cell1", "last") if alphas is CONV else ("last",):
    code = relus[name].reshape(6, -1) > 0
    for i in range(6):
      for j in range(6):
        agreement[i, j] += sum(a == b for a, b in zip(code[i], code[j], strict=True))
  np.testing.assert_allclose(everything(e)["naswot"], math.log(abs(np.linalg.det(agreement))), rtol=1e-9)


@ARCHITECTURES
def test_synflow_is_the_log_of_the_sum(x64, alphas):
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  np.testing.assert_allclose(10 ** everything(e)["synflow"], linear_flow(e, alphas), rtol=1e-10)


@ARCHITECTURES
def test_zen_is_the_change_of_the_features_and_the_deviations(x64, alphas):
  e = evaluation(NETWORK, alphas, dtype=np.float64)
  record, moved = oracle(e)["zen"]
  distances = [np.abs(a - b).sum() for a, b in zip(record["features"], moved, strict=True)]
  expected = math.log(sum(distances) / len(distances))
  for name in ("stem", "cell0", "cell1") if alphas is CONV else ("stem",):
    deviation = [record["z"][name][..., c].var() for c in range(4)]
    expected += math.log(math.sqrt(sum(deviation) / 4))
  expected += math.log(math.sqrt(record["moments"]["last"][1].mean()))
  np.testing.assert_allclose(everything(e)["zen"], expected, rtol=1e-9)


def test_counts(x64):
  for alphas, cells in ((CONV, 2), (SKIP, 0)):
    found = everything(evaluation(NETWORK, alphas, dtype=np.float64))
    convolutions = 27 * 4 + cells * 36 * 4
    assert found["params"] == convolutions + 8 + cells * 8 + 8 + 15
    assert found["flops"] == 25 * convolutions + 15


# Range and what is looked at


def test_synflow_passes_the_range_of_float32(x64):
  """Weights scaled in each of three convolutions, far below and far beyond what float32 holds."""
  for factor, status in ((1e-8, "ok"), (1e4, "ok"), (1e18, "ok"), (1e26, "non_finite")):
    start = NETWORK.init(dtype=np.float64)
    large = jax.tree.map(lambda leaf, f=factor: leaf * f if leaf.ndim in (4, 5) else leaf, start)
    double = linear_flow(evaluation(NETWORK, params=large, dtype=np.float64))
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), large)
    e = evaluation(NETWORK, params=single, dtype=np.float32)
    (reading,) = read([SynFlow()], e)
    assert reading.status == status, factor
    if status == "ok":
      np.testing.assert_allclose(reading.value, math.log10(double), atol=1e-4)
    else:
      assert SynFlow().ranking_value(reading) == -math.inf


def test_jacob_cov_keeps_tiny_and_huge_gradients():
  start = NETWORK.init()
  found = []
  for factor in (1, 1e-25, 1e25):
    head = {name: factor * leaf for name, leaf in start["classifier"].items()}
    found += values([JacobCov()], evaluation(NETWORK, params={**start, "classifier": head}))
  np.testing.assert_allclose(found, found[0], rtol=1e-4)


def test_gaussian_params():
  drawn = jax.tree.map(np.asarray, gaussian_params(jax.random.key(0), Tiny(channels=16).init()))
  pooled = np.concatenate([k.ravel() for k in kernels(drawn)])
  assert abs(pooled.mean()) < 0.05
  assert abs(pooled.std() - 1) < 0.05
  assert np.unique(pooled).size > 0.99 * pooled.size
  np.testing.assert_array_equal(drawn["last"]["bn"]["scale"], 1)
  np.testing.assert_array_equal(drawn["classifier"]["bias"], 0)


def test_what_each_proxy_looks_at(x64):
  start, other_data, other_key, other_weights = (
    everything(evaluation(NETWORK, dtype=np.float64, **changed))
    for changed in ({}, {"seed": 2}, {"key": 1}, {"params": NETWORK.init(dtype=np.float64, seed=5)})
  )
  counts = {"params", "flops"}
  assert {name for name in start if start[name] == other_data[name]} == counts | {"synflow", "zen", "l2_norm"}
  assert {name for name in start if start[name] != other_key[name]} == {"zen"}
  assert {name for name in start if start[name] == other_weights[name]} == counts | {"zen"}


# What a proxy declares, and bad input


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_declaration(factory):
  proxy = factory()
  assert proxy == factory() and hash(proxy) == hash(factory())
  assert proxy.name == factory.__module__.rpartition(".")[2]
  assert isinstance(proxies.get(proxy.name), factory)
  assert proxy.higher_is_better
  assert proxy.needs_labels == (factory in LABELLED)
  assert proxy.ranking_value(Reading(3.0, Status.OK)) > proxy.ranking_value(Reading(2.0, Status.OK))
  assert proxy.ranking_value(Reading(math.nan, Status.NON_FINITE)) < proxy.ranking_value(Reading(0.001, Status.OK))


def test_score_that_is_no_number_has_a_status():
  for proxy in (f() for f in FACTORIES if f not in (NASWOT, JacobCov)):
    for value in (math.nan, math.inf, -math.inf):
      assert proxy.finish(np.float32(value)).status == "non_finite"
    assert proxy.finish(np.float32(2.5)) == Reading(2.5, "ok")
  assert JacobCov().finish(np.full((3, 3), np.nan)).status == "non_finite"
  assert NASWOT().finish(np.ones((3, 3))) == Reading(-math.inf, "non_finite")
  with warnings.catch_warnings(action="error"):
    assert NASWOT().finish(np.full((3, 3), math.nan)).status == "non_finite"
  assert JacobCov().finish(np.eye(3)) == Reading(pytest.approx(-3.0, abs=1e-4), "ok")
  assert JacobCov().finish(np.ones((3, 3))).value == pytest.approx(-2e5, rel=1e-3)


def test_network_that_ignores_its_input(x64):
  """A stem of zeros: no gradients, no flow, one pattern; nothing raises, and what is no number says so."""
  start = NETWORK.init(dtype=np.float64, plain=True)
  dead = {**start, "stem": {**start["stem"], "conv": {"kernel": jnp.zeros_like(start["stem"]["conv"]["kernel"])}}}
  e = evaluation(NETWORK, params=dead, dtype=np.float64)
  readings = dict(zip([p.name for p in ALL], read(ALL, e), strict=True))
  broken = {name for name, reading in readings.items() if reading.status == "non_finite"}
  assert broken >= {"jacob_cov", "naswot", "synflow"}
  assert broken <= {"jacob_cov", "naswot", "synflow", "zen"}
  assert readings["synflow"].value == -math.inf
  assert readings["snip"].value == 0


@pytest.mark.parametrize("factory", LABELLED, ids=lambda f: f.__name__)
def test_missing_labels_are_named(factory):
  e = evaluation(NETWORK, labels=False)
  with pytest.raises(ConfigError, match="labels"):
    jax.eval_shape(program((factory(),), NETWORK), *contents(e))


def test_fisher_weighting_is_checked(unchecked):
  assert Fisher(weighting="channels").name == "fisher_channels"
  with pytest.raises(ConfigError, match=r"weighting='layers'.*weights, channels"):
    Fisher(weighting="layers")
