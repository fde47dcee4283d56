"""From weights on the operations of every edge to DARTS cells.

Source: Liu et al., "DARTS", ICLR 2019, section 2.4; Shu et al., "NASI", ICLR 2022.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.darts.encoding import (
  CELLS,
  EDGES,
  FIRST_EDGES,
  LENGTH,
  NODES,
  NONE,
  NUM_EDGES,
  NUM_OPS,
  OPS,
  SLOTS,
)


def from_weights(weights: Any, ops: Sequence[str] = OPS, reduced: bool = False) -> Int8[np.ndarray, "*A 32"]:
  """The literature's derivation of discrete cells from edge-op weights.

  An edge is as strong as its heaviest op other than `none`. Each node keeps its two strongest edges (ties: the lower
  source), each with that op (ties: the lower column).

  Args:
    weights: [..., cell types (2), edges (14), ops (8)], of a supernet, after the softmax over ops (`none` included)
      that makes edges comparable; log-weights are not.
    ops: names of the columns, for weights in another order than `OPS`, such as `TENAS_OPS`.
    reduced: keep the edges from the two preceding nodes instead, so that only ops are chosen. This is our reading of
      the "reduced DARTS space" that NASI (Shu et al., ICLR 2022) speaks of.

  Raises:
    ArchitectureError: another shape, values that are not numbers, or NaN.
    ConfigError: `ops` is not a permutation of `OPS`.
  """
  if sorted(ops) != sorted(OPS):
    raise ConfigError(f"ops={ops!r} must be the names {OPS}, in the order of the columns")
  wanted = (len(CELLS), NUM_EDGES, NUM_OPS)
  try:
    array = np.asarray(weights).astype(np.float64)  # float64 also takes bfloat16, losing nothing
  except (TypeError, ValueError) as error:
    raise ArchitectureError(f"weights are not numbers; use [..., {wanted}]") from error
  if array.shape[-3:] != wanted:
    raise ArchitectureError(f"weights have shape {list(array.shape)}; use [..., 2, 14, 8]")
  if np.isnan(array).any():
    raise ArchitectureError(f"weights hold {int(np.isnan(array).sum())} NaN; use finite weights")
  kept = [i for i, op in enumerate(ops) if op != OPS[NONE]]
  columns = np.array([OPS.index(ops[i]) for i in kept], np.int8)
  strength, best = array[..., kept].max(-1), columns[array[..., kept].argmax(-1)]
  result = np.empty((*array.shape[:-3], *SLOTS), np.int8)
  for i, node in enumerate(NODES):
    rows = slice(FIRST_EDGES[i], FIRST_EDGES[i] + node)
    order = np.argsort(-strength[..., rows], axis=-1, kind="stable")[..., :2]
    sources = np.broadcast_to(np.array([i, i + 1]), order.shape) if reduced else np.sort(order, axis=-1)
    result[..., i, :, 1] = sources
    result[..., i, :, 0] = np.take_along_axis(best[..., rows], sources, axis=-1)
  return result.reshape(*array.shape[:-3], LENGTH)


def choices(reduced: bool = False) -> Bool[np.ndarray, "2 14 8"]:
  """Which operations NASI samples: all but `none`; `reduced`: on the edges from the two preceding nodes only."""
  allowed = np.ones((len(CELLS), NUM_EDGES, NUM_OPS), bool)
  allowed[..., NONE] = False
  if reduced:
    allowed[:, [source < target - 2 for target, source in EDGES]] = False
  return allowed


def derive(alphas: Any, reduced: bool = False) -> Int8[np.ndarray, "*A 32"]:
  """The architectures of NASI's architecture parameters: `from_weights` of their softmax over what is sampled.

  Raises:
    ArchitectureError: as `from_weights`.
  """
  logits = np.where(choices(reduced), np.asarray(alphas), -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True, initial=np.finfo(np.float64).min))
  return from_weights(weights / np.maximum(weights.sum(-1, keepdims=True), 1), reduced=reduced)
