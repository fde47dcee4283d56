"""Fresh parameters of a network from a tree of their shapes; and functions of the kernels, layer by layer.

Source of the initialisations: PyTorch's defaults, and He et al., 2015 (fan in or fan out, gain sqrt 2, not truncated).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from jaxnas.base import Init
from jaxnas.errors import ConfigError


class Stacked(NamedTuple):
  """A parameter that exists `copies` times, side by side: [copies, *shape]."""

  shape: tuple[int, ...]
  copies: int


def stacked(shapes: PyTree, copies: int) -> PyTree:
  """Every shape of a tree as one of `copies`."""
  return jax.tree.map(lambda shape: Stacked(shape, copies), shapes, is_leaf=_is_shape)


def bn_shapes(channels: int) -> PyTree:
  """Of a batch normalisation."""
  return {"scale": (channels,), "bias": (channels,)}


def check_init(init: str) -> None:
  """ConfigError for an unknown initialisation."""
  if init not in get_args(Init):
    raise ConfigError(f"init={init!r} must be one of {', '.join(get_args(Init))}")


def draw(shapes: PyTree, init: str, key: Array) -> PyTree:
  """Float32 parameters of these shapes (tuples or `Stacked`), by the names of the leaves.

  `kernel`: fan in = k k Cin, fan out = k k Cout of an HWIO (or Cin, Cout) kernel; a depthwise one, (k, k, 1, C), has
  the fans k k and k k C. `scale`: 1. `bias`: 0, but that of the classifier with `torch_default`, uniform as its kernel.

  Raises:
    ConfigError: an unknown `init`.
  """
  check_init(init)
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes, is_leaf=_is_shape)
  names = [[p.key for p in path] for path, _ in leaves]
  whole = [(s.copies, *s.shape) if isinstance(s, Stacked) else s for _, s in leaves]
  single = [s.shape if isinstance(s, Stacked) else s for _, s in leaves]
  deviations = [_deviation(name, shape, init, shapes) for name, shape in zip(names, single, strict=True)]
  total = sum(math.prod(w) for w, d in zip(whole, deviations, strict=True) if d)
  traced = isinstance(key, Tracer)
  # One draw, of a round length: XLA compiles each length anew, about a second. A longer draw begins with a shorter one.
  length = total if traced else 1 << (total - 1).bit_length()
  if init == "torch_default":
    values = jax.random.uniform(key, (length,), jnp.float32, -1, 1)
  else:
    values = jax.random.normal(key, (length,), jnp.float32)
  values = values if traced else np.asarray(values)  # cut on the host: on a device every shape is a program of its own
  full = jnp.full if traced else np.full
  out, start = [], 0
  for name, shape, deviation in zip(names, whole, deviations, strict=True):
    if deviation:
      out.append(values[start : start + math.prod(shape)].reshape(shape) * np.float32(deviation))
      start += math.prod(shape)
    else:
      out.append(full(shape, float(name[-1] == "scale"), jnp.float32))
  return jax.tree.unflatten(tree, out if traced else jax.device_put(out))


def by_layer(
  fn: Callable[..., Array], trees: Sequence[PyTree], is_stacked: Callable[[list[str]], bool]
) -> Float[Array, " L"]:
  """`fn` of the kernels (one from each of `trees`) of every convolution and of the classifier, side by side.

  An auxiliary head does not count. `is_stacked` tells by a parameter's path whether its first axis is that of layers.
  """
  found = []
  for leaves in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in trees), strict=True):
    names = [p.key for p in leaves[0][0]]
    if names[-1] == "kernel" and names[0] != "auxiliary":
      values = [leaf for _, leaf in leaves]
      found.append(jax.vmap(fn)(*values) if is_stacked(names) else fn(*values)[None])
  return jnp.concatenate(found)


def gates(shapes: PyTree, samples: int, is_stacked: Callable[[list[str]], bool]) -> PyTree:
  """Ones for each kernel but those of classifiers, [samples, Cout] or [layers, samples, Cout].

  Args:
    shapes: of the parameters. The tree is theirs, down to what holds a kernel.
  """

  def ones(node: PyTree, names: list[str]) -> PyTree:
    if "kernel" in node:
      *_, width = node["kernel"].shape
      lead = node["kernel"].shape[:1] if is_stacked([*names, "kernel"]) else ()
      return jnp.ones((*lead, samples, width))
    inner = {name: ones(own, [*names, name]) for name, own in node.items() if isinstance(own, dict)}
    return {name: own for name, own in inner.items() if not isinstance(own, dict) or own}

  return ones({name: own for name, own in shapes.items() if name not in ("classifier", "auxiliary")}, [])


def _is_shape(node: PyTree) -> bool:
  return isinstance(node, tuple)


def _deviation(name: list[str], shape: tuple[int, ...], init: str, shapes: PyTree) -> float:
  """What standard values are multiplied with; 0 for constants."""
  if name[-1] == "bias" and "kernel" in _parent(shapes, name) and init == "torch_default":
    return _parent(shapes, name)["kernel"][0] ** -0.5
  if name[-1] != "kernel":
    return 0.0
  window = math.prod(shape[:-2])
  if init == "torch_default":
    return (window * shape[-2]) ** -0.5
  return (2 / (window * (shape[-1] if init == "kaiming_fan_out" else shape[-2]))) ** 0.5


def _parent(shapes: PyTree, name: list[str]) -> PyTree:
  for part in name[:-1]:
    shapes = shapes[part]
  return shapes
