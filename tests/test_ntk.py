"""Kernels and gradient Gram matrices against dense float64 Jacobians, transform by transform."""

import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.ntk import neural_tangents_bridge

N, K = 5, 3


def mlp(params, x):
  hidden = jnp.tanh(jnp.dot(x, params["first"]["kernel"]) + params["first"]["bias"][None])
  return jnp.dot(hidden, params["last"]["kernel"])


def conv_net(params, x):
  hidden = jax.lax.conv_general_dilated(
    x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.dot(jax.nn.relu(hidden).mean((1, 2)), params["last"]["kernel"])


def batch_norm_net(params, x):
  hidden = jnp.dot(x, params["first"]["kernel"])
  hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
  hidden = hidden * params["norm"]["scale"][None] + params["norm"]["bias"][None]
  return jnp.dot(jax.nn.relu(hidden), params["last"]["kernel"])


SHAPES = {
  "mlp": {"first": {"kernel": (4, 6), "bias": (6,)}, "last": {"kernel": (6, K)}},
  "conv": {"conv": {"kernel": (3, 3, 2, 4)}, "last": {"kernel": (4, K)}},
  "batch_norm": {
    "first": {"kernel": (4, 6)},
    "norm": {"scale": (6,), "bias": (6,)},
    "last": {"kernel": (6, K)},
  },
}
NETWORKS = {
  "mlp": (mlp, (N, 4)),
  "conv": (conv_net, (N, 6, 6, 2)),
  "batch_norm": (batch_norm_net, (N, 4)),
}


def network(name, dtype=np.float64, samples=N):
  rng = np.random.default_rng(0)
  f, shape = NETWORKS[name]
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s), dtype),
    SHAPES[name],
    is_leaf=lambda s: isinstance(s, tuple),
  )
  return f, params, jnp.asarray(rng.normal(size=(samples, *shape[1:])), dtype)


def dense(f, params, x, select=None):
  """[N, K, P] by jax.jacrev over the raveled parameters, NumPy from there on."""
  jac = jax.jacrev(f)(params, x)
  flat, _ = jax.tree_util.tree_flatten_with_path(jac)
  kept = [leaf for path, leaf in flat if select is None or select(path[-1].key)]
  return np.concatenate([np.asarray(leaf).reshape(*leaf.shape[:2], -1) for leaf in kept], -1)


def close(got, expected, rtol=1e-11):
  np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


every_network = pytest.mark.parametrize("name", ["mlp", "conv", "batch_norm"])
decoupled_network = pytest.mark.parametrize("name", ["mlp", "conv"])


# The oracle.


@every_network
def test_gram_targets_equal_dense_jacobian(x64, name):
  f, params, x = network(name)
  rows = dense(f, params, x)
  full = np.einsum("ikp,jlp->ijkl", rows, rows)
  close(ntk.gram_matrix(f, params, x), full.sum((2, 3)))
  close(ntk.gram_matrix(f, params, x, target="trace"), np.einsum("ijkk->ij", full))
  close(ntk.gram_matrix(f, params, x, target="full"), full)


@decoupled_network
def test_decoupled_equals_coupled_without_coupling(x64, name):
  f, params, x = network(name)
  for target in ("sum_logits", "trace", "full"):
    close(
      ntk.gram_matrix(f, params, x, target=target, coupled=False),
      ntk.gram_matrix(f, params, x, target=target),
    )


def test_decoupled_differs_where_batch_norm_couples(x64):
  f, params, x = network("batch_norm")
  coupled = ntk.gram_matrix(f, params, x)
  assert np.abs(ntk.gram_matrix(f, params, x, coupled=False) - coupled).max() > 0.1


@every_network
def test_rows_equal_dense_jacobian(x64, name):
  f, params, x = network(name)
  jac = jax.jacrev(f)(params, x)
  rows = ntk.per_sample_gradients(f, params, x)
  assert jax.tree.structure(rows) == jax.tree.structure(params)
  jax.tree.map(lambda row, leaf: close(row, leaf.sum(1)), rows, jac)
  jax.tree.map(close, ntk.per_sample_gradients(f, params, x, target="per_logit"), jac)


def test_float32_is_close_to_float64():
  f, params, x = network("batch_norm", np.float32)
  kernel = ntk.gram_matrix(f, params, x)
  assert kernel.dtype == jnp.float32
  with jax.enable_x64(True):
    exact = ntk.gram_matrix(*network("batch_norm"))
  close(kernel, np.asarray(exact), 1e-5)


def test_low_precision_rows_are_accumulated_in_float32():
  rows = {"a": jnp.full((2, 4096), 1, jnp.bfloat16), "b": jnp.ones((2, 1), jnp.float32)}
  kernel = ntk.gram(rows)
  assert kernel.dtype == jnp.float32
  np.testing.assert_array_equal(kernel, np.full((2, 2), 4097))


