"""LogSynFlow: SynFlow with the gradients' logarithms, so that the deepest paths do not drown all others.

    score = sum |W| log(1 + dR / d|W|),   R = sum of the outputs for one image of ones, every parameter replaced by |.|

over the convolution and linear kernels, without batch normalisation, as `synflow`, whose passes it shares. The
logarithm is inside the sum, so the score is no function of SynFlow's. Gradients that pass float32's range enter through
their exponent: log(1 + g) = softplus(log g). Higher is better. A network that no path crosses scores 0; one whose first
pass overflows has status `non_finite`.

The weights are the given ones. Their scale matters here: the published scores take the mean of three draws of Kaiming's
normal initialisation by fan out (`kaiming_fan_out`, three repeats). Source: Cavagnero, Robbiano, Caputo, Averta,
"FreeREA: Training-Free Evolution-based Architecture Search", WACV 2023, section 3, and its code.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.synflow import flow_of


@registry.register("proxy", "log_synflow")
@dataclasses.dataclass(frozen=True)
class LogSynFlow(Proxy):
  """The proxy; of the batch only an image's shape is used."""

  name: str = "log_synflow"
  worst: ClassVar[float] = 0.0

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    params, gradient, log_growth = flow_of(evaluation)
    shift = jnp.where(log_growth == -jnp.inf, 0, log_growth) * math.log(2)  # without flow the gradient is not scaled

    def layer(w, g):
      return (w * jax.nn.softplus(jnp.log(g) + shift)).sum()

    return evaluation.network.by_layer(layer, params, gradient).sum()
