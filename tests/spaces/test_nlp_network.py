"""The NAS-Bench-NLP network: the published outputs, a step-by-step oracle, and its own pull-back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nlp_fixture import SPACE, Recorded

from jaxnas.base import NetworkConfig
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces.nlp import costs, encoding, program
from jaxnas.spaces.nlp.interpreter import Weights, run


@pytest.fixture(scope="module")
def recorded(fixtures):
  return Recorded(fixtures)


def test_published_outputs_and_states(x64, recorded):
  net, params = recorded.network, recorded.params("init")
  found = jax.jit(net.apply)(params, recorded.samples_first("input"), recorded.arch).logits
  wanted = recorded.samples_first("eval0/output")
  np.testing.assert_allclose(found, wanted.reshape(len(wanted), -1), rtol=0, atol=1e-12)
  values = jax.jit(lambda *args: net._forward(*args, {})[2])(params, recorded.samples_first("input"), recorded.arch)
  states = program.read(recorded.arch, net.size).states
  for layer, own in enumerate(values):
    for i, slot in enumerate(states):
      state = recorded.arrays[f"eval0/final_hidden/layer{layer}/h{i}"]
      np.testing.assert_allclose(own[-1, slot], state, rtol=0, atol=1e-12)


def test_published_parameter_counts(recorded):
  assert int(recorded.network.costs(recorded.arch).params) == recorded.figures["params_live"]
  config = NetworkConfig(channels=600, cells=3, classes=48)
  for entry in recorded.figures["params_at_benchmark_size"]:
    code = SPACE.from_recipe(entry["recipe"])
    assert costs.count(code, config).params == entry["params_gennas_dim48"], entry["recipe_id"]
    assert len(encoding.unpack(code).states) == entry["hidden_states"]


def by_autodiff(weights, own, nodes):
  """`run` by plain Python of one recipe: differentiable to any order."""
  _, samples, hidden = weights.projected.shape[1:]
  states, every = jnp.zeros((3, samples, hidden)), []
  for projected in weights.projected:
    values = [jnp.zeros((samples, hidden)), *states, *[jnp.zeros((samples, hidden))] * nodes]
    for operation, written, a, b, c, number in np.asarray(own.instructions).tolist():
      x, y, z, so_far = values[a], values[b], values[c], values[written]
      values[written] = {
        program.START: lambda s=so_far, n=number: s + weights.biases[n][None],
        program.PROJECT: lambda s=so_far, n=number, p=projected: s + p[n],
        program.PRODUCT: lambda s=so_far, n=number, x=x: s + x @ weights.kernels[n],
        encoding.BLEND: lambda x=x, y=y, z=z: x * y + (1 - x) * z,
        encoding.PROD: lambda x=x, y=y: x * y,
        encoding.SUM: lambda x=x, y=y: x + y,
        encoding.TANH: lambda x=x: jnp.tanh(x),
        encoding.SIGM: lambda x=x: jax.nn.sigmoid(x),
        encoding.LEAKY_RELU: lambda x=x: jax.nn.leaky_relu(x),
        encoding.ABSENT: lambda x=x: jnp.zeros_like(x),
      }[operation]()
    every.append(jnp.stack(values))
    states = every[-1][np.asarray(own.states)]
  return jnp.stack(every)


ALL_OPERATIONS = (
  "linear:x.h0|tanh:0|linear:h1.1.x|sigm:2|blend:3.1.h1|prod:4.h2|sum:5.1|leaky_relu:6|linear:7|states:7.4.8"
)


@pytest.mark.parametrize("text", [ALL_OPERATIONS, "linear:h0|states:0", "linear:x.h0|tanh:0|states:1"])
def test_pull_back_is_autodiff_s(x64, text):
  code, rng = SPACE.parse(text), np.random.default_rng(0)
  size = SPACE.shape(code)
  own = program.read(jnp.asarray(program.table(code[None], size)[0]), size)
  shapes = (size.matrices, 4, 4), (size.linears, 4), (3, size.projections, 2, 4)
  weights = Weights(*(jnp.asarray(rng.normal(0, 0.7, shape)) for shape in shapes))
  factors = jnp.asarray(rng.normal(size=(3, size.slots, 2, 4)))

  @jax.jit
  def fast(weights):
    values, pull = jax.vjp(lambda w: run(w, own), weights)
    return values, pull(factors)[0]

  def plain(weights):
    values, pull = jax.vjp(lambda w: by_autodiff(w, own, size.nodes), weights)
    return values, pull(factors)[0]

  found, wanted = fast(weights), plain(weights)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found, wanted)

  def twice(run):  # a derivative of the derivative, as GraSP takes
    def squares(w):
      return sum(jnp.square(g).sum() for g in jax.grad(lambda w: jnp.square(run(w)).sum())(w))

    return jax.grad(squares)(weights)

  found, wanted = jax.jit(lambda: twice(lambda w: run(w, own)))(), twice(lambda w: by_autodiff(w, own, size.nodes))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, wanted)


def test_a_size_changes_nothing(recorded):
  """The same parameters in a network with room for more."""
  larger = SPACE.network(NetworkConfig(10, 3, 5, shape=program.SIZES[4]))
  small, inputs = recorded.network, recorded.samples_first("input").astype(jnp.float32)
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), recorded.params("init"))
  padded = jax.tree.map(
    lambda leaf, like: jnp.pad(leaf, [(0, n - m) for m, n in zip(leaf.shape, like.shape, strict=True)]),
    params,
    jax.eval_shape(larger.init, jax.random.key(0)),
  )
  arch = jnp.asarray(larger.encode(recorded.code[None])[0])
  found, wanted = (
    jax.jit(net.apply)(own, inputs, one).logits
    for net, own, one in ((larger, padded, arch), (small, params, recorded.arch))
  )
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_initial_values():
  code = SPACE.parse(ALL_OPERATIONS)
  net = SPACE.network(NetworkConfig(30, 3, 7, shape=SPACE.shape(code)))
  params = net.start(net.init(jax.random.key(0)), jnp.asarray(net.encode(code[None])[0]))
  for (path, leaf), shape in zip(
    jax.tree_util.tree_leaves_with_path(params),
    jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))),
    strict=True,
  ):
    names = [p.key for p in path]
    hidden = 20 if names[0] == "layer_2" else 30
    bound = {"stem": 0.1, "classifier": 0.1}.get(names[0], hidden**-0.5)
    if names[0] in ("stem", "classifier") and names[-1] == "bias":
      bound = 7**-0.5 if names[0] == "stem" else 0.0
    assert leaf.shape == shape.shape and float(jnp.abs(leaf).max()) <= bound
    assert not bound or float(jnp.abs(leaf).max()) > 0.7 * bound, names
  used = {
    names: int((jnp.abs(params["layer_1"][names]["kernel"]).max((1, 2)) > 0).sum())
    for names in ("matrices", "projections")
  }
  assert used == {"matrices": 4, "projections": 2}


def test_dropout_is_locked_and_keeps_the_mean():
  code = SPACE.parse("linear:x.h0|tanh:0|states:1")
  net = SPACE.network(NetworkConfig(30, 2, 7, shape=SPACE.shape(code)))
  arch, params = jnp.asarray(net.encode(code[None])[0]), net.init(jax.random.key(0))
  inputs = jax.random.normal(jax.random.key(1), (2, 8, 7))
  keys = jax.random.split(jax.random.key(2), 400)
  drawn = jax.jit(jax.vmap(lambda key: net.train(params, inputs, arch, key)))(keys)
  clean = net.apply(params, inputs, arch).logits
  assert float(drawn.std(0).min()) > 0
  np.testing.assert_allclose(drawn.mean(0), clean, atol=6 * float(drawn.std(0).max()) / 20 + 0.02)
  # The decoder has no dropout behind it: with a decoder of one unit, all steps are dropped together.
  only = params["classifier"]["kernel"].at[1:].set(0)
  found = jax.jit(
    jax.vmap(
      lambda key: net.train({**params, "classifier": {**params["classifier"], "kernel": only}}, inputs, arch, key)
    )
  )(keys)
  zero = (found.reshape(400, 2, 8, 7) == 0).all(-1)
  assert 0.05 < zero.mean() < 0.15 and (zero.all(-1) == zero.any(-1)).all()


def test_other_inputs_and_sizes_are_refused(recorded, unchecked):
  net, params = recorded.network, jax.eval_shape(recorded.network.init, jax.random.key(0))
  for shape in ((2, 8, 6), (2, 7, 5), (8, 5), (2, 8, 8, 3), (0, 8, 5)):
    with pytest.raises(DatasetError, match=r"expected \(N, 8, 5\), sequences as of --dataset=signals"):
      jax.eval_shape(net.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32), recorded.arch)
  with pytest.raises(DatasetError, match="int32"):
    jax.eval_shape(net.apply, params, jax.ShapeDtypeStruct((2, 8, 5), jnp.int32), recorded.arch)
  with pytest.raises(ConfigError, match="shape=None"):
    SPACE.network(NetworkConfig(10, 3, 5))
  with pytest.raises(ConfigError, match="too small for a recipe"):
    SPACE.network(NetworkConfig(10, 3, 5, shape=program.SIZES[0])).encode(recorded.code[None])
  with pytest.raises(ConfigError, match="a row of what encode"):
    net.executed(recorded.arch[1:])
  with pytest.raises(ConfigError, match="stem='imagenet'"):
    SPACE.network(NetworkConfig(10, 3, 5, stem="imagenet", shape=SPACE.shape(recorded.code)))
