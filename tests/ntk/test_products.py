"""Products with kernels that are not formed, against the formed ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError

N, K = 5, 3


def mlp(params, x, scale=1.0):
  return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"] * scale


def batch_norm_net(params, x):
  hidden = x @ params["a"]
  hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
  return jnp.tanh(hidden + params["b"][None]) @ params["c"]


@jax.custom_vjp
def reverse_only(x):
  return jnp.sin(x)


reverse_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.custom_vjp
def nested(x):
  return jnp.sin(x)


@jax.custom_vjp
def halved(g):
  return g / 2


halved.defvjp(lambda g: (g / 2, None), lambda _, h: (h / 2,))
nested.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * halved(g * jnp.cos(x)),))  # as closed-form layers do


def case(seed=0, samples=N, dtype=np.float64):
  rng = np.random.default_rng(seed)
  shapes = {"a": (4, 6), "b": (6,), "c": (6, K)}
  params = {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}
  return params, jnp.asarray(rng.normal(size=(samples, 4)), dtype)


def kernel(f, params, x1, x2=None, **kwargs):
  return jax.jit(lambda p: ntk.empirical_ntk_fn(f, trace_axes=())(x1, x2, p, **kwargs))(params)


def close(got, expected, rtol=1e-11):
  np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize(
  "f", [mlp, batch_norm_net, lambda p, x: reverse_only(mlp(p, x)), lambda p, x: nested(mlp(p, x))]
)
def test_equals_the_kernel_times_v(x64, f):
  params, x = case()
  v = jnp.asarray(np.random.default_rng(2).normal(size=(N, K)))
  expected = np.einsum("ijkl,jl->ik", kernel(f, params, x), v)
  close(jax.jit(lambda p, v: ntk.empirical_ntk_vp_fn(f, x, None, p)(v))(params, v), expected)


def test_eager_and_vmapped_equal_jit(x64):
  params, x = case()
  v = jnp.asarray(np.random.default_rng(2).normal(size=(N, K)))
  expected = np.einsum("ijkl,jl->ik", kernel(mlp, params, x), v)
  product = ntk.empirical_ntk_vp_fn(mlp, x, None, params)
  close(product(v), expected)
  close(jax.vmap(product)(jnp.stack([v, 2 * v]))[1], 2 * expected)


def test_two_inputs_and_keyword_arguments(x64):
  params, x1 = case()
  x2 = x1[:2] + 1
  v = jnp.asarray(np.random.default_rng(2).normal(size=(2, K)))
  close(ntk.empirical_ntk_vp_fn(mlp, x1, x2, params)(v), np.einsum("ijkl,jl->ik", kernel(mlp, params, x1, x2), v))
  theta = kernel(mlp, params, x1, x2)
  got = ntk.empirical_ntk_vp_fn(mlp, x1, x2, params, scale=(2.0, 3.0))(v)
  close(got, 6 * np.einsum("ijkl,jl->ik", theta, v))


def test_rng_is_split_as_by_the_kernel(x64):
  def noisy(params, x, rng):
    return mlp(params, x) * jax.random.normal(rng, (len(x), K))

  params, x = case()
  key, v = jax.random.key(3), jnp.ones((N, K))
  for other in (None, jnp.array(x), x + 1):
    expected = np.einsum("ijkl,jl->ik", kernel(noisy, params, x, other, rng=key), v)
    close(ntk.empirical_ntk_vp_fn(noisy, x, other, params, rng=key)(v), expected)


def test_trees(x64):
  def f(params, x):
    out = mlp(params, x["t"])
    return {"out": out, "sum": (jnp.sin(out).sum(1), 0.5 * params["b"])}

  params, x = case()
  v = {"out": jnp.ones((N, K)), "sum": (jnp.arange(float(N)), jnp.ones(6))}
  got = ntk.empirical_ntk_vp_fn(f, {"t": x}, {"t": None}, params)(v)
  # Cross terms between the outputs count, as in neural_tangents: J is the whole Jacobian.
  jacobian = [
    np.concatenate([np.reshape(leaf, (out.size, -1)) for leaf in jax.tree.leaves(rows)], 1)
    for rows, out in zip(
      jax.tree.leaves(
        jax.jit(jax.jacrev(f))(params, {"t": x}), is_leaf=lambda leaf: isinstance(leaf, dict) and "a" in leaf
      ),
      jax.tree.leaves(v),
      strict=True,
    )
  ]
  whole = np.concatenate(jacobian)
  expected = whole @ (whole.T @ np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(v)]))
  assert jax.tree.structure(got) == jax.tree.structure(v)
  close(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(got)]), expected)


def test_symmetric_and_positive(x64):
  params, x = case()
  product = jax.jit(ntk.empirical_ntk_vp_fn(batch_norm_net, x, None, params))
  u, v = jnp.asarray(np.random.default_rng(5).normal(size=(2, N, K)))
  np.testing.assert_allclose((u * product(v)).sum(), (v * product(u)).sum(), rtol=1e-10)
  assert (u * product(u)).sum() > 0


def test_parameters_that_f_ignores(x64):
  params, x = case()
  expected = ntk.empirical_ntk_vp_fn(mlp, x, None, params)(jnp.ones((N, K)))
  more = {**params, "unused": jnp.ones((2, 2))}
  close(ntk.empirical_ntk_vp_fn(mlp, x, None, more)(jnp.ones((N, K))), expected)
  constant = ntk.empirical_ntk_vp_fn(lambda p, x: jnp.ones((2, K)), x, None, params)(jnp.ones((2, K)))
  np.testing.assert_array_equal(constant, np.zeros((2, K)))


def test_v_of_another_real_type_is_taken_in_the_outputs(x64):
  params, x = case()
  product = ntk.empirical_ntk_vp_fn(mlp, x, None, params)
  v = np.arange(N * K).reshape(N, K)
  wanted = product(jnp.asarray(v, np.float64))
  np.testing.assert_array_equal(product(v), wanted)
  np.testing.assert_array_equal(product(jnp.asarray(v, np.float32)), wanted)
  with pytest.raises(ConfigError, match="v: complex"):
    product(v * 1j)


def test_precision_of_every_product():
  params, x = case(dtype=np.float32)
  for precision, seen in ((jax.lax.Precision.HIGHEST, True), (None, False)):
    jaxpr = jax.make_jaxpr(
      lambda p, v, q=precision: ntk.empirical_ntk_vp_fn(mlp, x, None, p, precision=q)(v)
    )(params, jnp.ones((N, K)))  # fmt: skip
    products = [e.params["precision"] for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) >= 8  # two layers: forward 2, pulled back 3, pushed forward 3
    assert all(("HIGHEST" in str(p)) == seen for p in products)


def test_v_must_have_the_shape_of_the_second_outputs():
  params, x = case(dtype=np.float32)
  product = ntk.empirical_ntk_vp_fn(mlp, x, x[:2], params)
  for v in (jnp.ones((N, K)), jnp.ones((2,)), [jnp.ones((2, K))]):
    with pytest.raises(ConfigError, match=r"v: expected the shape of f\(params, x2\)"):
      product(v)


@pytest.mark.parametrize(
  ("f", "change", "message"),
  [
    (mlp, {"a": "text"}, "params='text'"),
    (lambda p, x: "text", {}, "f: returned 'text'"),
    (lambda p, x: jnp.argmax(mlp(p, x), -1), {}, "f: returned int32"),
  ],
)
def test_what_has_no_derivatives(f, change, message):
  params, x = case(dtype=np.float32)
  with pytest.raises(ConfigError, match=message):
    ntk.empirical_ntk_vp_fn(f, x, None, {**params, **change})
