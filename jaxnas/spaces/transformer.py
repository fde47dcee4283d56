"""What encoders of all spaces are made of, as pure functions of states [N, T, H].

T positions, of which `mask` says with 1 and 0 which are tokens and which padding. Inputs are tokens, int32 [N, T, 3]:
the number of each in the vocabulary, its segment, and 1, or 0 where it is padding.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, PyTree

from jaxnas.base import Mode
from jaxnas.errors import DatasetError
from jaxnas.nets import grams
from jaxnas.nets.products import einsum

States = Float[Array, "N T H"]
Mask = Float[Array, "N T"]

EPSILON = 1e-12  # of layer normalisation in BERT


def embed(params: PyTree, inputs: Int32[Array, "N T 3"], space: str) -> Float[Array, "N T C"]:
  """The sum of the embeddings of tokens, positions and segments; zeros where there is padding.

  A token or segment that there is not gives NaN.

  Args:
    params: with the tables `word`, `segment` and `position`.
    space: for messages.

  Raises:
    DatasetError: other inputs, or more positions than there are.
  """
  shape, most = inputs.shape, len(params["position"]["embedding"])
  if len(shape) != 3 or shape[-1] != 3 or not 1 <= shape[1] <= most:
    raise DatasetError(
      f"inputs of shape {shape}: {space} reads tokens, expected (N, T, 3) with T of 1 to {most}, its positions; give a "
      f"--dataset of text, such as tokens, rte or sst2, and --tokens of {most} at most"
    )
  if inputs.dtype != jnp.int32:
    raise DatasetError(f"inputs of type {inputs.dtype}: {space} reads tokens, expected int32")
  token, segment, there = jnp.moveaxis(inputs, -1, 0)
  x = _rows(params["word"], token) + _rows(params["segment"], segment)
  x = x + params["position"]["embedding"][None, : shape[1]]
  return jnp.where(there[..., None] > 0, x, jnp.zeros((), x.dtype))


def tokens_of(embedded: Array, channels: int) -> Mask:
  """Which positions are tokens, those that are not all zeros.

  Raises:
    DatasetError: not what `embed` returned for a width of `channels`.
  """
  if embedded.ndim != 3 or embedded.shape[-1] != channels:
    raise DatasetError(f"inputs of shape {embedded.shape}: expected (N, T, {channels}), which embed makes of tokens")
  if embedded.dtype not in (jnp.float32, jnp.float64, jnp.bfloat16):
    raise DatasetError(f"inputs of type {embedded.dtype}: expected float32, which embed makes of tokens")
  return (embedded != 0).any(-1).astype(embedded.dtype)


def dense(x: States, own: PyTree) -> Float[Array, "N T D"]:
  """A linear layer, and its factors for each sample and output where it has a `gate`."""

  def affine(x, own):
    z = einsum("nti,io->nto", x, own["kernel"])
    return z + own["bias"][None, None] if "bias" in own else z

  return gated(grams.layer(affine, x, own), own)


def gated(z: Array, own: PyTree) -> Array:
  """A layer's output times its factors, where it has a `gate`."""
  return z * own["gate"][:, None] if "gate" in own else z


def normalise(x: States, own: PyTree, mode: Mode = "batch", epsilon: float = EPSILON) -> States:
  """Layer normalisation; in mode `identity` its scale and bias only."""
  if mode != "identity":
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    x = centred * lax.rsqrt(variance + jnp.asarray(epsilon, x.dtype))
  return grams.layer(lambda x, own: x * own["scale"][None, None] + own["bias"][None, None], x, own)


def attention(query: States, key: States, value: States, mask: Mask, heads: int) -> Float[Array, "N T heads D"]:
  """By scaled dot products, of which padding is left out."""
  query, key, value = (split(part, heads) for part in (query, key, value))
  scores = einsum("nqhd,nkhd->nhqk", query, key) * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
  scores = jnp.where(mask[:, None, None] > 0, scores, jnp.finfo(scores.dtype).min)
  return einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), value)


def activate(z: Array, mode: Mode) -> Array:
  """GELU; in mode `identity` ReLU, which it tends to."""
  return jax.nn.relu(z) if mode == "identity" else jax.nn.gelu(z, approximate=False)


def split(x: States, heads: int) -> Float[Array, "N T heads D"]:
  """Channels by heads."""
  return x.reshape(*x.shape[:2], heads, -1)


def joined(x: Float[Array, "N T heads D"]) -> States:
  """Heads side by side."""
  return x.reshape(*x.shape[:2], -1)


def agreement(z: States, mask: Mask) -> Float[Array, "N N"]:
  """In how many units two samples are both positive or both not, at positions where both have tokens."""
  code = (jnp.where(z > 0, 1.0, -1.0) * mask[..., None]).astype(jnp.float32).reshape(len(z), -1)
  both = z.shape[-1] * jnp.matmul(mask, mask.T).astype(jnp.float32)
  return 0.5 * (both + code @ code.T)


def _rows(table: PyTree, numbers: Int32[Array, "N T"]) -> Float[Array, "N T C"]:
  """Rows of an embedding, NaN where there is none."""
  return jnp.take(table["embedding"], numbers, axis=0, mode="fill", fill_value=jnp.nan)
