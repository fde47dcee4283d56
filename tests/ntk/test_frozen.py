"""Flax models whose samples are independent by fixed statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxnas import ntk
from jaxnas.errors import ConfigError

N, K = 6, 3
X = jnp.asarray(np.random.default_rng(2).normal(size=(N, 4)), np.float32)


class Net(nn.Module):
  """Two normalised layers, one of them made in `setup`, dropout and a head."""

  momentum: float = 0.9

  def setup(self):
    self.norm = nn.BatchNorm(momentum=self.momentum)

  @nn.compact
  def __call__(self, x, train):
    hidden = nn.relu(self.norm(nn.Dense(8)(x), use_running_average=not train))
    hidden = nn.BatchNorm(use_running_average=not train, name="second")(nn.Dense(5)(hidden))
    return nn.Dense(K)(jnp.tanh(nn.Dropout(0.5, deterministic=True)(hidden)))


@functools.cache
def trained():
  """A model, and variables whose running statistics are those of no batch at hand."""
  model = Net()
  variables = model.init(jax.random.key(0), X, train=False)
  stats = jax.tree.map(lambda leaf: leaf * 1.5 + 0.25, variables["batch_stats"])
  return model, {**variables, "batch_stats": stats}


def test_running_statistics_are_constants():
  model, variables = trained()
  f, params = ntk.frozen_statistics(model.apply, variables, train=False)
  assert params is variables["params"]
  np.testing.assert_array_equal(f(params, X), model.apply(variables, X, train=False))
  ntk.check_independence(f, params, X)


def test_keyword_arguments_of_a_call_win():
  model, variables = trained()
  f, params = ntk.frozen_statistics(model.apply, variables, train=False)
  in_batch_mode, _ = f(params, X, train=True, mutable=["batch_stats"])
  np.testing.assert_array_equal(in_batch_mode, model.apply(variables, X, train=True, mutable=["batch_stats"])[0])


def test_batch_mode_is_refused():
  model, variables = trained()

  def f(params, x):
    return model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0]

  with pytest.raises(ConfigError, match="vmap_axes=None"):
    ntk.check_independence(f, variables["params"], X)


def test_statistics_of_a_batch():
  model, variables = trained()
  at_x = ntk.batch_statistics(model.apply, variables, X, train=True)
  assert jax.tree.structure(at_x) == jax.tree.structure(dict(variables))
  assert at_x["params"] is variables["params"]
  first = nn.Dense(8).apply({"params": variables["params"]["Dense_0"]}, X)
  np.testing.assert_allclose(at_x["batch_stats"]["norm"]["mean"], first.mean(0), atol=1e-6)
  np.testing.assert_allclose(at_x["batch_stats"]["norm"]["var"], first.var(0), rtol=1e-4)
  f, params = ntk.frozen_statistics(model.apply, at_x, train=False)
  in_batch_mode, _ = model.apply(variables, X, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(f(params, X), in_batch_mode, rtol=1e-4, atol=1e-5)
  ntk.check_independence(f, params, X)
  again = ntk.batch_statistics(model.apply, at_x, X, train=True)  # whatever was stored before
  jax.tree.map(np.testing.assert_array_equal, again["batch_stats"], at_x["batch_stats"])


def test_the_models_momentum_is_as_before():
  model, variables = trained()
  ntk.batch_statistics(model.apply, variables, X, train=True)
  _, updated = model.apply(variables, X, train=True, mutable=["batch_stats"])
  first = nn.Dense(8).apply({"params": variables["params"]["Dense_0"]}, X)
  expected = 0.9 * variables["batch_stats"]["norm"]["mean"] + 0.1 * first.mean(0)
  np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], expected, rtol=1e-4, atol=1e-6)


def test_a_model_that_is_one_normalisation():
  model = nn.BatchNorm(use_running_average=False)
  variables = model.init(jax.random.key(0), X)
  at_x = ntk.batch_statistics(model.apply, variables, X)
  np.testing.assert_allclose(at_x["batch_stats"]["mean"], X.mean(0), atol=1e-6)


class Blocks(nn.Module):
  """A normalised layer, called twice, or scanned over with parameters of its own each time."""

  scanned: bool

  @nn.compact
  def __call__(self, x, train):
    if self.scanned:
      body = nn.scan(Block, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=2)
      return body(train)(x, None)[0]
    block = Block(train)
    return block(block(x, None)[0], None)[0]


class Block(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x, _):
    return nn.BatchNorm(use_running_average=not self.train)(jnp.tanh(nn.Dense(4)(x))), None


def test_a_normalisation_that_is_called_twice():
  model = Blocks(scanned=False)
  with pytest.raises(ConfigError, match="apply: batch_stats/Block_0/BatchNorm_0/var .* called several times"):
    ntk.batch_statistics(model.apply, model.init(jax.random.key(0), X, False), X, train=True)
  model = Blocks(scanned=True)  # traced several times, called once a layer
  variables = model.init(jax.random.key(0), X, False)
  f, params = ntk.frozen_statistics(
    model.apply, ntk.batch_statistics(model.apply, variables, X, train=True), train=False
  )
  in_batch_mode, _ = model.apply(variables, X, True, mutable=["batch_stats"])
  np.testing.assert_allclose(f(params, X), in_batch_mode, rtol=1e-4, atol=1e-4)


def test_bad_statistics(unchecked):
  model, variables = trained()
  with pytest.raises(ConfigError, match=r"batch_stats/\w+/var was not updated.*train=True"):
    ntk.batch_statistics(model.apply, variables, X, train=False)
  with pytest.raises(ConfigError, match="no 'batch_stats' among"):
    ntk.batch_statistics(model.apply, {"params": variables["params"]}, X, train=True)
  with pytest.raises(ConfigError, match="expected a mapping with 'params'"):
    ntk.frozen_statistics(model.apply, variables["params"], train=False)
  for function in (ntk.frozen_statistics, lambda *own: ntk.batch_statistics(*own, X)):
    with pytest.raises(ConfigError, match="variables: .*a list"):
      function(model.apply, [variables])

  class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
      mean = self.variable("batch_stats", "mean", lambda: x.mean(0))
      mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
      return nn.Dense(K)(x - mean.value[None])

  own = Own()
  with pytest.raises(ConfigError, match="batch_stats/mean belongs to no flax.linen.BatchNorm"):
    ntk.batch_statistics(own.apply, own.init(jax.random.key(0), X), X)
