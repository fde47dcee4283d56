"""SNIP: how much the loss would change if single weights were removed, summed over all of them.

    score = sum | W * dL / dW |,   L the mean cross-entropy of the batch

over the convolution and linear kernels. Batch normalisation in `batch` mode. Higher is better. zero-cost-nas takes the
gradient in a mask of ones on the weights, which is W * dL / dW. Sources: Lee, Ajanthan, Torr, "SNIP: Single-shot
Network Pruning", ICLR 2019, section 4; as an architecture score Abdelfattah et al., ICLR 2021, section 3.1.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "snip")
@dataclasses.dataclass(frozen=True)
class SNIP(Proxy):
  """The proxy; shares its gradient with `grad_norm`, `plain`, `mgm` and `trace_norm`."""

  name: str = "snip"
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    gradient = evaluation.loss_gradient("batch")
    return evaluation.network.by_layer(lambda w, g: jnp.abs(w * g).sum(), evaluation.params, gradient).sum()
