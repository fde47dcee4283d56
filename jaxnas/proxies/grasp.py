"""GraSP: how removing weights would change the gradient's norm, summed over all of them.

    score = sum -W * (H g),   g = dL / dW,   H = d^2 L / dW^2,   L the mean cross-entropy of the batch

over the convolution and linear kernels; H g is the gradient of <g, dL/dW> with the first g held constant. Temperature
1, one pass over the whole batch (the pruning paper: 200, and two halves). Batch normalisation in `batch` mode. Higher
is better. The minus sign is that of zero-cost-nas, which added it because the accuracy follows it. Sources: Wang,
Zhang, Grosse, "Picking Winning Tickets before Training by Preserving Gradient Flow", ICLR 2020, section 4; as an
architecture score Abdelfattah et al., ICLR 2021, section 3.1.
"""

import functools
import math

import jax
from jaxtyping import Array, Float

from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.proxy import Proxy
from jaxnas.proxies.scalar import finite_reading


def _measure(evaluation: Evaluation) -> Float[Array, ""]:
  by_layer = evaluation.network.by_layer
  constant = evaluation.loss_gradient("batch")

  def along(params):  # reverse mode twice: the layers' own pull-backs know no forward mode
    gradient = jax.grad(evaluation.loss)(params, "batch")
    return by_layer(lambda g, h: (g * h).sum(), constant, gradient).sum()

  product = jax.grad(along)(evaluation.params)
  return by_layer(lambda w, h: -(w * h).sum(), evaluation.params, product).sum()


@functools.cache
def grasp() -> Proxy:
  """The proxy; its first gradient is that of `grad_norm`, `snip`, `plain`, `mgm` and `trace_norm`."""
  return Proxy(
    name="grasp",
    higher_is_better=True,
    worst=-math.inf,
    batch_norm="batch",
    measure=_measure,
    finish=finite_reading,
    needs_labels=True,
  )
