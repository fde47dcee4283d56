"""GraSP: how removing weights would change the gradient's norm, summed over all of them.

    score = sum -W * (H g),   g = dL / dW,   H = d^2 L / dW^2,   L the mean cross-entropy of the batch

over the convolution and linear kernels; H g is the gradient of <g, dL/dW> with the first g held constant. Temperature
1, one pass over the whole batch (the pruning paper: 200, and two halves). Batch normalisation in `batch` mode. Higher
is better. The minus sign is that of zero-cost-nas, which added it because the accuracy follows it. Sources: Wang,
Zhang, Grosse, "Picking Winning Tickets before Training by Preserving Gradient Flow", ICLR 2020, section 4; as an
architecture score Abdelfattah et al., ICLR 2021, section 3.1.
"""

import dataclasses
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.evaluation import mean_loss


@registry.register("proxy", "grasp")
@dataclasses.dataclass(frozen=True)
class GraSP(Proxy):
  """The proxy; its first gradient is that of `grad_norm`, `snip`, `plain`, `mgm` and `trace_norm`."""

  name: str = "grasp"
  needs_labels: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    by_layer = evaluation.network.by_layer
    constant = evaluation.loss_gradient("batch")

    def along(params):  # reverse mode twice: the layers' own pull-backs know no forward mode
      gradient = jax.grad(lambda p: mean_loss(evaluation, p, "batch"))(params)
      return by_layer(lambda g, h: (g * h).sum(), constant, gradient).sum()

    product = jax.grad(along)(evaluation.params)
    return by_layer(lambda w, h: -(w * h).sum(), evaluation.params, product).sum()
