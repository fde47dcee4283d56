"""A variant of an encoder with a classifier in plain Flax: to read first, and to train in a loop of one's own.

    module = spaces.get("encoder").module(code, base.NetworkConfig(classes=2))
    logits = module.apply(variables, tokens)

Tokens are int32 [N, T, 3]: the number of each in the vocabulary, its segment, and 1, or 0 where it is padding, which
attention leaves out. The sum of their embeddings is normalised. Each layer has attention, whose result is added to a
state and normalised, and a feed-forward part, likewise; see `encoding` for what variants change in it. The classifier
reads the first position's state through a tanh layer, the pooler.

Fresh kernels and embeddings are normal with deviation 0.02; the pre-trained ones come by `mapping` from the fast
network, or by `export.read` from the folder of a fine-tuned variant. There is no dropout.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxnas.spaces.encoder import encoding, parameters

States = Float[Array, "N T H"]

_HIGHEST = jax.lax.Precision.HIGHEST
_normal = nn.initializers.normal(parameters.SPREAD)
Dense = functools.partial(nn.Dense, precision=_HIGHEST, kernel_init=_normal)


class EncoderLayer(nn.Module):
  """One layer; the attributes are as of `EncoderModule`."""

  heads: int
  feed: int
  epsilon: float

  @nn.compact
  def __call__(self, x: States, skip: States, there: Float[Array, "N T"], parallel: bool) -> States:
    """The next state.

    Args:
      x: what is read.
      skip: what is added to what attention gives.
      there: 1, or 0 where there is padding.
      parallel: whether the feed-forward part reads x too.
    """
    hidden = x.shape[-1]
    norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, use_fast_variance=False)
    query, key, value = (self._split(Dense(hidden, name=name)(x)) for name in ("query", "key", "value"))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, precision=_HIGHEST) / query.shape[-1] ** 0.5
    scores = jnp.where(there[:, None, None] > 0, scores, -jnp.inf)
    attended = jnp.einsum("nhqk,nkhd->nqhd", nn.softmax(scores), value, precision=_HIGHEST)
    h = norm(name="attention_norm")(Dense(hidden, name="output")(attended.reshape(x.shape)) + skip)
    z = Dense(self.feed, name="feed_in")(x if parallel else h)
    return norm(name="feed_norm")(Dense(hidden, name="feed_out")(nn.gelu(z, approximate=False)) + h)

  def _split(self, x: States) -> Float[Array, "N T heads D"]:
    return x.reshape(*x.shape[:2], self.heads, -1)


class EncoderModule(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, a group for each of the encoder's layers.
    vocabulary, positions, segments: rows of the embeddings' tables.
    hidden, feed: widths of the states and of the feed-forward parts.
    heads: of attention.
    epsilon: of layer normalisation.
    classes: outputs of the classifier.
  """

  arch: str
  vocabulary: int
  hidden: int
  heads: int
  feed: int
  positions: int
  segments: int
  epsilon: float
  classes: int = 2

  @nn.compact
  def __call__(self, tokens: Int32[Array, "N T 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; `train` makes no difference.

    Raises:
      ArchitectureError: `arch` is not the text form of an architecture.
    """
    del train
    embed = functools.partial(nn.Embed, features=self.hidden, embedding_init=_normal)
    number, segment, there = jnp.moveaxis(tokens, -1, 0)
    x = embed(self.vocabulary, name="word")(number) + embed(self.segments, name="segment")(segment)
    x = x + embed(self.positions, name="position")(jnp.arange(tokens.shape[1]))[None]
    mask = (there > 0).astype(x.dtype)
    norm = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="embedding_norm")
    x = before = norm(x * mask[..., None])
    rows = encoding.rows_of(self.arch, len(self.arch.split("|"))).tolist()
    sources = sorted({source for source, *_ in rows})
    layers = {i: EncoderLayer(self.heads, self.feed, self.epsilon, name=f"layer_{i}") for i in sources}
    for source, parallel, earlier in rows:
      x, before = layers[source](x, before if earlier else x, mask, parallel > 0), x
    pooled = jnp.tanh(Dense(self.hidden, name="pooler")(x[:, 0]))
    return Dense(self.classes, name="classifier")(pooled)