# empirical_ntk_fn and the conventions of neural_tangents.


@every_network
def test_empirical_ntk_equals_oracle_and_gram(x64, name):
  f, params, x = network(name)
  rows = dense(f, params, x)
  full = np.einsum("ikp,jlp->ijkl", rows, rows)
  mean = ntk.empirical_ntk_fn(f)(x, None, params)
  close(mean, np.einsum("ijkk->ij", full) / K)
  close(mean * K, ntk.gram_matrix(f, params, x, target="trace"))
  close(ntk.empirical_ntk_fn(f, ())(x, None, params), full)
  close(ntk.empirical_ntk_fn(f, (), (1,))(x, None, params), np.einsum("ijkk->ijk", full))
  close(ntk.empirical_ntk_fn(f, (), 0)(x, x, params), np.einsum("iikl->ikl", full))
  close(ntk.empirical_ntk_fn(f, (0, 1))(x, None, params), np.einsum("iikk->", full) / (N * K))


@pytest.mark.parametrize(
  ("trace_axes", "diagonal_axes", "shape"),
  [
    ((-1,), (), (2, 4, 6, 6, 7, 7)),
    ((), (), (2, 4, 6, 6, 7, 7, 3, 3)),
    ((3,), (1, 2), (2, 4, 6, 7)),
    ((1, -1), (2,), (2, 4, 7)),
    ((), (1,), (2, 4, 6, 7, 7, 3, 3)),
  ],
)
@pytest.mark.parametrize("vmap_axes", [None, 0])
def test_output_shape_interleaves_axes(trace_axes, diagonal_axes, shape, vmap_axes):
  def f(params, x):
    return jnp.einsum("nhwc,cd->nhwd", x, params)

  x = jnp.ones((4, 6, 7, 2))
  kernel_fn = ntk.empirical_ntk_fn(f, trace_axes, diagonal_axes, vmap_axes)
  assert jax.eval_shape(kernel_fn, x[:2], x, jnp.ones((2, 3))).shape == shape


@decoupled_network
def test_vmap_axes_equal_whole_batch(x64, name):
  f, params, x = network(name)
  for axes in (0, (0, 0, {}), -x.ndim if x.ndim == 2 else 0):
    for trace_axes in ((-1,), ()):
      sliced = ntk.empirical_ntk_fn(f, trace_axes, (), axes)(x[:3], x, params)
      close(sliced, ntk.empirical_ntk_fn(f, trace_axes)(x[:3], x, params))


def test_vmap_axes_of_trees_and_keyword_arguments(x64):
  f, params, x = network("mlp")
  shift = jnp.arange(float(N))

  def g(params, xs, *, shift, flag):
    out = (
      mlp(params, xs["t"].T * xs["scale"]) + jnp.sin(shift)[:, None] * params["first"]["bias"][0]
    )
    return {"out": out.T, "square": out**2} if flag else None

  xs = {"t": x.T, "scale": jnp.asarray(2.0)}
  axes = ({"t": 1, "scale": None}, {"out": -1, "square": 0}, {"shift": 0})
  trace = dict(trace_axes=(), diagonal_axes=())
  sliced = ntk.empirical_ntk_fn(g, **trace, vmap_axes=axes)
  whole = ntk.empirical_ntk_fn(g, **trace)
  got = sliced(xs, None, params, shift=shift, flag=True)
  expected = whole(xs, None, params, shift=shift, flag=True)
  assert got["out"].shape == (K, K, N, N)
  assert got["square"].shape == (N, N, K, K)
  jax.tree.map(close, got, expected)


def test_keyword_pairs_and_keys_are_split():
  def f(params, x, scale=None, rng=None):
    noise = 0 * x[:, :1] if rng is None else jax.random.normal(rng, (x.shape[0], 1))
    return (x[:, :1] * (1 if scale is None else scale) + noise) * params

  kernel_fn = ntk.empirical_ntk_fn(f)
  params, x = jnp.ones(()), jnp.arange(1.0, 4.0)[:, None]
  np.testing.assert_allclose(
    kernel_fn(x, x, params, scale=(2.0, 3.0)), 6 * np.outer(x, x), rtol=1e-6
  )
  for key in (jax.random.key(0), jax.random.PRNGKey(0)):
    alone = kernel_fn(x, None, params, rng=key)
    np.testing.assert_allclose(kernel_fn(x, x + 0, params, rng=key), alone)
    other = f(params, x, rng=jax.random.fold_in(key, 1))
    np.testing.assert_allclose(
      kernel_fn(2 * x, x, params, rng=key), np.outer(f(params, 2 * x, rng=key), other), rtol=1e-6
    )
    keys = (key, jax.random.fold_in(key, 7))
    np.testing.assert_allclose(
      kernel_fn(2 * x, x, params, rng=keys),
      np.outer(f(params, 2 * x, rng=keys[0]), f(params, x, rng=keys[1])),
      rtol=1e-6,
    )


