"""The NAS-Bench-101 network against the reference code's numbers and against plain autodiff of one cell."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas.base import NetworkConfig, Single, TappedNetwork
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import layers
from jaxnas.spaces.nb101 import NB101Network, channels, costs, encoding, sampling
from jaxnas.spaces.nb101.encoding import CONV1, CONV3, OPS, POOL
from jaxnas.spaces.nb101.normalisation import batch_norm_relu
from jaxnas.spaces.nb101.pooling import max_pool


@pytest.fixture(scope="module")
def reference(fixtures):
  """(cell, arrays) of the forward fixture."""
  folder = fixtures / "gennas"
  with np.load(folder / "g5_nb101_forward.npz") as file:
    return json.loads((folder / "g5_nb101_forward.json").read_text()), dict(file)


def loaded(network, arch, arrays):
  """The fixture's weights in this network's tree: random ones where the cell has none (they must not matter)."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  params = jax.tree.map(lambda s: rng.normal(size=s.shape), shapes)

  def put(target, value, *module):
    target[(*module, *(slice(n) for n in value.shape))] = value

  for key in ("conv/kernel", "bn/scale", "bn/bias"):
    group, name = key.split("/")
    put(params["stem"][group][name], arrays[f"params/stem/{key}"])
  ops = encoding.prune(arch)[1]
  shift = 7 - len(ops)
  for stack in range(3):
    for m in range(3):
      prefix = f"params/stack{stack}/module{m}"
      for v in range(1, len(ops)):
        for layer, ours in ((f"vertex{v}", f"vertex_{v + shift}"), (f"input_projection{v}", f"projection_{v + shift}")):
          if f"{prefix}/{layer}/bn/scale" in arrays:
            own = params[f"stack_{stack}"][ours]
            conv = own["conv" if "projection" in ours else OPS[ops[v]]]
            put(conv["kernel"], arrays[f"{prefix}/{layer}/conv/kernel"], m)
            for name in ("scale", "bias"):
              put(own["bn"][name], arrays[f"{prefix}/{layer}/bn/{name}"], m)
  return jax.tree.map(jnp.asarray, params)


def head(arrays, i, tap, moments=None):
  """The fixture's head on its pixels of a tap, and those pixels; by default with the batch's own moments."""
  x = np.asarray(tap)[:, :: tap.shape[1] // 8, :: tap.shape[2] // 8]
  p = {k: arrays[f"params/head{i}/{k}"] for k in ("bn/scale", "bn/bias", "conv/kernel", "conv/bias")}
  mean, variance = moments or (x.mean((0, 1, 2)), x.var((0, 1, 2)))
  y = (x - mean) / np.sqrt(variance + 1e-5) * p["bn/scale"] + p["bn/bias"]
  return y @ p["conv/kernel"][0, 0] + p["conv/bias"], x


def test_forward_equals_the_reference_code(x64, reference):
  cell, arrays = reference
  network = NB101Network(NetworkConfig(channels=cell["init_channels"], cells=cell["modules_per_stack"]))
  arch = encoding.from_cell(cell["matrix"], cell["ops"])
  params = loaded(network, arch, arrays)
  cell, images = jnp.asarray(network.encode(arch[None])[0], jnp.float64), jnp.asarray(arrays["images"], jnp.float64)
  stats = jax.tree.map(lambda a: a.astype(jnp.float64), network.init_stats())
  own = network.variants()[int(network.variant(cell))]

  @jax.jit
  def both(params, stats, images, cell):
    train = own.apply(params, images, cell, collect=("taps", "running_stats"))
    after = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, train.stats)
    return train.taps, own.apply(params, images, cell, "running", stats=after, collect=("taps",)).taps

  train, evaluated = both(params, stats, images, cell)
  for i in range(3):
    assert train[i].shape[-1] == network.tap_channels[i]
    found, x = head(arrays, i, train[i])
    np.testing.assert_allclose(found, arrays[f"train/out{i}"], rtol=0, atol=1e-9)
    n = x.size // x.shape[-1]
    moved = 0.1 * x.mean((0, 1, 2)), 0.9 + 0.1 * x.var((0, 1, 2)) * n / (n - 1)
    found, _ = head(arrays, i, evaluated[i], moved)
    np.testing.assert_allclose(found, arrays[f"eval_after_one_train_pass/out{i}"], rtol=0, atol=1e-9)


