"""The blocks that DARTS cells are made of: what stands between two batch normalisations, and each operation.

Every block takes `norm(place, z, bn)`, which normalises z [C, N, H, W] with `bn` = {"scale", "bias"}; the places within
a block are "a", "b", ... So one definition serves all modes of batch normalisation, and `collecting` keeps what each of
them shows.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, operations.py, without BN after pooling.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.nets import grams
from jaxnas.nets.parameters import bn_shapes
from jaxnas.nets.passes import Pass, Seen, gated, together
from jaxnas.spaces.darts import operations
from jaxnas.spaces.darts.operations import Convolved, Maps

Norm = Callable[[str, Maps, PyTree], Maps]
SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}  # kernel sizes
DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
relu = jax.nn.relu


def collecting(run: Pass, given: PyTree | None) -> tuple[Norm, dict[str, Seen]]:
  """A `norm` for the blocks of one layer, and where it puts what each place shows; `given` are moments, by place."""
  found: dict[str, Seen] = {}

  def norm(place: str, z: Maps, bn: PyTree) -> Maps:
    y, found[place] = run.normalise(z, bn, given and given[place])
    return y

  return norm, found


def seen_of(run: Pass, found: dict[str, Seen], x: Maps, reads: tuple[Array, ...]) -> Seen:
  """What a layer on x shows, whose ReLUs read `reads`, and whose BN showed what `collecting` found."""
  return together(found).plus(run.of_nothing(x), *(run.of_relu(read) for read in reads))


def relu_conv_bn(x: Maps, params: PyTree, norm: Norm) -> Convolved:
  """ReLU, 1x1 convolution, BN."""
  return norm("a", _pointwise(relu(x), params["conv"]), params["bn"])


def factorised_reduction(x: Maps, params: PyTree, norm: Norm) -> Convolved:
  """ReLU, half of the channels from every second pixel and half from the ones down-right of them, BN."""
  first, second = operations.halved(relu(x))
  z = jnp.concatenate([_pointwise(first, params["conv0"]), _pointwise(second, params["conv1"])])
  return norm("a", z, params["bn"])


def separable(x: Maps, params: PyTree, norm: Norm, stride: int) -> tuple[Convolved, Convolved]:
  """Twice ReLU, depthwise, 1x1, BN, the first with the stride; and what the second ReLU reads."""
  middle = norm("a", _depthwise_pointwise(relu(x), params["a"], stride, 1), params["a"]["bn"])
  return norm("b", _depthwise_pointwise(relu(middle), params["b"], 1, 1), params["b"]["bn"]), middle


def dilated(x: Maps, params: PyTree, norm: Norm, stride: int) -> Convolved:
  """ReLU, depthwise with dilation 2, 1x1, BN."""
  return norm("a", _depthwise_pointwise(relu(x), params, stride, 2), params["bn"])


def _depthwise_pointwise(x: Maps, params: PyTree, stride: int, dilation: int) -> Convolved:
  wide = convolved(lambda x, kernel: operations.depthwise(x, kernel, stride, dilation), x, params["dw"])
  return _pointwise(wide, params["pw"])


def _pointwise(x: Maps, layer: PyTree) -> Convolved:
  return convolved(operations.pointwise, x, layer)


def convolved(convolve: Callable[[Maps, Array], Convolved], x: Maps, layer: PyTree) -> Convolved:
  """`convolve`(x, the layer's kernel), times the layer's gates.

  A kernel whose `mask` is 0 somewhere has zeros there that are no parameters (see `grams.layer`).
  """

  def fn(x, own):
    return convolve(x, own["kernel"] * own["mask"] if "mask" in own else own["kernel"])

  return gated(grams.layer(fn, x, layer, samples=1), layer, 0)


def apply(op: str, x: Maps, params: PyTree, norm: Norm, stride: int) -> tuple[Convolved, tuple[Array, ...]]:
  """One operation of a cell by name, and what its ReLUs read; `params` is that of the operation ({} for none)."""
  if op in SEPARABLE:
    y, middle = separable(x, params, norm, stride)
    return y, (x, middle)
  if op in DILATED:
    return dilated(x, params, norm, stride), (x,)
  if op == "skip_connect":
    return (x, ()) if stride == 1 else (factorised_reduction(x, params, norm), (x,))
  if op == "avg_pool_3x3":
    return operations.avg_pool(x, stride), ()
  if op == "max_pool_3x3":
    return operations.max_pool(x, stride), ()
  height, width = (-(-n // stride) for n in x.shape[2:])
  return jnp.zeros((*x.shape[:2], height, width), x.dtype), ()


def op_shapes(op: str, channels: int, stride: int) -> PyTree:
  """Shapes of an operation's parameters: a tree with leaves called kernel, scale and bias; {} for none."""
  size = SEPARABLE.get(op) or DILATED.get(op)
  if size:
    one = {"dw": {"kernel": (size, size, 1, channels)}, **_named("pw", channels, channels)}
    return {"a": one, "b": one} if op in SEPARABLE else one
  if op == "skip_connect" and stride == 2:
    return reduction_shapes(channels, channels)
  return {}


def reduction_shapes(channels_in: int, channels_out: int) -> PyTree:
  """Of a factorised reduction."""
  half = channels_out // 2
  kernels = {
    "conv0": {"kernel": (1, 1, channels_in, half)},
    "conv1": {"kernel": (1, 1, channels_in, channels_out - half)},
  }
  return {**kernels, "bn": bn_shapes(channels_out)}


def relu_conv_bn_shapes(channels_in: int, channels_out: int) -> PyTree:
  """Of ReLU, 1x1 convolution, BN."""
  return _named("conv", channels_in, channels_out)


def _named(name: str, channels_in: int, channels_out: int) -> PyTree:
  return {name: {"kernel": (1, 1, channels_in, channels_out)}, "bn": bn_shapes(channels_out)}
