"""Products of networks: how precise they are, and convolutions whose kernels belong to many architectures.

All products of float32 are as precise as float32 unless JAX's own setting says otherwise:

    with jax.default_matmul_precision("high"): ...

  highest    float32, as without a setting; an accelerator makes six products of bfloat16 of it, or has no fast unit
  high       three products: each operand is the sum of two numbers of bfloat16, and the product of the small ones is 0
  bfloat16   one product of operands rounded to bfloat16

Sums are of float32 in all of them. Operands are rounded here and not by the compiler, so that a precision is the same
numbers on every device, a CPU included, where its error can be measured.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

Precision = Literal["highest", "high", "bfloat16"]
Pads = tuple[tuple[int, int], tuple[int, int]]

_TERMS = {"bfloat16": 1, "high": 3, "bfloat16_3x": 3}  # by the names that JAX's setting has
_NUMBERS = ("NHWC", "HWIO", "NHWC")


def precision() -> str | None:
  """JAX's setting as it stands here; programs of another are other programs."""
  return jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]


def product(fn: Callable[..., Array], a: Array, b: Array) -> Array:
  """`fn(a, b)`, linear in both, at the current precision.

  Args:
    fn: of the library, such as `jnp.matmul`: takes `precision`.
  """
  terms = _TERMS.get(str(precision()))
  if terms is None or a.dtype != jnp.float32:
    return fn(a, b, precision=lax.Precision.HIGHEST)
  return _rounded(fn, terms, a, b)


def matmul(a: Array, b: Array) -> Array:
  """`jnp.matmul` at the current precision."""
  return product(jnp.matmul, a, b)


def einsum(subscripts: str, a: Array, b: Array) -> Array:
  """`jnp.einsum` of two operands at the current precision."""
  return product(functools.partial(jnp.einsum, subscripts), a, b)


def tensordot(a: Array, b: Array, axes: Any) -> Array:
  """`jnp.tensordot` at the current precision."""
  return product(functools.partial(jnp.tensordot, axes=axes), a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(fn: Callable[..., Array], terms: int, a: Array, b: Array) -> Array:
  once = functools.partial(fn, precision=lax.Precision.DEFAULT)
  large_a, large_b = _bfloat16(a), _bfloat16(b)
  if terms == 1:
    return once(large_a, large_b)
  small_a, small_b = _bfloat16(a - large_a), _bfloat16(b - large_b)
  return once(large_a, large_b) + (once(large_a, small_b) + once(small_a, large_b))


def _bfloat16(x: Array) -> Array:
  """Numbers of bfloat16, kept as float32: a pair of conversions would be taken out by the compiler."""
  return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _pull(fn, terms, saved, dy):
  a, b = saved

  def to_a(dy, b, **given):
    return jax.linear_transpose(lambda a: fn(a, b, **given), a)(dy)[0]

  def to_b(dy, a, **given):
    return jax.linear_transpose(lambda b: fn(a, b, **given), b)(dy)[0]

  return product(to_a, dy, b), product(to_b, dy, a)


_rounded.defvjp(lambda fn, terms, a, b: (_rounded(fn, terms, a, b), (a, b)), _pull)


def convolution(
  x: Float[Array, "N H W Cin"], kernel: Float[Array, "p q Cin Cout"], pads: Pads
) -> Float[Array, "N H2 W2 Cout"]:
  """A convolution at stride 1; it has no derivative of its own.

  Under `jax.vmap` over kernels and maps, where JAX would make a grouped convolution, it is a batch of products with
  patches of the maps.
  """

  @custom_vmap
  def compute(x, kernel):
    return product(functools.partial(_canonical, pads=pads), x, kernel)

  @compute.def_vmap
  def batched(size, is_mapped, x, kernel):
    if all(is_mapped):
      return jax.vmap(functools.partial(_with_patches, pads=pads))(x, kernel), True
    if is_mapped[0]:
      joined = convolution(x.reshape(-1, *x.shape[2:]), kernel, pads)
      return joined.reshape(size, -1, *joined.shape[1:]), True
    return jax.vmap(functools.partial(_with_patches, pads=pads), (None, 0))(x, kernel), True

  return compute(x, kernel)


def _canonical(x: Array, kernel: Array, *, pads: Pads, precision: Any) -> Array:
  return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_NUMBERS, precision=precision)


def _with_patches(x: Array, kernel: Array, *, pads: Pads) -> Array:
  wide = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  height, width = (wide.shape[1 + i] - kernel.shape[i] + 1 for i in range(2))
  taps = [wide[:, a : a + height, b : b + width] for a in range(kernel.shape[0]) for b in range(kernel.shape[1])]
  return matmul(jnp.concatenate(taps, -1), kernel.reshape(-1, kernel.shape[-1]))
