"""Convolution in groups. On a CPU it is a batch of matrix products, a group each: XLA's own is several times slower."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_HIGHEST = lax.Precision.HIGHEST


def convolve_in_groups(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "k k I Cout"], groups: int, stride: int = 1
) -> Float[Array, "N H2 W2 Cout"]:
  """Without bias, k odd, padded by (k - 1) // 2; group g has inputs g I, ..., and as many of the outputs in order."""
  pad = kernel.shape[0] // 2
  if jax.default_backend() != "cpu":
    numbers = ("NHWC", "HWIO", "NHWC")
    pads = ((pad, pad), (pad, pad))
    return lax.conv_general_dilated(
      x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=groups, precision=_HIGHEST
    )
  n, height, width, _ = x.shape
  size, _, inputs, outputs = kernel.shape
  out = -(-height // stride), -(-width // stride)
  kernels = kernel.reshape(size, size * inputs, groups, outputs // groups).transpose(0, 2, 1, 3)
  x = x.reshape(n, height, width, groups, inputs).transpose(3, 0, 1, 2, 4)
  framed = jnp.pad(x, ((0, 0), (0, 0), (pad, pad + stride), (pad, pad + stride), (0, 0)))
  y = jnp.zeros((groups, n * out[0] * out[1], outputs // groups), x.dtype)
  for i in range(size):  # a row of taps at once: all of them would be nine times the maps
    rows = framed[:, :, i : i + stride * out[0] : stride]
    window = jnp.concatenate([rows[:, :, :, j : j + stride * out[1] : stride] for j in range(size)], -1)
    y = y + jnp.matmul(window.reshape(groups, -1, size * inputs), kernels[i], precision=_HIGHEST)
  return y.reshape(groups, n, *out, -1).transpose(1, 2, 3, 0, 4).reshape(n, *out, outputs)
