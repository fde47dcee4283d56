"""The operations of all spaces of cells, on feature maps [C, N, H, W]: DARTS's, and those that it does not have.

| name | layers |
| --- | --- |
| none | zeros |
| skip_connect | the identity; at stride 2 a factorised reduction |
| avg_pool_kxk, max_pool_kxk | padded by (k - 1) / 2; averages do not count the padding |
| sep_conv_kxk | twice ReLU, depthwise k x k, 1x1, BN; the first has the stride |
| dil_conv_kxk | once that, with dilation 2 |
| dil_sep_conv_kxk | twice that, with dilation 2 |
| conv_kxk | ReLU, conv k x k, BN |
| conv_kx1_1xk | ReLU, conv 1 x k with the stride along rows, conv k x 1 with that along columns, BN |

Source: Radosavovic et al., ICCV 2019, and its code; Liu et al., "DARTS", ICLR 2019.
"""

import functools
import re
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas.nets.parameters import bn_shapes
from jaxnas.nets.products import tensordot
from jaxnas.spaces.darts import blocks
from jaxnas.spaces.darts import operations as darts
from jaxnas.spaces.darts.blocks import Norm, relu
from jaxnas.spaces.darts.operations import Convolved, Maps
from jaxnas.spaces.nds.pooling import average_along, max_along, taps

_SIZED = re.compile(r"([a-z_]+)_(\d)x(\d)(_1x\d)?")
TWICE = ("sep_conv", "dil_sep_conv")
DEPTHWISE = (*TWICE, "dil_conv")


class Kind(NamedTuple):
  """What a name says: "lines" is `conv_kx1_1xk`; the size is 0 where there is none."""

  name: str
  size: int


@functools.cache
def kind_and_size(op: str) -> Kind:
  """Of an operation's name."""
  match = _SIZED.fullmatch(op)
  return Kind("lines" if match[4] else match[1], int(match[2])) if match else Kind(op, 0)


def op_shapes(op: str, channels: int, stride: int) -> PyTree:
  """Shapes of an operation's parameters: a tree with leaves called kernel, scale and bias; {} for none."""
  kind, size = kind_and_size(op)
  if kind in DEPTHWISE:
    one = {"dw": {"kernel": (size, size, 1, channels)}, "pw": {"kernel": (1, 1, channels, channels)}}
    one["bn"] = bn_shapes(channels)
    return {"a": one, "b": one} if kind in TWICE else one
  if kind == "conv":
    return {"conv": {"kernel": (size, size, channels, channels)}, "bn": bn_shapes(channels)}
  if kind == "lines":
    row, column = {"kernel": (1, size, channels, channels)}, {"kernel": (size, 1, channels, channels)}
    return {"row": row, "column": column, "bn": bn_shapes(channels)}
  if kind == "skip_connect" and stride == 2:
    return blocks.reduction_shapes(channels, channels)
  return {}


def norms(op: str, stride: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
  """(place, path in the operation's parameters) of its batch normalisations."""
  if kind_and_size(op).name in TWICE:
    return (("a", ("a",)), ("b", ("b",)))
  return (("a", ()),) if op_shapes(op, 2, stride) else ()


def apply(op: str, x: Maps, params: PyTree, norm: Norm, stride: int) -> tuple[Convolved, tuple[Array, ...]]:
  """One operation of a cell by name, and what its ReLUs read; `params` is that of the operation ({} for none)."""
  kind, size = kind_and_size(op)
  if kind == "dil_sep_conv":
    middle = blocks.dilated(x, params["a"], norm, stride)
    return blocks.dilated(middle, params["b"], lambda _, z, bn: norm("b", z, bn), 1), (x, middle)
  if kind == "sep_conv":
    y, middle = blocks.separable(x, params, norm, stride)
    return y, (x, middle)
  if kind == "dil_conv":
    return blocks.dilated(x, params, norm, stride), (x,)
  if kind == "conv":
    convolve = _pointwise if size == 1 else darts.convolve
    z = blocks.convolved(functools.partial(convolve, stride=stride), relu(x), params["conv"])
    return norm("a", z, params["bn"]), (x,)
  if kind == "lines":
    z = blocks.convolved(functools.partial(_line, axis=3, stride=stride), relu(x), params["row"])
    z = blocks.convolved(functools.partial(_line, axis=2, stride=stride), z, params["column"])
    return norm("a", z, params["bn"]), (x,)
  if kind == "avg_pool":
    return average_along(average_along(x, 3, size, stride), 2, size, stride), ()
  if kind == "max_pool":
    return max_along(max_along(x, 3, size, stride), 2, size, stride), ()
  if kind == "skip_connect":
    return (x, ()) if stride == 1 else (blocks.factorised_reduction(x, params, norm), (x,))
  height, width = (-(-n // stride) for n in x.shape[2:])
  return jnp.zeros((*x.shape[:2], height, width), x.dtype), ()


def _pointwise(x: Maps, kernel: Float[Array, "1 1 C D"], stride: int) -> Convolved:
  return darts.pointwise(x[:, :, ::stride, ::stride], kernel)


def _line(x: Maps, kernel: Array, axis: int, stride: int) -> Convolved:
  """Dense convolution along one axis, padded by (k - 1) // 2, as one product with its taps."""
  window = jnp.concatenate(taps(x, axis, max(kernel.shape[:2]), stride, 0.0))
  return tensordot(kernel.reshape(-1, kernel.shape[-1]), window, ((0,), (0,)))
