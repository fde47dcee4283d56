"""What `jaxnas.measure` says where it is given something that it cannot measure."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.errors import InvalidRngError

import jaxnas
from jaxnas.base import Status
from jaxnas.errors import ConfigError

X = np.ones((4, 3), np.float32)
LABELS = np.array([0, 1, 1, 0])


class Model(nn.Module):
  classes: int = 2

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes)(nn.relu(x))


class Empty(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.relu(x)


class Tokens(nn.Module):
  reads_again: bool = False

  @nn.compact
  def __call__(self, tokens, train):
    x = nn.Embed(5, 4)(tokens)
    x = x * (tokens > 1)[..., None].astype(x.dtype) if self.reads_again else x
    return nn.Dense(2)(x.mean(1))


class NNXTokens(nnx.Module):
  def __init__(self):
    self.embed, self.last = nnx.Embed(5, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(0))

  def __call__(self, tokens):
    return self.last(self.embed(tokens).mean(1))


class Dropping(nn.Module):
  @nn.compact
  def __call__(self, x, train=True):
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class Pair(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(x), x


TOKENS = np.arange(20).reshape(4, 5) % 5
CALL = {"apply_kwargs": {"train": False}}


@pytest.mark.parametrize(
  ("model", "batch", "settings", "words"),
  [
    (Empty(), X, {}, "no parameters"),
    (nnx.Dropout(0.5), X, {}, "no parameters"),
    (lambda params, x: x, X, {"variables": {}}, "no parameters"),
    (lambda params, x: x, X, {}, "give variables=params"),
    (lambda params, x: x * params, X, {"variables": jnp.ones((), jnp.int32)}, "floating-point parameters"),
    (Model, X, {}, "the class Model"),
    (3, X, {}, "not a int"),
    (Model(), X, {"variables": {"batch_stats": {}}}, "expected a mapping with 'params'"),
    (nnx.Linear(3, 2, rngs=nnx.Rngs(0)), X, {"variables": {"params": {}}}, "has its own"),
    (Pair(), X, {}, "it returns a tuple"),
    (lambda params, x: (x @ params).astype(int), X, {"variables": X.T}, "outputs are of type int"),
    (Model(), X[None], {}, r"outputs of shape \(1, 4, 2\)"),
    (Tokens(), TOKENS, CALL, "name the module that embeds them"),
    (Tokens(), TOKENS, CALL | {"embedding": "embedding"}, "no module of that path"),
    (Tokens(True), TOKENS, CALL | {"embedding": "Embed_0"}, "elsewhere too"),
    (Model(), X, {"embedding": "Dense_0"}, "leave it out"),
    (lambda params, x: x, TOKENS, {"variables": X, "embedding": "Embed_0"}, "no modules to find it in"),
    (
      Tokens(),
      TOKENS + 1,
      CALL | {"embedding": "Embed_0"},
      "is given 5 and has 5 rows; give numbers from 0 to 4",
    ),
    (NNXTokens(), TOKENS + 1, {"embedding": "embed"}, "'embed' is given 5 and has 5 rows"),
    (Model(), X.astype(np.uint8), {}, "normalised floating-point"),
    (Model(), X[:0], {}, "N of at least 1"),
    (Model(), (X, LABELS, LABELS), {}, "a tuple of 3"),
    (Model(), "images", {}, "not a str"),
    (Model(), X, {"proxies": ("snip",)}, "needs labels"),
    (Model(), (X, LABELS + 1), {"proxies": ("snip",)}, "the network has 2 classes"),
    (Model(), (X, np.eye(2)[LABELS]), {"proxies": ("snip",)}, "as integers"),
    (Model(), (X, LABELS), {"proxies": ("mgm_code",)}, "needs 50 inputs"),
    (Model(), X, {"proxies": ()}, "at least one"),
    (Model(), X, {"proxies": ("params", "params")}, "each name once"),
    (Model(), X, {"proxies": "params"}, "a sequence of names"),
    (Model(), X, {"proxies": ("parms",)}, "params"),
    (Model(), X, {"proxies": (1,)}, r"proxies\[0\]=1: expected the name of a proxy"),
    (Model(), X, {"proxies": 1}, "proxies=1: expected a sequence of names"),
    (Model(), X, {"key": 7}, r"key=7: expected one key of JAX's; give jax.random.key\(7\)"),
    (Model(), X, {"key": X}, r"key of shape \(4, 3\): expected one key"),
    (Model(), X, {"activations": "relu"}, r"activations='relu': expected a sequence of names, such as \('relu',\)"),
    (Model(), X, {"batch_norms": nn.BatchNorm}, r"batch_norms=BatchNorm: expected a sequence of types"),
    (Model(), X, {"roles": {"kernl": "kernel"}}, "no parameter is called 'kernl'"),
    (Model(), X, {"roles": {"kernel": "weight"}}, "say 'kernel', 'scale' or 'bias'"),
    (Model(), X, {"rows": 0}, "rows=0 must be at least 1"),
  ],
)
def test_is_refused(model, batch, settings, words, unchecked):
  settings = {"proxies": ("params", "jacob_cov"), **settings}
  with pytest.raises(ConfigError, match=words):
    jaxnas.measure(model, batch, **settings)


@pytest.mark.parametrize("variables", [None, {"params": {"a": X}}])
def test_arguments_of_the_model_are_asked_for(variables):
  with pytest.raises(TypeError) as caught:
    jaxnas.measure(Tokens(), TOKENS, ("params",), variables=variables, embedding="Embed_0")
  assert "apply_kwargs" in "".join(caught.value.__notes__)


def test_dropout_is_for_the_arguments_to_turn_off():
  with pytest.raises(InvalidRngError) as caught:
    jaxnas.measure(Dropping(), X, ("params",))
  assert "apply_kwargs" in "".join(caught.value.__notes__)
  assert jaxnas.measure(Dropping(), X, ("params",), **CALL)["params"].value == 8


def test_a_network_that_is_not_finite_is_degenerate():
  x = np.array([[np.nan, 1, 1], [1, -1, 1], [-1, 1, 1]], np.float32)
  found = jaxnas.measure(Model(), x, ("naswot", "swap", "jacob_cov"))  # a ReLU's derivative at NaN is 0
  assert {one.status for one in found.values()} == {Status.NON_FINITE}
  assert found["naswot"].rank_by == -np.inf and found["swap"].rank_by == 0


def test_proxies_of_spaces_say_so():
  found = jaxnas.measure(Model(), X, ("linear_regions", "params"))
  assert "of a space" in found["linear_regions"].why and found["params"].value == 8


def test_statistics_over_devices_and_masks():
  class Norm(nn.Module):
    settings: tuple = ()
    masked: bool = False

    @nn.compact
    def __call__(self, x):
      mask = x > 0 if self.masked else None
      return nn.Dense(2)(nn.BatchNorm(use_running_average=True, **dict(self.settings))(x, mask=mask))

  for model, words in ((Norm((("axis_name", "i"),)), "set it to None"), (Norm(masked=True), "a mask")):
    with pytest.raises(ConfigError, match=words):
      jaxnas.measure(model, X, ("params",))