# Transforms and invariances.


@every_network
@pytest.mark.parametrize("chunk_size", [1, 2, N, 64])
def test_chunked_equals_whole(x64, name, chunk_size):
  f, params, x = network(name)
  for coupled in (True, False):
    for target in ("sum_logits", "full"):
      how = dict(target=target, coupled=coupled)
      whole = ntk.gram_matrix(f, params, x, **how)
      close(ntk.gram_matrix(f, params, x, chunk_size=chunk_size, **how), whole)
  for axes in (None, 0):
    whole = ntk.empirical_ntk_fn(f, vmap_axes=axes)(x, None, params)
    close(ntk.empirical_ntk_fn(f, vmap_axes=axes, chunk_size=chunk_size)(x, None, params), whole)


def test_chunks_bound_the_cotangents_in_flight():
  f, params, x = network("batch_norm", np.float32)
  text = str(jax.make_jaxpr(lambda p: ntk.gram_matrix(f, p, x, chunk_size=2))(params))
  assert "scan" in text
  assert "[2,5,6]" in text.replace("f32", "")  # 2 cotangents of 5 samples of 6 features
  assert "[5,5,6]" not in text.replace("f32", "")


def test_only_cotangents_are_batched():
  f, params, x = network("conv", np.float32)
  jaxpr = jax.make_jaxpr(lambda p: ntk.per_sample_gradients(f, p, x))(params)
  forward = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"][0]
  assert [v.aval.shape for v in forward.invars] == [x.shape, params["conv"]["kernel"].shape]


@every_network
def test_jit_equals_eager(x64, name):
  f, params, x = network(name)
  for chunk_size in (None, 2):
    jitted = jax.jit(lambda p, x, c=chunk_size: ntk.gram_matrix(f, p, x, chunk_size=c))
    close(jitted(params, x), ntk.gram_matrix(f, params, x))
  for axes in (None, 0):
    kernel_fn = ntk.empirical_ntk_fn(f, vmap_axes=axes)
    close(jax.jit(kernel_fn)(x, x[:2], params), kernel_fn(x, x[:2], params))


@every_network
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_under_outer_vmap_and_map(x64, name, chunk_size):
  f, params, x = network(name)
  weights = jnp.asarray([0.5, 1.0, 2.0])

  def kernel(weight):
    return ntk.gram_matrix(lambda p, x: f(p, jnp.sin(weight * x)), params, x, chunk_size=chunk_size)

  one_by_one = np.stack([kernel(weight) for weight in weights])
  close(jax.vmap(kernel)(weights), one_by_one)
  close(jax.lax.map(kernel, weights), one_by_one)


@every_network
def test_permuted_samples_permute_the_kernel(x64, name):
  f, params, x = network(name)
  order = np.random.default_rng(1).permutation(N)
  kernel = np.asarray(ntk.gram_matrix(f, params, x, chunk_size=2))
  close(ntk.gram_matrix(f, params, x[order], chunk_size=2), kernel[order][:, order])
  kernel = np.asarray(ntk.empirical_ntk_fn(f)(x, None, params))
  close(ntk.empirical_ntk_fn(f)(x[order], x, params), kernel[order])


def test_kernel_is_differentiable_with_padding(x64):
  f, params, x = network("batch_norm")

  def total(params, chunk_size):
    return ntk.gram_matrix(f, params, x, chunk_size=chunk_size).sum()

  jax.tree.map(close, jax.grad(total)(params, 2), jax.grad(total)(params, None))


# Selection, products, trace.


def test_selection_by_path(x64):
  f, params, x = network("batch_norm")

  def chosen(name):
    return name in ("kernel", "scale")

  def select(path):
    return chosen(path.split("/")[-1])

  rows = dense(f, params, x, chosen).sum(1)
  close(ntk.gram_matrix(f, params, x, select=select), rows @ rows.T)
  picked = ntk.per_sample_gradients(f, params, x, select=lambda path: path == "norm/scale")
  assert picked["norm"]["bias"] is None
  assert [leaf.shape for leaf in jax.tree.leaves(picked)] == [(N, 6)]
  parts = [
    ntk.gram_matrix(f, params, x, select=lambda path, p=p: path == p)
    for p in ("first/kernel", "norm/scale", "norm/bias", "last/kernel")
  ]
  close(np.sum(parts, 0), ntk.gram_matrix(f, params, x))


