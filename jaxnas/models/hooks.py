"""What is done to the layers of a user's model during a pass: normalisations by mode, factors on outputs.

Batch normalisation is computed here, whatever the model's own flags say: by the batch, by constants of the batch, by
given statistics, or not at all. In mode `identity` normalisations within samples (LayerNorm, GroupNorm, RMSNorm,
InstanceNorm) have mean 0 and variance 1 too; in the other modes they are as the model has them.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxnas.base import Mode
from jaxnas.errors import ConfigError
from jaxnas.nets.passes import Pass

_CORRELATING = Pass("batch", ("correlation",))


@dataclasses.dataclass
class Hooks:
  """Of one pass; the second half is filled in by it.

  Attributes:
    mode: of batch normalisation.
    gates: factors [N, C] on the outputs of layers, by path.
    embedded: what the embedding gives, in place of its own outputs.
    correlates: whether the channels' correlations are wanted, as of "correlation" in `base.Output`.
    kwargs: keyword arguments of the model, in place of its own of these names.
    norms: the batch normalisations that were called, by path, and how often.
    others: the types of other normalisations, and how many calls.
    layers: the linear layers that were called, by path: the output and how many of its last axes are channels.
    shapes: of the outputs of all calls of these layers, with their paths.
    ranks: of a parameter of each of all these layers, by path: its name and number of axes, as the layer sees it.
    embedding: what the embedding gave.
    tokens: what it was given, and how many rows it has; None: it is not Flax's own.
    correlations: one number for each call of a batch normalisation.
  """

  mode: Mode = "batch"
  gates: Mapping[str, Array] = dataclasses.field(default_factory=dict)
  embedded: Array | None = None
  correlates: bool = False
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  norms: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  others: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  layers: dict[str, tuple[Any, int]] = dataclasses.field(default_factory=dict)
  shapes: list[tuple[str, tuple[int, ...]]] = dataclasses.field(default_factory=list)
  ranks: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
  embedding: Any = None
  tokens: tuple[Array, int] | None = None
  correlations: list[Array] = dataclasses.field(default_factory=list)

  def batch_norm(
    self, path: str, module: Any, x: Array, scale: Array | None, bias: Array | None, given: tuple[Any, Any]
  ) -> tuple[Array, tuple[Array, Array]]:
    """The normalised x and the (mean, variance) that it was normalised by.

    Args:
      module: a BatchNorm of Flax; of others, the last axis has the channels and epsilon is 1e-5 unless they say so.
      given: statistics for mode `running`.

    Raises:
      ConfigError: statistics over devices.
    """
    if getattr(module, "axis_name", None) is not None:
      raise ConfigError(f"model: {path} normalises over the devices of axis_name={module.axis_name!r}; set it to None")
    self.norms[path] += 1
    self._note(path, scale=scale, bias=bias)
    features = sorted(axis % x.ndim for axis in np.atleast_1d(getattr(module, "axis", -1)).tolist())
    others = tuple(axis for axis in range(x.ndim) if axis not in features)
    shape = [size if axis in features else 1 for axis, size in enumerate(x.shape)]
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    if self.correlates:
      maps = jnp.moveaxis(wide, features, range(-len(features), 0)).reshape(
        len(x), -1, 1, math.prod(x.shape[a] for a in features)
      )
      found = _CORRELATING.of_bn(maps, (maps, maps)).correlation
      assert found is not None
      self.correlations.append(found)
    if self.mode == "running":
      mean, variance = (value.astype(wide.dtype) for value in given)
    elif self.mode == "identity":
      sizes = tuple(x.shape[axis] for axis in features)
      mean, variance = jnp.zeros(sizes, wide.dtype), jnp.ones(sizes, wide.dtype)
    else:
      mean = wide.mean(others)
      variance = jnp.square(wide - mean.reshape(shape)).mean(others)
    if self.mode == "batch_frozen":
      mean, variance = lax.stop_gradient((mean, variance))
    y = _affine(wide - mean.reshape(shape), variance.reshape(shape), module, scale, bias, shape)
    return y.astype(_result_type(module, x, scale, bias)), (mean, variance)

  def other_norm(self, path: str, module: Any, x: Array, scale: Array | None, bias: Array | None) -> Array | None:
    """x as a normalisation within samples gives it in mode `identity`; None: it is to compute as usual."""
    self.others[_type_name(module)] += 1
    self._note(path, scale=scale, bias=bias)
    if self.mode != "identity":
      return None
    parameter = scale if scale is not None else bias
    own = parameter.shape if parameter is not None else ()
    if x.shape[x.ndim - len(own) :] != own:
      raise ConfigError(f"mode='identity': a {_type_name(module)} whose channels are not the last axes; leave it out")
    shape = [1] * (x.ndim - len(own)) + list(own)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    y = _affine(wide, jnp.ones([1] * x.ndim, wide.dtype), module, scale, bias, shape)
    return y.astype(_result_type(module, x, scale, bias))

  def output(self, path: str, y: Array, kernel: Array, axes: int = 1) -> Array:
    """The output of a linear layer, whose last `axes` axes are its channels, times its factors."""
    self._note(path, kernel=kernel)
    self.shapes.append((path, y.shape))
    if path in self.gates:
      gate = self.gates[path]
      y = y * gate.reshape(len(gate), *[1] * (y.ndim - 1 - axes), *y.shape[y.ndim - axes :])
    self.layers[path] = y, axes
    return y

  def _note(self, path: str, **parameters: Array | None) -> None:
    for name, value in parameters.items():
      if value is not None:
        self.ranks[path] = name, value.ndim


def _affine(
  centred: Array, variance: Array, module: Any, scale: Array | None, bias: Array | None, shape: Sequence[int]
) -> Array:
  gain = lax.rsqrt(variance + jnp.asarray(getattr(module, "epsilon", 1e-5), variance.dtype))
  if scale is not None:
    gain = gain * scale.reshape(shape).astype(gain.dtype)
  y = centred * gain
  return y if bias is None else y + bias.reshape(shape).astype(y.dtype)


def _result_type(module: Any, *arrays: Array | None) -> Any:
  """As Flax gives it: the layer's own type, or what inputs and parameters promote to."""
  own = getattr(module, "dtype", None)
  return own or functools.reduce(np.promote_types, [a.dtype for a in arrays if a is not None])


def _type_name(module: Any) -> str:
  return type(module).__name__.removeprefix("Hooked")  # of NNX
