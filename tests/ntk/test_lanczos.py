"""Extreme eigenvalues by Lanczos against all eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.ntk import KernelStatus


def kernel_of(eigenvalues, seed=0):
  basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
  theta = (basis * np.asarray(eigenvalues)) @ basis.T
  return (theta + theta.T) / 2


@pytest.mark.parametrize(("size", "scale"), [(3, 1.0), (240, 1e-250), (240, 1e200)])  # all columns, and Lanczos
def test_both_ends(size, scale):
  eigenvalues = np.geomspace(1e-3, 10, size)
  ends = ntk.extreme_eigenvalues(scale * kernel_of(eigenvalues), count=2)
  np.testing.assert_allclose(ends.smallest, scale * eigenvalues[:2], rtol=1e-8)
  np.testing.assert_allclose(ends.largest, scale * eigenvalues[-2:], rtol=1e-12)
  assert ends.status is KernelStatus.OK


def test_far_fewer_products_than_columns():
  eigenvalues = np.r_[0.5, np.random.default_rng(1).uniform(1, 2, 398), 3]
  ends = ntk.extreme_eigenvalues(kernel_of(eigenvalues))
  np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], [0.5, 3], rtol=1e-10)
  assert ends.products < 210


@pytest.mark.parametrize("size", [30, 210])
def test_degenerate_kernels(size):
  def status(theta):
    return ntk.extreme_eigenvalues(theta).status

  assert status(np.zeros((size, size))) is KernelStatus.SINGULAR
  assert status(np.ones((size, size))) is KernelStatus.SINGULAR
  assert status(kernel_of(np.linspace(-1, 2, size))) is KernelStatus.NEGATIVE
  assert status(-np.eye(size)) is KernelStatus.NEGATIVE
  identity = ntk.extreme_eigenvalues(3 * np.eye(size))
  np.testing.assert_allclose([*identity.smallest, *identity.largest], [3, 3], rtol=1e-12)
  assert identity.status is KernelStatus.OK
  for bad in (np.nan, np.inf):
    theta = np.eye(size)
    theta[1, 2] = theta[2, 1] = bad
    ends = ntk.extreme_eigenvalues(theta, count=2)
    assert ends.status is KernelStatus.NON_FINITE
    assert np.isnan(ends.smallest).all() and ends.largest.shape == (2,)


@pytest.mark.parametrize("size", [3, 240])
def test_numbers_near_the_largest(size):
  ends = ntk.extreme_eigenvalues(1e308 * np.eye(size))
  np.testing.assert_allclose([*ends.smallest, *ends.largest], 1e308)
  assert ends.status is KernelStatus.OK


@pytest.mark.parametrize(("dtype", "size"), [(jnp.bfloat16, 130), (jnp.bfloat16, 240)])
def test_half_precision_counts_as_float32(dtype, size):
  """`size` times its own epsilon is above 1."""
  entries = np.linspace(1, 2, size).astype(dtype)
  expected = entries.astype(np.float64)[[0, -1]]
  theta, like = np.diag(entries), jax.ShapeDtypeStruct((size,), dtype)
  for ends in (
    ntk.extreme_eigenvalues(theta),
    ntk.extreme_eigenvalues(jax.jit(lambda v: jnp.asarray(entries) * v), like),
  ):
    np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], expected, rtol=1e-2)
    assert ends.status is KernelStatus.OK
  number = ntk.condition_number(theta)
  assert number.status is KernelStatus.OK
  np.testing.assert_allclose(number.value, expected[1] / expected[0], rtol=1e-6)
  found = ntk.solve(theta, expected[0] * np.ones(size))
  assert found.status is KernelStatus.OK
  np.testing.assert_allclose(found.value, expected[0] / entries.astype(np.float64))


def test_like_may_be_numbers():
  ends = ntk.extreme_eigenvalues(lambda v: [2 * v[0], 3 * v[1]], like=[1.0, 2.0])
  np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], [2, 3])


def test_status_by_rtol_and_dtype():
  theta = kernel_of(np.linspace(1e-3, 1, 220))
  assert ntk.extreme_eigenvalues(theta).status is KernelStatus.OK
  assert ntk.extreme_eigenvalues(theta, rtol=1e-2).status is KernelStatus.SINGULAR
  low = kernel_of(np.geomspace(1e-7, 1, 220)).astype(np.float32)
  assert ntk.extreme_eigenvalues(low).status is KernelStatus.SINGULAR


def net(params, x):
  return jnp.tanh(x @ params["a"]) @ params["b"]


def case(dtype, samples):
  rng = np.random.default_rng(0)
  params = {"a": jnp.asarray(rng.normal(size=(40, 30)), dtype), "b": jnp.asarray(rng.normal(size=(30, 3)), dtype)}
  return params, jnp.asarray(rng.normal(size=(samples, 40)), dtype)


def test_of_a_network_by_products(x64):
  params, x = case(np.float64, 70)
  product = jax.jit(ntk.empirical_ntk_vp_fn(net, x, None, params))
  ends = ntk.extreme_eigenvalues(product, jax.eval_shape(net, params, x))
  theta = jax.jit(ntk.empirical_ntk_fn(net, trace_axes=()))(x, None, params)
  expected = ntk.spectrum(theta).eigenvalues
  np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], expected[[0, -1]], rtol=1e-8)
  same = ntk.extreme_eigenvalues(theta)  # a full kernel, flattened
  np.testing.assert_allclose([same.smallest[0], same.largest[0]], expected[[0, -1]], rtol=1e-8)


def test_of_a_network_in_float32():
  params, x = case(np.float32, 70)
  product = jax.jit(ntk.empirical_ntk_vp_fn(net, x, None, params))
  ends = ntk.extreme_eigenvalues(product, jax.eval_shape(net, params, x))
  expected = ntk.spectrum(jax.jit(ntk.empirical_ntk_fn(net, trace_axes=()))(x, None, params)).eigenvalues
  np.testing.assert_allclose(ends.largest[0], expected[-1], rtol=1e-5)
  np.testing.assert_allclose(ends.smallest[0], expected[0], atol=210 * np.finfo(np.float32).eps * expected[-1])


def test_trees_of_several_dtypes():
  like = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.bfloat16)}
  ends = ntk.extreme_eigenvalues(lambda v: {"a": 2 * v["a"], "b": 8 * v["b"]}, like)
  np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], [2, 8])


def test_bad_arguments(unchecked):
  eye, like = np.eye(4), jax.ShapeDtypeStruct((4,), jnp.float32)
  for arguments, message in [
    (dict(kernel=eye, count=0), "count=0"),
    *((dict(kernel=eye, count=count), "count=") for count in (1.5, "a", None, True)),
    *((dict(kernel=eye, **{name: "a"}), f"{name}='a'") for name in ("tol", "rtol", "max_products")),
    (dict(kernel=eye, max_products=0), "max_products=0"),
    (dict(kernel=None), "theta=None"),
    (dict(kernel=lambda v: v, like="a"), "like='a'"),
    (dict(kernel=eye, count=5), "count=5"),
    (dict(kernel=eye, rtol=1.0), "rtol=1.0"),
    (dict(kernel=eye, tol=-1.0), "tol=-1.0"),
    (dict(kernel=eye, like=like), "like: given with an array"),
    (dict(kernel=eye[:3]), "theta: expected shape"),
    (dict(kernel=np.stack([eye, eye])), "kernel: expected one"),
    (dict(kernel=lambda v: v), "like: a function needs"),
    (dict(kernel=lambda v: v, like=jnp.arange(3)), "like: expected real floating-point"),
    (dict(kernel=lambda v: v[:2], like=like), "returned 2 numbers for 4"),
  ]:
    with pytest.raises(ConfigError, match=message):
      ntk.extreme_eigenvalues(**arguments)


def test_more_products_than_columns_are_columns():
  theta = kernel_of(np.geomspace(1e-9, 1, 250))
  ends = ntk.extreme_eigenvalues(theta)
  np.testing.assert_allclose([ends.smallest[0], ends.largest[0]], [1e-9, 1], rtol=1e-6)
  assert ends.products == 2 * 250
  with pytest.raises(ConfigError, match="max_products=220"):
    ntk.extreme_eigenvalues(theta, max_products=220)
  assert ntk.extreme_eigenvalues(theta, tol=1e-3).products < 500  # near a low end that is not resolved