def test_leaves_that_are_not_selected_may_be_integers():
  params = {"kernel": jnp.ones((4, K)), "steps": jnp.asarray(3)}
  x = jnp.ones((N, 4))

  def f(params, x):
    return x @ params["kernel"]

  assert ntk.gram_matrix(f, params, x, select=lambda path: path == "kernel").shape == (N, N)
  with pytest.raises(ConfigError, match="'steps' is int"):
    ntk.gram_matrix(f, params, x)


@every_network
def test_ntk_vector_product_and_trace(x64, name):
  f, params, x = network(name)
  full = np.asarray(ntk.gram_matrix(f, params, x, target="full"))
  v = jnp.asarray(np.random.default_rng(2).normal(size=(N, K)))
  close(ntk.ntk_vector_product(f, params, x, v), np.einsum("ijkl,jl->ik", full, v))
  kernel = ntk.gram_matrix(f, params, x, target="trace")
  close(ntk.trace(kernel), (dense(f, params, x) ** 2).sum())
  close(ntk.trace(jnp.stack([kernel, 2 * kernel])), np.asarray([1, 2]) * ntk.trace(kernel))


# Bad input.


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (dict(trace_axes=(2,)), r"trace_axes=\(2,\)"),
    (dict(diagonal_axes=(-3,)), r"diagonal_axes=\(-3,\)"),
    (dict(trace_axes=(-1,), diagonal_axes=(1,)), "shares an axis"),
    (dict(chunk_size=0), "chunk_size=0"),
    (dict(chunk_size=2.0), "chunk_size=2.0"),
    (dict(implementation=4), "implementation=4"),
    (dict(vmap_axes=2), "vmap_axes"),
    (dict(vmap_axes=(0, None, {})), "every output"),
    (dict(vmap_axes=({"a": 0}, 0, {})), "vmap_axes"),
    (dict(vmap_axes=(1, 0, {})), "expected size 1"),
  ],
)
def test_bad_empirical_arguments(arguments, message):
  x = jnp.ones((N, 4))
  with pytest.raises(ConfigError, match=message):
    ntk.empirical_ntk_fn(lambda p, x: x[:, :K] * p, **arguments)(x, None, jnp.ones(()))


def test_traced_batch_axes_must_agree():
  f, params, x = network("mlp", np.float32)
  with pytest.raises(ConfigError, match="must agree"):
    ntk.empirical_ntk_fn(f, trace_axes=(0,))(x, x[:2], params)


def test_bad_gram_arguments():
  f, params, x = network("mlp", np.float32)
  with pytest.raises(ConfigError, match="target='logits'"):
    ntk.gram_matrix(f, params, x, target="logits")
  with pytest.raises(ConfigError, match="target='trace'"):
    ntk.per_sample_gradients(f, params, x, target="trace")
  with pytest.raises(ConfigError, match="chunk_size=-1"):
    ntk.gram_matrix(f, params, x, chunk_size=-1)
  with pytest.raises(ConfigError, match="none of the 3"):
    ntk.gram_matrix(f, params, x, select=lambda path: False)
  with pytest.raises(ConfigError, match=r"expected \[N, K\]"):
    ntk.gram_matrix(lambda p, x: f(p, x)[:, 0], params, x)
  with pytest.raises(ConfigError, match="complex64"):
    ntk.gram_matrix(f, jax.tree.map(lambda a: a.astype(jnp.complex64), params), x)
  with pytest.raises(ConfigError, match="returned complex64"):
    ntk.gram_matrix(lambda p, x: f(p, x).astype(jnp.complex64), params, x)
  with pytest.raises(ConfigError, match="rows"):
    ntk.gram({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))})
  with pytest.raises(ConfigError, match="v: expected"):
    ntk.ntk_vector_product(f, params, x, jnp.ones((N,)))
  with pytest.raises(ConfigError, match="theta"):
    ntk.trace(jnp.ones((2, 3)))


# The room.


def test_bridge_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "neural_tangents", None)
  with pytest.raises(ImportError, match=r"jaxnas\[neural-tangents\]"):
    neural_tangents_bridge.empirical_ntk_fn(lambda p, x: x)


def test_bridge_hands_its_arguments_over(monkeypatch):
  fake = types.ModuleType("neural_tangents")
  fake.empirical_ntk_fn = lambda *args: args  # type: ignore[attr-defined]
  monkeypatch.setitem(sys.modules, "neural_tangents", fake)
  assert neural_tangents_bridge.empirical_ntk_fn("f", (), (1,), 0) == ("f", (), (1,), 0, 1)


def test_the_room_imports_only_jax_and_numpy():
  code = (
    "import sys, jax, jaxtyping; before = set(sys.modules); import jaxnas.ntk; "
    "print({name.split('.')[0] for name in set(sys.modules) - before} & "
    "{'flax', 'tensorflow', 'torch', 'optax', 'matplotlib', 'neural_tangents'})"
  )
  out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  assert out.stdout.strip() == "set()"
