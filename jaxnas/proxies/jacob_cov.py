"""Jacobian covariance: how little the network's local linear maps at the samples of a batch resemble one another.

    J_i = d (sum of all logits) / d x_i,   C = correlation matrix of the rows J_i,   lambda its eigenvalues
    score = - sum_i [ log(lambda_i + k) + 1 / (lambda_i + k) ],   k = 1e-5

Batch normalisation in `batch` mode: J_i also holds what x_i does to the other samples, as in the official code. Higher
is better. A network that ignores its input has no correlations, and status `non_finite`. C is formed on the device in
float32, its eigenvalues on the host in float64; those that rounding makes negative count as 0. Source: Mellor et al.,
"Neural Architecture Search without Training", first version of the preprint, arXiv 2006.04647v1, section 3; the
definition of zero-cost-nas (Abdelfattah et al., ICLR 2021) and of NASLib (there `jacov`) is the same.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.proxy import Proxy, Reading
from jaxnas.proxies.scalar import finite_reading

K = 1e-5


def _measure(evaluation: Evaluation) -> Float[Array, "N N"]:
  network = evaluation.network.with_batch_norm("batch")

  def total(images):
    return network.logits(evaluation.params, images, evaluation.alphas).sum()

  rows = jax.grad(total)(evaluation.images).reshape(len(evaluation.images), -1)
  rows = rows - rows.mean(1, keepdims=True)
  largest = jnp.abs(rows).max(1, keepdims=True)  # squares of exploding or vanishing gradients leave float32
  rows = rows / largest
  rows = rows / jnp.sqrt(jnp.square(rows).sum(1, keepdims=True))
  return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _finish(correlation: np.ndarray) -> Reading:
  if not np.isfinite(correlation).all():
    return Reading(math.nan, "non_finite")
  shifted = np.maximum(np.linalg.eigvalsh(np.asarray(correlation, np.float64)), 0) + K
  return finite_reading(-np.sum(np.log(shifted) + 1 / shifted))


@functools.cache
def jacob_cov() -> Proxy:
  """The proxy."""
  return Proxy(
    name="jacob_cov",
    higher_is_better=True,
    worst=-math.inf,
    batch_norm="batch",
    measure=_measure,
    finish=_finish,
  )
