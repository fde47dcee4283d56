"""One cell whose edges each choose their operation by data, with a pull-back that keeps its nodes and nothing else.

The automatic pull-back would keep an input an edge, and what every operation of the edge might need. This one computes
an edge's operation again. Maps are added to a node inside the branch, so that `none` costs no sum with zeros.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.spaces.nb201.encoding import EDGES

Maps = Float[Array, "N H W C"]


def edge_name(edge: tuple[int, int]) -> str:
  return f"edge{edge[0]}_{edge[1]}"


def run_cell(
  branches: Sequence[Callable[[Maps, PyTree], tuple[Maps, Any]]],
  operations: Int[Array, " 6"],
  x: Maps,
  given: dict[str, dict[str, Any] | None],
) -> tuple[Maps, dict[str, Any]]:
  """(output, what each edge shows, by its name).

  Args:
    branches: for each operation the function of (maps, what the edge is given) -> (maps of the same shape, what it
      shows, of one form for all operations).
    operations: which branch each edge takes.
    given: kinds of trees, each by edge name; or None.
  """
  return _run(tuple(branches), operations, x, given)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(branches, operations, x, given):
  return _forward(branches, operations, x, given)[:2]


def _forward(branches, operations, x, given):
  """As `run_cell`, and the nodes before the output."""
  nodes, found = [x, *[jnp.zeros_like(x)] * 3], {}
  adds = [functools.partial(_add, branch) for branch in branches]
  for e, (target, source) in enumerate(EDGES):
    nodes[target], found[edge_name((target, source))] = lax.switch(
      operations[e], adds, nodes[source], _of_edge(e, given), nodes[target]
    )
  return nodes[-1], found, nodes[:-1]


def _save(branches, operations, x, given):
  y, found, nodes = _forward(branches, operations, x, given)
  return (y, found), (operations, nodes, given)


def _pull(branches, saved, cotangent):
  operations, nodes, given = saved
  d_nodes, d_edges = [None, None, None, cotangent[0]], {}
  pulls = [functools.partial(_pull_edge, branch) for branch in branches]
  for e, (target, source) in reversed(list(enumerate(EDGES))):
    name = edge_name((target, source))
    back = (d_nodes[target], cotangent[1][name])
    d_nodes[source], d_edges[name] = lax.switch(
      operations[e], pulls, nodes[source], _of_edge(e, given), back, d_nodes[source]
    )
  d_given = {kind: None if v is None else {name: d_edges[name][kind] for name in v} for kind, v in given.items()}
  return None, d_nodes[0], d_given


_run.defvjp(_save, _pull)


def _of_edge(e, given):
  return {kind: None if v is None else v[edge_name(EDGES[e])] for kind, v in given.items()}


def _add(branch, x, own, so_far):
  """(`so_far` plus the edge's maps, what it shows)."""
  y, found = branch(x, own)
  return so_far + y, found


def _pull_edge(branch, x, own, cotangent, so_far):
  """(`so_far` plus the cotangent of x, that of own)."""
  dx, d_own = jax.vjp(branch, x, own)[1](cotangent)
  return (dx if so_far is None else so_far + dx), d_own
