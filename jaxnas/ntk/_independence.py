"""Whether a function treats the samples of a batch independently, as `vmap_axes` takes for granted."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_callable, checked_not_negative, split_kwargs
from jaxnas.ntk._jacobian import check_outputs, matmul_precision, select_leaves
from jaxnas.ntk._sides import Side


def check_independence(
  f: Callable[..., PyTree],
  params: PyTree,
  x: PyTree,
  vmap_axes: Any = 0,
  *,
  select: Callable[[str], bool] | None = None,
  tolerance: float | None = None,
  **apply_fn_kwargs: Any,
) -> None:
  """Raises ConfigError where `vmap_axes` would give a kernel that is not f's; returns None where it may be used.

  `empirical_ntk_fn(f, vmap_axes=0)` differentiates f at one sample at a time. Of an f that couples its
  samples (BatchNorm in batch mode, attention across the batch, noise drawn for the whole batch) that is
  another function, and its kernel is wrong without a sign of it. With a random cotangent u, two tests:

  - The derivative of the even samples' part of u . f(params, x) by the odd samples' inputs, and the
    other way round, is exactly zero. Tells the weakest coupling; only floating-point inputs have it.
  - f at x, and the gradient of u . f(params, x) in params, equal those of f taken slice by slice,
    within `tolerance`: they are what the kernel is made of. Tells coupling through constants and noise.

  The cost is two forward and three backward passes; 4 to 8 samples that are not all alike are enough.
  What does not act at these params and x (a zero-initialised branch, ReLUs that are all off) is not seen.
  Not under `jit`, since it raises by values.

  Args:
    f: as in `empirical_ntk_fn`, with `params`, `x`, `vmap_axes`, `select` and `apply_fn_kwargs`; of keyword
      pairs the first is taken.
    tolerance: of the second test, relative to the largest output and to the gradient's norm; None: the square root of
      the machine epsilon of the parameters and outputs, 3.5e-4 for float32.

  Raises:
    ConfigError: the samples are coupled; f is not finite here, so that it cannot be told; fewer than
      two samples; vmap_axes that do not fit, or None.

  Example:
    ntk.check_independence(f, params, x[:8])  # silent, or says what to pass
    theta = ntk.empirical_ntk_fn(f, vmap_axes=0)(x, None, params)
  """
  checked_callable(select, "select")
  if tolerance is not None:
    checked_not_negative(tolerance, "tolerance")
  parameters = select_leaves(params, select)
  kwargs, _ = split_kwargs(apply_fn_kwargs, x, None)
  x = jax.tree.map(jnp.asarray, x)

  def whole(leaves, x):
    return f(parameters.rebuild(leaves), x, **kwargs)

  shapes = jax.eval_shape(whole, parameters.leaves, x)
  check_outputs(jax.tree.leaves(shapes))
  if vmap_axes is None:
    raise ConfigError("vmap_axes=None: without samples there is nothing to check.")
  if not jax.tree.leaves(shapes):  # no outputs that samples could share
    return

  def evidence(leaves, x):
    side = Side(f, parameters, x, kwargs, vmap_axes)
    if side.samples < 2:
      raise ConfigError("x: one sample; that samples are independent shows with two or more that differ.")

    def sliced(leaves):
      stacked = side.map(lambda one: side.at(leaves, one), None)
      return [jnp.moveaxis(value, 0, axis or 0) for value, axis in zip(stacked, side.sample_axes, strict=True)]

    return _evidence(whole, sliced, leaves, x, side)

  with matmul_precision(jax.lax.Precision.HIGHEST):
    mixed, outputs, gradients = jax.jit(evidence)(parameters.leaves, x)
  advice = (
    f"vmap_axes={vmap_axes!r} would give a kernel that is not f's. Pass vmap_axes=None, or an f whose samples are "
    "independent: normalisation by fixed statistics (jaxnas.ntk.frozen_statistics), no dropout, noise a sample."
  )
  if not all(np.isfinite(value) for value in (mixed, *outputs, *gradients)):
    raise ConfigError("f: its outputs or their gradients are not finite at these params and x: it cannot be checked.")
  if mixed:
    raise ConfigError(f"f: the output for a sample depends on other samples' inputs; {advice}")
  if tolerance is None:
    with jax.numpy_dtype_promotion("standard"):
      dtypes = [leaf.dtype for leaf in (*parameters.leaves, *jax.tree.leaves(shapes))]
      tolerance = max(float(jnp.finfo(dtype).eps) for dtype in dtypes) ** 0.5
  for what, (difference, size) in (("outputs", outputs), ("gradients in params", gradients)):
    if difference > tolerance * size:
      raise ConfigError(
        f"f: one sample at a time its {what} differ from those of the batch by {difference / size:.1g} of their size; "
        f"{advice}"
      )


def _evidence(whole, sliced, leaves, x, side: Side) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
  """The largest mixed derivative, and (difference, size) of the outputs and of the gradients."""
  dtype = jnp.zeros(()).dtype  # of the sizes: JAX's default

  def largest(values):
    return jnp.max(jnp.stack([jnp.abs(value).max(initial=0).astype(dtype) for value in values]))

  def norm(values):
    scale = jnp.maximum(largest(values), jnp.finfo(dtype).tiny)
    return scale * jnp.sqrt(sum(jnp.sum(jnp.square(value.astype(dtype) / scale)) for value in values))

  def minus(a, b):
    return [one - other for one, other in zip(a, b, strict=True)]

  inputs, treedef = jax.tree.flatten(x)
  floating = [i for i, leaf in enumerate(inputs) if jnp.issubdtype(leaf.dtype, jnp.floating) and i in side.in_axes]

  def at(leaves, moved):
    filled = list(inputs)
    for i, value in zip(floating, moved, strict=True):
      filled[i] = value
    return jax.tree.leaves(whole(leaves, jax.tree.unflatten(treedef, filled)))

  out, pullback = jax.vjp(at, leaves, [inputs[i] for i in floating])
  keys = jax.random.split(jax.random.key(0), len(out))
  u = [jax.random.normal(key, value.shape, value.dtype) for key, value in zip(keys, out, strict=True)]

  def half(parity):
    """The gradient of one half of u . f in params, and its largest derivative in the other half's inputs."""
    chosen = [
      jnp.where(_parity(value, axis) == parity, value, 0) for value, axis in zip(u, side.sample_axes, strict=True)
    ]
    gradient, moved = pullback(chosen)
    others = [
      jnp.where(_parity(value, side.in_axes[i]) == parity, 0, value) for i, value in zip(floating, moved, strict=True)
    ]
    return gradient, largest([jnp.zeros(()), *others])

  alone, pullback_alone = jax.vjp(sliced, leaves)
  (gradient_alone,) = pullback_alone(u)
  (even, mixed_even), (odd, mixed_odd) = half(0), half(1)
  gradient = [one + other for one, other in zip(even, odd, strict=True)]
  return (
    jnp.maximum(mixed_even, mixed_odd),
    (largest(minus(alone, out)), largest(out)),
    (norm(minus(gradient_alone, gradient)), norm(gradient)),
  )


def _parity(value: Array, axis: int | None) -> Array:
  """The index along `axis` modulo 2, in value's shape."""
  assert axis is not None  # f is taken by samples
  return jax.lax.broadcasted_iota(jnp.int32, value.shape, axis) % 2
