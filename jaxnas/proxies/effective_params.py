"""Number of trainable parameters that a path from input to output runs through: the sharper control beside `params`.

    score = parameters of the network without the operations that lie on no path; 0 where there is no path

The layers outside the cells count as in `params`. On NAS-Bench-101, whose cells are pruned before anything is built,
and on the DARTS space, where every node is concatenated, it equals `params`. Higher is better. No forward pass. Source:
none; operations off all paths neither train nor compute, so a count of them measures the encoding and not the network.
"""

import dataclasses
from typing import ClassVar, cast

from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, GraphNetwork, Proxy


@registry.register("proxy", "effective_params")
@dataclasses.dataclass(frozen=True)
class EffectiveParams(Proxy):
  """The proxy; needs neither images nor weights. Exact up to 2^24 parameters, where float32 integers end."""

  name: str = "effective_params"
  worst: ClassVar[float] = 0.0
  control: ClassVar[bool] = True
  needs: ClassVar[type] = GraphNetwork

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    return cast(GraphNetwork, evaluation.network).effective_costs(evaluation.arch).params
