"""`jaxnas.measure` on models of all kinds, against formulas and against one another."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import draw

import jaxnas
from jaxnas import ntk
from jaxnas.base import Batch, Single
from jaxnas.errors import ConfigError
from jaxnas.models import as_network
from jaxnas.proxies.evaluation import cross_entropy

N, K = 5, 3
LABELS = jnp.array([0, 2, 1, 1, 0])
GRADIENTS = ("snip", "grad_norm", "jacob_cov", "ntk_condition_number_frozen")


def values(found):
  assert {name: one.why for name, one in found.items() if one.why} == {}
  return {name: one.value for name, one in found.items()}


def same(found, wanted, rtol=1e-9):
  assert found.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


# A perceptron as a function, in linen and in NNX


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(K, name="last")(nn.relu(nn.Dense(6, name="first")(x)))


class NNX(nnx.Module):
  def __init__(self):
    self.first = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    self.last = nnx.Linear(6, K, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.last(nnx.relu(self.first(x)))


def function(params, x):
  for w, b in params[:-1]:
    x = jax.nn.relu(x @ w + b[None])
  return x @ params[-1][0] + params[-1][1][None]


def perceptron():
  params = [(draw(0, 4, 6), draw(1, 6)), (draw(2, 6, K), draw(3, K))]
  named = {name: {"kernel": w, "bias": b} for name, (w, b) in zip(("first", "last"), params, strict=True)}
  model = NNX()
  nnx.update(model, jax.tree.map(lambda leaf: leaf, nnx.State(jax.tree.map(nnx.Param, named))))
  return params, (Linen(), {"variables": {"params": named}}), (model, {}), (function, {"variables": params})


def test_perceptron_of_every_kind_has_the_values_of_the_formulas(x64):
  params, *kinds = perceptron()
  x = draw(4, N, 4)
  some = ("naswot", "synflow", "params", "flops", "l2_norm", *GRADIENTS)
  first, *others = (values(jaxnas.measure(model, (x, LABELS), some, **own)) for model, own in kinds)
  for other in others:
    same(other, first)

  gradient = jax.grad(lambda p: cross_entropy(function(p, x), LABELS).mean())(params)
  kernels, slopes = ([layer[0] for layer in tree] for tree in (params, gradient))
  on = np.asarray(x @ kernels[0] + params[0][1][None] > 0, np.float64)
  growth = np.abs(kernels[0]).sum(0) @ np.abs(kernels[1]).sum(1)
  gram = ntk.gram_matrix(lambda kernels, x: function([(w, b) for w, (_, b) in zip(kernels, params, strict=True)], x),
                         kernels, x)  # fmt: skip
  same(first, {
    "naswot": np.linalg.slogdet(on @ on.T + (1 - on) @ (1 - on).T).logabsdet,
    "synflow": np.log10(2 * growth),  # every layer carries the whole flow
    "params": 4 * 6 + 6 + 6 * K + K,
    "flops": 4 * 6 + 6 + 6 * K + K,
    "l2_norm": sum(np.linalg.norm(w) for w in kernels),
    "snip": sum(np.abs(w * g).sum() for w, g in zip(kernels, slopes, strict=True)),
    "grad_norm": sum(np.linalg.norm(g) for g in slopes),
    "jacob_cov": first["jacob_cov"],
    "ntk_condition_number_frozen": ntk.condition_number(gram).ratio,
  }, rtol=1e-6)  # fmt: skip


def test_what_a_plain_function_lacks_is_said_and_the_rest_is_given():
  found = jaxnas.measure(function, (np.ones((N, 4), np.float32), LABELS), ("fisher", "snip"),
                         variables=[(jnp.ones((4, 6)), jnp.ones(6)), (jnp.ones((6, K)), jnp.ones(K))])  # fmt: skip
  assert "a plain function" in found["fisher"].why and np.isnan(found["fisher"].value)
  assert found["fisher"].status is None and found["snip"].status == "ok" and found["snip"].note


# Convolutions with batch normalisation


class ConvNet(nn.Module):
  train: bool = False
  shared: bool = False

  @nn.compact
  def __call__(self, x):
    norm = nn.BatchNorm(use_running_average=not self.train, name="norm_0")
    x = nn.relu(norm(nn.Conv(4, (3, 3), name="conv_0")(x)))
    x = nn.Conv(4, (3, 3), 2, name="conv_1")(x)
    x = norm(x) if self.shared else nn.BatchNorm(use_running_average=not self.train, name="norm_1")(x)
    return nn.Dense(K, name="last")(nn.relu(x).mean((1, 2)))


class NNXConvNet(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.conv_0, self.norm_0 = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
    self.conv_1, self.norm_1 = nnx.Conv(4, 4, (3, 3), 2, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
    self.last, self.dropout = nnx.Linear(4, K, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm_1(self.conv_1(nnx.relu(self.norm_0(self.conv_0(x))))))
    return self.last(self.dropout(x.mean((1, 2))))


IMAGES = draw(0, N, 6, 6, 3, dtype=np.float32)
SHOWN = ("naswot", "fisher", "synflow", "zen", "ntk_condition_number_frozen", "flops")


def test_linen_and_nnx_agree_whatever_their_flags_say():
  variables = ConvNet().init(jax.random.key(0), IMAGES)
  model = NNXConvNet()
  nnx.update(model, nnx.State(jax.tree.map(nnx.Param, variables["params"])))
  before = jax.tree.leaves(nnx.state(model))
  found = jaxnas.measure(model, Batch(IMAGES, LABELS), SHOWN)
  assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))  # the user's own
  train, evaluation = (
    jaxnas.measure(ConvNet(train), (IMAGES, LABELS), SHOWN, variables=variables) for train in (True, False)
  )
  assert train == evaluation
  same(values(found), values(train), 1e-4)
  assert {name: one.note for name, one in train.items()} == {
    **dict.fromkeys(("naswot", "fisher", "zen"), "2 batch normalisations by the mini-batch"),
    "synflow": "2 batch normalisations off (mean 0, variance 1)",
    "ntk_condition_number_frozen": "2 batch normalisations by the mini-batch's statistics as constants",
    "flops": "no pass",
  }


def test_zen_puts_the_deviations_back():
  """Scores of a network and of the same with its first kernel scaled differ by nothing: zen draws its own weights."""
  variables = ConvNet().init(jax.random.key(0), IMAGES)
  network, params = as_network(ConvNet(), IMAGES, variables)
  assert isinstance(network, Single)
  outputs = network.apply(params, IMAGES, jnp.zeros(0), collect=("observation", "stats"))
  deviations = [0.5 * np.log(np.mean(outputs.stats[name]["var"])) for name in ("norm_0", "norm_1")]
  np.testing.assert_allclose(outputs.observation.log_deviation, sum(deviations), rtol=1e-5)
  assert outputs.observation.features.shape == (N, 3, 3, 4)


def test_a_batch_normalisation_that_is_called_twice_has_no_single_statistics():
  found = jaxnas.measure(ConvNet(shared=True), (IMAGES, LABELS), ("naswot", "ntk_condition_number_frozen"))
  assert "'norm_0' is called several times" in found["ntk_condition_number_frozen"].why
  assert found["naswot"].status == "ok"


class Blocks(nn.Module):
  """Two blocks, in a scan, under remat, or one after the other."""

  how: str

  @nn.compact
  def __call__(self, x):
    class Block(nn.Module):
      @nn.compact
      def __call__(self, x, _):
        return x + nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(4, use_bias=False)(x))), None

    if self.how == "scan":
      axes = {"params": 0, "batch_stats": 0}
      x, _ = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)(name="blocks")(x, None)
    else:
      make = nn.remat(Block) if self.how == "remat" else Block
      for i in range(2):
        x, _ = make(name=f"block_{i}")(x, None)
    return nn.Dense(K, name="last")(x)


@pytest.mark.parametrize("how", ["scan", "remat"])
def test_layers_in_transformations(how, x64):
  x, stacked = draw(0, N, 4), {"kernel": draw(1, 2, 4, 4), "scale": draw(2, 2, 4), "bias": draw(3, 2, 4)}
  last = {"kernel": draw(4, 4, K), "bias": draw(5, K)}

  def block(own):
    return {"Dense_0": {"kernel": own["kernel"]}, "BatchNorm_0": {"scale": own["scale"], "bias": own["bias"]}}

  apart = {f"block_{i}": block(jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(2)}
  some = ("naswot", "zen", "flops", "mgm_layer_mean", *GRADIENTS)[: None if how == "scan" else 5]
  some = tuple(name for name in some if name != "zen")  # nothing is pooled
  plain = values(jaxnas.measure(Blocks("loop"), (x, LABELS), some, variables={"params": {**apart, "last": last}}))
  own = {"blocks": block(stacked), "last": last} if how == "scan" else {**apart, "last": last}
  stats = jax.tree.map(jnp.zeros_like, {"blocks": {"BatchNorm_0": {n: stacked["scale"] for n in ("mean", "var")}}})
  variables = {"params": own} | ({"batch_stats": stats} if how == "scan" else {})
  found = jaxnas.measure(Blocks(how), (x, LABELS), (*some, "fisher"), variables=variables)
  fisher = found.pop("fisher")
  assert ("nn.scan" in fisher.why) == (how == "scan")
  same(values(found), plain)


class Recurrent(nnx.Module):
  """Loops and dropout both change variables."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.loop = nnx.RNN(nnx.SimpleCell(3, 4, activation_fn=nnx.relu, rngs=rngs))
    self.dropout, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, K, rngs=rngs)

  def __call__(self, x):
    return self.last(self.dropout(self.loop(x)[:, -1]))


