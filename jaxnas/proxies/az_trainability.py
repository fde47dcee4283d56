"""AZ-NAS's trainability: how near to 1 the largest singular value of each cell's pull-back is.

    A_l = g_in' g_out / (N H W),   g_out random signs at the output of cell l, g_in their pull-back to its input
    score = mean_l (- s_l - 1 / (s_l + 1e-6) + 2),   s_l the largest singular value of A_l [C_in, C_out]

over all cells and reductions; where a cell halves the image, the four pixels of g_in that become one are its channels.
The pass is that of `az_expressivity`: standard Gaussian images, batch statistics. Of a DARTS cell the input is the
output of the cell before it. Higher is better, 0 the best. The identity is the worst: a cell that gives its input as it
is has g_in = g_out, and the score is -inf, status `non_finite`, as in the code. A dead cell costs a million. Singular
values are taken on the host in float64. Source: Lee & Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network
Architecture Search", CVPR 2024, section 3.2.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Bool

from jaxnas import registry
from jaxnas.base import CellNetwork, Evaluated, Proxy, Reading
from jaxnas.proxies.az_expressivity import Matrices, cells_of


@registry.register("proxy", "az_trainability")
@dataclasses.dataclass(frozen=True)
class AZTrainability(Proxy):
  """The proxy; of the batch only the shape is used, of the evaluation the key."""

  name: str = "az_trainability"
  needs: ClassVar[type] = CellNetwork

  def measure(self, evaluation: Evaluated) -> tuple[Matrices, Bool[Array, " L"]]:
    cells = cells_of(evaluation)
    return cells.products, cells.identities

  def finish(self, measured: tuple[list[np.ndarray], np.ndarray]) -> Reading:
    products, identities = measured
    if np.any(identities):
      return super().finish(-math.inf)
    if not all(np.isfinite(group).all() for group in products):
      return super().finish(math.nan)
    largest = np.concatenate([np.linalg.norm(np.asarray(group, np.float64), 2, (1, 2)) for group in products])
    return super().finish((-largest - 1 / (largest + 1e-6) + 2).mean())
