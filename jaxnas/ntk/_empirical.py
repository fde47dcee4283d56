"""The empirical neural tangent kernel of any function, after neural_tangents' interface."""

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import check_structure, checked_callable, output_axes, second_input, split_kwargs
from jaxnas.ntk._blocks import Blocks, blocked, check_blocks, given
from jaxnas.ntk._chunking import check_chunk_size
from jaxnas.ntk._jacobian import accumulator, check_outputs, contract, jacobian, matmul_precision, select_leaves
from jaxnas.ntk._sides import Side

_structured: Any
_memory: Any
try:
  from jaxnas.ntk import _memory, _structured
except ImportError:  # a JAX without `jax.extend.core`
  _memory = _structured = None

Axes = SupportsIndex | Sequence[SupportsIndex]


class NtkImplementation(enum.IntEnum):
  """How a kernel is computed; all agree (Novak et al., ICML 2022, arXiv 2206.08720)."""

  AUTO = 0  # layer by layer whichever of the other forms takes the fewest operations
  JACOBIAN_CONTRACTION = 1  # the Jacobians of both inputs, by reverse mode, and their product
  NTK_VECTOR_PRODUCTS = 2  # for every pair of samples and every output one reverse and one forward pass
  STRUCTURED_DERIVATIVES = 3  # every product with a parameter by its inputs and cotangents, whatever it costs


Implementation = NtkImplementation | int | Literal["auto"]


def empirical_ntk_fn(
  f: Callable[..., PyTree],
  trace_axes: Axes = (-1,),
  diagonal_axes: Axes = (),
  vmap_axes: Any = None,
  implementation: Implementation = NtkImplementation.AUTO,
  _j_rules: bool = True,
  _s_rules: bool = True,
  _fwd: bool | None = None,
  *,
  select: Callable[[str], bool] | None = None,
  chunk_size: int | None = None,
  batch_size: int | None = None,
  memory: int | None = None,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
  explain: bool = False,
) -> Callable[..., PyTree]:
  """The function that computes `J(x1) J(x2)^T`, J = d f(params, x) / d params.

  Names, argument order, output shapes and normalisation are those of
  `neural_tangents.empirical_ntk_fn` (Novak et al., "Fast Finite Width Neural Tangent Kernel",
  ICML 2022, arXiv 2206.08720).

  Args:
    f: `f(params, x, **kwargs)`; params, x and the output may be pytrees. Output leaves are treated
      separately, without cross terms.
    trace_axes: output axes to take the MEAN of the diagonal over: traced, and divided by the
      product of their sizes.
    diagonal_axes: output axes of which only the diagonal is computed.
    vmap_axes: None: f sees the whole batch, which may couple the samples (BatchNorm in batch mode).
      An int: f treats the slices along that axis of inputs and outputs independently, and
      derivatives are taken one slice at a time by `vmap`; much faster. Or a triple (input axes,
      output axes, dict of keyword argument axes); axes of a pytree may be one int or a tree of ints.
      Whether f may be taken so, `check_independence` tells.
    implementation: see `NtkImplementation`; its number or "auto".
    _j_rules, _s_rules, _fwd: neural_tangents' switches of its rules; without effect.
    select: which parameter leaves enter, by path ("cells_0/conv/kernel"); None: all. The others may be of any type.
    chunk_size: how many samples (with `vmap_axes`) or output elements (without) are
      differentiated at a time; None: all. Bounds the activations, not the derivatives.
    batch_size: with `vmap_axes`, how many samples of x1 and of x2 have their derivatives in memory at a time;
      None: all. Samples on the diagonal, or traced, go by once. Where all other axes are traced, the outputs go by one
      after the other instead, each with all samples. Else rows go by in blocks and the columns once for each of them.
    memory: with `vmap_axes` and in place of `batch_size`, bytes that the derivatives may take: the largest blocks are
      taken whose estimate is not above (at least one sample), see `explain`. The estimate counts every result inside f
      and its cotangents, so that it is mostly too high; the kernel itself is not in it.
    precision: of the contraction, and of the products inside f that name none; None: JAX's default.
    explain: the function returned gives a table, as text, of how each parameter enters the kernel,
      what each way would cost, and how the kernel is divided, in place of the kernel.

  Returns:
    `kernel_fn(x1, x2, params, **kwargs)`; `x2=None`, or a tree of Nones, means x1. A keyword argument
    that is a tuple of two is split between x1 and x2, and `rng` is folded so that equal inputs share a key.
    Its result interleaves the axes of f(x1) and f(x2), without the traced ones and with the
    diagonal ones once: outputs [N1, K] and [N2, K] give [N1, N2] by default and [N1, N2, K, K]
    with `trace_axes=()`. float32, or float64 where params are.

  Raises:
    ConfigError: axes out of range, shared between trace and diagonal, or of unequal size in f(x1)
      and f(x2); nothing selected; complex or integer outputs, or params that are selected; a bad
      `chunk_size`, `batch_size` or `memory`; structured derivatives on a JAX that lacks what they need. The ones
      that depend on data are raised by `kernel_fn`.
  """
  del _j_rules, _s_rules, _fwd
  checked_callable(select, "select")
  check_chunk_size(chunk_size)
  check_blocks(batch_size, memory, vmap_axes)
  if memory is not None and _memory is None:
    raise ConfigError(f"memory={memory}: this JAX has no `jax.extend.core`; give `batch_size`.")
  method = _method(implementation)

  def kernel_fn(x1: PyTree, x2: PyTree, params: PyTree, **apply_fn_kwargs: Any) -> PyTree:
    x2 = second_input(x2)
    parameters = select_leaves(params, select)
    kwargs1, kwargs2 = split_kwargs(apply_fn_kwargs, x1, x2)
    with matmul_precision(precision):
      first = Side(f, parameters, x1, kwargs1, vmap_axes)
      sides = [first] if x2 is None else [first, Side(f, parameters, x2, kwargs2, vmap_axes)]
      second, leaves = sides[-1], parameters.leaves
      check_structure(first.treedef, second.treedef, "at x2")
      axes = [
        checked_axes(*shapes, trace_axes, diagonal_axes) for shapes in zip(first.shapes, second.shapes, strict=True)
      ]
      if memory is None:
        blocks = given(batch_size, sides, axes)
      else:
        blocks = _memory.fitting(memory, sides, axes, leaves, method)
      if explain:
        plan = None if _structured is None else _structured.plan(sides, leaves, axes, method)
        return _explanation(plan, parameters.paths, blocks)

      def kernels(one: Side, other: Side, own: Sequence[tuple]) -> list[Array]:
        return _kernels(one, other, leaves, own, method, chunk_size, precision)

      found = blocked(kernels, first, second, axes, blocks)
    means = [math.prod(shape[i] for i in traced) for shape, (traced, _) in zip(first.shapes, axes, strict=True)]
    return jax.tree.unflatten(first.treedef, [kernel / mean for kernel, mean in zip(found, means, strict=True)])

  return kernel_fn


