"""The operations of an encoder layer and its feed-forward part, as pure functions of states, see `spaces.transformer`.

Attention does not look at padding, and convolutions see zeros there, as they do beyond the ends, so the length of the
padding changes nothing; the two transforms see zeros too, but their frequencies depend on T.

The released PyTorch model has no masks, its training code in attention only; without padding all three agree.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxnas.base import Mode
from jaxnas.nets import grams
from jaxnas.nets.products import einsum
from jaxnas.spaces.flexibert import parameters
from jaxnas.spaces.flexibert.encoding import DCT, DFT, SDP, WMA
from jaxnas.spaces.transformer import (
  Mask,
  States,
  activate,
  agreement,
  attention,
  dense,
  gated,
  joined,
  normalise,
  split,
)


def operation(op: int, heads: int, mode: Mode) -> Callable[[States, Mask, PyTree], States]:
  """The function of an operation and what is behind it; `op` is a column of `encoding.OPS`, `heads` a number.

  Behind the transforms there is nothing, not even their input again: so the released model has it.
  """
  if op in (DFT, DCT):
    real = _cosines if op == DCT else _fourier

    def transform(x: States, mask: Mask, own: PyTree) -> States:
      return joined(real(split(dense(x, own["transform"]) * mask[..., None], heads)))

    return transform
  inner = (
    functools.partial(_attended, heads=heads, weighted=op == WMA)
    if op in (SDP, WMA)
    else functools.partial(_convolved, heads=heads, span=parameters.SPANS[op])
  )

  def with_residual(x: States, mask: Mask, own: PyTree) -> States:
    return normalise(dense(inner(x, mask, own), own["output"]) + x, own["operation_norm"], mode)

  return with_residual


def feed_forward(
  x: States, mask: Mask, own: PyTree, *, depth: int, mode: Mode, observes: bool
) -> tuple[States, Float[Array, "A A"]]:
  """A feed-forward part, and in how many units two samples agree; of its [1, 1] zeros unless it `observes`."""
  h, agreed = x, jnp.zeros((1, 1), jnp.float32)
  for name in ("feed_in", *(f"feed_{i}" for i in range(1, depth))):
    z = dense(h, own[name])
    if observes:
      agreed = agreed + agreement(z, mask)
    h = activate(z, mode)
  return normalise(dense(h, own["feed_out"]) + x, own["feed_norm"], mode), agreed


def _attended(x: States, mask: Mask, own: PyTree, heads: int, weighted: bool) -> States:
  """Self-attention; `weighted` with a matrix between query and key."""
  query = dense(x, own["query"])
  if weighted:
    query = dense(query, own["weight"])
  return joined(attention(query, dense(x, own["key"]), dense(x, own["value"]), mask, heads))


def _convolved(x: States, mask: Mask, own: PyTree, heads: int, span: int) -> States:
  """A dynamic span convolution: half of its heads attend, the other half is a convolution whose taps are computed.

  Source: Jiang et al., "ConvBERT", NeurIPS 2020, section 3.2.
  """
  few = parameters.conv_heads(heads)
  query = dense(x, own["short_query"])
  attended = attention(query, dense(x, own["short_key"]), dense(x, own["short_value"]), mask, few)
  spanned = dense(_depthwise(x * mask[..., None], own[f"depthwise_{span}"], span), own["pointwise"])
  taps = dense(spanned * query, own[f"taps_{heads}x{span}"])
  taps = jax.nn.softmax(taps.reshape(*taps.shape[:2], few, span))
  points = split(dense(x, own["point"]) * mask[..., None], few)
  convolved = sum(taps[..., i, None] * part for i, part in enumerate(_shifted(points, span)))
  return joined(jnp.concatenate([attended, convolved], 2))


def _depthwise(x: States, own: PyTree, span: int) -> States:
  """A convolution over positions, each channel with a kernel of its own."""

  def convolve(x, own):
    parts = [part * own["kernel"][i][None] for i, part in enumerate(_shifted(x, span))]
    return sum(parts[1:], parts[0])

  return gated(grams.layer(convolve, x, own), own)


def _shifted(x: Float[Array, "N T *D"], span: int) -> list[Array]:
  """What each tap of a convolution over positions reads, zeros beyond the ends."""
  ends = ((0, 0), (span // 2, span // 2), *[(0, 0)] * (x.ndim - 2))
  padded = jnp.pad(x, ends)
  return [padded[:, i : i + x.shape[1]] for i in range(span)]


def _fourier(x: Float[Array, "N T heads D"]) -> Array:
  """The real part of the discrete Fourier transform over positions and channels of a head."""
  (cos_t, sin_t), (cos_d, sin_d) = (_waves(x.shape[axis]) for axis in (1, 3))
  return _both(x, cos_t, cos_d) - _both(x, sin_t, sin_d)


def _cosines(x: Float[Array, "N T heads D"]) -> Array:
  """The discrete cosine transform of type II, without factors that would make it orthogonal, over the same axes."""
  over_t, over_d = (_cosine_matrix(x.shape[axis]) for axis in (1, 3))
  return _both(x, over_t, over_d)


def _both(x: Array, over_t: np.ndarray, over_d: np.ndarray) -> Array:
  mixed = einsum("ut,nthd->nuhd", jnp.asarray(over_t, x.dtype), x)
  return einsum("nuhd,ed->nuhe", mixed, jnp.asarray(over_d, x.dtype))


def _waves(size: int) -> tuple[np.ndarray, np.ndarray]:
  angle = 2 * np.pi * (np.outer(np.arange(size), np.arange(size)) % size) / size
  return np.cos(angle), np.sin(angle)


def _cosine_matrix(size: int) -> np.ndarray:
  steps = np.outer(np.arange(size), 2 * np.arange(size) + 1) % (4 * size)
  return 2 * np.cos(np.pi * steps / (2 * size))
