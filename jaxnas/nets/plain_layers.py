"""Layers of single architectures: convolution for one forward and one backward pass (`layers.conv`: for many
cotangents), and batch normalisation with its pull-back in closed form, for about half of autodiff's memory traffic.

Inside `lax.scan`, `lax.switch` and loops, XLA's own gradients of a convolution ran a hundred times slower on a CPU than
at top level: only convolutions in the canonical layout reach the fast routine there (BUILD_NOTES.md, decision 16). So
a strided convolution is one at stride 1 on 2x2 blocks of pixels, all in that layout, and it and its kernel gradient
are written as each other's derivatives, to any order.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from jaxnas.nets import layers
from jaxnas.nets.products import Pads, convolution, einsum, matmul


def convolve(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "k k Cin Cout"], stride: int = 1
) -> Float[Array, "N H2 W2 Cout"]:
  """Convolution without bias, k odd, padded symmetrically by (k - 1) // 2, at full float32 precision; stride 1 or 2."""
  if kernel.shape[0] == 1:
    x = x[:, ::stride, ::stride]
    rows = x.reshape(-1, x.shape[-1])  # as a matrix: its kernel gradient is twice as fast on a CPU
    return matmul(rows, kernel[0, 0]).reshape(*x.shape[:3], -1)
  if stride == 2:
    return _at_stride_2(x, kernel)
  pad = kernel.shape[0] // 2
  return _convolution(x, kernel, ((pad, pad), (pad, pad)))


def _at_stride_2(x: Array, kernel: Array) -> Array:
  """At stride 1, the four pixels of a 2x2 block being channels; a first or a last row of taps reads zeros."""
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
  n, height, width, channels = x.shape
  blocks = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
  pad = kernel.shape[0] // 2
  first, size, before = pad % 2, pad + 1, -(-pad // 2)  # of blocks: the kernel's size, and those in front
  taps = jnp.pad(kernel, ((first, 1 - first), (first, 1 - first), (0, 0), (0, 0)))
  taps = taps.reshape(size, 2, size, 2, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
  pads = (before, size - 1 - before)
  return _convolution(
    blocks.reshape(n, height // 2, width // 2, 4 * channels), taps.reshape(size, size, 4 * channels, -1), (pads, pads)
  )


_MANY = 8192  # samples times output channels from which a product is faster (experiments/benchmark_plain_layers.py)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: Float[Array, "N H W Cin"], kernel: Float[Array, "p q Cin Cout"], pads: Pads) -> Array:
  """A convolution at stride 1."""
  return convolution(x, kernel, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x: Float[Array, "N H W Cin"], dy: Float[Array, "N H2 W2 Cout"], pads: Pads) -> Array:
  """The derivative of sum(dy * _convolution(x, kernel, pads)) in the kernel.

  On a CPU it is a convolution in which samples take the place of channels, elsewhere, and where architectures have maps
  or cotangents of their own, a product.
  """
  if jax.default_backend() != "cpu" or x.shape[0] * dy.shape[-1] >= _MANY:
    return _as_product(x, dy, pads)

  @custom_vmap
  def compute(x, dy):
    return convolution(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), pads).transpose(1, 2, 0, 3)

  @compute.def_vmap
  def batched(size, is_mapped, x, dy):
    axes = tuple(0 if mapped else None for mapped in is_mapped)
    return jax.vmap(functools.partial(_as_product, pads=pads), axes)(x, dy), True

  return compute(x, dy)


def _as_product(x: Array, dy: Array, pads: Pads) -> Array:
  found = einsum("nhwi,nhwo->io", *moved(x, dy, pads))
  sizes = [found.shape[0] // x.shape[-1], x.shape[-1], found.shape[1] // dy.shape[-1], dy.shape[-1]]
  return found.reshape(sizes).transpose(2, 0, 1, 3)


def moved(x: Float[Array, "N H W Cin"], dy: Float[Array, "N H2 W2 Cout"], pads: Pads) -> tuple[Array, Array]:
  """x moved along columns, [N, H, W2, q Cin], and dy along rows, [N, H, W2, p Cout], beside one another.

  Their product over pixels has the gradient of a p x q kernel, [q, Cin, p, Cout].
  """
  (top, bottom), columns = pads
  height, width = x.shape[1], dy.shape[2]
  wide = jnp.pad(x, ((0, 0), (0, 0), columns, (0, 0)))
  last = height + top + bottom - dy.shape[1]  # row of the kernel
  tall = jnp.pad(dy, ((0, 0), (last - top, last - bottom), (0, 0), (0, 0)))
  xs = [wide[:, :, b : b + width] for b in range(wide.shape[2] - width + 1)]
  return jnp.concatenate(xs, -1), jnp.concatenate([tall[:, last - a : last - a + height] for a in range(last + 1)], -1)


def _input_gradient(dy: Array, kernel: Array, pads: Pads) -> Array:
  turned = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape[:2], pads, strict=True))
  return _convolution(dy, kernel[::-1, ::-1].swapaxes(2, 3), turned)  # type: ignore[arg-type]


_convolution.defvjp(
  lambda x, kernel, pads: (_convolution(x, kernel, pads), (x, kernel)),
  lambda pads, saved, dy: (_input_gradient(dy, saved[1], pads), _kernel_gradient(saved[0], dy, pads)),
)
_kernel_gradient.defvjp(
  lambda x, dy, pads: (_kernel_gradient(x, dy, pads), (x, dy)),
  lambda pads, saved, d_kernel: (_input_gradient(saved[1], d_kernel, pads), _convolution(saved[0], d_kernel, pads)),
)


@jax.custom_vjp
def batch_norm(
  z: Float[Array, "N H W C"], scale: Float[Array, " C"], bias: Float[Array, " C"]
) -> Float[Array, "N H W C"]:
  """Batch normalisation by the batch's own statistics, differentiated through; its pull-back reads cotangents twice."""
  return layers.normalise(z, *layers.batch_moments(z)) * scale[None, None, None] + bias[None, None, None]


def _batch_norm_bwd(saved, dy):
  z, scale = saved
  mean, variance = layers.batch_moments(z)
  normal = layers.normalise(z, mean, variance)
  count = z.size // z.shape[-1]
  d_bias, d_scale = dy.sum((0, 1, 2)), (dy * normal).sum((0, 1, 2))
  gain = scale * lax.rsqrt(variance + jnp.asarray(layers.BN_EPSILON, z.dtype))
  inner = dy - (d_bias / count)[None, None, None] - normal * (d_scale / count)[None, None, None]
  return gain[None, None, None] * inner, d_scale, d_bias


batch_norm.defvjp(lambda z, scale, bias: (batch_norm(z, scale, bias), (z, scale)), _batch_norm_bwd)