# Against plain autodiff of the definition

CONFIG = NetworkConfig(channels=5, cells=1, classes=3)
NET = NB101Network(CONFIG)
ARCHS = {
  "input only": "output:0",
  "one feeds": "conv3x3:0|maxpool3x3:01|conv1x1:12|output:03",
  "two feed": "conv1x1:0|maxpool3x3:01|conv3x3:1|maxpool3x3:02|conv3x3:4|output:35",
  "three feed": "maxpool3x3:0|conv3x3:01|conv1x1:2|output:0123",
  "four feed": "conv3x3:0|conv1x1:0|maxpool3x3:0|conv3x3:0|output:1234",
}


def images_of(seed=0, size=8):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(3, size, size, 3)))


def cell_of(text):
  return jnp.asarray(NET.encode(encoding.parse(text)[None])[0], jnp.float64)


def logits_of(network, mode="batch", **settings):
  return lambda params, images, cell: network.apply(params, images, cell, mode, **settings).logits


def params_of(network=NET, seed=0):
  """Parameters in float64, BN scales and biases not 1 and 0."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  spread = {"kernel": (0, 0.3), "scale": (1, 0.2), "bias": (0, 0.1)}
  return jax.tree_util.tree_map_with_path(
    lambda path, s: jnp.asarray(rng.normal(*spread[path[-1].key], s.shape)), shapes
  )


def naive_logits(params, images, text, stacks=3):
  """The definition, vertex by vertex with each vertex's own kernels; one module a stack.

  The output of that stack if it is not the last.
  """

  def layer(x, kernel, bn, c_in, c_out):
    dims = ("NHWC", "HWIO", "NHWC")
    z = lax.conv_general_dilated(x, kernel[:, :, :c_in, :c_out], (1, 1), "SAME", dimension_numbers=dims)
    centred = z - z.mean((0, 1, 2), keepdims=True)
    normal = centred / jnp.sqrt(jnp.square(centred).mean((0, 1, 2), keepdims=True) + 1e-5)
    return jax.nn.relu(normal * bn["scale"][None, None, None, :c_out] + bn["bias"][None, None, None, :c_out])

  def pool(x, size, stride):
    pads = [(0, 0), *[(size // 2 if stride == 1 else 0,) * 2] * 2, (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)

  matrix, ops = encoding.prune(text)
  last, shift = len(ops) - 1, 7 - len(ops)
  x = layer(images, params["stem"]["conv"]["kernel"], params["stem"]["bn"], 3, CONFIG.channels)
  for stack in range(stacks):
    x = pool(x, 2, 2) if stack else x
    own = jax.tree.map(lambda leaf: leaf[0], params[f"stack_{stack}"])
    widths = channels.vertex_channels(matrix, x.shape[-1], CONFIG.channels * 2**stack)
    values = {}
    for v in range(1, last + 1):
      inputs = [values[u][..., : widths[v]] for u in range(1, v) if matrix[u, v]]
      if v == last:
        inputs = [jnp.concatenate([values[u] for u in range(1, v) if matrix[u, v]], -1)] if inputs else []
      if matrix[0, v]:
        p = own[f"projection_{v + shift}"]
        inputs.append(layer(x, p["conv"]["kernel"], p["bn"], x.shape[-1], widths[v]))
      total = sum(inputs[1:], inputs[0])
      if ops[v] in (CONV3, CONV1):
        p = own[f"vertex_{v + shift}"]
        total = layer(total, p[OPS[ops[v]]]["kernel"], p["bn"], widths[v], widths[v])
      values[v] = pool(total, 3, 1) if ops[v] == POOL else total
    x = values[last]
  if stacks < 3:
    return x
  p = params["classifier"]
  return x.mean((1, 2)) @ p["kernel"] + p["bias"][None]


def slopes(logits):
  """(gradients in parameters and images of some function of the logits, logits)."""

  def run(params, images, *rest):
    def loss(params, images):
      out = logits(params, images, *rest)
      return jnp.square(out - 1).sum(), out

    return jax.grad(loss, (0, 1), has_aux=True)(params, images)

  return run


def assert_trees(found, wanted, name, tolerance=1e-9):
  pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True)
  for (path, leaf), other in pairs:
    scale = max(1e-3, float(jnp.abs(other).max()))
    np.testing.assert_allclose(leaf, other, rtol=0, atol=tolerance * scale, err_msg=f"{name}: {path}")


def of(text, network=NET):
  """The variant for this cell: it compiles in a fifth of the time."""
  return network.variants()[int(network.variant(cell_of(text)))]


@functools.cache
def program(network):
  return jax.jit(slopes(logits_of(network)))


def compare(network, name):
  params, images, text = params_of(), images_of(), ARCHS[name]
  found = program(network)(params, images, cell_of(text))
  wanted = jax.jit(slopes(functools.partial(naive_logits, text=text)))(params, images)
  assert_trees(found, wanted, name)


def test_gradients_of_a_module_equal_plain_autodiff(x64):
  """Outputs of the first stack, and gradients of parameters (those of no use: 0) and images; widths 2, 2 and 1."""
  params, images, text = params_of(), images_of(size=6), ARCHS["three feed"]
  network = of(text)
  found = jax.jit(slopes(lambda p, x: network.apply(p, x, cell_of(text), collect=("taps",)).taps[0]))(params, images)
  wanted = jax.jit(slopes(functools.partial(naive_logits, text=text, stacks=1)))(params, images)
  assert_trees(found, wanted, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHS)
def test_one_program_for_all_cells(x64, name):
  compare(NET, name)


@pytest.mark.slow
def test_padded_block(x64):
  """An all-zero cell: no edge, no vertex; the classifier's bias is left."""
  params = params_of()
  gradient, logits = program(NET)(params, images_of(), jnp.zeros((7, 11)))
  np.testing.assert_array_equal(logits, jnp.broadcast_to(params["classifier"]["bias"], (3, 3)))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_hessian_vector_product(x64):
  """Reverse mode twice, through the pull-backs of branches, pooling and BN, against differences of gradients."""
  text, step = ARCHS["one feeds"], 1e-6
  network, cell, params, along = of(text), cell_of(text), params_of(), params_of(seed=1)

  def gradient(params):
    return slopes(logits_of(network))(params, images_of(), cell)[0][0]

  def slope(params):
    return sum(jnp.vdot(g, a) for g, a in zip(jax.tree.leaves(gradient(params)), jax.tree.leaves(along), strict=True))

  moved = [jax.tree.map(lambda p, a, s=s: p + s * a, params, along) for s in (step, -step)]
  above, below = (jax.jit(gradient)(p) for p in moved)
  wanted = jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)
  assert_trees(jax.jit(jax.grad(slope))(params), wanted, "product", 1e-5)


