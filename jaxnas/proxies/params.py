"""Number of trainable parameters: the control that every training-free score must beat.

Counted from the architecture alone, operations that no path uses included, as NAS-Bench-201 does. Higher is better.
No forward pass. Source of its use as a baseline: Ning et al., "Evaluating Efficient Performance Estimators of Neural
Architectures", NeurIPS 2021.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "params")
@dataclasses.dataclass(frozen=True)
class Params(Proxy):
  """The proxy; needs neither images nor weights. Exact up to 2^24 parameters, where float32 integers end."""

  name: str = "params"
  worst: ClassVar[float] = 0.0
  control: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    return evaluation.network.costs(evaluation.arch).params
