"""L2 norm of the weights at initialisation: a control that sees neither data nor gradients.

    score = sum_l || W_l ||_2

over the convolution and linear kernels of the operations that the architecture has, also those that no path uses.
With a fixed initialisation it counts layers, weighted by their width. Higher is better. No forward pass, so batch
normalisation plays no part. Source: released code of Abdelfattah et al., ICLR 2021 (zero-cost-nas).
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.proxy import Proxy
from jaxnas.proxies.scalar import finite_reading


def _measure(evaluation: Evaluation) -> Float[Array, ""]:
  network = evaluation.network
  executed = network.executed(evaluation.alphas)
  return network.by_layer(
    lambda w, on: on.astype(w.dtype) * jnp.sqrt(jnp.square(w).sum()), evaluation.params, executed
  ).sum()


@functools.cache
def l2_norm() -> Proxy:
  """The proxy."""
  return Proxy(
    name="l2_norm",
    higher_is_better=True,
    worst=0.0,
    batch_norm="batch",
    measure=_measure,
    finish=finite_reading,
  )
