"""Kernels of layers from what enters them and the cotangents of what leaves them, without the parameters' Jacobian.

Of a layer y[t, j] = sum over i of h[t, i] W[i, j] (see `_layers`) the kernel of two outputs is

    sum over t, u of <h[t], h'[u]> <d[t], d'[u]>           "factors": no product has the size of W
    < sum over t of h[t] d[t],  sum over u of h'[u] d'[u] >     "jacobian": the Jacobian by W, from products of h and d

of which the one with the fewest operations is taken, layer by layer. Parameters that enter no such product, or several,
have their Jacobian by reverse mode. One reverse pass an output serves them all.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.ntk._chunking import chunked
from jaxnas.ntk._jacobian import accumulator, check_outputs
from jaxnas.ntk._layers import Layer, layer_of
from jaxnas.ntk._program import Program
from jaxnas.ntk._sides import Side

Form = Literal["factors", "jacobian", "autodiff"]
_SUM = 4.0  # what adding up the products of two factors is taken for, in multiply-adds: memory bounds it


class Factors(NamedTuple):
  """What a kernel needs of a layer, for outputs of shape `output`.

  Attributes:
    inputs: h, [g, t, i], or rows of a table, int [t]; behind a leading axis of samples where f was taken by samples.
    cotangents: d, [*output, g, t, j].
  """

  inputs: Array
  cotangents: Array


class Summed(NamedTuple):
  """The Jacobian of outputs that are all summed over, [...], behind the axis of samples; its axes have no order."""

  jacobian: Array


class Choice(NamedTuple):
  """How a parameter enters the kernel of an output.

  Attributes:
    layer: the product that it enters, if it is one that is known.
    costs: multiply-adds of each form that it can take.
  """

  leaf: int
  layer: Layer | None
  form: Form
  costs: dict[Form, float]


class SidePlan(NamedTuple):
  """f at one input, by samples or whole, and for every output leaf one choice a parameter."""

  program: Program
  choices: list[list[Choice]]
  summed: list[bool]  # whether all axes of the output but the samples' are traced


def plan(sides: Sequence[Side], leaves: list[Array], axes: Sequence[tuple], method: int) -> list[SidePlan] | None:
  """What to do at each of one or two inputs; None: nothing but Jacobians.

  Args:
    axes: for every output leaf its traced and its diagonal axes.
    method: an `NtkImplementation`.
  """
  if method in (1, 2):
    return None
  programs = [Program(side.at, leaves, side.slice_shapes()) for side in sides]
  uses = [program.uses(len(leaves)) for program in programs]
  layers = [
    [layer_of(leaf, found[0]) if len(found) == 1 else None for leaf, found in enumerate(of_side)] for of_side in uses
  ]
  forms: list[list[Choice]] = []
  for position, (traced, diagonal) in enumerate(axes):
    sizes = _sizes(sides, position, traced, diagonal)
    found = []
    for leaf, value in enumerate(leaves):
      layer = layers[0][leaf] if layers[-1][leaf] is not None else None
      if layer is not None and not uses[0][leaf][0].is_like(uses[-1][leaf][0]):  # f does otherwise at the other input
        layer = None
      costs = _costs(layer, value.size, *sizes)
      able: list[Form] = [name for name in costs if name != "autodiff" or method != 3 or layer is None]
      form: Form = min(able, key=lambda name: costs[name])
      found.append(Choice(leaf, layer, form, costs))
    forms.append(found)
  summed = [
    all(i in traced or i == sample for i in range(len(shape)))
    for shape, sample, (traced, _) in zip(sides[0].shapes, sides[0].sample_axes, axes, strict=True)
  ]
  return [
    SidePlan(
      program, [[c._replace(layer=None if c.layer is None else own[c.leaf]) for c in row] for row in forms], summed
    )
    for program, own in zip(programs, layers, strict=True)
  ]


def _sizes(sides: Sequence[Side], position: int, traced: Sequence[int], diagonal: Sequence[int]) -> tuple[int, ...]:
  """Rows of both Jacobians; pairs of samples; pairs of other outputs, of each pair of samples, kept and summed over."""
  first, second = sides[0].shapes[position], sides[-1].shapes[position]
  sample = sides[0].sample_axes[position]
  rows = sum(math.prod(side.shapes[position]) for side in sides)
  shared = {*traced, *diagonal}
  pairs = [first[i] if i in shared else first[i] * second[i] for i in range(len(first))]
  samples = 1 if sample is None else pairs[sample]
  kept = math.prod(pairs[i] for i in range(len(first)) if i not in (*traced, sample))
  return rows, samples, kept, math.prod(first[i] for i in traced if i != sample)


def _costs(layer: Layer | None, size: int, rows: int, samples: int, kept: int, summed: int) -> dict[Form, float]:
  """Multiply-adds of the forms that a parameter of this size can take, see `_sizes`."""
  pairs = samples * kept * summed
  if layer is None:
    return {"autodiff": float(pairs * size)}
  tokens = layer.groups * layer.positions**2
  width = 0 if layer.kind == "embedding" else layer.inputs
  factors = samples * tokens * (width + kept * summed * layer.outputs)
  if layer.positions > 1:
    factors += _SUM * samples * kept * tokens
  if layer.kind == "embedding":
    return {"factors": float(factors), "autodiff": float(pairs * size)}
  return {"factors": float(factors), "jacobian": float(rows * layer.positions * size + pairs * size)}


def table(plans: Sequence[SidePlan], paths: Sequence[str]) -> str:
  """What a plan is: a line for every output and parameter."""
  lines = []
  for position, choices in enumerate(plans[0].choices):
    for choice in choices:
      kind = choice.layer.kind if choice.layer else "-"
      costs = ", ".join(f"{name} {cost:.2e}" for name, cost in choice.costs.items())
      lines.append((str(position), paths[choice.leaf], kind, choice.form, costs))
  rows = [("output", "parameter", "layer", "form", "multiply-adds"), *lines]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def derivatives(
  own_plan: SidePlan, leaves: Sequence[Array], one: PyTree, chunk_size: int | None = None
) -> list[list[Array | Factors | Summed]]:
  """The parts of every output (first index) and parameter (second): Jacobians [*output, *parameter], or factors.

  Args:
    one: the sample, of `Side.slices`.
    chunk_size: outputs that are differentiated at a time.

  Raises:
    ConfigError: an output is not real floating point.
  """
  program, choices, summed = own_plan
  layers = {c.leaf: c.layer for row in choices for c in row if c.layer is not None and c.form != "autodiff"}
  own = sorted({c.leaf for row in choices for c in row if c.form == "autodiff"})
  zeros = {layer.step: jnp.zeros(layer.output.shape, layer.output.dtype) for layer in layers.values()}
  noted = {factor.step for layer in layers.values() for factor in layer.factors}

  def forward(zeros: dict[int, Array], values: list[Array]):
    filled = list(leaves)
    for leaf, value in zip(own, values, strict=True):
      filled[leaf] = value
    return program.run(filled, one, zeros=zeros, noted=noted)

  outputs, pullback, operands = jax.vjp(forward, zeros, [leaves[leaf] for leaf in own], has_aux=True)
  check_outputs(outputs)
  inputs = {leaf: _inputs(layer, operands) for leaf, layer in layers.items()}

  def parts_of(position: int) -> list[Array | Factors | Summed]:
    shape, dtype = outputs[position].shape, outputs[position].dtype
    size = math.prod(shape)
    in_place = summed[position] and (chunk_size is None or chunk_size >= size)

    def cotangents_of(index):
      cotangents = [jnp.zeros_like(value) for value in outputs]
      cotangents[position] = (jnp.arange(size) == index).astype(dtype).reshape(shape)
      return pullback(cotangents)

    def rows_of(indices):
      into, by_leaf = jax.vmap(cotangents_of)(indices)
      return [part(choice, into, by_leaf) for choice in choices[position]]

    def part(choice: Choice, into, by_leaf) -> Array:
      if choice.form == "autodiff" or choice.layer is None:
        return by_leaf[own.index(choice.leaf)]
      d = jax.vmap(choice.layer.arrange)(into[choice.layer.step])
      if choice.form == "factors":
        return d
      h = inputs[choice.leaf]
      dtype = accumulator(h, d)
      found = jnp.einsum("gti,ogtj->gioj", h.astype(dtype), d.astype(dtype))
      return found if in_place else found.transpose(2, 0, 1, 3)

    def packed(choice: Choice, rows: Array) -> Array | Factors | Summed:
      if choice.form == "jacobian" and in_place:
        return Summed(rows)
      rows = rows.reshape(shape + rows.shape[1:])
      if choice.form == "factors" and choice.layer is not None:
        return Factors(inputs[choice.leaf], rows)
      return rows

    found = rows_of(jnp.arange(size)) if in_place else chunked(rows_of, jnp.arange(size), chunk_size)
    return [packed(choice, rows) for choice, rows in zip(choices[position], found, strict=True)]

  return [parts_of(position) for position in range(len(outputs))]


def _inputs(layer: Layer, operands: dict[int, list[Any]]) -> Array:
  """h of a layer, times the numbers that its parameter is multiplied with before it enters the product."""
  h = layer.read([jnp.asarray(value) for value in operands[layer.step]])
  if layer.kind == "embedding":
    return h
  h = h if jnp.issubdtype(h.dtype, jnp.floating) else h.astype(layer.output.dtype)
  for step, operand, divides in layer.factors:
    number = jnp.asarray(operands[step][operand]).reshape(()).astype(h.dtype)
    h = h / number if divides else h * number
  return h


def contract_factors(
  first: Factors,
  second: Factors,
  ndim: int,
  sample_axis: int | None,
  *,
  trace_axes: Sequence[int] = (),
  diagonal_axes: Sequence[int] = (),
  precision: Any = jax.lax.Precision.HIGHEST,
) -> Array:
  """The layer's kernel, the axes of the two outputs interleaved and the traced ones summed, as of `contract`.

  Args:
    ndim: number of output axes.
    sample_axis: the output axis along which f was taken by samples; None: `inputs` have no axis of samples.
  """
  shared = {*trace_axes, *diagonal_axes}
  left = list(range(ndim))
  right = [axis if axis in shared else ndim + axis for axis in left]
  g, t, u, i, j = range(2 * ndim, 2 * ndim + 5)
  kept = [axis for a in left for axis in ([a] if a in diagonal_axes else [] if a in trace_axes else [a, ndim + a])]
  samples = [] if sample_axis is None else list(dict.fromkeys([left[sample_axis], right[sample_axis]]))
  labels = [*dict.fromkeys([*kept, *samples]), g, t, u]
  h1, h2 = first.inputs, second.inputs
  embedding = jnp.issubdtype(h1.dtype, jnp.integer)
  dtype = accumulator(first.cotangents, second.cotangents, *(() if embedding else (h1, h2)))
  d1, d2 = first.cotangents.astype(dtype), second.cotangents.astype(dtype)
  products = jnp.einsum(d1, [*left, g, t, j], d2, [*right, g, u, j], labels, precision=precision)
  lead1, lead2 = ([], []) if sample_axis is None else ([left[sample_axis]], [right[sample_axis]])
  if embedding:
    equal = _pairs(h1, [*lead1, t], [*samples, t, u]) == _pairs(h2, [*lead2, u], [*samples, t, u])
    known = _pairs(h1, [*lead1, t], [*samples, t, u]) >= 0
    inner, inner_labels = (equal & known).astype(dtype), [*samples, t, u]
  else:
    inner_labels = [*samples, g, t, u]
    h1, h2 = h1.astype(dtype), h2.astype(dtype)
    inner = jnp.einsum(h1, [*lead1, g, t, i], h2, [*lead2, g, u, i], inner_labels, precision=precision)
  weighted = products * _pairs(inner, inner_labels, labels)
  return weighted.sum([axis for axis, label in enumerate(labels) if label not in kept])


def _pairs(array: Array, labels: Sequence[int], wanted: Sequence[int]) -> Array:
  """`array` with its axes in the order of `wanted`, and axes of one element where it has none."""
  order = [labels.index(label) for label in wanted if label in labels]
  shape = iter(array.transpose(order).shape)
  return array.transpose(order).reshape([next(shape) if label in labels else 1 for label in wanted])
