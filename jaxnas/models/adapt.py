"""Makes a network of a user's model: which kind it is, and what one pass shows of it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import InvalidRngError
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.models.function import FunctionCall
from jaxnas.models.hooks import Hooks
from jaxnas.models.layout import ParameterLayout, leaves_of
from jaxnas.models.linen import LinenCall
from jaxnas.models.network import Call, ModelNetwork, Survey
from jaxnas.models.nnx import NNXCall
from jaxnas.models.program import ModelProgram


def as_network(
  model: Any,
  inputs: Any,
  variables: PyTree = None,
  key: Array | None = None,
  *,
  activations: tuple[str, ...] = ("relu",),
  batch_norms: tuple[type, ...] = (),
  embedding: str | None = None,
  roles: Mapping[str, str] | None = None,
  apply_kwargs: Mapping[str, Any] | None = None,
) -> tuple[ModelNetwork, PyTree]:
  """The model as `base.Single`, and its parameters in that network's tree. Arguments as of `measure`.

  Raises:
    ConfigError: see `measure`.
  """
  inputs = jnp.asarray(inputs)
  integer = not jnp.issubdtype(inputs.dtype, jnp.floating)
  if integer and embedding is None:
    raise ConfigError(
      f"inputs of type {inputs.dtype}: derivatives cannot be taken in them; give normalised floating-point ones, or "
      "name the module that embeds them, as in embedding='Embed_0'"
    )
  if not integer and embedding is not None:
    raise ConfigError(f"embedding={embedding!r}: inputs of type {inputs.dtype} are no numbers of tokens; leave it out")
  if not inputs.ndim or not len(inputs):
    raise ConfigError(f"inputs of shape {inputs.shape}: expected [N, ...] with N of at least 1")
  key = checked_key(key)
  hooks, ends = Hooks(), []
  try:
    call = _call(model, inputs, variables, key, tuple(batch_norms), embedding, apply_kwargs or {})
    leaves = leaves_of(call.params, roles or {})

    def forward(params, inputs):
      outputs, _ = call(params, call.stats, inputs, hooks)
      ends.extend(path for path, (y, _) in hooks.layers.items() if y is outputs)
      return outputs

    program = ModelProgram(forward, call.params, inputs)
  except (TypeError, InvalidRngError) as error:
    error.add_note("jaxnas.measure: arguments of the model's own go into apply_kwargs, as in {'train': False}")
    raise
  except ValueError as error:
    if hooks.norms and "data dependency on the scan body" in str(error):
      norm = next(iter(hooks.norms))
      raise ConfigError(
        f"model: nn.scan shares the statistics of {norm!r} over its steps (variable_broadcast), each of which has its "
        "own batch; give each step its own: variable_axes={'batch_stats': 0}"
      ) from error
    raise
  classes = _classes(program.shapes, inputs.shape)
  if embedding is not None and hooks.embedding is None:
    raise ConfigError(f"embedding={embedding!r}: the model calls no module of that path, such as 'Embed_0'")
  ranks = {(leaf.layer, leaf.role): len(leaf.shape) for leaf in leaves}
  stacked = frozenset(path for path, (name, rank) in hooks.ranks.items() if ranks.get((path, name), rank) > rank)
  layout = ParameterLayout(
    call.params,
    leaves,
    program.order(len(leaves)),
    ends[-1] if ends else None,
    {path: axes for path, (_, axes) in hooks.layers.items()},
    stacked,
  )
  survey = Survey(
    classes=classes,
    norms=tuple(hooks.norms),
    repeated=tuple(path for path, calls in hooks.norms.items() if calls > 1 and path not in stacked),
    others=dict(hooks.others),
    layers={path: int(np.prod(y.shape[y.ndim - axes :])) for path, (y, axes) in hooks.layers.items()},
    tokens=jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype) if integer else None,
    macs=program.multiply_adds(layout.biases()) // len(inputs),
  )
  network = ModelNetwork(call, layout, survey, tuple(activations))
  params = layout.tree(call.params)
  if integer:
    _check_embedding(network, params, inputs, str(embedding))
  return network, params


def checked_key(key: Any) -> Array:
  """A key for one use, by default of 0; ConfigError if it is none."""
  if key is None:
    return jax.random.key(0)
  try:
    jax.random.split(key)
  except (TypeError, ValueError) as error:
    what = f"key of shape {np.shape(key)}" if np.ndim(key) else f"key={key!r}"
    fix = key if isinstance(key, int) else 0
    raise ConfigError(f"{what}: expected one key of JAX's; give jax.random.key({fix})") from error
  return key


def _call(
  model: Any,
  inputs: Array,
  variables: PyTree,
  key: Array,
  batch_norms: tuple[type, ...],
  embedding: str | None,
  kwargs: Mapping[str, Any],
) -> Call:
  if isinstance(model, nn.Module):
    if variables is None:
      init = jax.jit(lambda key, inputs: model.init(key, inputs, **kwargs))
      variables = {"params": {}, **init(key, inputs)}
    return LinenCall(model, variables, batch_norms, embedding, kwargs)
  if isinstance(model, nnx.Module):
    if variables is not None:
      raise ConfigError("variables: an NNX module has its own; leave them out")
    return NNXCall(model, batch_norms, embedding, kwargs)
  if callable(model) and not isinstance(model, type):
    return FunctionCall(model, variables, batch_norms, embedding, kwargs)
  what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
  raise ConfigError(f"model: expected a flax.linen or NNX module, or a function f(params, x), and not {what}")


def _classes(outputs: Any, inputs: tuple[int, ...]) -> int:
  shape = getattr(outputs, "shape", None)
  if shape is None or len(shape) != 2 or shape[0] != inputs[0]:
    what = f"outputs of shape {shape}" if shape is not None else f"a {type(outputs).__name__}"
    raise ConfigError(
      f"model: it returns {what} for inputs of shape {inputs}: expected logits [{inputs[0]}, K]; wrap it in a model "
      "that returns one row of outputs a sample"
    )
  if not jnp.issubdtype(outputs.dtype, jnp.floating):
    raise ConfigError(f"model: its outputs are of type {outputs.dtype}: expected floating-point logits")
  return shape[1]


def _check_embedding(network: ModelNetwork, params: PyTree, inputs: Array, name: str) -> None:
  """ConfigError where the integers enter the model elsewhere too, which then cannot be told from its embedding."""

  hooks = Hooks()

  def both(params, inputs):
    embedded = network.embed(params, inputs)
    whole, _ = network.call(network.layout.own(params), network.call.stats, inputs, hooks)
    return whole, network.apply(params, embedded, jnp.zeros(0)).logits, hooks.tokens

  whole, through, looked_up = jax.jit(both)(params, inputs)
  if looked_up is not None:
    tokens, rows = jax.device_get(looked_up)
    wrong = tokens[(tokens >= rows) | (tokens < -rows)]
    if wrong.size and rows > 1:  # Flax makes them NaN, but one row serves every number
      raise ConfigError(
        f"inputs: {name!r} is given {wrong[0]} and has {rows} rows; give numbers from 0 to {rows - 1}, or a larger "
        "num_embeddings"
      )
  if not np.allclose(whole, through, rtol=1e-3, atol=1e-5 * float(jnp.abs(whole).max()), equal_nan=True):
    raise ConfigError(
      f"embedding={name!r}: the integers enter the model elsewhere too; give a model of the embedded ones"
    )
