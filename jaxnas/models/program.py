"""A model's pass as a list of equations: its activations and pooled maps, its multiply-adds, the order of parameters.

Flax's ReLU is a function and no module, so activations are found by the names that functions have in the program that
JAX records: "relu" of `jax.nn.relu`, the name of any function of a user's under `jax.jit`, or that of a primitive,
"max". Like `ntk._program`, this file uses `jax.extend.core`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError

_CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2", "closed_call", "core_call", "call")  # always written out
_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")  # written out if activations are inside
_CARRYING = ("reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "expand_dims", "transpose", "copy")


class Shown(NamedTuple):
  """What a pass shows.

  Attributes:
    outputs: what the function returned, a tree.
    activations: what each activation function was given, samples first.
    pooled: the maps that the last global average pooling was given, [N, H, W, C] or [N, tokens, 1, C]; None: there is
      no such pooling.
  """

  outputs: PyTree
  activations: tuple[Array, ...]
  pooled: Array | None


class ModelProgram:
  """`fn(*arguments)`, traced once for arguments of these shapes."""

  def __init__(self, fn: Callable[..., PyTree], *arguments: PyTree):
    self.closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*arguments)
    self.shapes = shapes

  def run(self, *arguments: PyTree, samples: int, names: Collection[str]) -> Shown:
    """The pass, with what functions of these names and the pooling are given.

    Raises:
      ConfigError: such a function inside of `lax.cond` or `lax.while_loop`.
    """
    walk = _Walk(samples, frozenset(names))
    values = walk.through(self.closed.jaxpr, self.closed.consts, jax.tree.leaves(arguments))
    outputs = jax.tree.unflatten(jax.tree.structure(self.shapes), values)
    return Shown(outputs, tuple(walk.activations), walk.pooled)

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
    self.pooled: Array | None = None

  def through(self, jaxpr: Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The outputs of a (part of the) program."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, values, strict=True))
    for equation in jaxpr.eqns:
      inputs = [var.val if isinstance(var, Literal) else env[var] for var in equation.invars]
      env |= dict(zip(equation.outvars, self._results(equation, inputs), strict=True))
    return [var.val if isinstance(var, Literal) else env[var] for var in jaxpr.outvars]

  def _results(self, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    name, bodies = equation.primitive.name, _bodies(equation)
    if self._is_activation(equation):
      given = next((x for x in inputs if jnp.ndim(x)), None)  # max(0, x) has the number first
      if given is not None and given.shape[0] and given.shape[0] % self.samples == 0:
        self.activations.append(given.reshape(self.samples, -1))
    elif bodies and (name in _CALLS or (name in _DERIVATIVES and self._holds(bodies[0].jaxpr))):
      return self.through(bodies[0].jaxpr, bodies[0].consts, inputs)
    elif name == "scan" and self._holds(bodies[0].jaxpr):
      return self._scan(equation, bodies[0], inputs)
    elif any(self._holds(body.jaxpr) for body in bodies):
      raise ConfigError(f"activations={sorted(self.names)}: one is inside of lax.{name}, where it cannot be seen")
    self._note_pooling(equation, inputs)
    bound = equation.primitive.get_bind_params(equation.params)
    if isinstance(bound, tuple):  # older JAX: the functions that it calls come first
      inputs, bound = [*bound[0], *inputs], bound[1]
    results = equation.primitive.bind(*inputs, **bound)
    return list(results) if equation.primitive.multiple_results else [results]

  def _is_activation(self, equation: JaxprEqn) -> bool:
    if equation.params.get("name", equation.primitive.name) in self.names:
      return True
    bodies = _bodies(equation) if equation.primitive.name in _DERIVATIVES else []
    return any(len(body.jaxpr.eqns) == 1 and self._is_activation(body.jaxpr.eqns[0]) for body in bodies)

  def _holds(self, jaxpr: Jaxpr) -> bool:
    return any(self._is_activation(e) or any(self._holds(b.jaxpr) for b in _bodies(e)) for e in jaxpr.eqns)

  def _scan(self, equation: JaxprEqn, body: ClosedJaxpr, inputs: list[Any]) -> list[Any]:
    """A loop whose steps also return what their activations are given."""
    constants, carried = equation.params["num_consts"], equation.params["num_carry"]
    fixed, start, rows = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

    def step(carry, row):
      walk = _Walk(self.samples, self.names)
      values = walk.through(body.jaxpr, body.consts, [*fixed, *carry, *row])
      return values[:carried], (values[carried:], walk.activations)

    settings = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    end, (stacked, seen) = lax.scan(step, list(start), list(rows), **settings)
    self.activations += [jnp.moveaxis(x, 0, 1).reshape(self.samples, -1) for x in seen]
    return [*end, *stacked]

  def _note_pooling(self, equation: JaxprEqn, inputs: list[Any]) -> None:
    """A sum over all pixels [N, H, W, C], or over all tokens [N, T, C]; the last one wins."""
    name, x = equation.primitive.name, inputs[0] if inputs else None
    if name not in ("reduce_sum", "reduce_window_sum") or x is None or jnp.shape(x)[0] != self.samples:
      return
    if name == "reduce_window_sum":
      whole = x.ndim == 4 and _result(equation).shape == (x.shape[0], 1, 1, x.shape[3])
    else:
      whole = (x.ndim, tuple(equation.params["axes"])) in ((4, (1, 2)), (3, (1,)))
    if whole:
      self.pooled = x if x.ndim == 4 else x[:, :, None]


def _result(equation: JaxprEqn) -> Any:
  """Shape and dtype of the first result."""
  return equation.outvars[0].aval


def _bodies(equation: JaxprEqn) -> list[ClosedJaxpr]:
  """The programs that an equation calls."""
  return list(_programs(equation.params.values()))


def _programs(values: Any) -> Iterator[ClosedJaxpr]:
  for value in values:
    if isinstance(value, ClosedJaxpr):
      yield value
    elif isinstance(value, Jaxpr):
      yield ClosedJaxpr(value, ())
    elif isinstance(value, tuple | list):
      yield from _programs(value)


def _uses(jaxpr: Jaxpr, labels: Sequence[int | None]) -> Iterator[int]:
  """The labels of arguments as equations use them."""
  known = {var: label for var, label in zip(jaxpr.invars, labels, strict=False) if label is not None}
  for equation in jaxpr.eqns:
    used = [None if isinstance(var, Literal) else known.get(var) for var in equation.invars]
    for body in _bodies(equation):
      if len(body.jaxpr.invars) == len(used):
        yield from _uses(body.jaxpr, used)
    yield from (label for label in used if label is not None)


def _multiply_adds(jaxpr: Jaxpr, origins: Sequence[int | None]) -> tuple[int, list[int | None]]:
  """Of a (part of the) program, and which of its results are one of the biases, moved or spread out."""
  env = dict(zip(jaxpr.invars, origins, strict=True))
  total = 0
  for equation in jaxpr.eqns:
    name, bodies = equation.primitive.name, _bodies(equation)
    sources = [None if isinstance(var, Literal) else env.get(var) for var in equation.invars]
    if name in ("dot_general", "conv_general_dilated"):
      total += _result(equation).size * _terms(equation)
    elif name == "add" and any(source is not None for source in sources):
      total += _result(equation).size
    elif name in _CARRYING:
      env[equation.outvars[0]] = sources[0]
    elif bodies:
      fitting = [b for b in bodies if len(b.jaxpr.invars) == len(sources)]
      counts = [_multiply_adds(b.jaxpr, sources) for b in fitting]
      counts += [_multiply_adds(b.jaxpr, [None] * len(b.jaxpr.invars)) for b in bodies if b not in fitting]
      total += max(count for count, _ in counts) * equation.params.get("length", 1)  # of branches the costliest
      if fitting and name in (*_CALLS, *_DERIVATIVES):
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
