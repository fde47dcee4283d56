"""L2 norm of the weights at initialisation: a control that sees neither data nor gradients.

    score = sum_l || W_l ||_2

over the convolution and linear kernels of the operations that the architecture has, also those that no path uses.
With a fixed initialisation it counts layers, weighted by their width. Higher is better. No forward pass, so batch
normalisation plays no part. Source: released code of Abdelfattah et al., ICLR 2021 (zero-cost-nas).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy


@registry.register("proxy", "l2_norm")
@dataclasses.dataclass(frozen=True)
class L2Norm(Proxy):
  """The proxy."""

  name: str = "l2_norm"
  worst: ClassVar[float] = 0.0
  control: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    network = evaluation.network
    executed = network.executed(evaluation.arch)
    return network.by_layer(
      lambda w, on: on.astype(w.dtype) * jnp.sqrt(jnp.square(w).sum()), evaluation.params, executed
    ).sum()
