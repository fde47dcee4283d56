"""A model's pass as a list of equations: its activations and pooled maps, its multiply-adds, the order of parameters.

Flax's ReLU is a function and no module, so activations are found by the names that functions have in the program that
JAX records: "relu" of `jax.nn.relu`, the name of any function of a user's under `jax.jit`, or that of a primitive,
"max". Like `ntk._program`, this file uses `jax.extend.core`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.models.samples import (
  CALLS,
  DERIVATIVES,
  Lost,
  Place,
  Samples,
  State,
  bodies,
  constants,
  states_of,
  why_not_twins,
)

_CARRYING = ("reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "expand_dims", "transpose", "copy")


class Shown(NamedTuple):
  """What a pass shows.

  Attributes:
    outputs: what the function returned, a tree.
    activations: what each activation function was given, [N, units] each; those that no sample enters are left out.
    lost: why it is not known where the samples are in what one of them was given; None: it is.
    pooled: the maps that the last global average pooling was given, [N, H, W, C] or [N, tokens, 1, C]; a text: why it
      is not known where the samples are in them; None: there is no such pooling.
  """

  outputs: PyTree
  activations: tuple[Array, ...]
  lost: str | None
  pooled: Array | str | None


class ModelProgram:
  """`fn(*arguments)`, traced once for arguments of these shapes."""

  def __init__(self, fn: Callable[..., PyTree], *arguments: PyTree):
    self.closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*arguments)
    self.shapes = shapes

  def run(self, *arguments: PyTree, inputs: Array, twin: "ModelProgram | str", names: Collection[str]) -> Shown:
    """The pass, with what functions of these names and the pooling are given.

    Args:
      inputs: that one of the arguments which has the samples, [N, ...].
      twin: the program for twice as many, or why there is none.

    Raises:
      ConfigError: such a function inside of `lax.cond` or `lax.while_loop`.
    """
    leaves, own = jax.tree.leaves(arguments), self.closed.jaxpr
    other = own if isinstance(twin, str) else twin.closed.jaxpr
    why = twin if isinstance(twin, str) else why_not_twins(own, other)
    start = Place(0) if why is None else Lost(why)
    walk = _Walk(len(inputs), frozenset(names))
    states = [start if leaf is inputs else None for leaf in leaves]
    values, _ = walk.through(own, other if why is None else own, self.closed.consts, leaves, states)
    outputs = jax.tree.unflatten(jax.tree.structure(self.shapes), values)
    return Shown(outputs, tuple(walk.activations), walk.lost, walk.pooled)

  def order(self, count: int) -> list[int]:
    """The first `count` arguments in the order in which they are used; unused ones last."""
    found = list(dict.fromkeys(_uses(self.closed.jaxpr, [*range(count)])))
    return found + [i for i in range(count) if i not in found]

  def multiply_adds(self, biases: Collection[int]) -> int:
    """Of all convolutions and products, and of the additions of those arguments, which are biases of linear layers."""
    origins = [i if i in biases else None for i in range(len(self.closed.jaxpr.invars))]
    return _multiply_adds(self.closed.jaxpr, origins)[0]


class _Walk:
  """One evaluation of a program, and what was found in it."""

  def __init__(self, samples: int, names: frozenset[str]):
    self.samples, self.names = samples, names
    self.activations: list[Array] = []
    self.lost: str | None = None
    self.pooled: Array | str | None = None
    self._follow = Samples(samples)

  def through(
    self, jaxpr: Jaxpr, twin: Jaxpr, consts: Sequence[Any], values: Sequence[Any], states: Sequence[State]
  ) -> tuple[list[Any], list[State]]:
    """The outputs of a (part of the) program, and where samples are in them."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, values, strict=True))
    places = constants(jaxpr, twin) | dict(zip(jaxpr.invars, states, strict=True))
    for equation, other in zip(jaxpr.eqns, twin.eqns, strict=True):
      inputs = [var.val if isinstance(var, Literal) else env[var] for var in equation.invars]
      found, own = self._results(equation, other, inputs, states_of(equation.invars, places))
      env |= dict(zip(equation.outvars, found, strict=True))
      places |= dict(zip(equation.outvars, own, strict=True))
    return [var.val if isinstance(var, Literal) else env[var] for var in jaxpr.outvars], states_of(
      jaxpr.outvars, places
    )

  def _results(
    self, equation: JaxprEqn, twin: JaxprEqn, inputs: list[Any], states: list[State]
  ) -> tuple[list[Any], list[State]]:
    name, parts = equation.primitive.name, bodies(equation)
    if self._is_activation(equation):
      self._note_activation(inputs, states)
    elif parts and (name in CALLS or (name in DERIVATIVES and self._holds(parts[0].jaxpr))):
      return self.through(parts[0].jaxpr, bodies(twin)[0].jaxpr, parts[0].consts, inputs, states)
    elif name == "scan" and self._holds(parts[0].jaxpr):
      return self._scan(equation, twin, inputs, states)
    elif any(self._holds(body.jaxpr) for body in parts):
      raise ConfigError(f"activations={sorted(self.names)}: one is inside of lax.{name}, where it cannot be seen")
    self._note_pooling(equation, inputs, states)
    bound = equation.primitive.get_bind_params(equation.params)
    if isinstance(bound, tuple):  # older JAX: the functions that it calls come first
      inputs, bound = [*bound[0], *inputs], bound[1]
    results = equation.primitive.bind(*inputs, **bound)
    found = self._follow.results(equation, twin, states)
    return list(results) if equation.primitive.multiple_results else [results], found

  def _note_activation(self, inputs: list[Any], states: list[State]) -> None:
    """Of the first input that depends on samples: max(0, x) has the number first, a PReLU its slopes."""
    for x, state in zip(inputs, states, strict=True):
      if isinstance(state, Lost):
        self.lost = state.why
      elif state is not None and state.axis is None:
        self.lost = f"it is an array {list(jnp.shape(x))} of all samples together"
      elif state is not None and x.size:
        self.activations.append(state.rows(x, self.samples))
      if state is not None:
        return

  def _is_activation(self, equation: JaxprEqn) -> bool:
    if equation.params.get("name", equation.primitive.name) in self.names:
      return True
    parts = bodies(equation) if equation.primitive.name in DERIVATIVES else []
    return any(len(body.jaxpr.eqns) == 1 and self._is_activation(body.jaxpr.eqns[0]) for body in parts)

  def _holds(self, jaxpr: Jaxpr) -> bool:
    return any(self._is_activation(e) or any(self._holds(b.jaxpr) for b in bodies(e)) for e in jaxpr.eqns)

  def _scan(
    self, equation: JaxprEqn, twin: JaxprEqn, inputs: list[Any], states: list[State]
  ) -> tuple[list[Any], list[State]]:
    """A loop whose steps also return what their activations are given."""
    constants, carried = equation.params["num_consts"], equation.params["num_carry"]
    fixed, start, rows = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]
    (body,), (other,) = bodies(equation), bodies(twin)
    given, found = self._follow.scan(equation, twin, states)

    def step(carry, row):
      walk = _Walk(self.samples, self.names)
      values, _ = walk.through(body.jaxpr, other.jaxpr, body.consts, [*fixed, *carry, *row], given)
      self.lost = walk.lost or self.lost
      return values[:carried], (values[carried:], walk.activations)

    settings = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    end, (stacked, seen) = lax.scan(step, list(start), list(rows), **settings)
    self.activations += [jnp.moveaxis(x, 0, 1).reshape(self.samples, -1) for x in seen]
    return [*end, *stacked], found

  def _note_pooling(self, equation: JaxprEqn, inputs: list[Any], states: list[State]) -> None:
    """A sum over all pixels [N, H, W, C], or over all tokens [N, T, C]; the last one wins."""
    name = equation.primitive.name
    if name not in ("reduce_sum", "reduce_window_sum"):
      return
    x, state = inputs[0], states[0]
    if name == "reduce_window_sum":
      whole = x.ndim == 4 and _result(equation).shape == (x.shape[0], 1, 1, x.shape[3])
    else:
      whole = (x.ndim, tuple(equation.params["axes"])) in ((4, (1, 2)), (3, (1,)))
    if whole and isinstance(state, Lost):
      self.pooled = state.why
    elif whole and state == Place(0) and len(x) == self.samples:
      self.pooled = x if x.ndim == 4 else x[:, :, None]


