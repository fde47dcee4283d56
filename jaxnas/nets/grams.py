"""Layers whose pull-back gives the Gram matrix of the samples' gradients, as the cotangent of an [N, N] array of zeros.

Where samples are independent and each has one output, the backward pass of the sum of all outputs has at every layer
the cotangents of all samples. From them each layer computes the rows g_n of its own parameters and adds g_n . g_m to
the cotangent of its zeros; autodiff adds the layers up, and no gradient of the whole network ever exists. The
parameters themselves get no derivative here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.nets import layers, plain_layers

_HIGHEST = lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Grams:
  """What is computed.

  Attributes:
    include: kinds of parameters that enter: "kernel", "scale", "bias".
    diagonal: only the diagonal, [N]: the squared norms.
  """

  include: tuple[str, ...] = ("kernel", "scale")
  diagonal: bool = False

  def zeros(self, samples: int, dtype: Any) -> Array:
    """What `with_zeros` puts beside the parameters."""
    return jnp.zeros((samples,) if self.diagonal else (samples, samples), dtype)

  def of(self, **rows: Float[Array, "N ..."]) -> Array:
    """The Gram matrix of the rows of those kinds that enter."""
    found: Any = 0.0
    for name, value in rows.items():
      if name in self.include:
        flat = value.reshape(len(value), -1)
        found = found + (jnp.square(flat).sum(1) if self.diagonal else jnp.matmul(flat, flat.T, precision=_HIGHEST))
    return found


def with_zeros(params: PyTree, zeros: Array, stacked: bool = False) -> PyTree:
  """The parameters with `zeros` beside every kernel or scale, as `gram`, behind the axis of stacked layers."""
  out: dict[str, Any] = {}
  for name, value in params.items():
    out[name] = with_zeros(value, zeros, stacked) if isinstance(value, dict) else value
    if name in ("kernel", "scale"):
      out["gram"] = jnp.broadcast_to(zeros, (len(value), *zeros.shape)) if stacked else zeros
  return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def convolve(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "k k Cin Cout"], gram: Array, stride: int, grams: Grams
) -> Float[Array, "N H2 W2 Cout"]:
  """As `plain_layers.convolve`."""
  del gram, grams
  return plain_layers.convolve(x, kernel, stride)


def _convolve_bwd(stride, grams, saved, dy):
  x, kernel = saved
  dx = jax.vjp(lambda x: plain_layers.convolve(x, kernel, stride), x)[1](dy)[0]
  if stride == 1 and kernel.shape[0] == 3:
    rows = _products_at_stride_1(x, dy)
  else:
    patches = layers.patches(x, kernel.shape[0], stride)
    rows = _products(patches, dy)
  return dx, jnp.zeros_like(kernel), grams.of(kernel=rows) + jnp.zeros_like(grams.zeros(len(x), x.dtype))


def _products_at_stride_1(x: Float[Array, "N H W Cin"], dy: Float[Array, "N H W Cout"]) -> Array:
  """The gradients by a 3x3 kernel, one a sample, as one product: x moved along rows, dy along columns.

  Its entries are in an order of their own. On a CPU it is 2 to 5 times as fast as a product with the patches of x.
  """
  height, width = x.shape[1:3]
  wide, high = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))), jnp.pad(dy, ((0, 0), (1, 1), (0, 0), (0, 0)))
  columns = jnp.concatenate([wide[:, :, b : b + width] for b in range(3)], -1)
  rows = jnp.concatenate([high[:, 2 - a : 2 - a + height] for a in range(3)], -1)
  return _products(columns, rows)


def _products(x: Float[Array, "N H W I"], dy: Float[Array, "N H W J"]) -> Float[Array, "N I J"]:
  n, inputs, outputs = len(x), x.shape[-1], dy.shape[-1]
  return jnp.einsum("npi,npj->nij", x.reshape(n, -1, inputs), dy.reshape(n, -1, outputs), precision=_HIGHEST)


convolve.defvjp(
  lambda x, kernel, gram, stride, grams: (convolve(x, kernel, gram, stride, grams), (x, kernel)), _convolve_bwd
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def affine(
  z: Float[Array, "N H W C"], scale: Float[Array, " C"], bias: Float[Array, " C"], gram: Array, grams: Grams
) -> Float[Array, "N H W C"]:
  """z * scale + bias."""
  del gram, grams
  return z * scale[None, None, None] + bias[None, None, None]


def _affine_bwd(grams, saved, dy):
  z, scale = saved
  rows = grams.of(scale=(dy * z).sum((1, 2)), bias=dy.sum((1, 2)))
  zeros = jnp.zeros_like(scale)
  return dy * scale[None, None, None], zeros, zeros, rows + jnp.zeros_like(grams.zeros(len(z), z.dtype))


affine.defvjp(lambda z, scale, bias, gram, grams: (affine(z, scale, bias, gram, grams), (z, scale)), _affine_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(features: Float[Array, "N C"], params: PyTree, grams: Grams) -> Float[Array, "N K"]:
  """The linear layer of a classifier."""
  del grams
  return jnp.matmul(features, params["kernel"], precision=_HIGHEST) + params["bias"][None]


def _linear_bwd(grams, saved, dy):
  features, params = saved
  rows = grams.of(kernel=features[:, :, None] * dy[:, None], bias=dy)
  zeros = jax.tree.map(jnp.zeros_like, params)
  return jnp.matmul(dy, params["kernel"].T, precision=_HIGHEST), {**zeros, "gram": zeros["gram"] + rows}


linear.defvjp(lambda features, params, grams: (linear(features, params, grams), (features, params)), _linear_bwd)
