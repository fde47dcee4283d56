"""Where the samples are in what a program computes: the axis of every variable that counts them.

A program is compared with its twin, the same model's for twice as many samples: an axis that is twice as long counts
samples. That tells it for every primitive, products and convolutions too, but for the order inside of an axis: what
merges, picks or reorders samples has a rule of its own, and what has none is lost, with the reason.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2", "closed_call", "core_call", "call")
DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class Place(NamedTuple):
  """Where the samples are in an array that depends on them.

  Attributes:
    axis: the one that counts them; None: there is none, as in a mean over the batch.
    outer: how many times they are repeated in this axis, one after the other, as where [T, N] became [T * N].
  """

  axis: int | None
  outer: int = 1

  def rows(self, x: Array, samples: int) -> Array:
    """x as [N, units]."""
    assert self.axis is not None
    before = math.prod(x.shape[: self.axis]) * self.outer
    return jnp.moveaxis(x.reshape(before, samples, x.size // (before * samples)), 1, 0).reshape(samples, -1)


class Lost(NamedTuple):
  """Of an array that depends on the samples in a way that is not known, and why."""

  why: str


State = Place | Lost | None  # None: it does not depend on the samples


class Samples:
  """Follows the samples through equations.

  Args:
    count: how many there are.
  """

  def __init__(self, count: int):
    self.count = count

  def through(self, jaxpr: Jaxpr, twin: Jaxpr, states: Sequence[State]) -> list[State]:
    """The states of the outputs of a (part of the) program."""
    env = constants(jaxpr, twin) | dict(zip(jaxpr.invars, states, strict=True))
    for equation, other in zip(jaxpr.eqns, twin.eqns, strict=True):
      env |= zip(equation.outvars, self.results(equation, other, states_of(equation.invars, env)), strict=True)
    return states_of(jaxpr.outvars, env)

  def results(self, equation: JaxprEqn, twin: JaxprEqn, states: Sequence[State]) -> list[State]:
    """The states of what an equation gives."""
    name, same = equation.primitive.name, len(equation.outvars)
    lost = next((state for state in states if isinstance(state, Lost)), None)
    if lost is not None or not any(states):
      return [lost] * same
    parts = [(own.jaxpr, other.jaxpr) for own, other in zip(bodies(equation), bodies(twin), strict=True)]
    if name == "scan":
      return self.scan(equation, twin, states)[1]
    if parts and name in (*CALLS, *DERIVATIVES):
      return self.through(*parts[0], states)
    return [self._result(equation, states, *pair) for pair in zip(equation.outvars, twin.outvars, strict=True)]

  def scan(self, equation: JaxprEqn, twin: JaxprEqn, states: Sequence[State]) -> tuple[list[State], list[State]]:
    """The states of what the loop's body is given, and of what the loop gives."""
    fixed, carried = equation.params["num_consts"], equation.params["num_carry"]
    if equation.params["length"] != twin.params["length"] and any(states):
      lost = Lost("lax.scan or lax.map has a step for each sample; take jax.vmap")
      return [lost] * len(states), [lost] * len(equation.outvars)
    rows = [_moved(state, -1) for state in states[fixed + carried :]]
    given = [*states[: fixed + carried], *rows]
    while True:
      found = self.through(bodies(equation)[0].jaxpr, bodies(twin)[0].jaxpr, given)
      ends = [_joined(*pair) for pair in zip(given[fixed:], found[:carried], strict=False)]
      if ends == given[fixed : fixed + carried]:
        return given, [*ends, *(_moved(state, 1) for state in found[carried:])]
      given[fixed : fixed + carried] = ends

  def _result(self, equation: JaxprEqn, states: Sequence[State], own: Any, other: Any) -> State:
    name, shape, wide = equation.primitive.name, _shape(own), _shape(other)
    grown = [axis for axis, sizes in enumerate(zip(shape, wide, strict=False)) if sizes[0] != sizes[1]]
    if not grown and len(shape) == len(wide):
      return Place(None)
    if len(grown) > 1 or len(shape) != len(wide) or wide[grown[0]] != 2 * shape[grown[0]]:
      return Lost(f"{name} gives an array {list(shape)} of which no one axis counts the {self.count} samples")
    axis = grown[0]
    if _reorders(equation, states, axis):
      return Lost(f"{name} picks among the {self.count} samples, or changes their order")
    placed = [
      (_shape(var), state.axis, state.outer)
      for var, state in zip(equation.invars, states, strict=True)
      if isinstance(state, Place) and state.axis is not None
    ]
    if name == "reshape" and placed:
      return self._reshaped(*placed[0], shape, axis)
    outers = {outer if before[own] == shape[axis] else 0 for before, own, outer in placed}
    outers = outers or {1 if shape[axis] == self.count else 0}  # what all samples gave, spread out over them
    if len(outers) > 1 or 0 in outers:
      return Lost(f"{name} gives an array {list(shape)} whose axis {axis} counts the {self.count} samples and more")
    return Place(axis, *outers)

  def _reshaped(self, before: Sequence[int], at: int, outer: int, shape: Sequence[int], axis: int) -> State:
    """Samples stay where they are in the order of all elements."""
    outer, rest = divmod(math.prod(before[:at]) * outer, math.prod(shape[:axis]))
    if rest or not outer or shape[axis] % (outer * self.count):
      return Lost(f"reshape of {list(before)} to {list(shape)} mixes the {self.count} samples with another axis")
    return Place(axis, outer)


