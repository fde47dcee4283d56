"""Parameters of the network: their tree, first values, and which of them an architecture uses."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from jaxnas.base import NetworkConfig
from jaxnas.nets.parameters import Stacked, bn_shapes, stacked
from jaxnas.spaces.flexibert.encoding import DCT, DEPTHS, DFT, HEADS, HIDDEN, OPS, SDP, WMA

VOCABULARY = 30_522  # of BERT's uncased tokenizer
POSITIONS = 512
SEGMENTS = 2
SPREAD = 0.02  # standard deviation of fresh kernels and embeddings
SPANS = {OPS.index("dsc5"): 5, OPS.index("dsc9"): 9}  # of the convolutions
FEED = 8  # the feed-forward width over the embedding's, whatever an architecture says

_FIRST = ("feed_in", "feed_out", "feed_norm")
_DEEPER = tuple(f"feed_{i}" for i in range(1, max(DEPTHS)))


def sizes(config: NetworkConfig, hidden: int) -> tuple[int, int, int]:
  """(embedding, hidden and feed-forward width) of a network of C = `config.channels` for a hidden size of `HIDDEN`."""
  channels, _ = config.size
  return channels, channels * hidden // HIDDEN[0], FEED * channels


def conv_heads(heads: int) -> int:
  """Heads of the attention in a dynamic span convolution, which is half of it; as many of its convolution."""
  return max(1, heads // 2)


def operation_layers(op: int, heads: int) -> tuple[str, ...]:
  """The layers of an operation, the one behind it and its normalisation included."""
  if op in (DFT, DCT):
    return ("transform",)
  if op in (SDP, WMA):
    own = ("query", "key", "value", "weight") if op == WMA else ("query", "key", "value")
  else:
    span = SPANS[op]
    own = ("short_query", "short_key", "short_value", "point", "pointwise", f"depthwise_{span}", f"taps_{heads}x{span}")
  return (*own, "output", "operation_norm")


def feed_forward_layers(depth: int) -> tuple[str, ...]:
  """The layers of a feed-forward part."""
  return (*_FIRST, *_DEEPER[: depth - 1])


def layer_shapes(hidden: int, feed: int) -> dict[str, dict[str, tuple[int, ...]]]:
  """Shapes of all layers that an encoder layer may have, as `operation_layers` and `feed_forward_layers` call them."""
  half = hidden // 2
  taps = {f"taps_{heads}x{span}": _dense(half, conv_heads(heads) * span) for heads in HEADS for span in SPANS.values()}
  return {
    **{name: _dense(hidden, hidden) for name in ("query", "key", "value", "transform", "output")},
    "weight": {"kernel": (hidden, hidden)},
    **{name: _dense(hidden, half) for name in ("short_query", "short_key", "short_value", "point", "pointwise")},
    **{f"depthwise_{span}": {"kernel": (span, 1, hidden)} for span in SPANS.values()},
    **taps,
    "operation_norm": bn_shapes(hidden),
    "feed_in": _dense(hidden, feed),
    **{name: _dense(feed, feed) for name in _DEEPER},
    "feed_out": _dense(feed, hidden),
    "feed_norm": bn_shapes(hidden),
  }


def outer_shapes(config: NetworkConfig, hidden: int) -> dict[str, Any]:
  """Shapes of what comes before and behind the layers."""
  embedding, width, _ = sizes(config, hidden)
  tables = {"word": VOCABULARY, "position": POSITIONS, "segment": SEGMENTS}
  found: dict[str, Any] = {name: {"embedding": (rows, embedding)} for name, rows in tables.items()}
  found["embedding_norm"] = bn_shapes(embedding)
  if width != embedding:
    found["project"] = _dense(embedding, width)
  return {**found, "classifier": _dense(width, config.classes)}


def shapes(config: NetworkConfig, hidden: int, layers: int) -> PyTree:
  """Shapes of all parameters; those of the layers are side by side."""
  _, width, feed = sizes(config, hidden)
  return {**outer_shapes(config, hidden), "layers": stacked(layer_shapes(width, feed), layers)}


def draw(tree: PyTree, key: Array) -> PyTree:
  """Float32 parameters of these shapes: kernels and embeddings from N(0, 0.02^2), scales 1, biases 0."""
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, tuple))
  names = [path[-1].key for path, _ in leaves]
  whole = [(shape.copies, *shape.shape) if isinstance(shape, Stacked) else shape for _, shape in leaves]
  drawn = [name in ("kernel", "embedding") for name in names]
  total = sum(math.prod(shape) for shape, random in zip(whole, drawn, strict=True) if random)
  traced = isinstance(key, Tracer)
  values = jax.random.normal(key, (total if traced else 1 << (total - 1).bit_length(),), jnp.float32)
  values = values if traced else np.asarray(values)  # cut on the host: on a device every shape is a program of its own
  full = jnp.full if traced else np.full
  found, start = [], 0
  for name, shape, random in zip(names, whole, drawn, strict=True):
    if random:
      found.append(values[start : start + math.prod(shape)].reshape(shape) * np.float32(SPREAD))
      start += math.prod(shape)
    else:
      found.append(full(shape, float(name == "scale"), jnp.float32))
  return jax.tree.unflatten(structure, found if traced else jax.device_put(found))


OPERATIONS = tuple((op, heads) for op in range(len(OPS)) for heads in HEADS)  # (column, number of heads)


def executed(tree: PyTree, arch: Int[Array, "layers 2"]) -> PyTree:
  """A tree like the parameters: 1 where they belong to a layer of this architecture, [] or [layers] each."""
  of_operation = [operation_layers(op, heads) for op, heads in OPERATIONS]
  of_depth = [feed_forward_layers(depth) for depth in DEPTHS]

  def mask(path, leaf):
    del leaf
    if path[0].key != "layers":
      return jnp.ones((), jnp.float32)
    name = path[1].key
    return _having(of_operation, name)[arch[:, 0]] + _having(of_depth, name)[arch[:, 1]]

  return jax.tree_util.tree_map_with_path(mask, tree)


def _having(lists: Iterable[tuple[str, ...]], name: str) -> Array:
  return jnp.asarray([float(name in own) for own in lists], jnp.float32)


def _dense(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
  return {"kernel": (inputs, outputs), "bias": (outputs,)}