def test_running_by_a_batchs_own_moments_is_batch(x64):
  """Then samples do not mix, also in the form for many cotangents."""
  text = ARCHS["two feed"]
  network, params, cell = of(text), params_of(), cell_of(text)

  @jax.jit
  def both(params, images):
    out = network.apply(params, images, cell, collect=("stats",))
    found = network.apply(params, images[:2], cell, "running", stats=out.stats, rows=True).logits
    return out.logits, out.stats, found

  logits, stats, found = both(params, images_of())
  np.testing.assert_allclose(found, logits[:2], rtol=1e-9, atol=1e-11)
  like = jax.tree.map(jnp.shape, network.init_stats())
  assert jax.tree.map(jnp.shape, stats) == like
  _, variance = stats["stack_0"]["vertex_1"]  # two of five channels, and three: the other vertex's
  assert (variance[0, :3] > 0).all()
  assert not variance[0, 3:].any()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch_frozen", "identity"])
def test_other_modes(x64, mode):
  """Frozen statistics give the same outputs and another gradient; identity lets samples alone."""
  text = ARCHS["two feed"]
  params, cell, images = params_of(), cell_of(text), images_of()
  run = logits_of(of(text), mode)
  (gradient, _), logits = jax.jit(slopes(run))(params, images, cell)
  if mode == "identity":
    alone = jax.jit(run)(params, images[:1], cell)
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-9)
  else:
    (full, _), batch = jax.jit(slopes(logits_of(of(text))))(params, images, cell)
    np.testing.assert_allclose(logits, batch, rtol=1e-9)
    assert np.abs(gradient["stem"]["conv"]["kernel"] - full["stem"]["conv"]["kernel"]).max() > 1e-3


