"""Any proxies of one model of a user's: what zero-cost-nas's single call is for PyTorch."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxnas import proxies as known
from jaxnas.base import Batch, Mode, Proxy, Status
from jaxnas.errors import ConfigError
from jaxnas.models.adapt import as_network, checked_key
from jaxnas.models.network import ModelNetwork, Survey
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.scoring.checks import checked


class Measurement(NamedTuple):
  """One proxy's score of a model.

  Attributes:
    proxy: its name.
    value: the proxy's own figure; NaN where there is none.
    status: whether the value can be trusted; None where there is none.
    rank_by: the figure to rank models by: higher is better, degenerate ones last; NaN where there is none.
    why: why there is none, or "".
    note: what the proxy did about the model's normalisations.
  """

  proxy: str
  value: float
  status: Status | None
  rank_by: float
  why: str = ""
  note: str = ""


def measure(
  model: Any,
  batch: Any,
  proxies: Sequence[str | Proxy] | None = None,
  key: Array | None = None,
  *,
  variables: PyTree = None,
  activations: Sequence[str] = ("relu",),
  batch_norms: Sequence[type] = (),
  embedding: str | None = None,
  roles: Mapping[str, str] | None = None,
  apply_kwargs: Mapping[str, Any] | None = None,
  rows: int | None = None,
) -> dict[str, Measurement]:
  """Scores a model with zero-cost proxies, in one compiled program whose passes they share.

  Any registered proxy will do that does not prepare inputs of its own. One that cannot be had for this model says why,
  and the others are given. Batch normalisations are normalised as each proxy defines it, whatever the model's flags
  say; the rest of the model is called as it is (dropout off: that is for `apply_kwargs` to say, NNX models are called
  in evaluation mode). Activations are found by the names of functions in the program that JAX records, since Flax's
  ReLU is a function.

  Args:
    model: a `flax.linen.Module`; an NNX module; or a function `f(params, x)`, of which gradients and kernels are known,
      and the activations. Outputs are logits [N, K].
    batch: inputs [N, ...], the pair of them and their labels (int [N]), or a `base.Batch`. Images are normalised.
    proxies: names, or proxies; default: all registered ones that this batch is enough for.
    key: of the initialisation of a linen module without `variables`, and of proxies that draw; default: of 0.
    variables: of a linen module, as `init` returns them; of a function, its parameters.
    activations: names of the functions that count as ReLUs, in the program that JAX records: "relu", "relu6", "silu",
      "max" of `jnp.maximum(x, 0)`, "tanh" of `jax.nn.gelu`, or that of a function of yours under `jax.jit`. A unit is
      active where what it is given is positive. The samples are followed to it, whichever axis they are in; where they
      cannot be, as in a loop over them, `naswot` and `swap` are refused. What does not depend on them does not count.
      "max" counts the clamps of variances in Flax's LayerNorm too, so jit a function of yours where there are any.
    batch_norms: types of Flax modules of yours that are batch normalisations of the last axis, with the parameters
      `scale` and `bias` and the statistics `mean` and `var`; Flax's own are known.
    embedding: of a Flax module with integer inputs, the path of the one module that they enter ("Embed_0",
      "encoder/embed"); derivatives are taken in its outputs.
    roles: what a parameter of a name is, "kernel", "scale" or "bias", where its name does not say so.
    apply_kwargs: keyword arguments of the model, such as {"train": False}.
    rows: how many cotangents of per-sample passes are held at a time; default: as each proxy likes.

  Returns:
    A `Measurement` for each proxy, by its name, in the order given.

  Raises:
    ConfigError: a model without parameters, or that does not return logits; integer inputs and no embedding named;
      integers that its embedding has no rows for; labels that are missing for a proxy that was asked for, or are no
      classes of the outputs; an unknown proxy, or one twice; a key that is none; a role of a parameter that there is
      not.

  Example:
    found = jaxnas.measure(model, (images, labels), ("naswot", "synflow", "grad_norm"), key=jax.random.key(0))
    found["naswot"].value
  """
  chosen, named = _chosen(proxies)
  if isinstance(activations, str):
    raise ConfigError(f"activations={activations!r}: expected a sequence of names, such as ({activations!r},)")
  if isinstance(batch_norms, type):
    raise ConfigError(f"batch_norms={batch_norms.__name__}: expected a sequence of types, ({batch_norms.__name__},)")
  if rows is not None and rows < 1:
    raise ConfigError(f"rows={rows} must be at least 1")
  batch = _batch(batch)
  init_key, own_key = jax.random.split(checked_key(key))
  network, params = as_network(
    model,
    batch.inputs,
    variables,
    init_key,
    activations=tuple(activations),
    batch_norms=tuple(batch_norms),
    embedding=embedding,
    roles=roles,
    apply_kwargs=apply_kwargs,
  )
  batch = batch._replace(inputs=jnp.asarray(batch.inputs))

  def evaluation(params, batch, key, some):
    collects = [what for proxy in some for what in proxy.collects]
    return Evaluation(network, params, jnp.zeros(0, jnp.int32), *batch, key=key, rows=rows, collects=collects)

  why_coupled = functools.cache(lambda: network.why_coupled(batch.inputs))
  missing, notes, able = {}, {}, []
  for proxy in chosen:
    why = _unfit(proxy, network)
    if why is None:
      try:
        batch = checked(batch, network, [proxy])
      except ConfigError as error:
        if named:
          raise
        why = str(error)
    why = why or _refusal(proxy, network, evaluation, (params, batch, own_key))
    modes = frozenset(network.asked)
    if why is None and modes & {"running", "batch_frozen"}:
      why = why_coupled()
    notes[proxy.name] = _note(modes, network.survey)
    if why is None:
      able.append(proxy)
    else:
      missing[proxy.name] = why

  @jax.jit
  def run(params, batch, key):
    shared = evaluation(params, batch, key, able)
    return [proxy.measure(shared) for proxy in able]

  found = dict(zip(able, jax.device_get(run(params, batch, own_key)) if able else (), strict=True))
  return {
    p.name: _scored(p, found[p], notes[p.name]) if p in found else _absent(p.name, missing[p.name]) for p in chosen
  }


def _chosen(proxies: Sequence[str | Proxy] | None) -> tuple[list[Proxy], bool]:
  """The proxies, and whether they were named."""
  if proxies is None:
    every = [known.get(name) for name in known.names()]
    return [proxy for proxy in every if proxy.Settings is None], False
  if isinstance(proxies, str):
    raise ConfigError(f"proxies={proxies!r}: expected a sequence of names, such as ({proxies!r},)")
  if not isinstance(proxies, Iterable):
    raise ConfigError(f"proxies={proxies!r}: expected a sequence of names, such as ('naswot', 'snip')")
  chosen = [known.get(one) if isinstance(one, str) else one for one in proxies]
  for i, one in enumerate(chosen):
    if not isinstance(one, Proxy):
      raise ConfigError(f"proxies[{i}]={one!r}: expected the name of a proxy, such as 'naswot', or a proxy")
  names = [proxy.name for proxy in chosen]
  if not names or len(set(names)) < len(names):
    raise ConfigError(f"proxies={names}: give at least one, and each name once")
  return chosen, True


def _batch(batch: Any) -> Batch:
  if isinstance(batch, Batch):
    return batch
  if isinstance(batch, tuple | list):
    if len(batch) != 2:
      raise ConfigError(f"batch: a {type(batch).__name__} of {len(batch)}; expected inputs, or (inputs, labels)")
    return Batch(*batch)
  if not isinstance(batch, np.ndarray | jax.Array):
    raise ConfigError(f"batch: expected inputs [N, ...] or (inputs, labels), and not a {type(batch).__name__}")
  return Batch(batch)


def _unfit(proxy: Proxy, network: ModelNetwork) -> str | None:
  if proxy.Settings is not None:
    return "it prepares networks and inputs of its own, of a space: take scoring.score"
  if not isinstance(network, proxy.needs):
    return f"it needs a network that is base.{proxy.needs.__name__}, which no model of a user's is"
  return None


def _refusal(proxy: Proxy, network: ModelNetwork, evaluation: Any, arguments: tuple[Any, ...]) -> str | None:
  """Why the proxy cannot be traced for this model."""
  network.asked.clear()
  try:
    jax.eval_shape(lambda *args: proxy.measure(evaluation(*args, [proxy])), *arguments)
  except ConfigError as error:
    return str(error)
  except Exception as error:  # a proxy's own assumption of what networks are like
    return (
      f"{type(error).__name__} in its measurement of this model: {str(error).splitlines()[0] if str(error) else ''}"
    )
  return None


_MODES: dict[Mode, str] = {
  "batch": "by the mini-batch",
  "batch_frozen": "by the mini-batch's statistics as constants",
  "running": "by the mini-batch's statistics as constants",
  "identity": "off (mean 0, variance 1)",
}


def _note(modes: frozenset[Mode], survey: Survey) -> str:
  if not modes:
    return "no pass"
  parts = []
  if survey.norms:
    shown = modes - {"batch"} if "running" in modes else modes  # the pass that takes the statistics
    how = " and ".join(dict.fromkeys(_MODES[mode] for mode in sorted(shown)))
    parts.append(f"{len(survey.norms)} batch normalisations {how}")
  if survey.others:
    count = ", ".join(f"{number} {name}" for name, number in survey.others.items())
    parts.append(f"{count} {_MODES['identity'] if modes == {'identity'} else 'as they are'}")
  return "; ".join(parts) or "no normalisation found"


def _scored(proxy: Proxy, measured: Any, note: str) -> Measurement:
  reading = proxy.finish(measured)
  return Measurement(proxy.name, reading.value, Status(reading.status), proxy.ranking_value(reading), note=note)


def _absent(name: str, why: str) -> Measurement:
  return Measurement(name, float("nan"), None, float("nan"), why)