def _result(equation: JaxprEqn) -> Any:
  """Shape and dtype of the first result."""
  return equation.outvars[0].aval


def _uses(jaxpr: Jaxpr, labels: Sequence[int | None]) -> Iterator[int]:
  """The labels of arguments as equations use them."""
  known = {var: label for var, label in zip(jaxpr.invars, labels, strict=False) if label is not None}
  for equation in jaxpr.eqns:
    used = [None if isinstance(var, Literal) else known.get(var) for var in equation.invars]
    for body in bodies(equation):
      if len(body.jaxpr.invars) == len(used):
        yield from _uses(body.jaxpr, used)
    yield from (label for label in used if label is not None)


def _multiply_adds(jaxpr: Jaxpr, origins: Sequence[int | None]) -> tuple[int, list[int | None]]:
  """Of a (part of the) program, and which of its results are one of the biases, moved or spread out."""
  env = dict(zip(jaxpr.invars, origins, strict=True))
  total = 0
  for equation in jaxpr.eqns:
    name, parts = equation.primitive.name, bodies(equation)
    sources = [None if isinstance(var, Literal) else env.get(var) for var in equation.invars]
    if name in ("dot_general", "conv_general_dilated"):
      total += _result(equation).size * _terms(equation)
    elif name == "add" and any(source is not None for source in sources):
      total += _result(equation).size
    elif name in _CARRYING:
      env[equation.outvars[0]] = sources[0]
    elif parts:
      fitting = [b for b in parts if len(b.jaxpr.invars) == len(sources)]
      counts = [_multiply_adds(b.jaxpr, sources) for b in fitting]
      counts += [_multiply_adds(b.jaxpr, [None] * len(b.jaxpr.invars)) for b in parts if b not in fitting]
      total += max(count for count, _ in counts) * equation.params.get("length", 1)  # of branches the costliest
      if fitting and name in (*CALLS, *DERIVATIVES):
        env |= dict(zip(equation.outvars, counts[0][1], strict=True))
  return total, [None if isinstance(var, Literal) else env.get(var) for var in jaxpr.outvars]