def _method(implementation: Any) -> NtkImplementation:
  try:
    method = NtkImplementation.AUTO if implementation == "auto" else NtkImplementation(implementation)
  except ValueError as error:
    raise ConfigError(f"implementation={implementation!r}: expected 'auto', 0, 1, 2 or 3.") from error
  if method == NtkImplementation.STRUCTURED_DERIVATIVES and _structured is None:
    raise ConfigError("implementation=3: this JAX has no `jax.extend.core`; use 1, or 'auto', which does without.")
  return method


def checked_axes(shape1, shape2, trace_axes: Axes, diagonal_axes: Axes) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Traced and diagonal axes of an output, non-negative."""
  traced = output_axes(trace_axes, len(shape1), "trace_axes")
  diagonal = output_axes(diagonal_axes, len(shape1), "diagonal_axes")
  if set(traced) & set(diagonal):
    raise ConfigError(f"diagonal_axes={diagonal_axes!r}: shares an axis with trace_axes={trace_axes!r}.")
  if len(shape1) != len(shape2) or any(shape1[i] != shape2[i] for i in (*traced, *diagonal)):
    raise ConfigError(f"x2: f(x1) has shape {shape1}, f(x2) {shape2}; they must agree on traced and diagonal axes.")
  return traced, diagonal


def _kernels(first: Side, second: Side, leaves, axes, method: int, chunk_size, precision) -> list[Array]:
  """The kernel of every output, undivided; the inputs are the same where `first is second`."""
  if method == NtkImplementation.NTK_VECTOR_PRODUCTS:
    return _by_products(first, second, leaves, axes, chunk_size)
  sides = [first] if second is first else [first, second]
  plan = None if _structured is None else _structured.plan(sides, leaves, axes, method)
  parts = [_parts(side, leaves, None if plan is None else plan[i], chunk_size) for i, side in enumerate(sides)]
  return [
    _contracted(one, other, len(shape), axis, own[0], own[1], precision)
    for one, other, shape, axis, own in zip(parts[0], parts[-1], first.shapes, first.sample_axes, axes, strict=True)
  ]


def _parts(side: Side, leaves: list[Array], plan: Any, chunk_size: int | None) -> list[list]:
  """Of every output leaf and parameter the Jacobian, or its factors (`_structured.Factors`)."""
  whole = None if side.sliced else chunk_size

  def of_one(one: Any) -> list[list]:
    if plan is None:
      return jacobian(lambda values: side.at(values, one), leaves, whole)
    return _structured.derivatives(plan, leaves, one, whole)

  stacked = side.map(of_one, chunk_size)
  return [[_placed(part, axis) for part in parts] for parts, axis in zip(stacked, side.sample_axes, strict=True)]


def _placed(part: Any, axis: int | None) -> Any:
  """A part whose leading axis is the samples', if there is one, with that axis among the output's."""
  if axis is None:
    return part
  if isinstance(part, jax.Array):
    return jnp.moveaxis(part, 0, axis)
  if isinstance(part, _structured.Factors):
    return part._replace(cotangents=jnp.moveaxis(part.cotangents, 0, axis))
  return part


def _contracted(parts1, parts2, ndim: int, sample_axis: int | None, traced, diagonal, precision) -> Array:
  """The sum over the parameters of what their parts give, undivided."""
  axes: dict[str, Any] = {"trace_axes": traced, "diagonal_axes": diagonal, "precision": precision}
  pairs = list(zip(parts1, parts2, strict=True))
  rows = [pair for pair in pairs if isinstance(pair[0], jax.Array)]
  terms = [contract([a for a, _ in rows], [b for _, b in rows], ndim, **axes)] if rows else []
  for one, other in pairs:
    if isinstance(one, jax.Array):
      continue
    if isinstance(one, _structured.Factors):
      terms.append(_structured.contract_factors(one, other, ndim, sample_axis, **axes))
    else:
      own = {name: (0,) if sample_axis in axes[name] else () for name in ("trace_axes", "diagonal_axes")}
      samples = int(sample_axis is not None)
      terms.append(contract([one.jacobian], [other.jacobian], samples, **own, precision=precision))
  dtype = accumulator(*terms)
  return sum((term.astype(dtype) for term in terms[1:]), start=terms[0].astype(dtype))


def _by_products(first: Side, second: Side, leaves: list[Array], axes, chunk_size: int | None) -> list[Array]:
  """Kernels by products with unit vectors, undivided: of what reverse mode gives for each, its forward product.

  That is the pull-back of a pull-back, which needs no forward rules in f (`jax.custom_vjp` is enough).
  """

  def pair(one: Any, other: Any) -> list[Array]:
    out, pullback = jax.vjp(lambda values: second.at(values, other), leaves)
    out1, pullback1 = jax.vjp(lambda values: first.at(values, one), leaves)
    check_outputs([*out, *out1])
    _, push = jax.vjp(lambda units: pullback1(units)[0], [jnp.zeros_like(value) for value in out1])

    def columns(position: int) -> Array:
      shape, dtype = out[position].shape, out[position].dtype

      def column(unit: Array) -> Array:
        cotangents = [jnp.zeros_like(value) for value in out]
        cotangents[position] = unit.astype(dtype).reshape(shape)
        (direction,) = pullback(cotangents)
        return push(direction)[0][position]

      size = math.prod(shape)
      found = jax.vmap(column, out_axes=-1)(jnp.eye(size))
      return found.reshape(found.shape[:-1] + shape)

    return [columns(position) for position in range(len(out))]

  full = first.map(lambda one: second.map(lambda other: pair(one, other), None), chunk_size)
  kernels = []
  for theta, shape, axis, (traced, diagonal) in zip(full, first.shapes, first.sample_axes, axes, strict=True):
    ndim = len(shape)
    others = [i for i in range(ndim) if i != axis]
    labels = [i if i in (*traced, *diagonal) else ndim + i for i in range(ndim)]
    samples = [] if axis is None else [axis, labels[axis]]
    wanted = [b for i in range(ndim) if i not in traced for b in ([i] if i in diagonal else [i, ndim + i])]
    theta = theta.astype(accumulator(theta, *leaves))
    kernels.append(jnp.einsum(theta, [*samples, *others, *(labels[i] for i in others)], wanted))
  return kernels


def _explanation(plan: Any, paths: list[str], blocks: Sequence[Blocks]) -> str:
  lines = [f"output {i}: {own}" for i, own in enumerate(blocks)]
  if plan is None:
    return "\n".join(["every parameter: its Jacobian by reverse mode, or products with unit vectors", *lines])
  assert _structured is not None
  return "\n".join([_structured.table(plan, paths), *lines])
