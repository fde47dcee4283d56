"""Whether f treats the samples independently: what is let through, what is refused, and why."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError

N, K = 6, 3


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), np.float32)


PARAMS = {"a": draw(0, 4, 8), "b": draw(1, 8, K)}
X = draw(2, N, 4)


def mlp(params, x):
  return jax.nn.relu(x @ params["a"]) @ params["b"]


def batch_norm(params, x, fixed=lambda value: value, axes=(0,)):
  hidden = x @ params["a"]
  mean, var = hidden.mean(axes, keepdims=True), hidden.var(axes, keepdims=True)
  return jax.nn.relu((hidden - fixed(mean)) / jnp.sqrt(fixed(var) + 1e-5)) @ params["b"]


def layer_norm(params, x):
  return batch_norm(params, x, axes=(1,))


def constant_statistics(params, x):
  return batch_norm(params, x, fixed=jax.lax.stop_gradient)


def attention_over_samples(params, x):
  hidden = x @ params["a"]
  return mlp(params, jax.nn.softmax(hidden @ hidden.T) @ x)


def attention_over_tokens(params, x):
  hidden = x.reshape(N if len(x) > 1 else 1, 2, 2)
  mixed = jax.nn.softmax(hidden @ hidden.transpose(0, 2, 1)) @ hidden
  return mlp(params, mixed.reshape(-1, 4))


def weak_coupling(params, x):
  return mlp(params, x) + 1e-9 * x.sum()


def pairs(params, x):
  return mlp(params, x + jnp.roll(x, 1, 0))


def noise_of_the_batch(params, x):
  return mlp(params, x) * jax.random.uniform(jax.random.key(0), (len(x), K))


def noise_of_every_sample(params, x):
  return mlp(params, x) * jax.random.uniform(jax.random.key(0), (1, K))


@pytest.mark.parametrize("f", [mlp, layer_norm, attention_over_tokens, noise_of_every_sample])
def test_independent(f):
  assert ntk.check_independence(f, PARAMS, X) is None


@pytest.mark.parametrize(
  ("f", "evidence"),
  [
    (batch_norm, "other samples' inputs"),
    (attention_over_samples, "other samples' inputs"),
    (weak_coupling, "other samples' inputs"),
    (pairs, "other samples' inputs"),
    (constant_statistics, "outputs differ"),
    (noise_of_the_batch, "outputs differ"),
  ],
)
def test_coupled(f, evidence):
  with pytest.raises(ConfigError, match=f"{evidence}.*vmap_axes=0 .*Pass vmap_axes=None.*frozen_statistics"):
    ntk.check_independence(f, PARAMS, X)


def test_what_is_let_through_has_one_kernel_and_what_is_refused_two(x64):
  params, x = jax.tree.map(lambda a: a.astype(np.float64), (PARAMS, X))
  functions = (layer_norm, constant_statistics)
  kernels = jax.jit(lambda p: [[ntk.empirical_ntk_fn(f, (), (), v)(x, None, p) for v in (0, None)] for f in functions])
  for f, (sliced, whole), same in zip(functions, kernels(params), (True, False), strict=True):
    assert np.allclose(sliced, whole, rtol=1e-10) == same
    if same:
      ntk.check_independence(f, params, x)
    else:
      with pytest.raises(ConfigError, match="Pass vmap_axes=None"):
        ntk.check_independence(f, params, x)


def test_samples_that_are_all_alike_still_show_coupling():
  with pytest.raises(ConfigError, match="other samples' inputs"):
    ntk.check_independence(batch_norm, PARAMS, jnp.ones((N, 4)))


def test_outputs_that_are_zero_still_show_coupling_by_the_gradients():
  params = {**PARAMS, "b": jnp.zeros((8, K))}
  table = draw(4, N, 4)

  def f(params, tokens):  # integers, which have no derivatives
    return batch_norm(params, table[tokens])

  with pytest.raises(ConfigError, match="gradients in params differ"):
    ntk.check_independence(f, params, jnp.arange(N))


def test_integer_inputs():
  table = {"table": draw(3, 10, 8), **PARAMS}
  tokens = jnp.asarray([[1, 2], [3, 4], [5, 1], [0, 9]])

  def f(params, x, mix):
    hidden = params["table"][x].mean(1)
    return jax.nn.relu(hidden - mix * hidden.mean(0, keepdims=True)) @ params["b"]

  ntk.check_independence(functools.partial(f, mix=0.0), table, tokens)
  with pytest.raises(ConfigError, match="outputs differ"):
    ntk.check_independence(functools.partial(f, mix=1.0), table, tokens)


def test_axes_trees_and_keyword_arguments():
  def f(params, x, shift, flag, couple=0.0):
    assert flag is True  # not traced
    hidden = mlp(params, x["t"].T * x["scale"]) + jnp.sin(shift)[:, None]
    hidden = hidden + couple * hidden.mean(0, keepdims=True)
    return {"out": hidden.T, "square": hidden**2}

  x = {"t": X.T, "scale": jnp.asarray(2.0)}
  axes = ({"t": 1, "scale": None}, {"out": -1, "square": 0}, {"shift": 0})
  how = dict(shift=jnp.arange(float(N)), flag=True)
  assert ntk.check_independence(f, PARAMS, x, axes, **how) is None
  with pytest.raises(ConfigError, match="other samples' inputs"):
    ntk.check_independence(f, PARAMS, x, axes, couple=1e-6, **how)


def test_selected_parameters():
  params = {**PARAMS, "step": jnp.asarray(3)}
  assert ntk.check_independence(mlp, params, X, select=lambda path: path in "ab") is None
  with pytest.raises(ConfigError, match="'step' is int"):
    ntk.check_independence(mlp, params, X)


def test_tolerance():
  def nearly(params, x):
    return mlp(params, x) + 1e-2 * jax.lax.stop_gradient(mlp(params, x).max(keepdims=True))

  assert ntk.check_independence(nearly, PARAMS, X, tolerance=5e-2) is None
  with pytest.raises(ConfigError, match="outputs differ"):
    ntk.check_independence(nearly, PARAMS, X)


@pytest.mark.parametrize("f", [lambda p, x: (), lambda p, x: mlp(p, x)[:, :0]])
def test_no_outputs(f):
  assert ntk.check_independence(f, PARAMS, X) is None


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(x=X[:1]), "x: one sample"),
    (dict(vmap_axes=None), "vmap_axes=None: without samples"),
    (dict(vmap_axes=3), "vmap_axes=3"),
    (dict(vmap_axes=(0, None, {})), "every output"),
    (dict(f=lambda p, x: mlp(p, x) / 0), "not finite"),
    (dict(f=lambda p, x: mlp(p, x) > 0), "real floating-point outputs"),
    (dict(f=lambda p, x: p["a"] * x.sum()), "expected size 1 on axis 0"),
    (dict(select=lambda path: False), "none of the 2"),
    (dict(select="a"), "select='a'"),
    *((dict(tolerance=tolerance), "tolerance=") for tolerance in ("a", -1.0, np.nan, [1.0])),
  ],
)
def test_bad_arguments(unchecked, arguments, message):
  with pytest.raises(ConfigError, match=message):
    ntk.check_independence(**{"f": mlp, "params": PARAMS, "x": X, **arguments})
