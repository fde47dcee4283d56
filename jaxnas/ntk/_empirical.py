"""The empirical neural tangent kernel of any function, after neural_tangents' interface."""

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import leaf_axes, output_axes, split_kwargs, split_vmap_axes
from jaxnas.ntk._chunking import check_chunk_size, chunked_vmap
from jaxnas.ntk._jacobian import contract, jacobian, matmul_precision, select_leaves


def empirical_ntk_fn(
  f: Callable[..., PyTree],
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
  diagonal_axes: SupportsIndex | Sequence[SupportsIndex] = (),
  vmap_axes: Any = None,
  implementation: int = 1,
  *,
  select: Callable[[str], bool] | None = None,
  chunk_size: int | None = None,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> Callable[..., PyTree]:
  """The function that computes `J(x1) J(x2)^T`, J = d f(params, x) / d params.

  Names, argument order, output shapes and normalisation are those of
  `neural_tangents.empirical_ntk_fn` (Novak et al., "Fast Finite Width Neural Tangent Kernel",
  ICML 2022, arXiv 2206.08720); the method is its Jacobian contraction.

  Args:
    f: `f(params, x, **kwargs)`; params, x and the output may be pytrees. Output leaves are treated
      separately, without cross terms.
    trace_axes: output axes to take the MEAN of the diagonal over: traced, and divided by the
      product of their sizes.
    diagonal_axes: output axes of which only the diagonal is computed.
    vmap_axes: None: f sees the whole batch, which may couple the samples (BatchNorm in batch mode).
      An int: f treats the slices along that axis of inputs and outputs independently, and
      Jacobians are taken one slice at a time by `vmap`. Or a triple (input axes, output axes,
      dict of keyword argument axes); axes of a pytree may be one int or a tree of ints.
    implementation: 0 to 3, neural_tangents' choice of method; they agree, so it has no effect.
    select: which parameter leaves enter, by path ("cells_0/conv/kernel"); None: all. The others may be of any type.
    chunk_size: how many samples (with `vmap_axes`) or output elements (without) are
      differentiated at a time; None: all. Bounds the activations, not the Jacobian.
    precision: of the contraction, and of the products inside f that name none; None: JAX's default.

  Returns:
    `kernel_fn(x1, x2, params, **kwargs)`; `x2=None` means x1. A keyword argument that is a tuple
    of two is split between x1 and x2, and `rng` is folded so that equal inputs share a key.
    Its result interleaves the axes of f(x1) and f(x2), without the traced ones and with the
    diagonal ones once: outputs [N1, K] and [N2, K] give [N1, N2] by default and [N1, N2, K, K]
    with `trace_axes=()`. float32, or float64 where params are.

  Raises:
    ConfigError: axes out of range, shared between trace and diagonal, or of unequal size in f(x1)
      and f(x2); nothing selected; complex or integer outputs, or params that are selected; a bad
      `chunk_size`. The ones that depend on data are raised by `kernel_fn`.
  """
  check_chunk_size(chunk_size)
  if implementation not in (0, 1, 2, 3):
    raise ConfigError(f"implementation={implementation!r}: expected 0, 1, 2 or 3.")

  def kernel_fn(x1: PyTree, x2: PyTree, params: PyTree, **apply_fn_kwargs: Any) -> PyTree:
    parameters = select_leaves(params, select)
    kwargs1, kwargs2 = split_kwargs(apply_fn_kwargs, x1, x2)

    def rows(x, kwargs):
      def at(leaves):
        return f(parameters.rebuild(leaves), x, **kwargs)

      shapes = jax.eval_shape(at, parameters.leaves)
      if vmap_axes is None:
        return shapes, jacobian(at, parameters.leaves, chunk_size)
      return shapes, _sliced_jacobian(f, parameters, x, kwargs, shapes, vmap_axes, chunk_size)

    with matmul_precision(precision):
      shapes1, rows1 = rows(x1, kwargs1)
      shapes2, rows2 = (shapes1, rows1) if x2 is None else rows(x2, kwargs2)

      outputs1, treedef = jax.tree.flatten(shapes1)
      outputs2 = jax.tree.leaves(shapes2)
      kernels = [
        _kernel(a, b, j1, j2, trace_axes, diagonal_axes, precision)
        for a, b, j1, j2 in zip(outputs1, outputs2, rows1, rows2, strict=True)
      ]
    return jax.tree.unflatten(treedef, kernels)

  return kernel_fn


def _kernel(out1, out2, rows1, rows2, trace_axes, diagonal_axes, precision) -> Array:
  ndim = len(out1.shape)
  traced = output_axes(trace_axes, ndim, "trace_axes")
  diagonal = output_axes(diagonal_axes, ndim, "diagonal_axes")
  if set(traced) & set(diagonal):
    raise ConfigError(f"diagonal_axes={diagonal_axes!r}: shares an axis with trace_axes={trace_axes!r}.")
  if any(out1.shape[i] != out2.shape[i] for i in (*traced, *diagonal)):
    raise ConfigError(
      f"x2: f(x1) has shape {out1.shape}, f(x2) {out2.shape}; they must agree on traced and diagonal axes."
    )
  kernel = contract(rows1, rows2, ndim, trace_axes=traced, diagonal_axes=diagonal, precision=precision)
  return kernel / math.prod(out1.shape[i] for i in traced)


def _sliced_jacobian(f, parameters, x, kwargs, shapes, vmap_axes, chunk_size) -> list[list[Array]]:
  """Jacobians as `jacobian` returns them, computed slice by slice along `vmap_axes`."""
  x_axes, out_axes, kwarg_axes = split_vmap_axes(vmap_axes)
  if isinstance(kwarg_axes, int):
    kwarg_axes = dict.fromkeys(kwargs, kwarg_axes)
  mapped_kwargs = {name: kwargs[name] for name in kwarg_axes if name in kwargs}
  leaves, treedef = jax.tree.flatten((x, mapped_kwargs))
  axes = leaf_axes(x_axes, x, "vmap_axes")
  for name in sorted(mapped_kwargs):  # the order in which a dict is flattened
    axes += leaf_axes(kwarg_axes[name], mapped_kwargs[name], f"vmap_axes[2][{name!r}]")
  in_axes = {i: axis for i, axis in enumerate(axes) if axis is not None}
  outputs = [axis for axis in leaf_axes(out_axes, shapes, "vmap_axes") if axis is not None]
  slices = {i: jnp.moveaxis(leaves[i], axis, 0) for i, axis in in_axes.items()}
  sizes = sorted({array.shape[0] for array in slices.values()})
  if len(sizes) != 1 or len(outputs) != len(jax.tree.leaves(shapes)):
    raise ConfigError(
      f"vmap_axes={vmap_axes!r}: inputs must share one mapped axis (sizes {sizes}) and every "
      "output must have one; use vmap_axes=None for a network without a batch axis."
    )

  def slice_jacobian(one):
    filled = [jnp.expand_dims(one[i], in_axes[i]) if i in in_axes else leaf for i, leaf in enumerate(leaves)]
    one_x, one_kwargs = jax.tree.unflatten(treedef, filled)

    def at(values):
      out = jax.tree.leaves(f(parameters.rebuild(values), one_x, **(kwargs | one_kwargs)))
      for value, axis in zip(out, outputs, strict=True):
        if value.shape[axis] != 1:
          raise ConfigError(
            f"vmap_axes={vmap_axes!r}: one slice of x gives an output of shape {value.shape}, "
            f"expected size 1 on axis {axis}."
          )
      return [jnp.squeeze(value, axis) for value, axis in zip(out, outputs, strict=True)]

    return jacobian(at, parameters.leaves)

  rows = chunked_vmap(slice_jacobian, slices, chunk_size)
  return [[jnp.moveaxis(jac, 0, axis) for jac in jacs] for jacs, axis in zip(rows, outputs, strict=True)]
