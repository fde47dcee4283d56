"""Multiply-adds of one image's forward pass, which NAS benchmarks call FLOPs: a control, like `params`.

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
  return evaluation.network.mac_count(evaluation.alphas, evaluation.images.shape[1])


@functools.cache
def flops() -> Proxy:
  """The proxy; of the batch only the size of its square images is used.

  Beyond 2^24 multiply-adds the count is rounded as float32 is, by at most 6e-8 of its value.
  """
  return Proxy(
    name="flops",
    higher_is_better=True,
    worst=0.0,
    batch_norm="batch",
    measure=_measure,
    finish=finite_reading,
  )
