"""AZ-NAS's progressivity: the least that a cell adds to the expressivity of the one before it.

    score = min_l (s_l - s_(l-1)),   s_l the entropies of `az_expressivity`, of whose pass it is

over all cells and reductions, the stem's output being the first. Higher is better; negative where some cell has less
than the one before it. A cell whose output is constant: -inf, status `non_finite`, as in the code. Source: Lee & Ham,
"AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, section 3.2.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from jaxnas import registry
from jaxnas.base import CellNetwork, Evaluated, Proxy, Reading
from jaxnas.proxies.az_expressivity import Matrices, cells_of, entropies


@registry.register("proxy", "az_progressivity")
@dataclasses.dataclass(frozen=True)
class AZProgressivity(Proxy):
  """The proxy; of the batch only the shape is used, of the evaluation the key."""

  name: str = "az_progressivity"
  needs: ClassVar[type] = CellNetwork

  def measure(self, evaluation: Evaluated) -> Matrices:
    return cells_of(evaluation).covariances

  def finish(self, measured: list[np.ndarray]) -> Reading:
    least = np.diff(entropies(measured)).min()
    return super().finish(-math.inf if math.isnan(least) else least)
