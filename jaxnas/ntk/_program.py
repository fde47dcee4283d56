"""A function as a list of equations: where each parameter enters it, and its run with zeros added to some results.

The only file that uses `jax.extend.core`.
"""

from collections.abc import Callable, Mapping, Sequence
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


class Use(NamedTuple):
  """An equation that reads a parameter, perhaps rearranged.

  Attributes:
    primitive: its name; "" where the parameter is an output of the program.
    step: its number in the program.
    operand: which of its operands the parameter is.
    operands, result: shapes and dtypes.
    params: of the equation.
  """

  primitive: str
  step: int = -1
  operand: int = 0
  operands: Sequence[Any] = ()
  result: Any = None
  params: Mapping[str, Any] = {}


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

    def walk(jaxpr: Jaxpr, origins: Sequence[int | None]) -> list[int | None]:
      env = {var: origin for var, origin in zip(jaxpr.invars, origins, strict=True) if origin is not None}

      def origin(var: Any) -> int | None:
        return None if isinstance(var, Literal) else env.get(var)

      for equation in jaxpr.eqns:
        sources = [origin(var) for var in equation.invars]
        if body := _body(equation):
          results = walk(body[0], sources)
          env |= {v: o for v, o in zip(equation.outvars, results, strict=True) if o is not None}
          continue
        step = next(numbers)
        for operand, leaf in enumerate(sources):
          if leaf is None:
            continue
          if _rearranges(equation):
            env[equation.outvars[0]] = leaf
          else:
            found[leaf].append(_use(equation, step, operand))
      return [origin(var) for var in jaxpr.outvars]

    others = len(self._closed.jaxpr.invars) - count
    for leaf in walk(self._closed.jaxpr, [*range(count), *[None] * others]):
      if leaf is not None:
        found[leaf].append(Use(""))
    return found

  def elements(self) -> int:
    """How many numbers all equations give together."""

    def walk(jaxpr: Jaxpr) -> int:
      bodies = [(equation, _body(equation)) for equation in jaxpr.eqns]
      return sum(walk(body[0]) if body else sum(v.size for v in _avals(e.outvars)) for e, body in bodies)

    return walk(self._closed.jaxpr)

  def run(
    self, leaves: Sequence[Any], *others: PyTree, zeros: Mapping[int, Array]
  ) -> tuple[list[Any], dict[int, list[Any]]]:
    """The outputs, with `zeros[step]` added to what an equation gives, and the operands of those equations."""
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
          if step in zeros:
            operands[step] = inputs
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


def _use(equation: JaxprEqn, step: int, operand: int) -> Use:
  operands, results = _avals(equation.invars), _avals(equation.outvars)
  return Use(equation.primitive.name, step, operand, operands, results[0], equation.params)


def _avals(variables: Sequence[Any]) -> list[Any]:
  """Shapes and dtypes."""
  return [variable.aval for variable in variables]
