"""Products through which a parameter enters a network, as one form: y[g, t, j] = sum over i of h[g, t, i] W[g, i, j].

The derivative of an output by W is then, for its cotangent d of y, the sum over t of h[g, t, i] d[g, t, j]: a kernel
needs h and d alone (Novak et al., ICML 2022, arXiv 2206.08720, section 3.4, "structured derivatives").
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxnas.ntk._program import Factor, Use


class Layer(NamedTuple):
  """A parameter that enters one product.

  Attributes:
    leaf: its position among the parameters.
    step: the product's, in its `Program`.
    kind: "dense", "convolution" or "embedding".
    groups, positions, inputs, outputs: sizes of g, t, i and j; an embedding's i are the rows of its table.
    output: the product as the program gives it, shape and dtype.
    read: the product's operands -> h [g, t, i]; of an embedding the rows that are looked up, int [t], -1 for none.
    arrange: cotangent of the product -> d [g, t, j].
    factors: the numbers that the parameter is multiplied with before.
  """

  leaf: int
  step: int
  kind: str
  groups: int
  positions: int
  inputs: int
  outputs: int
  output: Any
  read: Callable[[Sequence[Array]], Array]
  arrange: Callable[[Array], Array]
  factors: tuple[Factor, ...] = ()


def layer_of(leaf: int, use: Use) -> Layer | None:
  """The layer of a parameter that is used once, here; None where it is no product that is known."""
  rule = _RULES.get((use.primitive, use.operand))
  layer = None if rule is None else rule(leaf, use)
  if layer is None or (layer.kind == "embedding" and use.factors):
    return None
  return layer._replace(factors=use.factors)


def _dense(leaf: int, use: Use) -> Layer:
  """`dot_general` of the parameter and anything else."""
  contracting, batch = use.params["dimension_numbers"]
  other = 1 - use.operand
  shape, own = use.operands[other].shape, use.operands[use.operand].shape
  free = [axis for axis in range(len(shape)) if axis not in (*contracting[other], *batch[other])]
  order = (*batch[other], *free, *contracting[other])
  groups, positions, inputs = (math.prod(shape[a] for a in axes) for axes in (batch[other], free, contracting[other]))
  bound = (*contracting[use.operand], *batch[use.operand])
  outputs = math.prod(side for axis, side in enumerate(own) if axis not in bound)

  def read(operands: Sequence[Array]) -> Array:
    return operands[other].transpose(order).reshape(groups, positions, inputs)

  def arrange(d: Array) -> Array:
    if other == 0:
      return d.reshape(groups, positions, outputs)
    return d.reshape(groups, outputs, positions).swapaxes(1, 2)

  return Layer(leaf, use.step, "dense", groups, positions, inputs, outputs, use.result, read, arrange)


def _convolution(leaf: int, use: Use) -> Layer | None:
  """`conv_general_dilated` with the parameter as its kernel, over patches of the input."""
  params, (image, kernel) = use.params, (operand.shape for operand in use.operands)
  if params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
    return None
  numbers, groups = params["dimension_numbers"], params["feature_group_count"]
  window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
  output = use.result
  sides = [output.shape[axis] for axis in numbers.out_spec[2:]]
  channels, outputs = image[numbers.lhs_spec[1]] // groups, output.shape[numbers.out_spec[1]] // groups
  positions, inputs = image[numbers.lhs_spec[0]] * math.prod(sides), math.prod(window) * channels
  strides, dilation = params["window_strides"], params["rhs_dilation"]

  def read(operands: Sequence[Array]) -> Array:
    x = operands[0].transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in params["padding"]), (0, 0, 0)])
    parts = []
    for offsets in itertools.product(*map(range, window)):
      first = [offset * step for offset, step in zip(offsets, dilation, strict=True)]
      last = [a + (side - 1) * stride + 1 for a, side, stride in zip(first, sides, strides, strict=True)]
      parts.append(lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *strides, 1)))
    patches = jnp.stack(parts, -2).reshape(positions, len(parts), groups, channels)
    return patches.transpose(2, 0, 1, 3).reshape(groups, positions, inputs)

  def arrange(d: Array) -> Array:
    d = d.transpose(numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return d.reshape(positions, groups, outputs).swapaxes(0, 1)

  return Layer(leaf, use.step, "convolution", groups, positions, inputs, outputs, output, read, arrange)


def _embedding(leaf: int, use: Use) -> Layer | None:
  """`gather` of whole rows of the parameter."""
  params, table = use.params, use.operands[0].shape
  indices, output = use.operands[1].shape, use.result
  numbers, trailing = params["dimension_numbers"], tuple(range(len(indices) - 1, len(output.shape)))
  whole = params["slice_sizes"] == (1, *table[1:]) and not numbers.operand_batching_dims
  if not whole or (numbers.collapsed_slice_dims, numbers.start_index_map) != ((0,), (0,)):
    return None
  if numbers.offset_dims != trailing or indices[-1] != 1:
    return None
  positions, outputs = math.prod(indices), math.prod(table[1:])

  def read(operands: Sequence[Array]) -> Array:
    rows = operands[1].reshape(positions).astype(jnp.int32)
    if params["mode"] == lax.GatherScatterMode.CLIP:
      return jnp.clip(rows, 0, table[0] - 1)
    return jnp.where((rows >= 0) & (rows < table[0]), rows, -1)

  def arrange(d: Array) -> Array:
    return d.reshape(1, positions, outputs)

  return Layer(leaf, use.step, "embedding", 1, positions, table[0], outputs, output, read, arrange)


_RULES: dict[tuple[str, int], Callable[[int, Use], Layer | None]] = {
  ("dot_general", 0): _dense,
  ("dot_general", 1): _dense,
  ("conv_general_dilated", 1): _convolution,
  ("gather", 0): _embedding,
}
