"""A function as a list of equations: where each parameter enters it, and its run with zeros added to some results.

With `models/program.py` the only file that uses `jax.extend.core`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PyTree

# Calls whose bodies count as part of the program, and the parameter that holds the body. Others, such as loops and
# functions with derivatives of their own, are single equations.
_INLINED = {
  "jit": "jaxpr", "pjit": "jaxpr", "checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr",
  "closed_call": "call_jaxpr", "core_closed_call": "call_jaxpr", "call": "call_jaxpr", "core_call": "call_jaxpr",
}  # fmt: skip
_REARRANGING = ("reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy", "broadcast_in_dim")


class Factor(NamedTuple):
  """A number, by the equation that multiplies with it or divides by it, and which of its operands it is."""

  step: int
  operand: int
  divides: bool


class Use(NamedTuple):
  """An equation that reads a parameter, perhaps rearranged.

  Attributes:
    primitive: its name; "" where the parameter is an output of the program.
    step: its number in the program.
    operand: which of its operands the parameter is.
    operands, result: shapes and dtypes.
    params: of the equation.
    way: how the parameter was rearranged before.
    factors: the numbers that it was multiplied with on that way.
  """

  primitive: str
  step: int = -1
  operand: int = 0
  operands: Sequence[Any] = ()
  result: Any = None
  params: Mapping[str, Any] = {}
  way: tuple[str, ...] = ()
  factors: tuple["Factor", ...] = ()

  def is_like(self, other: "Use") -> bool:
    """Whether the elements of the parameter mean the same in both, which are of known products."""
    own, others = (
      (use.primitive, use.operand, use.params, use.way, use.operands[use.operand].shape) for use in (self, other)
    )
    return own == others


class _Origin(NamedTuple):
  """A value that is a parameter, perhaps rearranged or times numbers; `way` and `factors` as of `Use`."""

  leaf: int
  way: tuple[str, ...] = ()
  factors: tuple["Factor", ...] = ()


class Program:
  """`fn(leaves, *others)`, traced once for arguments of these shapes."""

  def __init__(self, fn: Callable[..., PyTree], leaves: Sequence[Any], *others: PyTree):
    self._closed: ClosedJaxpr
    self._closed, shapes = jax.make_jaxpr(fn, return_shape=True)(list(leaves), *others)
    self._outputs = jax.tree.structure(shapes)
    self.shapes = jax.tree.leaves(shapes)

  def uses(self, count: int) -> list[list[Use]]:
    """For each of the first `count` arguments, all of them arrays, the equations that read it."""
    found: list[list[Use]] = [[] for _ in range(count)]
    numbers = iter(range(1 << 62))

    def walk(jaxpr: Jaxpr, origins: Sequence[_Origin | None]) -> list[_Origin | None]:
      env = {var: origin for var, origin in zip(jaxpr.invars, origins, strict=True) if origin is not None}

      def origin(var: Any) -> _Origin | None:
        return None if isinstance(var, Literal) else env.get(var)

      for equation in jaxpr.eqns:
        sources = [origin(var) for var in equation.invars]
        if body := _body(equation):
          results = walk(body[0], sources)
          env |= {v: o for v, o in zip(equation.outvars, results, strict=True) if o is not None}
          continue
        step = next(numbers)
        for operand, source in enumerate(sources):
          if source is None:
            continue
          twice = sum(other is not None and other.leaf == source.leaf for other in sources) > 1
          factor = None if twice else _factor(equation, step, operand)
          if _rearranges(equation):
            name = f"{equation.primitive.name} {equation.params}"
            env[equation.outvars[0]] = source._replace(way=(*source.way, name))
          elif factor is not None:
            env[equation.outvars[0]] = source._replace(factors=(*source.factors, factor))
          else:
            found[source.leaf].append(_use(equation, step, operand, source))
      return [origin(var) for var in jaxpr.outvars]

    others = len(self._closed.jaxpr.invars) - count
    for source in walk(self._closed.jaxpr, [*map(_Origin, range(count)), *[None] * others]):
      if source is not None:
        found[source.leaf].append(Use(""))
    return found

  def elements(self) -> int:
    """How many numbers all equations give together."""

    def walk(jaxpr: Jaxpr) -> int:
      bodies = [(equation, _body(equation)) for equation in jaxpr.eqns]
      return sum(walk(body[0]) if body else sum(v.size for v in _avals(e.outvars)) for e, body in bodies)

    return walk(self._closed.jaxpr)

  def run(
    self, leaves: Sequence[Any], *others: PyTree, zeros: Mapping[int, Array], noted: Collection[int] = ()
  ) -> tuple[list[Any], dict[int, list[Any]]]:
    """The outputs, with `zeros[step]` added to what an equation gives, and the operands of those and `noted` ones."""
    numbers = iter(range(1 << 62))
    operands: dict[int, list[Any]] = {}

    def walk(jaxpr: Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
      env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, values, strict=True))
      for equation in jaxpr.eqns:
        inputs = [var.val if isinstance(var, Literal) else env[var] for var in equation.invars]
        if body := _body(equation):
          results = walk(body[0], body[1], inputs)
        else:
          results = _evaluate(equation, inputs)
          step = next(numbers)
          if step in zeros or step in noted:
            operands[step] = inputs
          if step in zeros:
            results = [results[0] + zeros[step]]
        env |= dict(zip(equation.outvars, results, strict=True))
      return [jnp.asarray(v.val, _avals([v])[0].dtype) if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]

    arguments = jax.tree.leaves((list(leaves), *others))
    return walk(self._closed.jaxpr, self._closed.consts, arguments), operands


def _body(equation: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
  """The body of a call that counts as part of the program, and its constants."""
  key = _INLINED.get(equation.primitive.name)
  if key is None:
    return None
  body = equation.params[key]
  return (body.jaxpr, body.consts) if isinstance(body, ClosedJaxpr) else (body, ())


def _evaluate(equation: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
  """The results of an equation."""
  bound = equation.primitive.get_bind_params(equation.params)
  if isinstance(bound, tuple):  # older JAX: the functions that it calls come first
    inputs, bound = [*bound[0], *inputs], bound[1]
  results = equation.primitive.bind(*inputs, **bound)
  return list(results) if equation.primitive.multiple_results else [results]


def _rearranges(equation: JaxprEqn) -> bool:
  """Whether the result has the elements of the first operand and no others, each once."""
  if equation.primitive.name not in _REARRANGING:
    return False
  before, after = _avals(equation.invars)[0], _avals(equation.outvars)[0]
  return before.size == after.size and jnp.issubdtype(after.dtype, jnp.floating)


def _factor(equation: JaxprEqn, step: int, operand: int) -> Factor | None:
  """What the operand is multiplied with, or divided by, if that is one number."""
  name = equation.primitive.name
  if name != "mul" and (name, operand) != ("div", 0):
    return None
  own, other, result = (
    _avals(equation.invars)[operand],
    _avals(equation.invars)[1 - operand],
    _avals(equation.outvars)[0],
  )
  return Factor(step, 1 - operand, name == "div") if other.size == 1 and own.shape == result.shape else None


def _use(equation: JaxprEqn, step: int, operand: int, source: _Origin) -> Use:
  operands, results = _avals(equation.invars), _avals(equation.outvars)
  return Use(equation.primitive.name, step, operand, operands, results[0], equation.params, source.way, source.factors)


def _avals(variables: Sequence[Any]) -> list[Any]:
  """Shapes and dtypes."""
  return [variable.aval for variable in variables]
