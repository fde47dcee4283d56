"""A user's model as `base.Single`: one architecture, any proxy."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas import ntk
from jaxnas.base import Collect, Costs, Mode, Observation, Output
from jaxnas.errors import ConfigError
from jaxnas.models.hooks import Hooks
from jaxnas.models.layout import CLASSIFIER, ParameterLayout, names_of
from jaxnas.models.program import ModelProgram, Shown, twin_of
from jaxnas.nets import passes
from jaxnas.nets.parameters import by_layer
from jaxnas.nets.passes import Pass

ABLE: tuple[Collect, ...] = ("stats", "observation", "patterns", "correlation")
_OBSERVING = Pass("batch", ("observation",))


@runtime_checkable
class Call(Protocol):
  """A model of one kind as a pure function of its parameters and of its batch normalisations' statistics.

  Attributes:
    kind: in words.
    params: the parameters, in the model's own tree.
    stats: the statistics.
    kwargs: keyword arguments of the model.
  """

  kind: str
  params: PyTree
  stats: PyTree
  kwargs: dict[str, Any]

  def __call__(self, params: PyTree, stats: PyTree, inputs: Array, hooks: Hooks) -> tuple[Any, PyTree]:
    """What the model returns, and the statistics that its batch normalisations normalised by."""
    ...


_NO_POOLING = "no global average pooling of [N, H, W, C] or [N, tokens, C] was found in the model"
_NO_ACTIVATIONS = (
  "no ReLU was found in the model; name the functions that it has instead, as JAX records them: activations=('silu',), "
  "'tanh' of jax.nn.gelu, 'max' of jnp.maximum(x, 0), or that of your own under jax.jit"
)


class PartialObservation(Observation):
  """An observation of which a part may be missing; whoever asks for that is told why.

  Attributes:
    missing: why the features are, and why the agreement is.
  """

  missing: tuple[str, str] = (_NO_POOLING, _NO_ACTIVATIONS)

  @property
  def features(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
    """As `base.Observation`."""
    return _there(self[0], self.missing[0])

  @property
  def agreement(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
    """As `base.Observation`."""
    return _there(self[1], self.missing[1])


def _there(value: Array | None, missing: str) -> Array:
  if value is None:
    raise ConfigError(missing)
  return value


@dataclasses.dataclass(frozen=True)
class Survey:
  """What is known of a model from one pass.

  Attributes:
    classes: K.
    norms: the paths of its batch normalisations.
    repeated: those that are called more than once.
    others: how many normalisations within samples it has, by type.
    layers: the paths of the linear layers, and how many channels each gives.
    tokens: shape and dtype of one sample's integers, of a model with a named embedding.
    macs: multiply-adds of one sample's pass.
  """

  classes: int
  norms: tuple[str, ...]
  repeated: tuple[str, ...]
  others: Mapping[str, int]
  layers: Mapping[str, int]
  tokens: jax.ShapeDtypeStruct | None
  macs: int


@dataclasses.dataclass(frozen=True, eq=False)
class ModelNetwork:
  """`base.Single` of a model; made by `adapt.as_network`. Equal to itself only.

  Attributes:
    call: the model.
    layout: where its parameters are in the trees of this network.
    survey: what it has.
    activations: the names of functions whose inputs' signs are observed.
    asked: the modes that passes were asked for since somebody cleared it.
  """

  call: Call
  layout: ParameterLayout
  survey: Survey
  activations: tuple[str, ...]
  asked: set[Mode] = dataclasses.field(default_factory=set)

  rows_on_cpu: ClassVar[int] = 8

  @property
  def classes(self) -> int:
    """As `base.Network`."""
    return self.survey.classes

  def encode(self, codes: Int[np.ndarray, "A L"]) -> np.ndarray:
    """As `base.Parametrised`: there is nothing to choose."""
    return np.zeros((len(codes), 0), np.int32)

  def init(self, key: Array) -> PyTree:
    """The parameters that the model came with, whatever the key."""
    del key
    return self.layout.tree(self.call.params)

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """As `base.Parametrised`."""
    del arch
    return params

  def embed(self, params: PyTree, inputs: Array) -> Array:
    """As `base.Network`: the inputs, or what the model's embedding gives for integers."""
    if self.survey.tokens is None:
      return inputs
    hooks = Hooks()
    self.call(self.layout.own(params), self.call.stats, inputs, hooks)
    return hooks.embedding

  def apply(
    self,
    params: PyTree,
    inputs: Array,
    arch: Array,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """As `base.Network`. What is in the model beside normalisations is as the model has it in evaluation."""
    del arch, rows
    passes.begin(mode, collect, stats, able=ABLE)
    self.asked.add(mode)
    if self.survey.repeated and (mode == "running" or "stats" in collect):
      raise ConfigError(
        f"model: the batch normalisation {self.survey.repeated[0]!r} is called several times; one set of statistics "
        "cannot stand for all its calls: give each call a module of its own"
      )
    paths = self.layout.kernels()
    factors = {paths[name]: gate for name, gate in (gates or {}).items()}
    given = self.call.stats if stats is None else stats
    arguments = self.layout.own(params), given, inputs
    correlates = "correlation" in collect
    if factors:
      self._check_layers(mode, arguments)
    program = functools.partial(self._pass, Hooks(mode, factors, correlates=correlates))
    if {"observation", "patterns"} & set(collect):
      twin = self._twin(lambda kwargs: Hooks(mode, correlates=correlates, kwargs=kwargs), arguments)
      shown = ModelProgram(program, *arguments).run(*arguments, inputs=inputs, twin=twin, names=self.activations)
    else:
      shown = Shown(program(*arguments), (), None, None)
    logits, seen, correlations = shown.outputs
    return Output(
      logits,
      stats=seen if "stats" in collect else None,
      correlation=_correlation(correlations) if "correlation" in collect else None,
      observation=self._observation(shown, seen) if "observation" in collect else None,
      patterns=_patterns(shown) if "patterns" in collect else None,
    )

  def _pass(self, hooks: Hooks, params: PyTree, stats: PyTree, inputs: Array) -> tuple[Any, PyTree, list[Array]]:
    """(logits, statistics, what was found of correlations)."""
    tokens = self.survey.tokens
    if tokens is not None:
      hooks.embedded, inputs = inputs, jnp.zeros((len(inputs), *tokens.shape), tokens.dtype)
    logits, seen = self.call(params, stats, inputs, hooks)
    if logits.shape != (len(inputs), self.classes):
      raise ConfigError(
        f"model: its outputs are of shape {logits.shape} for inputs of shape {inputs.shape}; expected "
        f"{(len(inputs), self.classes)}; arrays with a row for each of the batch, as of apply_kwargs, fit no other"
      )
    return logits, seen, hooks.correlations

  def _twin(
    self, hooks: Callable[[Mapping[str, Any]], Hooks], arguments: tuple[PyTree, PyTree, Array]
  ) -> ModelProgram | str:
    """The pass of twice as many samples, or why there is none; `hooks` by the model's keyword arguments."""
    params, stats, inputs = arguments
    many = jax.ShapeDtypeStruct((2 * len(inputs), *inputs.shape[1:]), inputs.dtype)

    def trace(kwargs):
      return ModelProgram(functools.partial(self._pass, hooks(kwargs)), params, stats, many)

    return twin_of(trace, self.call.kwargs, len(inputs))

  def _check_layers(self, mode: Mode, arguments: tuple[PyTree, PyTree, Array]) -> None:
    """ConfigError where samples are not the first axis of all that linear layers give, which factors go on."""
    samples, own, wide = len(arguments[2]), Hooks(mode), Hooks(mode)

    def of_twin(kwargs):
      nonlocal wide
      wide = Hooks(mode, kwargs=kwargs)
      return wide

    jax.eval_shape(functools.partial(self._pass, own), *arguments)
    why = self._twin(of_twin, arguments)
    if not isinstance(why, str):
      pairs = zip(own.shapes, wide.shapes, strict=False)
      wrong = [path for (path, one), (_, two) in pairs if (samples, *two[1:]) != one or two[0] != 2 * samples]
      why = f"samples are not the first axis of what {wrong[0]!r} gives" if wrong else None
    if why:
      raise ConfigError(f"gates of single layers: {why}")

  def _observation(self, shown: Shown, stats: PyTree) -> Observation:
    agreement = [_OBSERVING.agreement(x) for x in shown.activations]
    variances = {"/".join(names_of(path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(stats)}
    deviation = jnp.zeros((), jnp.float32)
    for path in self.survey.norms:
      variance = variances[f"{path}/var" if path else "var"]
      each = jax.vmap(_log_deviation)(variance).sum() if variance.ndim > 1 else _log_deviation(variance)
      deviation = deviation.astype(each.dtype) + each
    pooled = None if isinstance(shown.pooled, str) else shown.pooled
    agreed = sum(agreement[1:], agreement[0]) if agreement and not shown.lost else None
    observation = PartialObservation(cast(Any, pooled), cast(Any, agreed), deviation)
    unpooled = f"what is pooled: {shown.pooled}" if isinstance(shown.pooled, str) else _NO_POOLING
    observation.missing = unpooled, _NO_ACTIVATIONS if shown.lost is None else _lost(shown.lost)
    return observation

  def executed(self, arch: Array) -> PyTree:
    """As `base.Single`: all."""
    del arch
    tree = jax.eval_shape(self.init, jax.random.key(0))

    def ones(path, leaf):
      return jnp.ones(leaf.shape[:1] if path[0].key in self.layout.stacked else (), jnp.float32)

    return jax.tree_util.tree_map_with_path(ones, tree)

  def used_channels(self, arch: Array) -> None:
    """As `base.Single`: always all."""
    del arch

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " layers"]:
    """As `base.Single`.

    Raises:
      ConfigError: the model has no parameter that is a kernel by its name.
    """
    if not self.layout.kernels():
      raise ConfigError("model: no parameter is called 'kernel'; say which are, as in roles={'my_weight': 'kernel'}")
    return by_layer(fn, trees, lambda names: names[0] in self.layout.stacked)

  def gates(self, samples: int) -> PyTree:
    """As `base.Single`; of linear layers of Flax.

    Raises:
      ConfigError: there is no such layer, or none that gives the logits, or layers in `nn.scan`, or other kernels.
    """
    paths = self.layout.kernels()
    if CLASSIFIER not in paths or self.layout.stacked:
      why = "has layers that nn.scan stacks" if self.layout.stacked else "does not end with a linear layer of Flax"
      raise ConfigError(f"gates of single layers: {self.call.kind} that {why} has none")
    other = [path for path in paths.values() if path not in self.survey.layers]
    if other:
      where = repr(other[0]) if other[0] else "the model itself"
      raise ConfigError(f"gates of single layers: {where} has a kernel and is no linear layer of Flax that is called")
    found = {name: path for name, path in paths.items() if name != CLASSIFIER}
    return {name: jnp.ones((samples, self.survey.layers[path])) for name, path in found.items()}

  def costs(self, arch: Array, image_size: int = 32) -> Costs:
    """As `base.Single`: all parameters, and the multiply-adds of an input of the size that the network was made for."""
    del arch, image_size
    params = sum(leaf.size for leaf in jax.tree.leaves(self.call.params))
    return Costs(jnp.asarray(params, jnp.float32), jnp.asarray(self.survey.macs, jnp.float32))

  def why_coupled(self, inputs: Array) -> str | None:
    """Why samples cannot be taken one at a time with constant statistics, if they cannot."""
    params = self.init(jax.random.key(0))

    def f(params, x):
      return self.apply(params, self.embed(params, x), jnp.zeros(0), "batch_frozen").logits

    if self.survey.norms or len(inputs) == 1:  # what couples them is known, and constant
      return None
    try:
      ntk.check_independence(f, params, inputs[:4])
    except ConfigError as error:
      return f"{self.call.kind}: {error}"
    return None


def _log_deviation(variance: Array) -> Array:
  observed = _OBSERVING.of_bn(variance, (variance, variance)).observed
  assert observed is not None
  return observed[1]


def _lost(why: str) -> str:
  return f"where the samples are in what an activation is given is not known: {why}"


def _patterns(shown: Shown) -> Array:
  if shown.lost is not None:
    raise ConfigError(_lost(shown.lost))
  if not shown.activations:
    raise ConfigError(_NO_ACTIVATIONS)
  return jnp.concatenate([x > 0 for x in shown.activations], 1)


def _correlation(found: list[Array]) -> Array:
  if not found:
    raise ConfigError("no batch normalisation was found in the model; name the types of yours: batch_norms=(MyNorm,)")
  return sum(found[1:], found[0])
