"""NTK condition number and linear regions: parity with TE-NAS's code, oracles, invariances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from nb201_trees import flat, from_reference, random_params

from jaxnas import proxies, spaces
from jaxnas.base import Reading, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.linear_regions import LinearRegions
from jaxnas.proxies.ntk_condition_number import NTKConditionNumber, eigenvalues
from jaxnas.spaces.nb201 import RegionNetwork, Supernet, encoding

NTK_TAGS = ("generic", "torch_default_init", "kaiming_fanout_init")
NTK_CASES = ("full", "pruned_e3_op3", "pruned_e0_op1", "single_path")
REGION_TAGS = ("generic", "torch_default_init", "kaiming_fanin_init")
REGION_INPUTS = ("gauss", "patch")
REGION_CASES = ("e3_op3", "e0_op1", "e5_op2")
NTK_NETWORK = Supernet(3, 1, 10)
REGION_NETWORK = RegionNetwork(1, 1, 10)
# For oracles, which compile anew: one cell, and all blocks.
ONE_CELL = RegionNetwork(3, 1, 3)
SMALL = Supernet(2, 1, 3)


@functools.cache
def compiled(proxy, network, rows=None):
  """The proxy's traced part, one program a precision; alphas, parameters and images are data."""
  return jax.jit(lambda *given: proxy.measure(Evaluation(network, *given, rows=rows)))


def load(fixtures, name):
  with np.load(fixtures / "tenas" / f"{name}.npz") as file:
    return dict(file)


def fixture_params(file, dtype, network=NTK_NETWORK):
  """The file's parameters; zeros for what it has not: a classifier, which shows no ReLU."""
  leaves = {k.removeprefix("w/"): file[k] for k in file if k.startswith("w/")}
  return jax.tree.map(lambda leaf: leaf.astype(dtype), from_reference(leaves, network))


def soft_alphas(seed):
  return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(5), (1, 6)), np.float64)


def assert_kernel(actual, expected, tolerance):
  """Relative to the largest entry."""
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# NTK condition number: the reference


@pytest.fixture(scope="module", params=NTK_TAGS)
def ntk_reference(request, fixtures):
  return load(fixtures, f"f2_ntk_nb201_{request.param}")


def reference_kernel(file, case, dtype, proxy, network=NTK_NETWORK):
  weights = spaces.mixing_weights(file[f"{case}/alphas"])
  np.testing.assert_allclose(weights, file[f"{case}/softmax"] * (weights > 0), rtol=1e-12)
  arguments = fixture_params(file, dtype), jnp.asarray(weights[None], dtype)
  images = jnp.asarray(file["x_nhwc"], dtype)
  return np.asarray(compiled(proxy, network)(*arguments, images))


@pytest.mark.parametrize("case", NTK_CASES)
def test_kernel_is_the_reference(x64, ntk_reference, case):
  proxy = NTKConditionNumber(batch_norm="batch")
  theta = reference_kernel(ntk_reference, case, jnp.float64, proxy)
  assert theta.dtype == np.float64
  assert_kernel(theta, ntk_reference[f"{case}/ntk"], 1e-10)
  reading = proxy.finish(theta)
  assert reading.status == "ok"
  np.testing.assert_allclose(reading.value, ntk_reference[f"{case}/cond"], rtol=1e-10)