def test_a_recurrent_nnx_model():
  model, x = Recurrent(), IMAGES[:, 0]
  with jax.numpy_rank_promotion("allow"):
    network, params = as_network(model, x)
    shown = network.apply(params, x, jnp.zeros(0), collect=("patterns",))
    model.eval()
    np.testing.assert_allclose(shown.logits, model(x), rtol=1e-5)
  assert shown.patterns.shape == (N, 6 * 4)


class Own(nn.Module):
  """A layer that Flax has not, before one that it has."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(x @ self.param("kernel", nn.initializers.normal(), (4, 4)))
    return nn.Dense(K)(nn.relu(nn.Dense(5)(x)))


def test_fisher_leaves_no_layer_out():
  found = jaxnas.measure(Own(), (draw(0, N, 4, dtype=np.float32), LABELS), ("fisher", "params"))
  assert (
    "the model itself has a kernel and is no linear layer of Flax" in found["fisher"].why
    and found["params"].status == "ok"
  )


class Steps(nn.Module):
  """A batch normalisation in every step of a loop over time."""

  shared: bool

  @nn.compact
  def __call__(self, x):
    class Step(nn.Module):
      @nn.compact
      def __call__(self, h, row):
        return nn.relu(nn.BatchNorm(use_running_average=True)(h + nn.Dense(4)(row))), None

    names = ("params", "batch_stats") if self.shared else "params"
    axes = {} if self.shared else {"batch_stats": 0}
    scan = nn.scan(Step, variable_broadcast=names, variable_axes=axes, split_rngs={"params": False}, in_axes=1)
    return nn.Dense(K)(scan()(jnp.zeros((len(x), 4)), x)[0])


def test_batch_normalisation_in_every_step():
  x = IMAGES[:, 0]
  with pytest.raises(ConfigError, match=r"'ScanStep_0/BatchNorm_0' over its steps \(variable_broadcast\)"):
    jaxnas.measure(Steps(True), x, ("params",))
  with jax.numpy_rank_promotion("allow"):
    assert jaxnas.measure(Steps(False), x, ("naswot",))["naswot"].status == "ok"


# A Transformer


class Transformer(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(7, 8)(tokens)
    x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
    x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
    return nn.Dense(K)(x.mean(1))


TOKENS = np.random.default_rng(0).integers(0, 7, (N, 5))


def test_transformer():
  with jax.numpy_rank_promotion("allow"):
    some = ("naswot", "synflow", "zen", "fisher", "snip")
    found = jaxnas.measure(Transformer(), (TOKENS, LABELS), some, embedding="Embed_0")
    assert "no ReLU" in found["naswot"].why
    assert {found[name].status for name in ("synflow", "zen", "fisher", "snip")} == {"ok"}
    assert found["snip"].note == "2 LayerNorm as they are"
    assert found["synflow"].note == "2 LayerNorm off (mean 0, variance 1)"
    smooth = jaxnas.measure(Transformer(), (TOKENS, LABELS), ("naswot",), activations=("tanh",), embedding="Embed_0")
    assert smooth["naswot"].status == "ok"


def test_kernels_of_several_heads_weigh_their_channels():
  """Fisher's importance of a channel counts for each of the weights that give it."""
  with jax.numpy_rank_promotion("allow"):
    network, params = as_network(Transformer(), TOKENS, embedding="Embed_0")
  widths = {path: leaf["kernel"].shape for path, leaf in params.items() if "kernel" in leaf}
  assert sorted(widths.values()) == sorted([*3 * [(8, 8)], (2, 4, 8), (8, 16), (16, 8), (8, K)])
  assert {gate.shape for gate in network.gates(N).values()} == {(N, 8), (N, 16)}


