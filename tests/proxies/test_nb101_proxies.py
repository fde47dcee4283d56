"""The engine's proxies on NAS-Bench-101, against a forward pass of one cell written out vertex by vertex.

A network of a known number of feeding vertices stands for the whole one: it compiles in a fifth of the time. CELL has
vertices of 2 and of 3 channels (5 over two), so that some channels of its maps do not count. STRAIGHT has
no vertex and compiles in seconds: the quick run takes it, the slow one CELL.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas import base, proxies, scoring, spaces
from jaxnas.errors import ConfigError
from jaxnas.proxies.mgm import head_of, own_head_of
from jaxnas.proxies.zen import gaussian_params
from jaxnas.scoring import Batch
from jaxnas.spaces.nb101 import channels, costs, encoding
from jaxnas.spaces.nb101.encoding import CONV1, CONV3, OPS, POOL

COUNTED = ("params", "flops", "l2_norm")
OF_GRADIENT: tuple[str, ...] = ("grad_norm", "snip", "plain", "mgm", "mgm_layer_mean", "trace_norm")
OTHER_GROUPS = (
  ("grasp",),
  ("mgm_output", "mgm_batch1"),
  ("mgm_code", "mgm_truncated"),
  ("trace_norm_per_sample", "trace_norm_exact", "trace_norm_successor"),
  ("ntk_condition_number", "ntk_condition_number_frozen"),
  ("log_synflow", "zico", "gradsign"),
  ("meco", "az_expressivity", "az_progressivity", "az_trainability"),
)


SPACE = spaces.get("nb101")
NETWORK = SPACE.network(base.NetworkConfig(5, 1, 3))
CELL = "conv3x3:0|maxpool3x3:01|conv1x1:12|output:023"
MORE = ("conv1x1:0|conv3x3:0|maxpool3x3:1|output:23", "conv3x3:0|conv3x3:01|output:012")
STRAIGHT = "output:0"
LAYERS = {STRAIGHT: 1 + 3, CELL: 1 + 3 * (2 + 3)}  # stem; a stack's convolutions and projections
OTHERS = (STRAIGHT, "conv3x3:0|maxpool3x3:1|output:2", "maxpool3x3:0|conv3x3:01|conv1x1:2|output:0123")
FOUR = "conv3x3:0|conv1x1:0|maxpool3x3:0|conv3x3:0|output:1234"


def batch(samples=4):
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(samples, 8, 8, 3)), jnp.float32)
  return Batch(images, jnp.asarray(rng.integers(0, 3, samples), jnp.int32))


def cell_of(text):
  return jnp.asarray(NETWORK.encode(SPACE.parse(text)[None])[0])


def variant_of(cell):
  return NETWORK.variants()[int(NETWORK.variant(cell_of(cell)))]


def company(cell):
  """The cell, and others that the same variant computes."""
  return (cell, *MORE) if cell == CELL else (cell,)


BOTH = pytest.mark.parametrize("cell", [STRAIGHT, pytest.param(CELL, marks=pytest.mark.slow)], ids=["straight", "cell"])


def scores(names, cells, network, samples=4):
  """{cell: {proxy: value}} of one call, all readings ok; the network is compiled once."""
  own = scoring.Engine(block=len(cells), streams=1)
  found = scoring.score(
    [proxies.get(n) for n in names],
    SPACE,
    cells,
    batch(samples),
    network=network,
    engine=own,
  )
  assert len(own._programs) == 1
  wrong = [line for line in found if line.status != "ok" or not math.isfinite(line.value)]
  assert not wrong
  return {cell: {line.proxy: line.value for line in found if line.arch == cell} for cell in cells}


@functools.cache
def start_of(text):
  """The weights that `scoring.score` draws for seed 0, as this cell has them, and the key that proxies draw from."""
  init, _, own = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 3)
  return NETWORK.start(NETWORK.init(init), cell_of(text)), own


def forward(params, images, text, normalised=True, bumps=None, added=0.0):
  """The definition with each vertex's own kernels: logits, features, and of every layer (kernel, z, BN's output).

  `bumps` are added to every layer's z, `added` to the logits.
  """
  record = {}

  def layer(name, x, kernel, bn, c_out):
    kernel = kernel[:, :, : x.shape[-1], :c_out]
    dims = ("NHWC", "HWIO", "NHWC")
    z = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, precision=lax.Precision.HIGHEST)
    z = z + bumps[name] if bumps else z
    mean, variance = z.mean((0, 1, 2), keepdims=True), z.var((0, 1, 2), keepdims=True)
    y = (z - mean) / jnp.sqrt(variance + 1e-5) if normalised else z
    y = y * bn["scale"][None, None, None, :c_out] + bn["bias"][None, None, None, :c_out]
    record[name] = kernel, z, y
    return jnp.where(y > 0, y, 0)

  def pool(x, size, stride):
    pads = [(0, 0), *[(size // 2 if stride == 1 else 0,) * 2] * 2, (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)

  matrix, ops = encoding.prune(text)
  last, shift = len(ops) - 1, 7 - len(ops)
  x = layer("stem", images, params["stem"]["conv"]["kernel"], params["stem"]["bn"], 5)
  for stack in range(3):
    x = pool(x, 2, 2) if stack else x
    own = jax.tree.map(lambda leaf: leaf[0], params[f"stack_{stack}"])
    widths = channels.vertex_channels(matrix, x.shape[-1], 5 * 2**stack)
    values = {}
    for v in range(1, last + 1):
      inputs = [values[u][..., : widths[v]] for u in range(1, v) if matrix[u, v]]
      if v == last:
        inputs = [jnp.concatenate([values[u] for u in range(1, v) if matrix[u, v]], -1)] if inputs else []
      if matrix[0, v]:
        p = own[f"projection_{v + shift}"]
        inputs.append(layer(f"{stack} projection {v}", x, p["conv"]["kernel"], p["bn"], widths[v]))
      total = sum(inputs[1:], inputs[0])
      if ops[v] in (CONV3, CONV1):
        p = own[f"vertex_{v + shift}"]
        total = layer(f"{stack} vertex {v}", total, p[OPS[ops[v]]]["kernel"], p["bn"], widths[v])
      values[v] = pool(total, 3, 1) if ops[v] == POOL else total
    x = values[last]
  head = params["classifier"]
  logits = jnp.matmul(x.mean((1, 2)), head["kernel"], precision=lax.Precision.HIGHEST) + head["bias"][None]
  return logits + added, x, record


def loss(params, images, labels, text, bumps=None, added=0.0):
  logits = forward(params, images, text, bumps=bumps, added=added)[0]
  return -sum(jax.nn.log_softmax(logits)[i, label] for i, label in enumerate(labels)) / len(labels)


@functools.cache
def observed(cell):
  """`forward` of a cell, of weights and images that are data."""
  program = jax.jit(lambda params, images: forward(params, images, cell))
  return lambda params, images: jax.tree.map(np.asarray, program(params, images))


@functools.cache
def gradient(cell):
  """(weights, d loss / d weights) by autodiff of `forward`."""
  params, (images, labels, _) = start_of(cell)[0], batch()
  return params, jax.jit(jax.grad(lambda p: loss(p, images, labels.tolist(), cell)))(params)


def kernels(*trees):
  """(kernel of each tree) of all layers, one module a stack."""
  for leaves in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in trees), strict=True):
    if leaves[0][0][-1].key == "kernel":
      yield [np.asarray(leaf, np.float64) for _, leaf in leaves]


# Without gradients


def test_counts_and_norm_of_weights():
  """All cells through one program of the whole network; the norm is that of the kernels cut to their own channels."""
  found = scores(COUNTED, (CELL, *MORE, *OTHERS, FOUR), NETWORK)
  for cell, values in found.items():
    assert values["params"] == costs.params(cell, 5, 1, 3)
    assert values["flops"] == costs.macs(cell, 8, 5, 1, 3)
  params = start_of(CELL)[0]
  record = observed(CELL)(params, batch().inputs)[2]
  own = [kernel for kernel, _, _ in record.values()] + [np.asarray(params["classifier"]["kernel"])]
  np.testing.assert_allclose(found[CELL]["l2_norm"], sum(np.linalg.norm(k.ravel()) for k in own), rtol=1e-5)


def test_naswot_by_hand():
  """From the patterns and variances of the plain forward pass; one channel in five is in the map only."""
  found = scores(["naswot"], company(CELL), variant_of(CELL))
  record = observed(CELL)(start_of(CELL)[0], batch().inputs)[2]
  assert len(record) == LAYERS[CELL]
  agreement = np.zeros((4, 4))
  for _, _, y in record.values():
    code = y.reshape(4, -1) > 0
    agreement += (code[:, None] == code[None]).sum(-1)
  np.testing.assert_allclose(found[CELL]["naswot"], np.linalg.slogdet(agreement)[1], rtol=1e-5)
  assert len({values["naswot"] for values in found.values()}) == 3


@BOTH
def test_zen_by_hand(cell):
  found = scores(["zen"], company(cell), variant_of(cell))
  params, key = start_of(cell)
  weights, inputs, noise = jax.random.split(jax.random.fold_in(key, 1), 3)
  drawn, x = gaussian_params(weights, params), jax.random.normal(inputs, batch().inputs.shape)
  _, clean, record = observed(cell)(drawn, x)
  _, moved, _ = observed(cell)(drawn, x + 0.01 * jax.random.normal(noise, x.shape))
  expected = math.log(np.abs(clean - moved).sum((1, 2, 3)).mean())
  for _, z, _ in record.values():
    expected += math.log(math.sqrt(z.var((0, 1, 2)).mean()))
  np.testing.assert_allclose(found[cell]["zen"], expected, rtol=1e-4)


# With gradients


@BOTH
def test_proxies_of_the_gradient(cell):
  names = OF_GRADIENT
  found = scores(names, company(cell), variant_of(cell))[cell]
  params, slope = gradient(cell)
  expected = dict.fromkeys(names[:3], 0.0)
  for weight, g in kernels(params, slope):
    expected["grad_norm"] += float(np.linalg.norm(g.ravel()))
    expected["snip"] += np.abs(weight * g).sum()
    expected["plain"] += (weight * g).sum()
  squares = sum(np.square(np.asarray(g, np.float64)).sum() for g in jax.tree.leaves(slope))
  expected["mgm"] = expected["trace_norm"] = squares
  expected["mgm_layer_mean"] = expected["mgm"] / (3 * LAYERS[cell] + 2)  # kernel, scale, bias; the classifier
  assert set(expected) == set(names)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)


@pytest.mark.slow
@BOTH
def test_fisher_by_layers_and_channels(cell):
  found = scores(["fisher"], company(cell), variant_of(cell))
  (images, labels, _), params = batch(), start_of(cell)[0]
  logits, _, record = observed(cell)(params, images)
  bumps = {name: jnp.zeros(z.shape) for name, (_, z, _) in record.items()}
  slope = jax.jit(jax.grad(lambda b, s: loss(params, images, labels.tolist(), cell, b, s), (0, 1)))
  by_z, by_logits = slope(bumps, jnp.zeros(logits.shape))
  layers = [(kernel, z, np.asarray(by_z[name])) for name, (kernel, z, _) in record.items()]
  layers.append(
    (np.asarray(params["classifier"]["kernel"]), logits[:, None, None], np.asarray(by_logits)[:, None, None])
  )
  expected = 0.0
  for kernel, z, dz in layers:
    importance = 0.5 * np.square((z * dz).sum((1, 2))).mean(0).sum()
    expected += math.prod(kernel.shape[:-1]) * importance
  np.testing.assert_allclose(found[cell]["fisher"], expected, rtol=2e-3)


@pytest.mark.slow
@BOTH
def test_jacob_cov_and_synflow(cell):
  found = scores(["jacob_cov", "synflow"], company(cell), variant_of(cell))[cell]
  params, images = start_of(cell)[0], batch().inputs
  rows = jax.jit(jax.grad(lambda x: forward(params, x, cell)[0].sum()))(images).reshape(4, -1)
  eigen = np.linalg.eigvalsh(np.corrcoef(np.asarray(rows, np.float64)))
  np.testing.assert_allclose(found["jacob_cov"], -np.sum(np.log(eigen + 1e-5) + 1 / (eigen + 1e-5)), rtol=1e-3)
  absolute = jax.tree.map(jnp.abs, params)
  flow = jax.jit(jax.grad(lambda p: forward(p, jnp.ones_like(images[:1]), cell, normalised=False)[0].sum()))(absolute)
  total = sum(np.abs(w * g).sum() for w, g in kernels(absolute, flow))
  np.testing.assert_allclose(found["synflow"], math.log10(total), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("names", OTHER_GROUPS, ids=lambda names: names[0])
def test_other_proxies_have_a_reading(names):
  """One program for three cells; another cell has another value."""
  samples = 50 if "mgm_code" in names else 4
  found = scores(names, (CELL, *MORE), variant_of(CELL), samples)
  for name in names:
    assert len({values[name] for values in found.values()}) == 3


@pytest.mark.slow
def test_other_proxies_of_a_straight_cell():
  """The rest that needs no 50 images, from one program."""
  names = [name for group in OTHER_GROUPS for name in group if name not in ("mgm_code", "mgm_truncated")]
  scores(names, (STRAIGHT,), variant_of(STRAIGHT))


def test_every_proxy_of_single_networks_is_here():
  of_supernets = {"linear_regions", "supernet_condition_number", "supernet_condition_number_frozen"}
  # Of a network with heads; of networks without width.
  others = {*of_supernets, "signal_regression", "infinite_ntk_condition_number"}
  tested = {*COUNTED, *OF_GRADIENT, "naswot", "zen", "fisher", "jacob_cov", "synflow"}
  shown = {"swap", "effective_params", "skip_length"}  # in test_shown_layers
  assert tested.union(*OTHER_GROUPS, others, shown) == set(proxies.names())


@pytest.mark.slow
def test_whole_network():
  """One program for cells of 0 to 4 feeding vertices equals the program of those that two feed."""
  names = ["naswot", "mgm", "grad_norm"]
  found = scores(names, (CELL, *OTHERS, FOUR), NETWORK)
  part = scores(names, (CELL,), variant_of(CELL))[CELL]
  for name in names:
    np.testing.assert_allclose(found[CELL][name], part[name], rtol=1e-3)


# Own channels


def test_head_of_a_tensor_cut_to_its_channels():
  rng = np.random.default_rng(0)
  for shape, own in (((3, 3, 5, 6), (2, 3)), ((1, 1, 20, 20), (7, 6)), ((40, 3), (40, 3)), ((30,), (1, 17))):
    tensor = jnp.asarray(rng.normal(size=shape), jnp.float32)
    cut = tensor[..., : own[0], : own[1]] if len(shape) > 1 else tensor[: own[1]]
    head, size = jax.jit(own_head_of)(tensor, jnp.asarray(own))
    np.testing.assert_array_equal(head, head_of(cut))
    assert size == cut.size


@functools.cache
def own_program(network):
  return jax.jit(lambda params, cell: (network.used_channels(cell), network.start(params, cell)))


@pytest.mark.parametrize("cell", [CELL, OTHERS[2], FOUR])
def test_own_channels_are_those_of_the_cell(cell):
  network = SPACE.network(base.NetworkConfig(5, 2, 3))
  params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), jax.eval_shape(network.init, jax.random.key(0)))
  own, cut = own_program(network)(params, cell_of(cell))
  own = jax.tree.map(np.asarray, own)
  matrix, ops = encoding.prune(cell)
  shift = 7 - len(ops)
  for stack, module in np.ndindex(3, 2):
    full = 5 * 2**stack
    widths = channels.vertex_channels(matrix, full // 2 if stack and not module else full, full)
    for v in range(1, len(ops)):
      parts = own[f"stack_{stack}"]
      np.testing.assert_array_equal(parts[f"projection_{v + shift}"]["conv"]["kernel"][module], [widths[0], widths[v]])
      if v < len(ops) - 1:
        kernel = cut[f"stack_{stack}"][f"vertex_{v + shift}"]["conv3x3-bn-relu"]["kernel"][module]
        assert (np.asarray(kernel) != 0).sum() == 9 * widths[v] ** 2
        np.testing.assert_array_equal(parts[f"vertex_{v + shift}"]["bn"]["scale"][module], [1, widths[v]])


# What a network lacks


def test_what_the_network_lacks_is_named(unchecked):
  with pytest.raises(ConfigError, match="collect='maps'"):
    NETWORK.apply(NETWORK.init(jax.random.key(0)), batch().inputs, cell_of(CELL), collect=("maps",))
  supernet = spaces.get("nb201").supernet(base.NetworkConfig(channels=3, cells=1, classes=2))
  assert isinstance(supernet, base.Network) and not isinstance(supernet, base.Single)
  with pytest.raises(ConfigError, match=r"'naswot' needs a network that is jaxnas\.base\..*Single.*space\.network"):
    scoring.Engine().measure([proxies.get("naswot")], supernet, {}, np.zeros((1, 1, 6, 5)), batch())
