"""What can be had of a kernel without its entries, or from its diagonal alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, Real

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, outputs_of, second_input, split_kwargs
from jaxnas.ntk._jacobian import check_outputs, matmul_precision
from jaxnas.ntk._layout import square


def empirical_ntk_vp_fn(
  f: Callable[..., PyTree],
  x1: PyTree,
  x2: PyTree,
  params: PyTree,
  *,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
  **apply_fn_kwargs: Any,
) -> Callable[[PyTree], PyTree]:
  """The function v -> `J(x1) J(x2)^T v` for the full kernel of f, which is never formed.

  Names, argument order and shapes are those of `neural_tangents.empirical_ntk_vp_fn` (Novak et al.,
  arXiv 2206.08720, section L). f runs once an input, here; a product then is one pull-back and the
  pull-back of another, so that f needs no forward-mode rule (`jax.custom_vjp` is enough).

  Args:
    f: `f(params, x, **kwargs)`, which may couple the samples; params, x and the output may be pytrees.
    x1: inputs of the rows.
    x2: inputs of the columns; None, or a tree of Nones: x1.
    params: pytree of real floating-point arrays.
    precision: of the products inside f that name none; a keyword of f's of this name is out of reach.
    apply_fn_kwargs: keyword arguments of f; a tuple of two is split between x1 and x2, and `rng` is
      folded, as `empirical_ntk_fn` does.

  Returns:
    `fn(v)`, linear, for v of the shape and structure of `f(params, x2)`: the shape, structure and
    dtype of `f(params, x1)`. For f [N, K] it is the sum over j, l of T[i, j, k, l] v[j, l]. v holds real
    numbers, which are taken in f's dtype; `fn` raises ConfigError where it does not fit.

  Raises:
    ConfigError: f returns what are no real floating-point arrays; a parameter is no array.

  Example:
    product = jax.jit(ntk.empirical_ntk_vp_fn(f, x, None, params))
    ntk.extreme_eigenvalues(product, jax.eval_shape(f, params, x))
  """
  x2 = second_input(x2)
  kwargs1, kwargs2 = split_kwargs(apply_fn_kwargs, x1, x2)
  params = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else checked_array(leaf, "params"), params)

  def at(x, kwargs):
    out, pullback = jax.vjp(lambda p: outputs_of(f(p, x, **kwargs)), params)
    check_outputs(jax.tree.leaves(out))
    return out, pullback

  with matmul_precision(precision):
    out1, pullback1 = at(x1, kwargs1)
    out2, pullback2 = (out1, pullback1) if x2 is None else at(x2, kwargs2)
    # The pull-back is linear: its own pull-back, at any u, is the transpose.
    _, push1 = jax.vjp(lambda u: pullback1(u)[0], jax.tree.map(jnp.zeros_like, out1))

  def product(v: PyTree) -> PyTree:
    wanted, got = jax.tree.map(jnp.shape, out2), jax.tree.map(jnp.shape, v)
    if wanted != got:
      raise ConfigError(f"v: expected the shape of f(params, x2), {wanted}, got {got}.")
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(v)):
      raise ConfigError("v: complex; expected real numbers.")
    with matmul_precision(precision):
      (direction,) = pullback2(jax.tree.map(lambda o, leaf: jnp.asarray(leaf, o.dtype), out2, v))
      (pushed,) = push1(direction)
    return pushed

  return product


def trace_norm(theta: Real[Any, "..."]) -> Real[Array, "..."]:
  """The trace norm (nuclear norm, the sum of the singular values) of positive semidefinite kernels.

  For these, and every empirical kernel of x with itself is one, it is the trace: the sum of the
  diagonal, which is what is computed; traceable and differentiable. An indefinite kernel's is
  `np.abs(ntk.spectrum(theta).eigenvalues).sum()`.

  NASI's score (Shu et al., ICLR 2022; the proxy `trace_norm_exact`) is that of the full kernel by
  the number of samples: `trace_norm(theta) / N` for [N, N, K, K], and `K / N * trace_norm(theta)` for the mean over
  classes that `trace_axes=(-1,)` gives. Without the kernel's other entries:
  `empirical_ntk_fn(f, trace_axes=(0, 1))` is `trace_norm / (N K)` of the full kernel.

  Args:
    theta: one kernel [N, N] or [N, N, K, K], or several, [A, N, N] or [A, N, N, K, K]; an array, or lists.

  Returns:
    A scalar, or [A]; in theta's dtype.

  Raises:
    ConfigError: rows and columns differ, or theta is complex or no array of numbers.
  """
  return jnp.trace(square(theta), axis1=-2, axis2=-1)
