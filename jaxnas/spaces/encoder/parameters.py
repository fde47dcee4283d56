"""Shapes of an encoder's parameters, the fresh head, and which parameters a variant uses."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxnas.nets.parameters import bn_shapes
from jaxnas.spaces.encoder.folder import Sizes

Shapes = dict[str, dict[str, tuple[int, ...]]]

SPREAD = 0.02  # standard deviation of the fresh head, as BERT is initialised


def body_shapes(sizes: Sizes) -> tuple[Shapes, Shapes]:
  """Of what is outside the layers, pooler included, and of one layer."""
  hidden, feed = sizes.hidden, sizes.feed
  outer: Shapes = {
    "word": {"embedding": (sizes.vocabulary, hidden)},
    "position": {"embedding": (sizes.positions, hidden)},
    "segment": {"embedding": (sizes.segments, hidden)},
    "embedding_norm": bn_shapes(hidden),
    "pooler": _dense(hidden, hidden),
  }
  inner: Shapes = {
    **{name: _dense(hidden, hidden) for name in ("query", "key", "value", "output")},
    "attention_norm": bn_shapes(hidden),
    "feed_in": _dense(hidden, feed),
    "feed_out": _dense(feed, hidden),
    "feed_norm": bn_shapes(hidden),
  }
  return outer, inner


def count(shapes: Shapes) -> int:
  """How many numbers there are."""
  return sum(math.prod(shape) for leaves in shapes.values() for shape in leaves.values())


def head(sizes: Sizes, classes: int, key: Array) -> PyTree:
  """A fresh classifier: kernel from N(0, 0.02^2), bias 0, float32."""
  entries = sizes.hidden * classes
  drawn = jax.random.normal(key, (1 << (entries - 1).bit_length(),), jnp.float32)[:entries]  # of a round length
  return {"kernel": SPREAD * drawn.reshape(sizes.hidden, classes), "bias": jnp.zeros((classes,), jnp.float32)}


def executed(tree: PyTree, arch: Int[Array, "n 3"], layers: int) -> PyTree:
  """A tree like the parameters: 1 where a variant uses them, [] or, of the layers, [layers] each."""
  used = jnp.zeros((layers,), jnp.float32).at[arch[:, 0]].set(1)
  masks = {name: used if name == "layers" else jnp.ones((), jnp.float32) for name in tree}
  return {name: jax.tree.map(lambda _, mask=masks[name]: mask, own) for name, own in tree.items()}


def _dense(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
  return {"kernel": (inputs, outputs), "bias": (outputs,)}