@pytest.mark.parametrize("case", ["single_path", pytest.param("full", marks=pytest.mark.slow)])
def test_float32_kernel_is_near_the_reference(ntk_reference, case):
  proxy = NTKConditionNumber(batch_norm="batch")
  theta = reference_kernel(ntk_reference, case, jnp.float32, proxy)
  assert theta.dtype == np.float32
  assert_kernel(theta, ntk_reference[f"{case}/ntk"], 1e-4)
  reading = proxy.finish(theta)
  assert reading.status == "ok"
  for figure in ("cond", "cond_float32"):
    np.testing.assert_allclose(reading.value, ntk_reference[f"{case}/{figure}"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", NTK_CASES)
def test_unfused_kernel_is_the_reference(x64, ntk_reference, case):
  network = dataclasses.replace(NTK_NETWORK, order=2)
  proxy = NTKConditionNumber(batch_norm="batch")
  theta = reference_kernel(ntk_reference, case, jnp.float64, proxy, network)
  assert_kernel(theta, ntk_reference[f"{case}/ntk"], 1e-10)


def test_permuted_samples_permute_the_kernel(x64, fixtures):
  file = load(fixtures, "f2_ntk_nb201_generic")
  order = np.random.default_rng(0).permutation(8)
  file["x_nhwc"] = file["x_nhwc"][order]
  proxy = NTKConditionNumber(batch_norm="batch")
  theta = reference_kernel(file, "full", jnp.float64, proxy)
  assert_kernel(theta, file["full/ntk"][np.ix_(order, order)], 1e-10)
  np.testing.assert_allclose(proxy.finish(theta).value, file["full/cond"], rtol=1e-10)


def test_disconnected_network_is_singular_not_an_error(fixtures):
  """Same program as the reference's, with `none` on every edge: all images have one gradient."""
  file = load(fixtures, "f2_ntk_nb201_generic")
  arguments = fixture_params(file, jnp.float32), jnp.asarray(encoding.alphas([0] * 6))
  proxy = NTKConditionNumber(batch_norm="batch")
  program = compiled(proxy, NTK_NETWORK)
  reading = proxy.finish(np.asarray(program(*arguments, jnp.asarray(file["x_nhwc"]))))
  assert reading.status in ("singular", "negative", "non_finite")
  assert proxy.ranking_value(reading) == -proxy.worst


# NTK condition number: oracles


def dense_kernel(mode, network, params, weights, images):
  """G G' from a dense Jacobian of the summed logits in kernels and BN scales, by plain autodiff."""
  plain = dataclasses.replace(network, order=2)

  # Compiling the fusions of plain formulas takes longer than they do.
  leaves = flat(jax.jacrev(lambda params: plain.apply(params, images, weights, mode).logits.sum(-1))(params))
  rows = [v.reshape(len(v), -1) for k, v in leaves.items() if k.split("/")[-1] in ("kernel", "scale")]
  matrix = np.concatenate(rows, 1)
  return matrix @ matrix.T


MODES = ("batch", "batch_frozen")
LARGER = [
  pytest.param(mode, network, marks=pytest.mark.slow, id=f"{mode}-{name}")
  for mode in MODES
  for name, network in (("all_blocks", SMALL), ("full", NTK_NETWORK))
]


@pytest.mark.parametrize(
  ("mode", "network"), [*(pytest.param(mode, ONE_CELL, id=f"{mode}-one_cell") for mode in MODES), *LARGER]
)
def test_kernel_is_that_of_the_dense_jacobian(x64, network, mode):
  """`batch`: fused layers = autodiff. `batch_frozen`: decoupled = stop-gradient statistics."""
  params = random_params(network, kernels=0.5)
  arguments = params, soft_alphas(1), draw(2, 5, 8, 8, 3)
  proxy = NTKConditionNumber(batch_norm=mode)
  theta = np.asarray(compiled(proxy, network, rows=2)(*arguments))
  dense = dense_kernel(mode, network, *arguments)
  assert_kernel(theta, dense, 1e-10)
  eigen = np.linalg.eigvalsh(dense)
  np.testing.assert_allclose(proxy.finish(theta).value, eigen[-1] / eigen[0], rtol=1e-8)


def test_frozen_kernel_and_eigenvalues():
  """The two modes differ; `eigenvalues` are those of the kernel it names."""
  params, weights = random_params(ONE_CELL, dtype=np.float32, kernels=0.5), jnp.ones((1, 6, 5))
  images = draw(2, 5, 4, 4, 3, dtype=np.float32)
  spectra = {}
  for mode in ("batch", "batch_frozen"):
    theta = compiled(NTKConditionNumber(batch_norm=mode), ONE_CELL)(params, weights, images)
    spectra[mode] = eigenvalues(ONE_CELL, params, weights, images, mode)
    assert spectra[mode].dtype == np.float64
    expected = np.linalg.eigvalsh(np.asarray(theta, np.float64))
    np.testing.assert_allclose(spectra[mode], expected, rtol=0, atol=1e-5 * expected[-1])
  difference = np.abs(spectra["batch"] - spectra["batch_frozen"]).max()
  assert difference > 1e-2 * spectra["batch"][-1]


# Linear regions: the reference


@pytest.fixture(scope="module", params=REGION_TAGS)
def region_reference(request, fixtures):
  return load(fixtures, f"f3_regions_nb201_{request.param}")


def region_params(file, dtype):
  """The file's parameters."""
  return fixture_params(file, dtype, REGION_NETWORK)


def region_bits(file, inputs, case, pruned):
  """Packed patterns, and the bits [300, 36] of the final BN and of the cell's nodes 0, 1, 2."""
  weights = spaces.mixing_weights(file[f"{inputs}/{case}/alphas_{pruned}"].astype(np.float64))
  arguments = region_params(file, jnp.float64), jnp.asarray(weights[None], jnp.float64)
  batches = jnp.asarray(file[f"x_{inputs}_nhwc"], jnp.float64).reshape(3, 100, 3, 3, 1)
  packed = compiled(LinearRegions(), REGION_NETWORK)(*arguments, batches)
  return np.asarray(packed), np.unpackbits(packed, axis=1, count=36)


@pytest.mark.parametrize("inputs", REGION_INPUTS)
@pytest.mark.parametrize("case", REGION_CASES)
def test_patterns_and_counts_are_the_reference(x64, region_reference, case, inputs):
  proxy, counts = LinearRegions(), []
  for pruned in (0, 1):
    packed, bits = region_bits(region_reference, inputs, case, pruned)
    blocks = dict(zip(("last", "0", "1", "2"), np.split(bits, 4, axis=1), strict=True))
    prefix = f"{inputs}/{case}"
    modules = region_reference[f"{prefix}/relu_order_{pruned}"].tolist()
    # A ReLU inside an operation of edge T<-F shows node F; one channel, so only row and column.
    sources = [m.split(".edge")[1][2] if ".edge" in m else "last" for m in modules]
    rebuilt = np.concatenate([blocks[source] for source in sources], axis=1)
    size = int(region_reference[f"{prefix}/n_neurons_{pruned}"])
    pattern = np.unpackbits(region_reference[f"{prefix}/pattern_{pruned}"], axis=1, count=size)
    np.testing.assert_array_equal(rebuilt, pattern)
    reading = proxy.finish(packed)
    assert reading.value == region_reference[f"{prefix}/count_{pruned}"]
    assert reading.status == ("saturated" if reading.value >= 0.95 * 300 else "ok")
    counts.append(reading.value)
  change = round((counts[0] - counts[1]) / counts[0], 3)
  assert change == region_reference[f"{prefix}/delta_rounded3"]


def test_float32_counts_are_near_the_reference(region_reference):
  proxy = LinearRegions()
  for inputs in REGION_INPUTS:
    alphas = spaces.mixing_weights(region_reference[f"{inputs}/e3_op3/alphas_0"])
    arguments = region_params(region_reference, jnp.float32), jnp.asarray(alphas[None])
    batches = jnp.asarray(region_reference[f"x_{inputs}_nhwc"]).reshape(3, 100, 3, 3, 1)
    packed = np.asarray(compiled(proxy, REGION_NETWORK)(*arguments, batches))
    assert packed.dtype == np.uint8
    assert len(packed) == 300
    expected = region_reference[f"{inputs}/e3_op3/count_0"]
    assert abs(proxy.finish(packed).value - expected) <= 1


def region_reading(arch, params=None, batches=None):
  proxy = LinearRegions()
  params = random_params(REGION_NETWORK, dtype=np.float32, kernels=0.5) if params is None else params
  batches = draw(3, 3, 100, 3, 3, 1, dtype=np.float32) if batches is None else batches
  alphas = jnp.asarray(encoding.alphas(arch))
  packed = np.asarray(compiled(proxy, REGION_NETWORK)(params, alphas, batches))
  return packed, proxy.finish(packed)


def test_nodes_without_an_active_convolution_show_nothing():
  skip, conv = encoding.OPS.index("skip_connect"), encoding.OPS.index("nor_conv_3x3")
  packed, _ = region_reading([skip] * 6)
  last, *nodes = np.split(np.unpackbits(packed, axis=1, count=36), 4, axis=1)
  assert last.any()
  assert not np.any(nodes)
  packed, _ = region_reading([skip, skip, skip, skip, conv, skip])  # edge 3<-1
  _, *nodes = np.split(np.unpackbits(packed, axis=1, count=36), 4, axis=1)
  assert [bool(node.any()) for node in nodes] == [False, True, False]


def test_disconnected_network_has_one_region():
  _, reading = region_reading([0] * 6)
  assert reading == Reading(1.0, Status.OK)


def test_batches_are_normalised_apart_and_counted_together():
  batches = draw(3, 3, 100, 3, 3, 1, dtype=np.float32)
  packed, reading = region_reading([3] * 6, batches=batches)
  copied = jnp.concatenate([batches[:1]] * 3)
  same, repeated = region_reading([3] * 6, batches=copied)
  np.testing.assert_array_equal(same[:100], packed[:100])
  np.testing.assert_array_equal(same[100:], np.concatenate([same[:100]] * 2))
  assert repeated.value <= 100 < reading.value
  turned, _ = region_reading([3] * 6, batches=batches[::-1])
  np.testing.assert_array_equal(turned.reshape(3, 100, -1)[::-1].reshape(300, -1), packed)


def test_saturated_count_says_so():
  finish = LinearRegions().finish
  distinct = np.arange(200, dtype=np.uint8)[:, None]
  assert finish(distinct) == Reading(200.0, Status.SATURATED)
  assert finish(np.minimum(distinct, 189)) == Reading(190.0, Status.SATURATED)  # 95 %
  assert finish(np.minimum(distinct, 188)) == Reading(189.0, Status.OK)
  assert finish(np.zeros((200, 3), np.uint8)) == Reading(1.0, Status.OK)


# What a proxy declares


def test_declarations():
  ntk, regions = NTKConditionNumber(batch_norm="batch_frozen"), LinearRegions()
  assert (ntk.name, ntk.higher_is_better, ntk.worst) == ("ntk_condition_number", False, 1e5)
  assert (regions.name, regions.higher_is_better, regions.worst) == ("linear_regions", True, 1.0)
  assert ntk.batch_norm == "batch_frozen"


def test_ranking_puts_better_first_and_degenerate_last():
  ntk, regions = NTKConditionNumber(batch_norm="batch"), LinearRegions()
  readings = [
    Reading(2.0, Status.OK),
    Reading(30.0, Status.OK),
    Reading(1e7, Status.SINGULAR),
    Reading(-4.0, Status.NEGATIVE),
    Reading(float("nan"), Status.NON_FINITE),
    Reading(float("inf"), Status.OK),
  ]
  values = [ntk.ranking_value(r) for r in readings]
  assert values[0] > values[1] > values[2]
  assert values[2:] == [-ntk.worst] * 4
  counts = [Reading(300.0, Status.SATURATED), Reading(120.0, Status.OK), Reading(1.0, Status.OK)]
  assert [regions.ranking_value(r) for r in counts] == [300.0, 120.0, 1.0]


@pytest.mark.parametrize(
  ("theta", "status"),
  [
    (np.diag([1.0, 4.0]), "ok"),
    (np.ones((2, 2)), "singular"),
    (np.zeros((2, 2)), "singular"),
    (np.diag([-1.0, 4.0]), "negative"),
    (np.full((2, 2), np.nan), "non_finite"),
    (np.diag([1.0, np.inf]), "non_finite"),
  ],
)
def test_status_of_a_kernel(theta, status):
  proxy = NTKConditionNumber(batch_norm="batch")
  reading = proxy.finish(theta)
  assert reading.status == status
  assert proxy.ranking_value(reading) == (-4.0 if status == "ok" else -proxy.worst)


def test_proxies_of_equal_settings_are_equal():
  """Programs are kept by proxy."""
  for name in proxies.names():
    assert proxies.get(name) == proxies.get(name)
    assert hash(proxies.get(name)) == hash(proxies.get(name))
  assert len({proxies.get(name) for name in proxies.names()}) == len(proxies.names())


def test_proxies_by_name(unchecked):
  for name in proxies.names():
    assert proxies.get(name).name == name
  assert len(set(proxies.names())) == len(proxies.names())
  modes = {name: proxies.get(f"ntk_condition_number{name}").batch_norm for name in ("", "_frozen")}
  assert modes == {"": "batch", "_frozen": "batch_frozen"}
  with pytest.raises(ConfigError, match=r"'accuracy'.*ntk_condition_number, .*linear_regions"):
    proxies.get("accuracy")
  with pytest.raises(ConfigError, match=r"batch_norm='running'.*batch, batch_frozen"):
    NTKConditionNumber(batch_norm="running")