def _terms(equation: JaxprEqn) -> int:
  """How many products are added up in one element of the result."""
  shapes: list[Any] = [var.aval for var in equation.invars]
  left, right = (one.shape for one in shapes)
  if equation.primitive.name == "conv_general_dilated":
    return math.prod(right) // right[equation.params["dimension_numbers"].rhs_spec[0]]
  (contracted, _), _ = equation.params["dimension_numbers"]
  return math.prod(left[axis] for axis in contracted)


def twin_of(
  trace: Callable[[Mapping[str, Any]], ModelProgram], kwargs: Mapping[str, Any], samples: int
) -> ModelProgram | str:
  """The program for twice as many samples, or why there is none.

  Args:
    trace: the program with these keyword arguments of the model in place of its own.
    kwargs: its own. Where the model cannot be called with them, arrays of N rows are repeated.
  """

  def repeated(leaf):
    rows = isinstance(leaf, np.ndarray | jax.Array) and leaf.shape[:1] == (samples,)
    return jnp.concatenate([leaf, leaf]) if rows else leaf

  why = ""
  for given in ({}, jax.tree.map(repeated, dict(kwargs))):
    try:
      return trace(given)
    except Exception as error:  # of the model's own
      text = str(error).strip().splitlines()
      why = why or f"the model cannot be called with twice as many: {type(error).__name__}: {text[0] if text else ''}"
  return why
