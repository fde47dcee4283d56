"""Gradient norm: how strongly the loss pulls at the weights of every layer.

    score = sum_l || dL / dW_l ||_2,   L the mean cross-entropy of the batch

over the convolution and linear kernels W_l; biases and batch normalisation stay out, and layers that no path uses add
nothing. Batch normalisation in `batch` mode. Higher is better. The norms are summed, not their squares: that is what
the code of zero-cost-nas does. Source: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021,
section 3.1.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "grad_norm")
@dataclasses.dataclass(frozen=True)
class GradNorm(Proxy):
  """The proxy; shares its gradient with `snip`, `plain`, `mgm` and `trace_norm`."""

  name: str = "grad_norm"
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    gradient = evaluation.loss_gradient("batch")
    return evaluation.network.by_layer(lambda g: jnp.sqrt(jnp.square(g).sum()), gradient).sum()
