"""Plain: SNIP without the absolute value, the first-order change of the loss when all weights shrink together.

    score = sum W * dL / dW,   L the mean cross-entropy of the batch

over the convolution and linear kernels, with the sign of zero-cost-nas (no minus). Higher is better there. Batch
normalisation in `batch` mode makes the loss independent of the scale of the kernel before it, so that kernel's sum is
zero but for BN's epsilon: only layers without BN behind them (pooled shortcuts, the classifier) speak. Expect a poor
ranking. Sources: Mozer & Smolensky, NIPS 1988; as an architecture score Abdelfattah et al., ICLR 2021, released code.
"""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "plain")
@dataclasses.dataclass(frozen=True)
class Plain(Proxy):
  """The proxy; shares its gradient with `grad_norm`, `snip`, `mgm` and `trace_norm`."""

  name: str = "plain"
  needs_labels: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    gradient = evaluation.loss_gradient("batch")
    return evaluation.network.by_layer(lambda w, g: (w * g).sum(), evaluation.params, gradient).sum()