# Pooling and normalisation


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 1, 1, 2)])
def test_max_pool_equals_xla(x64, shape):
  rng = np.random.default_rng(0)
  x, dy = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape))
  reference = lambda x: lax.reduce_window(  # noqa: E731
    x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
  )
  (found, dx), (wanted, dx_wanted) = (
    jax.jit(lambda x, dy, f=f: (f(x), jax.vjp(f, x)[1](dy)))(x, dy) for f in (max_pool, reference)
  )
  np.testing.assert_array_equal(found, wanted)
  np.testing.assert_allclose(dx[0], dx_wanted[0], atol=1e-14)


def test_max_pool_ties_share_the_cotangent(x64):
  """A pool of a pool has many equal neighbours, all copies of one pixel: it gets the whole cotangent."""
  x = jnp.zeros((1, 6, 6, 1)).at[0, 2, 3, 0].set(5.0)
  dx = jax.jit(jax.grad(lambda x: max_pool(max_pool(x))[0, 2:4, 3:5].sum()))(x)
  np.testing.assert_allclose(dx[0, 2, 3, 0], 4.0)


@pytest.mark.parametrize("channels", [3, 17])
def test_batch_norm_relu_equals_autodiff(x64, channels):
  rng = np.random.default_rng(0)
  z, dy = (jnp.asarray(rng.normal(size=(2, 3, 4, channels))) for _ in range(2))
  scale, bias, d_mean, d_variance = (jnp.asarray(rng.normal(size=channels)) for _ in range(4))

  def plain(z, scale, bias):
    mean, variance = layers.batch_moments(z)
    y = layers.normalise(z, mean, variance) * scale[None, None, None] + bias[None, None, None]
    return jax.nn.relu(y), (mean, variance)

  def both(function):
    def run(cotangents, *args):
      out, pull = jax.vjp(function, *args)
      return out, pull(cotangents)

    return jax.jit(run)((dy, (d_mean, d_variance)), z, scale, bias)

  assert_trees(both(batch_norm_relu), both(plain), "values and pull-back", 1e-12)


# Parameters and counts


def test_counts_equal_those_of_layer_shapes():
  archs = sampling.sample(jax.random.key(0), 6)
  network = NB101Network(NetworkConfig(channels=6, cells=2, classes=7))
  count = jax.jit(jax.vmap(lambda cell: network.costs(cell, 16)))
  for cells in (archs, [encoding.parse(text) for text in ARCHS.values()]):
    found = count(jnp.asarray(network.encode(np.stack(cells))))
    sizes = {"channels": 6, "modules": 2, "classes": 7}
    np.testing.assert_array_equal(found[0], [costs.params(a, **sizes) for a in cells])
    np.testing.assert_array_equal(found[1], [costs.macs(a, 16, **sizes) for a in cells])


