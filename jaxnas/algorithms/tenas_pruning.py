"""TE-NAS's loop, for any source of indicators: rounds that prune operations, then the choice of every node's edges.

Source: Chen, Gong, Wang, ICLR 2021, algorithm 1; see `jaxnas.algorithms.tenas`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxnas.algorithms.tenas_ranking import Candidate, Decision, Indicators, Variant, candidates, decide, decide_group
from jaxnas.base import Prunable

Active = Bool[np.ndarray, "cells E O"]
Indicate = Callable[[int, np.ndarray, np.ndarray, list[Candidate]], Indicators]
"""(step, NTK's parent, active, candidates) -> indicators. "After" is `active` without a candidate's operation; "before"
is the NTK's parent for condition numbers and `active` for regions. The two differ in groups of `variant="code"`."""


class PruningStep(NamedTuple):
  """A round of pruning operations, or (`group`: cell type and edges) the choice of a node's edges."""

  number: int
  measured: Indicators
  decision: Decision
  group: tuple[int, tuple[int, ...]] | None = None


def initial_active(space: Prunable) -> Active:
  """Every operation but 'none', which is dropped before the search starts."""
  active = np.ones((space.cell_types, len(space.edges), len(space.ops)), bool)
  active[..., space.none_op] = False
  return active


def prune(
  space: Prunable, indicate: Indicate, *, prune_number: int, decimals: int, variant: Variant
) -> tuple[Active, list[PruningStep]]:
  """Algorithm 1, given the indicators: the one operation left on each edge, and every round.

  Candidates are listed in the official code's order of operations, which decides ties in `variant="code"`.
  """
  active, steps = initial_active(space), []
  while found := candidates(active, space.op_order):
    measured = indicate(len(steps) + 1, active, active, found)
    decision = decide(
      measured,
      prune_number=prune_number,
      active=active,
      decimals=decimals,
      variant=variant,
    )
    for candidate in decision.pruned:
      active[candidate] = False
    steps.append(PruningStep(len(steps) + 1, measured, decision))
  return active, steps


def choose_edges(
  space: Prunable, active: Active, indicate: Indicate, *, first: int, decimals: int, variant: Variant
) -> tuple[Active, list[PruningStep]]:
  """Switches off edges until every node has `space.edges_kept`, given the indicators.

  A node is decided before the next one is measured. In `variant="code"` the supernet without a candidate is always
  compared, by the NTK, with the supernet from before the first node, so later changes include those of earlier nodes.

  Args:
    active: one operation an edge.
    first: number of the first step.
  """
  whole, active, steps = active.copy(), active.copy(), []
  for cell, edges in _groups(space):
    found = [(cell, e, int(active[cell, e].argmax())) for e in edges]
    parent = whole if variant == "code" else active
    measured = indicate(first + len(steps), parent, active, found)
    decision = decide_group(measured, keep=space.edges_kept, decimals=decimals, variant=variant)
    for candidate in decision.pruned:
      active[candidate] = False
    steps.append(PruningStep(first + len(steps), measured, decision, (cell, edges)))
  return active, steps


def _groups(space: Prunable) -> list[tuple[int, tuple[int, ...]]]:
  """(cell type, edges) of every node that has more edges than it keeps, in the order of the decisions."""
  wide = [edges for edges in space.edge_groups if len(edges) > space.edges_kept]
  return [(cell, edges) for cell in range(space.cell_types) for edges in wide]


def evaluations(space: Prunable, prune_number: int) -> int:
  """How many supernets one repeat of each indicator scores: every candidate and the parent, in every step."""
  left = int(initial_active(space)[0, 0].sum())
  edges, total = space.cell_types * len(space.edges), 0
  while left > 1:
    total += left * edges + 1
    left -= min(prune_number, left - 1)
  return total + sum(len(group) + 1 for _, group in _groups(space))


def as_dict(step: PruningStep) -> dict[str, Any]:
  """A step for the history, JSON-able."""
  measured, decision = step.measured, step.decision
  group = {} if step.group is None else {"group": {"cell": step.group[0], "edges": list(step.group[1])}}
  return {
    "round": step.number,
    **group,
    "candidates": [list(c) for c in decision.candidates],
    "cond_before": np.asarray(measured.cond_before)[0].tolist(),
    "cond_after": np.asarray(measured.cond_after).tolist(),
    "regions_before": np.asarray(measured.regions_before)[0].tolist(),
    "regions_after": np.asarray(measured.regions_after).tolist(),
    "ntk_delta": decision.ntk_mean.tolist(),
    "region_delta": decision.region_mean.tolist(),
    "ntk_rank": decision.ntk_rank.tolist(),
    "region_rank": decision.region_rank.tolist(),
    "pruned": [list(c) for c in decision.pruned],
    "clipped": decision.clipped,
  }
