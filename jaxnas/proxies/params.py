"""Number of trainable parameters: the control that every training-free score must beat.

Counted from the architecture alone, operations that no path uses included, as NAS-Bench-201 does. Higher is better.
No forward pass. Source of its use as a baseline: Ning et al., "Evaluating Efficient Performance Estimators of Neural
Architectures", NeurIPS 2021.
"""

import functools

from jaxtyping import Array, Float

from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.proxy import Proxy
from jaxnas.proxies.scalar import finite_reading


def _measure(evaluation: Evaluation) -> Float[Array, ""]:
  return evaluation.network.parameter_count(evaluation.alphas)


@functools.cache
def params() -> Proxy:
  """The proxy; needs neither images nor weights. Exact up to 2^24 parameters, where float32 integers end."""
  return Proxy(
    name="params",
    higher_is_better=True,
    worst=0.0,
    batch_norm="batch",
    measure=_measure,
    finish=finite_reading,
  )
