"""Regularised solves against NumPy's, and every kernel that has none."""

import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.ntk import KernelStatus

N, K = 5, 3


def full_kernel(features=30):
  """[N, N, K, K] and its matrix."""
  rows = np.random.default_rng(0).normal(size=(N, K, features))
  matrix = rows.reshape(N * K, -1) @ rows.reshape(N * K, -1).T
  return np.einsum("ikp,jlp->ijkl", rows, rows), matrix


def regularised(matrix, ridge):
  return matrix + ridge * np.trace(matrix) / len(matrix) * np.eye(len(matrix))


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
def test_equals_numpy(ridge):
  theta, matrix = full_kernel()
  y = np.random.default_rng(1).normal(size=(N, K, 2))
  expected = np.linalg.solve(regularised(matrix, ridge), y.reshape(N * K, 2)).reshape(y.shape)
  found = ntk.solve(theta, y, ridge=ridge)
  np.testing.assert_allclose(found.value, expected, rtol=1e-9)
  assert found.status is KernelStatus.OK
  np.testing.assert_allclose(found.ridge, ridge * np.diagonal(matrix).mean())
  exact = 1 / np.linalg.cond(regularised(matrix, ridge), 1)
  assert exact <= found.rcond * (1 + 1e-9) and found.rcond <= 3 * exact  # an estimate of the inverse's norm from below
  np.testing.assert_allclose(ntk.solve(theta, y[..., 0], ridge=ridge).value, expected[..., 0], rtol=1e-9)
  np.testing.assert_allclose(ntk.solve(matrix, y.reshape(N * K, 2), ridge=ridge).value.reshape(y.shape), expected)


def test_kernel_regression_interpolates(x64):
  import jax
  import jax.numpy as jnp

  def f(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]

  rng = np.random.default_rng(3)
  params = {"a": jnp.asarray(rng.normal(size=(4, 20))), "b": jnp.asarray(rng.normal(size=(20, K)))}
  x, y = jnp.asarray(rng.normal(size=(N, 4))), rng.normal(size=(N, K))
  theta = jax.jit(ntk.empirical_ntk_fn(f, trace_axes=()))(x, None, params)
  weights = ntk.solve(theta, y).value
  np.testing.assert_allclose(np.einsum("ijkl,jl->ik", theta, weights), y, rtol=1e-8)


def test_only_the_upper_triangle_is_read_and_nothing_is_written():
  _, matrix = full_kernel()
  y = np.ones(N * K)
  triangle = np.triu(matrix)
  before = triangle.copy()
  found, whole = ntk.solve(triangle, y, ridge=0.1), ntk.solve(matrix, y, ridge=0.1)
  np.testing.assert_allclose(found.value, whole.value, rtol=1e-12)
  np.testing.assert_allclose(found.rcond, whole.rcond, rtol=1e-12)
  np.testing.assert_array_equal(triangle, before)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ridge_follows_the_scale(scale):
  _, matrix = full_kernel()
  y = np.ones(N * K)
  found = ntk.solve(scale * matrix, y, ridge=0.1)
  assert found.status is KernelStatus.OK
  np.testing.assert_allclose(scale * found.value, ntk.solve(matrix, y, ridge=0.1).value, rtol=1e-10)


def test_singular_kernels_need_a_ridge():
  _, matrix = full_kernel(features=4)  # rank 4 of 15
  y = np.ones(N * K)
  for theta in (matrix, matrix.astype(np.float32), np.zeros((3, 3)), np.ones((3, 3))):
    found = ntk.solve(theta, np.ones(len(theta)))
    assert found.status in (KernelStatus.SINGULAR, KernelStatus.NEGATIVE)  # by rounding
    assert found.rcond < 1e-6
  assert ntk.solve(np.zeros((3, 3)), np.ones(3), ridge=1.0).status is KernelStatus.SINGULAR
  found = ntk.solve(matrix, y, ridge=1e-3)
  assert found.status is KernelStatus.OK
  np.testing.assert_allclose(regularised(matrix, 1e-3) @ found.value, y, rtol=1e-8)


def test_status_knows_the_rounding_of_the_dtype():
  theta = np.diag([1e-7, 1.0, 1.0])
  assert ntk.solve(theta, np.ones(3)).status is KernelStatus.OK
  low = ntk.solve(theta.astype(np.float32), np.ones(3))
  assert low.status is KernelStatus.SINGULAR
  np.testing.assert_allclose(low.value, [1e7, 1, 1], rtol=1e-6)  # given, and named


def test_half_precision_counts_as_float32():
  found = ntk.solve(2 * np.eye(1100, dtype=np.float16), np.ones(1100))
  assert found.status is KernelStatus.OK
  np.testing.assert_allclose(found.value, 0.5)


def test_negative_and_non_finite():
  negative = ntk.solve(np.diag([-0.5, 1, 2]), np.ones(3))
  assert negative.status is KernelStatus.NEGATIVE and np.isnan(negative.value).all() and negative.rcond == 0
  assert ntk.solve(np.diag([-0.5, 1, 2]), np.ones(3), ridge=1.0).status is KernelStatus.OK
  theta = np.eye(3)
  theta[0, 1] = np.nan
  bad = ntk.solve(theta, np.ones(3), ridge=1.0)
  assert bad.status is KernelStatus.NON_FINITE and np.isnan(bad.value).all()


def test_bad_arguments(unchecked):
  theta, _ = full_kernel()
  y = np.ones((N, K))
  for arguments, message in [
    ((theta, y[:, 0]), r"y: expected shape \[5, 3\]"),
    ((theta, y.T), r"y: expected shape \[5, 3\]"),
    ((theta[0], y), "theta: expected one kernel"),
    ((theta[:, :3], y), "theta: expected shape"),
    ((np.stack([np.eye(N)] * 2), y), "theta: expected one kernel"),
    ((np.eye(N), y * 1j), "y: expected real and finite"),
    ((np.eye(N), y * np.nan), "y: expected real and finite"),
  ]:
    with pytest.raises(ConfigError, match=message):
      ntk.solve(*arguments)
  for ridge in (-1e-3, np.nan, np.inf, "a", None, np.ones(2)):
    with pytest.raises(ConfigError, match="ridge="):
      ntk.solve(theta, y, ridge=ridge)
