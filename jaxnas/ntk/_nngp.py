"""The other empirical kernel, of the outputs themselves, and both kernels behind one function."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, PyTree

from jaxnas.ntk._arguments import check_structure, outputs_of, second_input, split_kwargs
from jaxnas.ntk._empirical import Axes, Implementation, NtkImplementation, checked_axes, empirical_ntk_fn
from jaxnas.ntk._jacobian import check_outputs, contract, matmul_precision
from jaxnas.ntk._requests import named, requested


def empirical_nngp_fn(
  f: Callable[..., PyTree],
  trace_axes: Axes = (-1,),
  diagonal_axes: Axes = (),
  *,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> Callable[..., PyTree]:
  """The function that computes `f(x1) f(x2)^T`, the empirical kernel of the Gaussian process that f is at large width.

  Arguments, the function returned, its axes and errors are those of `empirical_ntk_fn`; traced axes are averaged.
  Lee et al., "Deep Neural Networks as Gaussian Processes", ICLR 2018; the interface is neural_tangents'.
  """

  def kernel_fn(x1: PyTree, x2: PyTree, params: PyTree, **apply_fn_kwargs: Any) -> PyTree:
    x2 = second_input(x2)
    kwargs1, kwargs2 = split_kwargs(apply_fn_kwargs, x1, x2)
    with matmul_precision(precision):
      out1 = outputs_of(f(params, x1, **kwargs1))
      out2 = out1 if x2 is None else outputs_of(f(params, x2, **kwargs2))
    check_structure(jax.tree.structure(out1), jax.tree.structure(out2), "at x2")

    def kernel(a: Array, b: Array) -> Array:
      check_outputs([a, b])
      traced, diagonal = checked_axes(a.shape, b.shape, trace_axes, diagonal_axes)
      products = contract(
        [a[..., None]], [b[..., None]], a.ndim, trace_axes=traced, diagonal_axes=diagonal, precision=precision
      )
      return products / math.prod(a.shape[axis] for axis in traced)

    return jax.tree.map(kernel, out1, out2)

  return kernel_fn


def empirical_kernel_fn(
  f: Callable[..., PyTree],
  trace_axes: Axes = (-1,),
  diagonal_axes: Axes = (),
  vmap_axes: Any = None,
  implementation: Implementation = NtkImplementation.AUTO,
  _j_rules: bool = True,
  _s_rules: bool = True,
  _fwd: bool | None = None,
  **options: Any,
) -> Callable[..., Any]:
  """The function that computes either empirical kernel or both.

  Args:
    f, trace_axes, diagonal_axes, vmap_axes, implementation, options: as of `empirical_ntk_fn`.
    _j_rules, _s_rules, _fwd: neural_tangents' switches of its rules; without effect.

  Returns:
    `kernel_fn(x1, x2, get, params, **kwargs)`. `get` "nngp" or "ntk", in any case, gives that kernel, a sequence of
    them a named tuple `EmpiricalKernel` of them in its order, None one of both. `get` may be left out by name:
    `kernel_fn(x1, x2, params=params)`.

  Raises:
    ConfigError: as of `empirical_ntk_fn`; an unknown kernel.
  """
  del _j_rules, _s_rules, _fwd
  kernels = {
    "nngp": empirical_nngp_fn(f, trace_axes, diagonal_axes, **{k: v for k, v in options.items() if k == "precision"}),
    "ntk": empirical_ntk_fn(f, trace_axes, diagonal_axes, vmap_axes, implementation, **options),
  }

  def kernel_fn(
    x1: PyTree, x2: PyTree = None, get: str | Sequence[str] | None = None, params: PyTree = None, **kwargs: Any
  ) -> Any:
    values = {name: kernels[name](x1, x2, params, **kwargs) for name in requested(get, tuple(kernels))}
    return named("EmpiricalKernel", get, values)

  return kernel_fn
