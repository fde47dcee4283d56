"""An encoder of NAS-Bench-BERT with a classifier in plain Flax: to read first, and to train in a loop of one's own.

    module = FlexiBERTModule("256|sdp:4:1024x3|dct:2:512x1", channels=128, classes=2)
    variables = module.init(jax.random.key(0), tokens)  # {"params": ...}
    logits = module.apply(variables, tokens)

Tokens are int32 [N, T, 3]: the number of each in the vocabulary, its segment, and 1, or 0 where it is padding. The sum
of their embeddings is normalised and brought to the hidden size. Each layer has an operation, whose result is added to
its input and normalised (not so the transforms, which replace it), and a feed-forward part, likewise. The classifier
reads the first position. Padding is left out of attention, and zero to convolutions and transforms.

There is no dropout and no pooler. Kernels and embeddings start normal with deviation 0.02, biases at zero. `mapping`
translates to and from the fast network.

Source: see `encoding`; the released PyTorch model, with masks.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxnas.spaces.flexibert import encoding, parameters
from jaxnas.spaces.flexibert.encoding import DEPTHS, DFT, HEADS, SDP, WMA

States = Float[Array, "N T H"]
There = Float[Array, "N T 1"]

_HIGHEST = jax.lax.Precision.HIGHEST
_normal = nn.initializers.normal(parameters.SPREAD)
Dense = functools.partial(nn.Dense, precision=_HIGHEST, kernel_init=_normal)
Norm = functools.partial(nn.LayerNorm, epsilon=1e-12, use_fast_variance=False)


class FlexiBERTLayer(nn.Module):
  """One layer.

  Attributes:
    op: a column of `encoding.OPS`.
    heads, depth: numbers of heads and of feed-forward layers.
    feed: the feed-forward width.
  """

  op: int
  heads: int
  depth: int
  feed: int

  @nn.compact
  def __call__(self, x: States, there: There) -> States:
    hidden = x.shape[-1]
    if self.op in (SDP, WMA):
      y = self._attention(x, there)
    elif self.op in parameters.SPANS:
      y = self._convolution(x, there, parameters.SPANS[self.op])
    else:
      y = self._transform(x, there)
    if self.op in (SDP, WMA) or self.op in parameters.SPANS:
      x = Norm(name="operation_norm")(x + Dense(hidden, name="output")(y))
    else:
      x = y
    h = nn.gelu(Dense(self.feed, name="feed_in")(x), approximate=False)
    for i in range(1, self.depth):
      h = nn.gelu(Dense(self.feed, name=f"feed_{i}")(h), approximate=False)
    return Norm(name="feed_norm")(x + Dense(hidden, name="feed_out")(h))

  def _attention(self, x: States, there: There) -> States:
    query, key, value = (Dense(x.shape[-1], name=name)(x) for name in ("query", "key", "value"))
    if self.op == WMA:
      query = Dense(x.shape[-1], use_bias=False, name="weight")(query)
    return _joined(_attend(query, key, value, there, self.heads))

  def _convolution(self, x: States, there: There, span: int) -> States:
    half, heads = x.shape[-1] // 2, parameters.conv_heads(self.heads)
    query, key, value = (Dense(half, name=f"short_{name}")(x) for name in ("query", "key", "value"))
    depthwise = nn.Conv(
      x.shape[-1], (span,), feature_group_count=x.shape[-1], use_bias=False, precision=_HIGHEST, kernel_init=_normal,
      name=f"depthwise_{span}",
    )  # fmt: skip
    spanned = Dense(half, name="pointwise")(depthwise(x * there))
    taps = Dense(heads * span, name=f"taps_{self.heads}x{span}")(spanned * query)
    taps = nn.softmax(taps.reshape(*taps.shape[:2], heads, span))
    points = _split(Dense(half, name="point")(x) * there, heads)
    padded = jnp.pad(points, ((0, 0), (span // 2, span // 2), (0, 0), (0, 0)))
    windows = jnp.stack([padded[:, i : i + x.shape[1]] for i in range(span)], -1)
    convolved = jnp.einsum("nthdi,nthi->nthd", windows, taps, precision=_HIGHEST)
    return _joined(jnp.concatenate([_attend(query, key, value, there, heads), convolved], 2))

  def _transform(self, x: States, there: There) -> States:
    y = _split(Dense(x.shape[-1], name="transform")(x) * there, self.heads)
    if self.op == DFT:
      return _joined(jnp.fft.fft2(y, axes=(1, 3)).real)
    return _joined(jax.scipy.fft.dctn(y, type=2, axes=(1, 3)))


class FlexiBERTModule(nn.Module):
  """The whole network.

  Attributes:
    arch: in text form, see `encoding.parse`.
    channels: C, the width of the embeddings, and the hidden size where the architecture's is 128; twice that where it
      is 256. The benchmark's is 128.
    classes: outputs of the classifier.
  """

  arch: str
  channels: int = 128
  classes: int = 10

  @nn.compact
  def __call__(self, tokens: Int32[Array, "N T 3"], train: bool = False) -> Float[Array, "N K"]:
    """Logits; `train` makes no difference.

    Raises:
      ArchitectureError: `arch` is not the text form of an architecture.
    """
    del train
    embed = functools.partial(nn.Embed, features=self.channels, embedding_init=_normal)
    number, segment, there = jnp.moveaxis(tokens, -1, 0)
    x = embed(parameters.VOCABULARY, name="word")(number) + embed(parameters.SEGMENTS, name="segment")(segment)
    x = x + embed(parameters.POSITIONS, name="position")(jnp.arange(tokens.shape[1]))[None]
    mask = (there > 0)[..., None].astype(x.dtype)
    x = Norm(name="embedding_norm")(x) * mask
    hidden = self.channels * encoding.hidden_of(self.arch) // encoding.HIDDEN[0]
    if hidden != self.channels:
      x = Dense(hidden, name="project")(x)
    for i, (op, heads, _, depth) in enumerate(encoding.layers_of(self.arch).tolist()):
      feed = parameters.FEED * self.channels
      x = FlexiBERTLayer(op, HEADS[heads], DEPTHS[depth], feed, name=f"layer_{i}")(x, mask)
    return Dense(self.classes, name="classifier")(x[:, 0])


def _split(x: States, heads: int) -> Float[Array, "N T heads D"]:
  return x.reshape(*x.shape[:2], heads, -1)


def _joined(x: Float[Array, "N T heads D"]) -> States:
  return x.reshape(*x.shape[:2], -1)


def _attend(query: States, key: States, value: States, there: There, heads: int) -> Float[Array, "N T heads D"]:
  query, key, value = (_split(part, heads) for part in (query, key, value))
  scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, precision=_HIGHEST) / query.shape[-1] ** 0.5
  scores = jnp.where(there[:, None, None, :, 0] > 0, scores, -jnp.inf)
  return jnp.einsum("nhqk,nkhd->nqhd", nn.softmax(scores), value, precision=_HIGHEST)
