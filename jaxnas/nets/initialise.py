"""Parameters drawn by name: each value depends on the key and on its parameter's own name, and on nothing else.

Networks that share parameters under their names share their values, whatever else they have.

Source of the initialisations: PyTorch's defaults, and He et al., 2015 (fan in or fan out, gain sqrt 2, not truncated).
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jaxnas.base import Init


class Named(NamedTuple):
  """A parameter to draw, or several of one shape side by side.

  Attributes:
    shape: of one of them: HWIO, (Cin, Cout) or (Cout,) for the bias of a layer with `fans`.
    names: of each; what is drawn is [names, *shape], or of `shape` where there is one name and not `stacked`.
    stacked: whether the first axis of what is drawn is that of the names.
    fans: the shape of the kernel that the parameter belongs to, where it is none itself.
  """

  shape: tuple[int, ...]
  names: tuple[tuple[str | int, ...], ...]
  stacked: bool = False
  fans: tuple[int, ...] | None = None


def draw_named(parameters: Sequence[Named], init: Init, key: Array) -> list[Array]:
  """Float32 values: uniform within 1 / sqrt(fan in) for `torch_default`, else normal by fan in or fan out."""
  groups: dict[int, list[int]] = {}  # by the length of a draw; round ones, as XLA compiles each anew, about a second
  for i, own in enumerate(parameters):
    groups.setdefault(max(1024, 1 << (math.prod(own.shape) - 1).bit_length()), []).append(i)
  traced, out = isinstance(key, Tracer), {}
  distribution = jax.random.uniform if init == "torch_default" else jax.random.normal
  for length, members in groups.items():
    numbers = [_number(name) for i in members for name in parameters[i].names]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers, jnp.uint32))
    values = jax.vmap(lambda k, n=length: distribution(k, (n,), jnp.float32))(keys)
    values = values if traced else np.asarray(values)  # cut on the host: on a device every shape is another program
    start = 0
    for i in members:
      own = parameters[i]
      cut = values[start : start + len(own.names), : math.prod(own.shape)].reshape(len(own.names), *own.shape)
      out[i] = _scaled(cut if own.stacked else cut[0], own.fans or own.shape, init)
      start += len(own.names)
  found = [out[i] for i in range(len(parameters))]
  return found if traced else jax.device_put(found)


def torch_uniform(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
  """Values of PyTorch's default initialisation in one draw, uniform within 1 / sqrt(fan in)."""
  bound = fan_in**-0.5
  return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _scaled(values, kernel: tuple[int, ...], init: Init):
  window = math.prod(kernel[:-2])
  if init == "torch_default":
    bound = (window * kernel[-2]) ** -0.5
    return values * np.float32(2 * bound) - np.float32(bound)
  return values * np.float32((2 / (window * kernel[-1 if init == "kaiming_fan_out" else -2])) ** 0.5)


def _number(name: tuple[str | int, ...]) -> int:
  """A hash of a name's parts, as Flax folds them into a key."""
  digest = hashlib.sha1(usedforsecurity=False)
  for part in name:
    digest.update(part.encode() if isinstance(part, str) else part.to_bytes((part.bit_length() + 7) // 8, "big"))
  return int.from_bytes(digest.digest()[:4], "big")
