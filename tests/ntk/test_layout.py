"""The matrix of a kernel with interleaved axes, and the trace norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError


def net(params, x):
  return jnp.einsum("nd,dhk->nhk", jnp.tanh(x), params["a"]) ** 2 + params["b"]


def case(samples, seed=0):
  rng = np.random.default_rng(seed)
  params = {"a": jnp.asarray(rng.normal(size=(3, 2, 4))), "b": jnp.asarray(rng.normal(size=(1, 2, 4)))}
  return params, jnp.asarray(rng.normal(size=(samples, 3)))


def rows(params, x):
  """The Jacobian [N * H * K, P]."""
  jacobians = jax.tree.leaves(jax.jit(jax.jacrev(net))(params, x))
  return np.concatenate([np.reshape(leaf, (x.shape[0] * 8, -1)) for leaf in jacobians], 1)


def test_flatten_orders_rows_as_the_outputs(x64):
  params, x = case(3)
  other = x[:2] + 1
  theta = ntk.empirical_ntk_fn(net, trace_axes=())(x, other, params)
  assert theta.shape == (3, 2, 2, 2, 4, 4)
  expected = rows(params, x) @ rows(params, other).T
  np.testing.assert_allclose(ntk.flatten(theta), expected, rtol=1e-10)
  np.testing.assert_allclose(jax.jit(ntk.flatten)(theta), expected, rtol=1e-10)


def test_flatten_of_diagonals_and_batches(x64):
  params, x = case(3)
  whole = (rows(params, x) @ rows(params, x).T).reshape(3, 8, 3, 8)
  theta = ntk.empirical_ntk_fn(net, trace_axes=(), diagonal_axes=(0,))(x, None, params)
  np.testing.assert_allclose(ntk.flatten(theta), np.einsum("iaib->iab", whole), rtol=1e-10)


def test_flatten_keeps_matrices_kind_and_dtype():
  for shape in ((3, 4), (2, 3, 4)):
    theta = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.testing.assert_array_equal(ntk.flatten(theta), theta)
  theta = np.ones((2, 3, 4, 5), np.float64)
  assert isinstance(ntk.flatten(theta), np.ndarray) and ntk.flatten(theta).dtype == np.float64
  assert ntk.flatten(theta).shape == (8, 15)
  assert ntk.flatten(jnp.ones((2, 3, 4, 5), jnp.bfloat16)).dtype == jnp.bfloat16
  with pytest.raises(ConfigError, match="at least two axes"):
    ntk.flatten(np.ones(3))


def test_trace_norm_is_the_nuclear_norm(x64):
  params, x = case(3)
  theta = ntk.empirical_ntk_fn(net, trace_axes=())(x, None, params)
  jacobian = rows(params, x)
  nuclear = np.linalg.norm(jacobian @ jacobian.T, "nuc")
  np.testing.assert_allclose(ntk.trace_norm(theta), nuclear, rtol=1e-10)
  np.testing.assert_allclose(jax.jit(ntk.trace_norm)(jnp.stack([theta, 2 * theta])), [nuclear, 2 * nuclear], rtol=1e-10)
  # As the docstring relates them: means over outputs, and NASI's sum of squared gradients by the samples.
  mean = ntk.empirical_ntk_fn(net, trace_axes=(1, 2))(x, None, params)
  np.testing.assert_allclose(8 * ntk.trace_norm(mean), nuclear, rtol=1e-10)
  scalar = ntk.empirical_ntk_fn(net, trace_axes=(0, 1, 2))(x, None, params)
  np.testing.assert_allclose(3 * 8 * scalar, nuclear, rtol=1e-10)
  np.testing.assert_allclose((jacobian**2).sum() / 3, ntk.trace_norm(theta) / 3, rtol=1e-10)


def test_trace_norm_is_differentiable(x64):
  gradient = jax.grad(lambda s: ntk.trace_norm(s * jnp.ones((2, 2, 3, 3))))(1.0)
  np.testing.assert_allclose(gradient, 6)


TAKES_KERNELS = {
  "flatten": ntk.flatten,
  "trace_norm": ntk.trace_norm,
  "spectrum": lambda theta: ntk.spectrum(theta).eigenvalues,
  "condition_number": lambda theta: ntk.condition_number(theta).value,
  "effective_rank": ntk.effective_rank,
  "alignment": lambda theta: ntk.alignment(theta, [1.0, -1.0]),
  "targets": lambda y: ntk.alignment(np.eye(2), y),
  "solve": lambda theta: ntk.solve(theta, [1.0, 1.0]).value,
  "y": lambda y: ntk.solve(np.eye(2), y).value,
  "gram": ntk.gram,
  "max_learning_rate": ntk.predict.max_learning_rate,
  "gradient_descent_mse": lambda theta: ntk.predict.gradient_descent_mse(theta, [[1.0], [2.0]])(),
  "y_train": lambda y: ntk.predict.gp_inference(np.eye(2), y)("ntk", np.eye(2)),
}


@pytest.mark.parametrize("name", TAKES_KERNELS)
def test_lists_are_arrays_and_nothing_else_is(unchecked, name):
  function, own = TAKES_KERNELS[name], [[2.0, 0.5], [0.5, 3.0]]
  bad = ["a", 3.0, None, [[1.0], [1.0, 2.0]], np.array([[None]])]
  if name != "gram":  # which takes trees
    np.testing.assert_allclose(function(own), function(np.array(own)), rtol=1e-6)
    bad.append({"a": np.eye(2)})
  for value in bad:
    with pytest.raises(ConfigError):
      function(value)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3, 4), (4, 2, 3)])
def test_trace_norm_needs_a_square_kernel(shape):
  with pytest.raises(ConfigError, match="theta: expected shape"):
    ntk.trace_norm(jnp.ones(shape))