# Mistakes


def test_samples_that_a_function_couples():
  def coupled(params, x):
    z = x @ params["w"]
    return z - z.mean(0, keepdims=True)

  found = jaxnas.measure(coupled, draw(0, N, 4, dtype=np.float32), ("ntk_condition_number_frozen", "jacob_cov"),
                         variables={"w": draw(1, 4, K, dtype=np.float32)})  # fmt: skip
  assert "depends on other samples" in found["ntk_condition_number_frozen"].why
  assert found["jacob_cov"].status is not None


def test_everything_that_a_batch_is_enough_for():
  found = jaxnas.measure(Linen(), np.ones((N, 4), np.float32))
  assert "needs labels" in found["snip"].why and found["params"].value == 51
  assert "no global average pooling" in found["zen"].why


def test_names_of_parameters(unchecked):
  def f(params, x):
    return x @ params["mixing"] + params["offset"][None]

  x, params = np.ones((N, 4), np.float32), {"mixing": jnp.ones((4, K)), "offset": jnp.zeros(K)}
  assert "roles=" in jaxnas.measure(f, x, ("l2_norm",), variables=params)["l2_norm"].why
  found = jaxnas.measure(f, x, ("l2_norm",), variables=params, roles={"mixing": "kernel"})
  assert found["l2_norm"].value == pytest.approx(12**0.5)
