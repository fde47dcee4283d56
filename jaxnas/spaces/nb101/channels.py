"""How many channels each vertex of a cell has.

The output's C channels are divided over the k vertices that feed it (the input apart): C // k each, and one more for
the first C mod k. Every other inner vertex has the maximum of its successors' channels. So every inner vertex has
C // k or C // k + 1, and which of them is the same question for all C: with the `rank` of a feeding vertex its place
among the k, and of another the lowest rank that it leads to, a vertex has C // k + (rank < C mod k) channels.

Source: Ying et al., "NAS-Bench-101", ICML 2019, and the released code.
"""

import numpy as np
from jaxtyping import Int


def ranks(matrix: Int[np.ndarray, "V V"]) -> list[int]:
  """The rank of each inner vertex of a pruned cell, V - 2 numbers."""
  output = len(matrix) - 1
  feeding = [v for v in range(1, output) if matrix[v, output]]
  found = {v: rank for rank, v in enumerate(feeding)}
  for v in range(output - 1, 0, -1):
    if v not in found:
      found[v] = min(found[t] for t in range(v + 1, output) if matrix[v, t])
  return [found[v] for v in range(1, output)]


def vertex_channels(matrix: Int[np.ndarray, "V V"], channels_in: int, channels_out: int) -> list[int]:
  """Channels of each vertex of a pruned cell whose input has `channels_in` and whose output has `channels_out`."""
  feeding = int(matrix[1:-1, -1].sum())
  share, extra = divmod(channels_out, feeding) if feeding else (0, 0)
  return [channels_in, *(share + (rank < extra) for rank in ranks(matrix)), channels_out]
