"""Multiply-adds of one image's forward pass, which NAS benchmarks call FLOPs: a control, like `params`.

Counted from the architecture alone, operations that no path uses included, as NAS-Bench-201 does. Higher is better.
No forward pass. Source of its use as a baseline: Ning et al., "Evaluating Efficient Performance Estimators of Neural
Architectures", NeurIPS 2021.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "flops")
@dataclasses.dataclass(frozen=True)
class Flops(Proxy):
  """The proxy; of the batch only the size of its square images is used.

  Beyond 2^24 multiply-adds the count is rounded as float32 is, by at most 6e-8 of its value.
  """

  name: str = "flops"
  worst: ClassVar[float] = 0.0
  control: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    return evaluation.network.costs(evaluation.arch, evaluation.inputs.shape[1]).macs
