"""The blocks that DARTS cells are made of: what stands between two batch normalisations, and each operation.

Every block takes `norm(name, z, bn)`, which normalises z [C, N, H, W] with `bn` = {"scale", "bias"}; `name` tells its
place within the block ("" where there is one). So one definition serves all modes of batch normalisation, and callers
that collect statistics.

Source: Liu et al., "DARTS", ICLR 2019, and the released code, operations.py, without BN after pooling.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.spaces.darts import operations
from jaxnas.spaces.darts.operations import Maps

Norm = Callable[[str, Maps, PyTree], Maps]
SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}  # kernel sizes
DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
relu = jax.nn.relu


def relu_conv_bn(x: Maps, params: PyTree, norm: Norm) -> Maps:
  """ReLU, 1x1 convolution, BN."""
  return norm("", _pointwise(relu(x), params["conv"]), params["bn"])


def factorised_reduction(x: Maps, params: PyTree, norm: Norm) -> Maps:
  """ReLU, half of the channels from every second pixel and half from the ones down-right of them, BN."""
  first, second = operations.halved(relu(x))
  z = jnp.concatenate([_pointwise(first, params["conv0"]), _pointwise(second, params["conv1"])])
  return norm("", z, params["bn"])


def separable(x: Maps, params: PyTree, norm: Norm, stride: int) -> tuple[Maps, Maps]:
  """Twice ReLU, depthwise, 1x1, BN, the first with the stride; and what the second ReLU reads."""
  middle = _depthwise_separable(relu(x), params["a"], lambda _, z, bn: norm("a", z, bn), stride, 1)
  return _depthwise_separable(relu(middle), params["b"], lambda _, z, bn: norm("b", z, bn), 1, 1), middle


def dilated(x: Maps, params: PyTree, norm: Norm, stride: int) -> Maps:
  """ReLU, depthwise with dilation 2, 1x1, BN."""
  return _depthwise_separable(relu(x), params, norm, stride, 2)


def _depthwise_separable(x: Maps, params: PyTree, norm: Norm, stride: int, dilation: int) -> Maps:
  wide = gated(operations.depthwise(x, params["dw"]["kernel"], stride, dilation), params["dw"])
  return norm("", _pointwise(wide, params["pw"]), params["bn"])


def _pointwise(x: Maps, layer: PyTree) -> Maps:
  return gated(operations.pointwise(x, layer["kernel"]), layer)


def gated(z: Maps, layer: PyTree) -> Maps:
  """A convolution's output times its factors for each sample and channel, [N, C], where the layer has a `gate`."""
  return z * layer["gate"].T[:, :, None, None] if "gate" in layer else z


def apply(op: str, x: Maps, params: PyTree, norm: Norm, stride: int) -> Array:
  """One operation of a cell by name; `params` is that of the operation ({} where it has none)."""
  if op in SEPARABLE:
    return separable(x, params, norm, stride)[0]
  if op in DILATED:
    return dilated(x, params, norm, stride)
  if op == "skip_connect":
    return x if stride == 1 else factorised_reduction(x, params, norm)
  if op == "avg_pool_3x3":
    return operations.avg_pool(x, stride)
  if op == "max_pool_3x3":
    return operations.max_pool(x, stride)
  height, width = (-(-n // stride) for n in x.shape[2:])
  return jnp.zeros((*x.shape[:2], height, width), x.dtype)


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


def bn_shapes(channels: int) -> PyTree:
  """Of a batch normalisation."""
  return {"scale": (channels,), "bias": (channels,)}


def _named(name: str, channels_in: int, channels_out: int) -> PyTree:
  return {name: {"kernel": (1, 1, channels_in, channels_out)}, "bn": bn_shapes(channels_out)}
