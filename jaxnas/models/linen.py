"""A `flax.linen` module as a pure function, its layers met by Flax's own interception of methods."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.models.hooks import Hooks

LINEAR = (nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.Dense, nn.DenseGeneral)
WITHIN_SAMPLES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm)


class LinenCall:
  """A linen module; see `network.Call`.

  Args:
    variables: as `model.init` returned them.
    batch_norms: types of batch normalisations beside `nn.BatchNorm`.
    embedding: the path of the module whose outputs derivatives are taken in.
    apply_kwargs: keyword arguments of the model's `__call__`.

  Raises:
    ConfigError: variables without "params".
  """

  kind = "a flax.linen module"

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping[str, Any],
    batch_norms: tuple[type, ...],
    embedding: str | None,
    apply_kwargs: Mapping[str, Any],
  ):
    if not isinstance(variables, Mapping) or "params" not in variables:
      found = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
      raise ConfigError(f"variables: expected a mapping with 'params', as model.init returns, and not {found}")
    rest = dict(nn.meta.unbox(variables))
    self.params, self.stats, self._rest = rest.pop("params"), rest.pop("batch_stats", {}), rest
    self._model, self.kwargs, self._embedding = model, dict(apply_kwargs), embedding
    self._batch_norms = (nn.BatchNorm, *batch_norms)

  def __call__(self, params: PyTree, stats: PyTree, inputs: Array, hooks: Hooks) -> tuple[Any, PyTree]:
    """As `network.Call`."""
    variables = {"params": params, "batch_stats": stats, **self._rest}
    with nn.intercept_methods(functools.partial(self._meet, hooks)):
      outputs, moved = self._model.apply(variables, inputs, mutable=["batch_stats"], **{**self.kwargs, **hooks.kwargs})
    return outputs, moved.get("batch_stats", {})

  def _meet(self, hooks: Hooks, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module, path = context.module, "/".join(context.module.path)
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    x = args[0] if args else kwargs.get("x")
    if isinstance(module, self._batch_norms):
      if kwargs.get("mask") is not None:
        raise ConfigError(f"model: {path} is given a mask of what to normalise by, which is not supported")
      given = (module.get_variable("batch_stats", "mean"), module.get_variable("batch_stats", "var"))
      y, (mean, variance) = hooks.batch_norm(path, module, x, *_affine_of(module), given)
      module.put_variable("batch_stats", "mean", mean)
      module.put_variable("batch_stats", "var", variance)
      return y
    if isinstance(module, WITHIN_SAMPLES):
      y = hooks.other_norm(path, module, x, *_affine_of(module))
      return call(*args, **kwargs) if y is None else y
    if path == self._embedding:
      hooks.tokens = (x, module.num_embeddings) if isinstance(module, nn.Embed) else None
      hooks.embedding = call(*args, **kwargs) if hooks.embedded is None else hooks.embedded
      return hooks.embedding
    y = call(*args, **kwargs)
    if isinstance(module, LINEAR):
      axes = np.size(module.features) if isinstance(module, nn.DenseGeneral) else 1
      y = hooks.output(path, y, module.get_variable("params", "kernel"), axes)
    return y


def _affine_of(module: nn.Module) -> tuple[Any, Any]:
  return module.get_variable("params", "scale"), module.get_variable("params", "bias")
