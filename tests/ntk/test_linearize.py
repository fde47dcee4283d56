"""Taylor expansions against polynomials, finite differences and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ntk
from jaxnas.errors import ConfigError

PARAMS = {"a": jnp.array([0.5, -1.0, 2.0]), "b": (jnp.array(0.3),)}
MOVED = {"a": jnp.array([0.1, -0.4, 2.5]), "b": (jnp.array(-0.7),)}


def cubic(p, x, *, shift=0.0):
  """A polynomial of degree 3 in the parameters, with a tree of outputs."""
  s = jnp.vdot(p["a"], x) * p["b"][0]
  return {"cubic": s * p["a"] + shift, "linear": [p["b"][0] * x]}


def network(p, x):
  return jnp.tanh(x @ p["a"]) @ p["b"]


@pytest.fixture
def both(x64):
  """Parameters, others near them, and inputs of `network`."""
  r = np.random.default_rng(0)
  params = {"a": r.normal(size=(3, 5)), "b": r.normal(size=(5, 2))}
  return params, jax.tree.map(lambda a: a + 0.1 * r.normal(size=a.shape), params), r.normal(size=(4, 3))


def near(got, expected, **tolerance):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


@pytest.mark.parametrize("degree", [3, 4, np.int64(3)])
def test_polynomial_is_exact_from_its_degree_on(x64, degree):
  p, q = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree) for tree in (PARAMS, MOVED))
  x = np.array([1.0, -2.0, 0.5])
  expanded = ntk.taylor_expand(cubic, p, degree)
  near(expanded(q, x, shift=1.5), cubic(q, x, shift=1.5), rtol=1e-13)
  near(jax.jit(expanded)(q, x), cubic(q, x), rtol=1e-13)


def test_lower_degrees_drop_the_higher_powers(x64):
  # (1 + s)^3 about s = 0
  for degree, expected in enumerate([1, 1 + 0.6, 1 + 0.6 + 0.12, 1.2**3]):
    got = ntk.taylor_expand(lambda p: (1 + p) ** 3, jnp.float64(0), degree)(jnp.float64(0.2))
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_degree_one_is_the_tangent(both):
  params, moved, x = both
  jac = jax.jacobian(network)(params, x)
  expected = network(params, x) + sum(np.tensordot(jac[name], moved[name] - params[name], 2) for name in params)
  near(ntk.linearize(network, params)(moved, x), expected, rtol=1e-12)
  near(ntk.taylor_expand(network, params, 1)(moved, x), expected, rtol=1e-12)


def test_error_is_of_the_next_order(both):
  params, moved, x = both

  def error(degree, step):
    at = jax.tree.map(lambda p, q: p + step * (q - p), params, moved)
    return np.abs(ntk.taylor_expand(network, params, degree)(at, x) - network(at, x)).max()

  for degree in (0, 1, 2, 3):
    np.testing.assert_allclose(error(degree, 1e-1) / error(degree, 5e-2), 2 ** (degree + 1), rtol=0.05)


def test_the_linearised_network_keeps_its_kernel(both):
  params, moved, x = both
  f_lin = ntk.linearize(network, params)
  kernels = [
    jax.jit(ntk.empirical_ntk_fn(f, trace_axes=()))(x, None, p) for f, p in ((network, params), (f_lin, moved))
  ]
  near(*kernels, rtol=1e-10)
  assert np.abs(ntk.empirical_ntk_fn(network, trace_axes=())(x, None, moved) - kernels[0]).max() > 1e-3


def test_dtype_of_the_parameters_wins():
  got = ntk.linearize(lambda p, x: p * x, jnp.float32(2))(np.float64(3), jnp.float32(4))
  assert got.dtype == jnp.float32 and got == 12


@pytest.mark.parametrize("degree", [-1, 1.5, "2", None, True, np.float64(1)])
def test_bad_degree(unchecked, degree):
  with pytest.raises(ConfigError, match="degree="):
    ntk.taylor_expand(cubic, PARAMS, degree)


@pytest.mark.parametrize(
  ("call", "word"),
  [
    (lambda: ntk.linearize(cubic, {"a": jnp.arange(3), "b": (1.0,)}), "params: leaf 'a' is int32"),
    (lambda: ntk.linearize(cubic, PARAMS)({"a": PARAMS["a"]}, jnp.ones(3)), "p: expected a tree like params"),
    (
      lambda: ntk.linearize(cubic, PARAMS)({**PARAMS, "a": jnp.ones(4)}, jnp.ones(4)),
      "p: expected leaves of the shapes",
    ),
    (lambda: ntk.linearize(lambda p: jnp.argmax(p), jnp.ones(3))(jnp.ones(3)), "f: returned int32"),
    (lambda: ntk.linearize(cubic, {"a": "text", "b": (1.0,)}), "params: leaf 'a'='text'"),
    (lambda: ntk.linearize(cubic, {"a": PARAMS["a"], "b": ("text",)}), "params: leaf 'b/0'='text'"),
    (lambda: ntk.linearize(lambda p: "text", jnp.ones(3))(jnp.ones(3)), "f: returned 'text'"),
    (lambda: ntk.linearize(cubic, PARAMS)({**PARAMS, "a": "text"}, jnp.ones(3)), "p='text'"),
  ],
)
def test_bad_input(call, word):
  with pytest.raises(ConfigError, match=word):
    call()
