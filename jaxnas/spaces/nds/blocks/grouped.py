"""Convolution in groups.

On a CPU XLA's own is more than ten times slower in a loop than a dense convolution whose kernel has zeros between the
groups. With many channels these zeros cost more than a batch of products, a group each, which copies more.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnas.nets import plain_layers
from jaxnas.nets.products import matmul, product

_DENSE = 128  # channels up to which the dense form is faster on a CPU


def convolve_in_groups(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "k k I Cout"], groups: int, stride: int = 1
) -> Float[Array, "N H2 W2 Cout"]:
  """Without bias, k odd, padded by (k - 1) // 2; group g has inputs g I, ..., and as many of the outputs in order."""
  if jax.default_backend() != "cpu":
    return _library(x, kernel, groups, stride)
  if x.shape[-1] <= _DENSE or groups <= 2:
    return plain_layers.convolve(x, _dense(kernel, groups), stride)
  return _by_products(x, kernel, groups, stride)


def _library(x: Array, kernel: Array, groups: int, stride: int) -> Array:
  pad = kernel.shape[0] // 2
  fn = functools.partial(
    lax.conv_general_dilated,
    window_strides=(stride, stride),
    padding=((pad, pad), (pad, pad)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )
  return product(fn, x, kernel)


def _dense(kernel: Array, groups: int) -> Float[Array, "k k Cin Cout"]:
  """The kernel of all inputs, with zeros where a group does not read."""
  size, _, inputs, outputs = kernel.shape
  own = jnp.asarray(np.eye(groups), kernel.dtype)
  apart = kernel.reshape(size, size, 1, inputs, groups, outputs // groups) * own[None, None, :, None, :, None]
  return apart.reshape(size, size, groups * inputs, outputs)


def _by_products(x: Array, kernel: Array, groups: int, stride: int) -> Array:
  n, height, width, _ = x.shape
  size, _, inputs, outputs = kernel.shape
  pad, out = size // 2, (-(-height // stride), -(-width // stride))
  kernels = kernel.reshape(size, size * inputs, groups, outputs // groups).transpose(0, 2, 1, 3)
  x = x.reshape(n, height, width, groups, inputs).transpose(3, 0, 1, 2, 4)
  framed = jnp.pad(x, ((0, 0), (0, 0), (pad, pad + stride), (pad, pad + stride), (0, 0)))
  y = jnp.zeros((groups, n * out[0] * out[1], outputs // groups), x.dtype)
  for i in range(size):  # a row of taps at once: all of them would be nine times the maps
    rows = framed[:, :, i : i + stride * out[0] : stride]
    window = jnp.concatenate([rows[:, :, :, j : j + stride * out[1] : stride] for j in range(size)], -1)
    y = y + matmul(window.reshape(groups, -1, size * inputs), kernels[i])
  return y.reshape(groups, n, *out, -1).transpose(1, 2, 3, 0, 4).reshape(n, *out, outputs)
