"""A cell of NAS-Bench-201: four nodes, six edges; a node is the sum over the edges that enter it.

Where each edge chooses its operation by data, the cell has one pull-back, which keeps its nodes and computes the
operations again: the automatic one would keep an input an edge, and what every operation of the edge might need. On a
TPU its edges are a loop over one body, a third of the code; on a CPU that costs a fifth more time (`results/tpu.md`).
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from jaxnas.nets.choose import choose
from jaxnas.nets.node import Choices, node, pull_edge, pull_node, take
from jaxnas.nets.passes import Seen, together
from jaxnas.nets.supernet import EXECUTED
from jaxnas.spaces.nb201.encoding import EDGES, NUM_NODES
from jaxnas.spaces.nb201.operations import Maps, Operations, source_of
from jaxnas.spaces.nb201.parameters import CONVS, edge_name

_NAMES = tuple(edge_name(edge) for edge in EDGES)
_INTO = {target: [e for e, (t, _) in enumerate(EDGES) if t == target] for target in range(1, NUM_NODES)}


def cell(operations: Operations, choices: Choices, x: Maps, given: dict[str, PyTree]) -> tuple[Maps, Seen]:
  """The output of a cell, and what its operations show.

  Args:
    choices: of the six edges: ints, int32 [6], or weights [6, 5].
    given: "params" and "stats" by edge; stats may be None.
  """
  if "patterns" in operations.run.collect:
    nodes, shown = _forward(operations, choices, x, given)
    return nodes[-1], together(shown).plus(_patterns(operations, nodes[:-1], jnp.asarray(choices)))
  if isinstance(choices, tuple) or choices.ndim == 2:
    nodes, shown = _forward(operations, choices, x, given)
    return nodes[-1], together(shown)
  if jax.default_backend() != "tpu":
    y, shown = cast(tuple[Maps, dict[str, Seen]], _switched(operations, choices, x, given))
    return y, together(shown)
  stacked = {kind: v and jax.tree.map(lambda *own: jnp.stack(own), *map(v.get, _NAMES)) for kind, v in given.items()}
  y, all_shown = cast(tuple[Maps, Seen], _looped(operations, choices, x, stacked))
  return y, together({name: jax.tree.map(lambda leaf, e=e: leaf[e], all_shown) for e, name in enumerate(_NAMES)})


def _patterns(operations: Operations, nodes: list[Maps], choices: Array) -> Seen:
  """Signs of the nodes whose ReLU some convolution reads, of mixtures with a weight above `EXECUTED`."""

  def reads(edge: int, op: int) -> Bool[Array, ""]:
    return choices[edge, op] > EXECUTED if choices.ndim == 2 else choices[edge] == op

  found = Seen()
  for source, x in enumerate(nodes):
    leaving = [reads(e, op) for e, (_, s) in enumerate(EDGES) if s == source for op in CONVS]
    signs = (x > 0) & jnp.any(jnp.stack(leaving))
    found = found.plus(Seen(patterns=signs.reshape(len(signs), -1)))
  return found


def _forward(operations, choices, x, given) -> tuple[list[Maps], dict[str, Any]]:
  """(nodes, what each edge shows, by its name)."""
  prepare = source_of if not isinstance(choices, tuple) and choices.ndim == 2 else lambda x: x
  nodes, sources, shown = [x], [], {}
  for own in _INTO.values():
    sources.append(prepare(nodes[-1]))
    y, seen = node(operations, [take(sources, EDGES[e][1]) for e in own], _of(choices, own), _given(given, own))
    nodes.append(y)
    shown |= {_NAMES[e]: s for e, s in zip(own, seen, strict=True)}
  return nodes, shown


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switched(
  operations: Operations, choices: Int[Array, " 6"], x: Maps, given: dict[str, PyTree]
) -> tuple[Maps, dict[str, Seen]]:
  nodes, shown = _forward(operations, choices, x, given)
  return nodes[-1], shown


def _save(operations, choices, x, given):
  nodes, shown = _forward(operations, choices, x, given)
  return (nodes[-1], shown), (choices, nodes[:-1], given)


def _pull(operations, saved, cotangent):
  choices, nodes, given = saved
  d_nodes, d_given = (
    [*[None] * len(nodes), cotangent[0]],
    {kind: None if v is None else {} for kind, v in given.items()},
  )
  for target, own in reversed(_INTO.items()):
    from_nodes = [EDGES[e][1] for e in own]
    back = d_nodes[target], [cotangent[1][_NAMES[e]] for e in own]
    d_sources, d_edges = pull_node(
      operations,
      [nodes[s] for s in from_nodes],
      _of(choices, own),
      _given(given, own),
      back,
      [d_nodes[s] for s in from_nodes],
    )
    for e, source, dx, d_edge in zip(own, from_nodes, d_sources, d_edges, strict=True):
      d_nodes[source] = dx
      for kind, of_kind in d_given.items():
        if of_kind is not None:
          of_kind[_NAMES[e]] = d_edge[kind]
  return None, d_nodes[0], d_given


_switched.defvjp(_save, _pull)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _looped(operations: Operations, choices: Int[Array, " 6"], x: Maps, given: PyTree) -> tuple[Maps, Seen]:
  """`_switched` as one body that all edges go through in turn; leaves of `given` and of what is shown are [6, ...]."""
  return _save_loop(operations, choices, x, given)[0]


def _save_loop(operations, choices, x, given):
  def edge(nodes, own):
    (target, source), choice, of_edge = own
    y, seen = choose(operations.branches, choice, nodes[source], of_edge, so_far=nodes[target])
    return nodes.at[target].set(y), seen

  nodes = jnp.zeros((NUM_NODES, *x.shape), x.dtype).at[0].set(x)
  nodes, shown = lax.scan(edge, nodes, (np.array(EDGES, np.int32), choices, given))
  return (nodes[-1], shown), (choices, nodes[:-1], given)


def _pull_loop(operations, saved, cotangent):
  choices, nodes, given = saved

  def edge(d_nodes, own):
    (target, source), choice, of_edge, d_seen = own
    dx, d_edge = pull_edge(operations, choice, nodes[source], of_edge, (d_nodes[target], d_seen), d_nodes[source])
    return d_nodes.at[source].set(dx), d_edge

  d_nodes = jnp.zeros((NUM_NODES, *nodes.shape[1:]), nodes.dtype).at[-1].set(cotangent[0])
  d_nodes, d_given = lax.scan(edge, d_nodes, (np.array(EDGES, np.int32), choices, given, cotangent[1]), reverse=True)
  return None, d_nodes[0], d_given


_looped.defvjp(_save_loop, _pull_loop)


def _of(choices: Choices, own: list[int]) -> Choices:
  return choices[own[0] : own[-1] + 1]


def _given(given: dict[str, PyTree], own: list[int]) -> list[PyTree]:
  return [{kind: None if v is None else v[_NAMES[e]] for kind, v in given.items()} for e in own]