def test_initial_values():
  network = NB101Network(NetworkConfig(channels=16, cells=2))
  params = network.init(jax.random.key(0))
  kernel = params["stack_1"]["vertex_2"]["conv3x3-bn-relu"]["kernel"]
  assert kernel.shape == (2, 3, 3, 32, 32)
  np.testing.assert_allclose(kernel.std(), (2 / (9 * 32)) ** 0.5, rtol=0.03)
  assert (params["stack_1"]["vertex_2"]["bn"]["scale"] == 1).all()
  text = "conv3x3:0|conv1x1:1|conv3x3:2|output:123"  # slots 3, 4, 5 have 11, 11 and 10 of 32 channels
  started = jax.jit(network.start)(params, jnp.asarray(network.encode(encoding.parse(text)[None])[0]))
  for slot, width in ((3, 11), (4, 11), (5, 10)):
    for layer, name in ((f"vertex_{slot}", "conv3x3-bn-relu"), (f"projection_{slot}", "conv")):
      before, after = params["stack_1"][layer][name]["kernel"], started["stack_1"][layer][name]["kernel"]
      reads = {"conv": [16, 32]}.get(name, [width, width])  # of the two modules; the stack before has 16 channels
      wanted = np.zeros_like(before)
      for module, used in enumerate(reads):
        wanted[module, :, :, :used, :width] = before[module, :, :, :used, :width] * (32 / width) ** 0.5
      np.testing.assert_allclose(after, wanted, rtol=1e-6)
  for part in ("stem", "classifier"):
    assert_trees(started[part], params[part], part, 0)
  assert_trees(started["stack_0"]["projection_6"], params["stack_0"]["projection_6"], "output", 0)
  assert jax.tree.structure(started) == jax.tree.structure(params)


def test_executed_and_by_layer():
  text = "conv3x3:0|maxpool3x3:01|output:2"
  masks = jax.jit(NET.executed)(cell_of(text))
  params = NET.init(jax.random.key(0))
  kept = NET.by_layer(lambda kernel, mask: mask, params, masks)
  assert kept.shape == NET.by_layer(lambda kernel: kernel.sum(), params).shape
  assert kept.sum() == 1 + 1 + 3 * 3  # stem, classifier; a stack: a convolution and two projections
  stack = masks["stack_0"]
  assert stack["vertex_4"]["conv3x3-bn-relu"]["kernel"] == stack["projection_5"]["bn"]["scale"] == 1
  assert stack["vertex_5"]["bn"]["scale"] == stack["vertex_4"]["conv1x1-bn-relu"]["kernel"] == 0


def test_bad_input(unchecked):
  params, cell = jax.eval_shape(NET.init, jax.random.key(0)), cell_of("output:0")
  images = jnp.zeros((1, 8, 8, 3))
  with pytest.raises(DatasetError, match="expected"):
    NET.apply(params, images[..., :1], cell)
  with pytest.raises(DatasetError, match="at least 4"):
    NET.apply(params, images[:, :3], cell)
  with pytest.raises(ConfigError, match=r"\(7, 11\)"):
    NET.apply(params, images, cell[None])
  with pytest.raises(ConfigError, match="stats"):
    NET.apply(params, images, cell, "running")
  with pytest.raises(ConfigError, match="mode='none'"):
    NET.apply(params, images, cell, "none")
  for name, value in (("channels", 3), ("cells", 0), ("classes", 0), ("stem", "imagenet"), ("auxiliary", True)):
    with pytest.raises(ConfigError, match=f"{name}="):
      NB101Network(dataclasses.replace(CONFIG, **{name: value}))


def test_it_keeps_the_contracts():
  assert isinstance(NET, Single) and isinstance(NET, TappedNetwork)
  assert hash(NET) == hash(NB101Network(CONFIG)) and NB101Network(CONFIG) == NET