def why_not_twins(jaxpr: Jaxpr, twin: Jaxpr) -> str | None:
  """What is said of two programs that are not the same but for sizes."""
  pairs = list(zip(jaxpr.eqns, twin.eqns, strict=False))
  inside = [(bodies(own), bodies(other)) for own, other in pairs]
  if (
    len(jaxpr.eqns) != len(twin.eqns)
    or len(jaxpr.constvars) != len(twin.constvars)
    or any(own.primitive is not other.primitive for own, other in pairs)
    or any(len(own) != len(other) for own, other in inside)
  ):
    return "the model computes otherwise for twice as many samples"
  found = (why_not_twins(a.jaxpr, b.jaxpr) for own, other in inside for a, b in zip(own, other, strict=True))
  return next((why for why in found if why), None)


def bodies(equation: JaxprEqn) -> list[ClosedJaxpr]:
  """The programs that an equation calls."""
  return list(_programs(equation.params.values()))


def constants(jaxpr: Jaxpr, twin: Jaxpr) -> dict[Any, State]:
  """Of the arrays that a program holds: those that are twice as long in its twin have a row a sample."""
  sizes = ((var, _shape(var), _shape(other)) for var, other in zip(jaxpr.constvars, twin.constvars, strict=True))
  return {var: None if own == wide else Place(0) for var, own, wide in sizes}


def states_of(variables: Sequence[Any], env: dict[Any, State]) -> list[State]:
  """By variable; of numbers, None."""
  return [None if isinstance(var, Literal) else env[var] for var in variables]


def _programs(values: Any) -> Iterator[ClosedJaxpr]:
  for value in values:
    if isinstance(value, ClosedJaxpr):
      yield value
    elif isinstance(value, Jaxpr):
      yield ClosedJaxpr(value, ())
    elif isinstance(value, tuple | list):
      yield from _programs(value)


def _shape(variable: Any) -> tuple[int, ...]:
  return getattr(variable.aval, "shape", ())


def _moved(state: State, by: int) -> State:
  if not isinstance(state, Place) or state.axis is None:
    return state
  return state._replace(axis=state.axis + by)


def _joined(one: State, other: State) -> State:
  """Of what a loop carries: at its start, and after a step."""
  if isinstance(one, Lost) or other is None or one == other:
    return one
  if one is None or one == Place(None) or isinstance(other, Lost):
    return other
  return one if other == Place(None) else Lost("lax.scan carries the samples in one axis, then in another")


def _reorders(equation: JaxprEqn, states: Sequence[State], axis: int) -> bool:
  """Whether an axis of samples in what an equation gives may have others, or another order, than it was given."""
  name, settings = equation.primitive.name, equation.params
  axes = [state.axis if isinstance(state, Place) else None for state in states]
  first = axes[0] if axes else None
  if name in ("concatenate", "sort"):
    return axis == settings["dimension"]
  if name == "rev":
    return axis in settings["dimensions"]
  if name == "reshape":
    return settings["dimensions"] is not None
  if name.startswith("scatter"):
    return axis in settings["dimension_numbers"].scatter_dims_to_operand_dims
  if name == "dot_general":
    return any(own in contracted for own, contracted in zip(axes, settings["dimension_numbers"][0], strict=True))
  if first is None:
    return False
  if name == "gather":
    whole = settings["slice_sizes"][first] == _shape(equation.invars[0])[first]
    return not whole and first not in settings["dimension_numbers"].operand_batching_dims
  if name == "pad":
    return tuple(settings["padding_config"][first]) != (0, 0, 0)
  return name in ("top_k", "approx_top_k") and first == len(_shape(equation.invars[0])) - 1
