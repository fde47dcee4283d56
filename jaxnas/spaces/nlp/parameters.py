"""Uniform initial values of a whole tree of parameters in one draw."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree


class Uniform(NamedTuple):
  """A parameter whose values are uniform within a bound."""

  shape: tuple[int, ...]
  bound: float


def draw(parameters: PyTree, key: Array) -> PyTree:
  """Float32 values for a tree of `Uniform`."""
  leaves, tree = jax.tree_util.tree_flatten(parameters, is_leaf=lambda node: isinstance(node, Uniform))
  sizes = [math.prod(own.shape) for own in leaves]
  ends, traced = list(itertools.accumulate(sizes)), isinstance(key, Tracer)
  # XLA compiles every length of a draw, and on a device every shape that is cut out of it; a longer draw begins with a
  # shorter one.
  length = ends[-1] if traced else 1 << (ends[-1] - 1).bit_length()
  drawn = jax.random.uniform(key, (length,), jnp.float32, -1, 1)
  values = drawn if traced else np.asarray(drawn)
  out = [
    values[end - size : end].reshape(own.shape) * np.float32(own.bound)
    for own, size, end in zip(leaves, sizes, ends, strict=True)
  ]
  return jax.tree.unflatten(tree, out if traced else jax.device_put(out))
