"""Flax models whose normalisation uses fixed statistics, so that their samples are independent."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxnas.errors import ConfigError


def frozen_statistics(
  apply: Callable[..., Any], variables: Mapping[str, Any], **apply_kwargs: Any
) -> tuple[Callable[..., Any], PyTree]:
  """The pair (f, params) of a Flax linen model, with all its other variables as constants.

  BatchNorm in batch mode couples the samples: its kernel needs `vmap_axes=None` and one backward
  pass of the whole batch for every row. With fixed statistics, the running ones or those of a batch
  (`batch_statistics`), the samples are independent and `vmap_axes=0` is right.

  Args:
    apply: `model.apply`.
    variables: what `model.init` or a training returned: "params", "batch_stats" and others.
    apply_kwargs: keyword arguments of `apply` with which the model normalises by its stored
      statistics and drops nothing: `train=False`, `use_running_average=True`, `deterministic=True`, ...

  Returns:
    `f(params, x, **kwargs)`, whose kwargs go to `apply` and override apply_kwargs, and the parameters.

  Raises:
    ConfigError: variables without "params".

  Example:
    f, params = ntk.frozen_statistics(model.apply, variables, train=False)  # running statistics
    theta = ntk.empirical_ntk_fn(f, vmap_axes=0)(x, None, params)

    at_x = ntk.batch_statistics(model.apply, variables, x, train=True)  # the statistics of x
    f, params = ntk.frozen_statistics(model.apply, at_x, train=False)

  An NNX model splits its own: `graph, params, rest = nnx.split(model, nnx.Param, ...)` after
  `model.eval()`, and `f = lambda params, x: nnx.merge(graph, params, rest)(x)`.
  """
  if "params" not in _names(variables):
    raise ConfigError(f"variables: expected a mapping with 'params', as model.init returns; got {_names(variables)}.")
  constants = {name: value for name, value in variables.items() if name != "params"}

  def f(params: PyTree, x: PyTree, **kwargs: Any) -> Any:
    return apply({"params": params, **constants}, x, **{**apply_kwargs, **kwargs})

  return f, variables["params"]


def batch_statistics(
  apply: Callable[..., Any], variables: Mapping[str, Any], x: PyTree, **apply_kwargs: Any
) -> dict[str, Any]:
  """The variables of a Flax linen model with the statistics of the batch x in place of the running ones.

  One forward pass in batch mode, in which every `flax.linen.BatchNorm` stores what it normalised by
  (as if its momentum were 0). With them as constants the model gives x the outputs of batch mode. Each module keeps
  one set of statistics, so it may be called once only. Not under `jit`, since it raises by values.

  Args:
    apply: `model.apply`.
    variables: with "params" and "batch_stats".
    x: the batch.
    apply_kwargs: keyword arguments of `apply` with which the model normalises by the batch: `train=True`, ...

  Returns:
    A copy of variables with new "batch_stats", which do not depend on the old ones.

  Raises:
    ConfigError: no "batch_stats"; statistics that did not change, that are not a `flax.linen.BatchNorm`'s, or of one
      that was called several times, whose calls no single set of statistics can stand for.
  """
  from flax import linen as nn

  if "batch_stats" not in _names(variables):
    raise ConfigError(f"variables: no 'batch_stats' among {_names(variables)}; this model has no statistics to take.")
  paths = set()

  def without_momentum(call, args, kwargs, context):
    module = context.module
    if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
      return call(*args, **kwargs)
    paths.add(module.path)
    momentum = module.momentum
    object.__setattr__(module, "momentum", 0.0)  # Flax's modules are frozen dataclasses
    before = module.get_variable("batch_stats", "var")
    try:
      result = call(*args, **kwargs)
    finally:
      object.__setattr__(module, "momentum", momentum)
    if before is not None:
      # By values and not by counting calls: a scan traces a module more than once, and calls it once a layer.
      after = module.get_variable("batch_stats", "var")
      module.put_variable("batch_stats", "var", jnp.where(before == fresh, after, repeated))
    return result

  # No batch has a negative variance: these tell what was not stored anew, and what was twice.
  fresh, repeated = -1, -2
  marked = jax.tree.map(lambda leaf: jnp.full_like(leaf, fresh), variables["batch_stats"])
  with nn.intercept_methods(without_momentum):
    _, updated = apply({**variables, "batch_stats": marked}, x, mutable=["batch_stats"], **apply_kwargs)
  for path, leaf in jax.tree_util.tree_leaves_with_path(updated["batch_stats"]):
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    if tuple(names[:-1]) not in paths:
      raise ConfigError(f"variables: batch_stats/{'/'.join(names)} belongs to no flax.linen.BatchNorm that was called.")
    if names[-1] == "var" and (leaf == repeated).any():
      raise ConfigError(
        f"apply: batch_stats/{'/'.join(names)} is of a BatchNorm that was called several times; one set of statistics "
        "cannot stand for all its calls: give each call a BatchNorm of its own, or pass vmap_axes=None in batch mode."
      )
    if names[-1] == "var" and (leaf == fresh).any():
      raise ConfigError(
        f"apply_kwargs={sorted(apply_kwargs)}: batch_stats/{'/'.join(names)} was not updated; pass what makes the "
        "model normalise by the batch (train=True, use_running_average=False, ...)."
      )
  return {**variables, **updated}


def _names(variables: Any) -> list[str]:
  """Those of the collections of variables; of what is no mapping, its type's."""
  return sorted(variables) if isinstance(variables, Mapping) else [f"a {type(variables).__name__}"]
