"""What networks are written over: `node`, the sum that enters a node, and `take`, the source that one chose.

A choice decides the way in which an edge is computed:

  static   an int               that operation, and no other is in the program
  switch   int32 [], data       `choose`: an architecture costs what its own operations cost
  dispatch the same, under `jax.vmap` over architectures: see `choose.capacities`
  mix      float [O], weights   all operations of all edges, by the `mix` of the operations

The node is the unit, because that is where operations are fused: see `layers.conv_bn_sum`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.nets.choose import choose

Branch = Callable[[Any, PyTree], tuple[Array, Any]]
"""(source, what the edge is given) -> (maps, what the operation shows), of one form for all operations."""

Choices = tuple[int, ...] | Int[Array, " _"] | Float[Array, "_ O"]


@runtime_checkable
class Choosable(Protocol):
  """The operations of a space in one pass."""

  @property
  def branches(self) -> Sequence[Branch]:
    """Each operation, in the order of the space's columns."""
    ...

  def mix(self, sources: Sequence[Any], weights: Float[Array, "e O"], given: Sequence[PyTree]) -> tuple[Array, list]:
    """The sum over all edges and operations, and what each edge shows."""
    ...


def node(
  operations: Choosable, sources: Sequence[Any], choices: Choices, given: Sequence[PyTree]
) -> tuple[Array, list[Any]]:
  """The sum over the sources, each through the operation that its edge chose, and what each edge shows.

  Args:
    sources: maps of one shape (for `mix`: as the operations take them).
    choices: of each edge.
    given: parameters and statistics of each edge.
  """
  if not isinstance(choices, tuple) and jnp.issubdtype(choices.dtype, jnp.floating):
    return operations.mix(sources, choices, given)
  shown = []
  if isinstance(choices, tuple):
    total = None
    for x, choice, own in zip(sources, choices, given, strict=True):
      y, seen = operations.branches[choice](x, own)
      total = y if total is None else total + y
      shown.append(seen)
    assert total is not None
    return total, shown
  total = jnp.zeros_like(sources[0])
  for x, choice, own in zip(sources, choices, given, strict=True):
    total, seen = choose(operations.branches, choice, x, own, so_far=total)
    shown.append(seen)
  return total, shown


def pull_node(
  operations: Choosable,
  sources: Sequence[Array],
  choices: Choices,
  given: Sequence[PyTree],
  cotangent: tuple[Array, Sequence[Any]],
  so_far: Sequence[Array | None],
) -> tuple[list[Array], list[PyTree]]:
  """The pull-back of `node` in way `switch`, which computes the operations again and so needs only the sources kept.

  The automatic one keeps what every operation of the edge might need.

  Args:
    cotangent: of what `node` returned.
    so_far: cotangents of the sources that come from other nodes; None: none yet.

  Returns:
    Those of the sources with what this node adds, and those of `given`.
  """
  d_sources, d_given = [], []
  for e, (x, own, seen, before) in enumerate(zip(sources, given, cotangent[1], so_far, strict=True)):
    dx, d_own = pull_edge(operations, jnp.asarray(choices[e]), x, own, (cotangent[0], seen), before)
    d_sources.append(dx)
    d_given.append(d_own)
  return d_sources, d_given


def pull_edge(
  operations: Choosable, choice: Int[Array, ""], x: Array, given: PyTree, cotangent: Any, so_far: Array | None
) -> tuple[Array, PyTree]:
  """`pull_node` of one edge: the cotangents of its source, with what is `so_far`, and of what it is given."""
  return choose([_pulling(branch) for branch in operations.branches], choice, x, given, cotangent, so_far=so_far)


def _pulling(branch: Branch):
  def pull(x, own, cotangent):
    return jax.vjp(branch, x, own)[1](cotangent)

  return pull


def take(states: Sequence[Any] | Array, which: int | Int[Array, ""]) -> Any:
  """The state that an architecture chose, of states of one shape."""
  if isinstance(which, int):
    return states[which]
  stacked = states if isinstance(states, jax.Array) else jnp.stack(states)
  return lax.dynamic_index_in_dim(stacked, which, 0, keepdims=False)
