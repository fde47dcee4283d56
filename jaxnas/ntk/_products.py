"""What can be had of a kernel without its entries, or from its diagonal alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._jacobian import matmul_precision


def ntk_vector_product(
  f: Callable[[PyTree, PyTree], PyTree],
  params: PyTree,
  x: PyTree,
  v: PyTree,
  *,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> PyTree:
  """`J J^T v` for the full kernel of f at x: one VJP, then one JVP (arXiv 2206.08720, section L).

  Args:
    f: `f(params, x)`, which may couple the samples.
    params: pytree of real floating-point arrays.
    x: inputs.
    v: shape and structure of `f(params, x)`; real numbers, which are taken in its dtype.
    precision: of the products inside f that name none.

  Returns:
    Shape, dtype and structure of `v`: for f [N, K], sum over j, l of T[i, j, k, l] v[j, l].

  Raises:
    ConfigError: v is not shaped like f's output.
  """

  def at(p):
    return f(p, x)

  with matmul_precision(precision):
    out, pullback = jax.vjp(at, params)
    wanted, got = jax.tree.map(jnp.shape, out), jax.tree.map(jnp.shape, v)
    if wanted != got:
      raise ConfigError(f"v: expected the shape of f(params, x), {wanted}, got {got}.")
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(v)):
      raise ConfigError("v: complex; expected real numbers.")
    (direction,) = pullback(jax.tree.map(lambda o, leaf: jnp.asarray(leaf, o.dtype), out, v))
    return jax.jvp(at, (params,), (direction,))[1]


def trace(theta: Float[Array, "*A N N"]) -> Float[Array, "*A"]:
  """The sum of the diagonal of each kernel [..., N, N].

  Raises:
    ConfigError: the last two axes differ in size.
  """
  if theta.ndim < 2 or theta.shape[-1] != theta.shape[-2]:
    raise ConfigError(f"theta: expected shape [..., N, N], got {theta.shape}.")
  return jnp.trace(theta, axis1=-2, axis2=-1)
