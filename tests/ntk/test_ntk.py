"""Kernels and gradient Gram matrices against dense float64 Jacobians, transform by transform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import python

from jaxnas import ntk
from jaxnas.errors import ConfigError

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


def dense(f, params, x):
  """Leaf path -> [N, K, P], by jax.jacrev."""
  jac = jax.jit(jax.jacrev(f))(params, x)
  flat, _ = jax.tree_util.tree_flatten_with_path(jac)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf).reshape(N, K, -1) for path, leaf in flat
  }


@functools.cache
def oracle(name):
  """The full kernel [N, N, K, K] of a network in float64, contracted by NumPy."""
  rows = np.concatenate(list(dense(*network(name)).values()), -1)
  return np.einsum("ikp,jlp->ijkl", rows, rows)


def gram_matrix(f, params, x, **how):
  return jax.jit(lambda p, x: ntk.gram_matrix(f, p, x, **how))(params, x)


def empirical_ntk(f, params, x1, x2=None, *axes, **how):
  return jax.jit(ntk.empirical_ntk_fn(f, *axes, **how))(x1, x2, params)


def close(got, expected, rtol=1e-11):
  np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


every_network = pytest.mark.parametrize("name", ["mlp", "conv", "batch_norm"])
decoupled_network = pytest.mark.parametrize("name", ["mlp", "conv"])


# The oracle.


@every_network
def test_gram_targets_equal_dense_jacobian(x64, name):
  f, params, x = network(name)
  full = oracle(name)
  targets = ("sum_logits", "trace", "full")
  got = jax.jit(lambda p: [ntk.gram_matrix(f, p, x, target=t) for t in targets])(params)
  for kernel, expected in zip(got, [full.sum((2, 3)), np.einsum("ijkk->ij", full), full], strict=True):
    close(kernel, expected)


@decoupled_network
def test_decoupled_equals_dense_jacobian(x64, name):
  f, params, x = network(name)
  full = oracle(name)
  how = dict(coupled=False)
  summed, got = jax.jit(lambda p: (ntk.gram_matrix(f, p, x, **how), ntk.gram_matrix(f, p, x, target="full", **how)))(
    params
  )
  close(summed, full.sum((2, 3)))
  close(got, full)


def test_decoupled_differs_where_batch_norm_couples(x64):
  f, params, x = network("batch_norm")
  exact = oracle("batch_norm").sum((2, 3))
  assert np.abs(gram_matrix(f, params, x, coupled=False) - exact).max() > 0.1


def test_rows_equal_dense_jacobian(x64):
  f, params, x = network("batch_norm")
  expected = dense(f, params, x)
  for target, shape in (("sum_logits", (N,)), ("per_logit", (N, K))):
    rows = jax.jit(lambda p, t=target: ntk.per_sample_gradients(f, p, x, target=t))(params)
    assert jax.tree.map(jnp.shape, rows) == jax.tree.map(lambda a, s=shape: s + a.shape, params)
    for path, row in jax.tree_util.tree_flatten_with_path(rows)[0]:
      leaf = expected[jax.tree_util.keystr(path, simple=True, separator="/")]
      close(np.reshape(row, (*shape, -1)), leaf.sum(1) if target == "sum_logits" else leaf)


def test_float32_is_close_to_float64():
  kernel = gram_matrix(*network("batch_norm", np.float32))
  assert kernel.dtype == jnp.float32
  with jax.enable_x64(True):
    exact = oracle("batch_norm").sum((2, 3))
  close(kernel, exact, 1e-5)


def test_low_precision_rows_are_accumulated_in_float32():
  rows = {"a": jnp.ones((2, 4096), jnp.bfloat16), "b": jnp.ones((2, 1), jnp.float32)}
  kernel = ntk.gram(rows)
  assert kernel.dtype == jnp.float32
  np.testing.assert_array_equal(kernel, np.full((2, 2), 4097))


def test_products_inside_the_network_get_the_precision():
  f, params, x = network("conv", np.float32)
  for precision, seen in ((jax.lax.Precision.HIGHEST, True), (None, False)):
    jaxprs = [
      jax.make_jaxpr(lambda p, q=precision: ntk.gram_matrix(f, p, x, precision=q))(params),
      jax.make_jaxpr(ntk.empirical_ntk_fn(f, precision=precision))(x, None, params),
    ]
    for jaxpr in jaxprs:
      products = [
        e.params["precision"] for e in jaxpr.eqns if e.primitive.name in ("conv_general_dilated", "dot_general")
      ]
      assert len(products) > 3
      assert all(("HIGHEST" in str(p)) == seen for p in products)


# empirical_ntk_fn and the conventions of neural_tangents.


@every_network
def test_empirical_ntk_equals_dense_jacobian(x64, name):
  f, params, x = network(name)
  full = oracle(name)
  got, mean = jax.jit(lambda p: (ntk.empirical_ntk_fn(f, ())(x, None, p), ntk.empirical_ntk_fn(f)(x, None, p)))(params)
  close(got, full)
  close(mean, np.einsum("ijkk->ij", full) / K)


def test_traced_axes_are_averaged_and_diagonal_ones_kept_once(x64):
  f, params, x = network("batch_norm")
  full = oracle("batch_norm")
  axes = [((), (1,)), ((), 0), ((0, 1), ())]
  got = jax.jit(lambda p: [ntk.empirical_ntk_fn(f, *a)(x, x, p) for a in axes])(params)
  close(got[0], np.einsum("ijkk->ijk", full))
  close(got[1], np.einsum("iikl->ikl", full))
  close(got[2], np.einsum("iikk->", full) / (N * K))


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
def test_vmap_axes_equal_dense_jacobian(x64, name):
  f, params, x = network(name)
  full = oracle(name)
  close(empirical_ntk(f, params, x[:3], x, (), (), 0), full[:3])
  mean = np.einsum("ijkk->ij", full) / K
  close(empirical_ntk(f, params, x, None, vmap_axes=(-x.ndim, 0, {})), mean)


def test_vmap_axes_of_trees_and_keyword_arguments(x64):
  _, params, x = network("mlp")

  def g(params, xs, *, shift, flag):
    assert flag is True  # not traced
    out = mlp(params, xs["t"].T * xs["scale"]) + jnp.sin(shift)[:, None] * params["first"]["bias"][0]
    return {"out": out.T, "square": out**2}

  xs = {"t": x.T, "scale": jnp.asarray(2.0)}
  axes = ({"t": 1, "scale": None}, {"out": -1, "square": 0}, {"shift": 0})
  got, expected = (
    jax.jit(lambda p, s, a=a: ntk.empirical_ntk_fn(g, (), vmap_axes=a)(xs, None, p, shift=s, flag=True))(
      params, jnp.arange(float(N))
    )
    for a in (axes, None)
  )
  assert got["out"].shape == (K, K, N, N)
  assert got["square"].shape == (N, N, K, K)
  jax.tree.map(close, got, expected)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_keyword_pairs_and_keys_are_split(make_key):
  def f(params, x, scale, rng):
    return (x * scale + jax.random.normal(rng, x.shape)) * params

  def kernel(x1, x2, **kwargs):
    return ntk.empirical_ntk_fn(f)(x1, x2, params, **kwargs)

  def outer(scale1, key1, scale2, key2):
    one = jnp.ones(())
    return np.outer(f(one, 2 * x, scale1, key1), f(one, x, scale2, key2))

  params, x, key = jnp.ones(()), jnp.arange(1.0, 4.0)[:, None], make_key(0)
  folded, other = jax.random.fold_in(key, 1), jax.random.fold_in(key, 7)
  same = kernel(x, None, scale=1.0, rng=key)
  np.testing.assert_allclose(kernel(x, jnp.array(x), scale=1.0, rng=key), same)
  got = kernel(2 * x, x, scale=(2.0, 3.0), rng=key)
  np.testing.assert_allclose(got, outer(2.0, key, 3.0, folded), rtol=1e-5)
  got = kernel(2 * x, x, scale=1.0, rng=(key, other))
  np.testing.assert_allclose(got, outer(1.0, key, 1.0, other), rtol=1e-5)


# Transforms and invariances.


def test_chunked_equals_whole(x64):
  f, params, x = network("batch_norm")
  full = oracle("batch_norm")
  sizes = (1, 2, N, 64)
  kernels = jax.jit(lambda p: [ntk.gram_matrix(f, p, x, chunk_size=c) for c in sizes])(params)
  for kernel in kernels:
    close(kernel, full.sum((2, 3)))
  close(empirical_ntk(f, params, x, chunk_size=4), np.einsum("ijkk->ij", full) / K)


def test_chunked_samples_equal_whole(x64):
  f, params, x = network("conv")
  full = oracle("conv")
  close(gram_matrix(f, params, x, coupled=False, chunk_size=2), full.sum((2, 3)))
  mean = np.einsum("ijkk->ij", full) / K
  close(empirical_ntk(f, params, x, vmap_axes=0, chunk_size=2), mean)


def test_chunks_bound_the_cotangents_in_flight():
  f, params, x = network("batch_norm", np.float32)
  text = str(jax.make_jaxpr(lambda p: ntk.gram_matrix(f, p, x, chunk_size=2))(params))
  assert "scan" in text
  assert "f32[2,5,6]" in text  # 2 cotangents of 5 samples of 6 features
  assert "f32[5,5,6]" not in text


def test_only_cotangents_are_batched():
  f, params, x = network("conv", np.float32)
  jaxpr = jax.make_jaxpr(lambda p: ntk.per_sample_gradients(f, p, x))(params)
  forward = next(e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated")
  assert [v.aval.shape for v in forward.invars] == [x.shape, params["conv"]["kernel"].shape]


def test_eager_equals_jit(x64):
  f, params, x = network("mlp")
  full = oracle("mlp")
  close(ntk.gram_matrix(f, params, x), full.sum((2, 3)))
  close(ntk.empirical_ntk_fn(f)(x, None, params), np.einsum("ijkk->ij", full) / K)


@pytest.mark.parametrize(("coupled", "chunk_size"), [(True, None), (True, 2), (False, 2)])
def test_under_outer_vmap_and_map(x64, coupled, chunk_size):
  f, params, x = network("batch_norm" if coupled else "conv")
  weights = jnp.asarray([0.5, 1.0, 2.0])

  def kernel(weight):
    def g(p, x):
      return f(p, jnp.sin(weight * x))

    return ntk.gram_matrix(g, params, x, coupled=coupled, chunk_size=chunk_size)

  one_by_one, vmapped, mapped = jax.jit(
    lambda w: (
      jnp.stack([kernel(w[0]), kernel(w[1]), kernel(w[2])]),
      jax.vmap(kernel)(w),
      jax.lax.map(kernel, w),
    )
  )(weights)
  close(vmapped, np.asarray(one_by_one))
  close(mapped, np.asarray(one_by_one))


@pytest.mark.parametrize("name", ["conv", "batch_norm"])
def test_permuted_samples_permute_the_kernel(x64, name):
  f, params, x = network(name)
  order = np.random.default_rng(1).permutation(N)
  full = oracle(name)
  expected = full.sum((2, 3))[order][:, order]
  close(gram_matrix(f, params, x[order], chunk_size=2), expected)
  expected = np.einsum("ijkk->ij", full)[order] / K
  close(empirical_ntk(f, params, x[order], x), expected)


def test_kernel_is_differentiable_through_chunks(x64):
  f, params, x = network("batch_norm")
  whole, chunked = (
    jax.jit(jax.grad(lambda p, c=c: ntk.gram_matrix(f, p, x, chunk_size=c).sum()))(params) for c in (None, 2)
  )
  jax.tree.map(close, chunked, whole)


# Selection.


def test_selection_by_path(x64):
  f, params, x = network("batch_norm")

  def select(path):
    return path.split("/")[-1] in ("kernel", "scale")

  chosen = {path: rows.sum(1) for path, rows in dense(f, params, x).items() if select(path)}
  assert list(chosen) == ["first/kernel", "last/kernel", "norm/scale"]
  expected = sum(rows @ rows.T for rows in chosen.values())
  close(gram_matrix(f, params, x, select=select), expected)
  rows = jax.eval_shape(lambda p: ntk.per_sample_gradients(f, p, x, select=select), params)
  assert rows["norm"]["bias"] is None
  assert rows["norm"]["scale"].shape == (N, 6)


def test_empirical_ntk_of_selected_leaves(x64):
  f, params, x = network("mlp")
  rows = dense(f, params, x)["last/kernel"]
  kernel = ntk.empirical_ntk_fn(f, trace_axes=(), select=lambda path: path == "last/kernel")
  found = kernel(x, None, {**params, "step": jnp.arange(3)})
  np.testing.assert_allclose(found, np.einsum("ikp,jlp->ijkl", rows, rows), rtol=1e-10)


def test_axes_may_be_numpys(x64):
  f, params, x = network("mlp")
  usual = ntk.empirical_ntk_fn(f, trace_axes=(), diagonal_axes=(1,), vmap_axes=0)(x, None, params)
  numpys = ntk.empirical_ntk_fn(f, trace_axes=(), diagonal_axes=np.int64(1), vmap_axes=np.int32(0))(x, None, params)
  np.testing.assert_array_equal(usual, numpys)


def test_f_with_several_outputs_has_no_gram_matrix():
  f, params, x = network("mlp", np.float32)
  with pytest.raises(ConfigError, match=r"f: returned PyTreeDef.*one array \[N, K\]"):
    ntk.gram_matrix(lambda p, x: (f(p, x), x), params, x)


def test_leaves_that_are_not_selected_may_be_integers():
  params = {"kernel": jnp.ones((4, K)), "steps": jnp.asarray(3)}
  x = jnp.ones((N, 4))

  def f(params, x):
    return x @ params["kernel"]

  assert ntk.gram_matrix(f, params, x, select=lambda path: path == "kernel").shape == (N, N)
  with pytest.raises(ConfigError, match="'steps' is int"):
    ntk.gram_matrix(f, params, x)


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
def test_bad_empirical_arguments(unchecked, arguments, message):
  x = jnp.ones((N, 4))
  with pytest.raises(ConfigError, match=message):
    ntk.empirical_ntk_fn(lambda p, x: x[:, :K] * p, **arguments)(x, None, jnp.ones(()))


def test_traced_batch_axes_must_agree():
  f, params, x = network("mlp", np.float32)
  with pytest.raises(ConfigError, match="must agree"):
    jax.eval_shape(ntk.empirical_ntk_fn(f, trace_axes=(0,)), x, x[:2], params)


def test_bad_gram_arguments(unchecked):
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


# The room.


def test_the_room_imports_only_jax_and_numpy():
  code = (
    "import sys, jax, jaxtyping; before = set(sys.modules); import jaxnas.ntk; "
    "print({name.split('.')[0] for name in set(sys.modules) - before} & "
    "{'flax', 'tensorflow', 'torch', 'optax', 'matplotlib', 'neural_tangents'})"
  )
  assert python(code).stdout.strip() == "set()"
