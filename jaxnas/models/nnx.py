"""A `flax.nnx` module as a pure function.

NNX has no interception of methods: in the copy that every pass makes of the model, normalisations and linear layers
become instances of subclasses of their types, which do what `Hooks` say. The user's own model is never changed.
"""

import contextvars
import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.models.hooks import Hooks

LINEAR = (nnx.Conv, nnx.ConvTranspose, nnx.Linear, nnx.LinearGeneral)
WITHIN_SAMPLES = tuple(getattr(nnx, n) for n in ("LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm") if n in dir(nnx))

_PATH = "jaxnas_path"  # an attribute of hooked modules
_HOOKS: contextvars.ContextVar[Hooks] = contextvars.ContextVar("hooks of the running pass")


class NNXCall:
  """An NNX module in evaluation mode (`Module.eval`); see `network.Call`.

  Args:
    batch_norms: types of batch normalisations beside `nnx.BatchNorm`.
    embedding: the path of the module whose outputs derivatives are taken in, such as "encoder/embed".
    apply_kwargs: keyword arguments of the model's `__call__`.
  """

  kind = "an NNX module"

  def __init__(self, model: nnx.Module, batch_norms: tuple[type, ...], embedding: str | None, apply_kwargs: Any):
    self._graph, self.params, self.stats, self._rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    self._types = (nnx.BatchNorm, *batch_norms), WITHIN_SAMPLES, LINEAR
    self._embedding, self.kwargs = embedding, dict(apply_kwargs)

  def __call__(self, params: PyTree, stats: PyTree, inputs: Array, hooks: Hooks) -> tuple[Any, PyTree]:
    """As `network.Call`."""
    rest = jax.tree.map(lambda leaf: leaf, self._rest)  # variables of this trace, which loops may change
    model = nnx.merge(self._graph, params, stats, rest)
    model.eval()
    for path, module in list(nnx.iter_graph(model)):
      if isinstance(module, nnx.Module):
        self._hook(module, "/".join(map(str, path)))
    token = _HOOKS.set(hooks)
    try:
      outputs = model(inputs, **{**self.kwargs, **hooks.kwargs})
    finally:
      _HOOKS.reset(token)
    return outputs, nnx.state(model, nnx.BatchStat)

  def _hook(self, module: nnx.Module, path: str) -> None:
    if path == self._embedding:
      kind = _hooked_embedding
    else:
      makers = (_hooked_batch_norm, _hooked_norm, _hooked_linear)
      kind = next((make for types, make in zip(self._types, makers, strict=True) if isinstance(module, types)), None)
    if kind is not None:
      setattr(module, _PATH, path)
      object.__setattr__(module, "__class__", kind(type(module)))


def _path_of(module: Any) -> str:
  return getattr(module, _PATH)


def _subclass(base: type, call: Any) -> type:
  return type(f"Hooked{base.__name__}", (base,), {"__call__": call})


@functools.cache
def _hooked_batch_norm(base: type) -> type:
  def call(self, x, use_running_average=None, *, mask=None):
    del use_running_average
    if mask is not None:
      raise ConfigError(f"model: {_path_of(self)} is given a mask of what to normalise by, which is not supported")
    y, (mean, variance) = _HOOKS.get().batch_norm(
      _path_of(self), self, x, *_affine_of(self), (self.mean[...], self.var[...])
    )
    self.mean, self.var = nnx.BatchStat(mean), nnx.BatchStat(variance)
    return y

  return _subclass(base, call)


@functools.cache
def _hooked_norm(base: type) -> type:
  def call(self, x, *args, **kwargs):
    y = _HOOKS.get().other_norm(_path_of(self), self, x, *_affine_of(self))
    return base.__call__(self, x, *args, **kwargs) if y is None else y

  return _subclass(base, call)


@functools.cache
def _hooked_linear(base: type) -> type:
  def call(self, *args, **kwargs):
    axes = np.size(self.out_features) if isinstance(self, nnx.LinearGeneral) else 1
    return _HOOKS.get().output(_path_of(self), base.__call__(self, *args, **kwargs), self.kernel[...], axes)

  return _subclass(base, call)


@functools.cache
def _hooked_embedding(base: type) -> type:
  def call(self, *args, **kwargs):
    hooks = _HOOKS.get()
    if isinstance(self, nnx.Embed):
      hooks.tokens = args[0] if args else kwargs["inputs"], self.num_embeddings
    hooks.embedding = base.__call__(self, *args, **kwargs) if hooks.embedded is None else hooks.embedded
    return hooks.embedding

  return _subclass(base, call)


def _affine_of(module: Any) -> tuple[Any, Any]:
  found = (getattr(module, name, None) for name in ("scale", "bias"))
  scale, bias = (None if value is None else value[...] for value in found)
  return scale, bias
