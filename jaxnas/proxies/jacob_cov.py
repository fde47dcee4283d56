"""Jacobian covariance: how little the network's local linear maps at the samples of a batch resemble one another.

    J_i = d (sum of all logits) / d x_i,   C = correlation matrix of the rows J_i,   lambda its eigenvalues
    score = - sum_i [ log(lambda_i + k) + 1 / (lambda_i + k) ],   k = 1e-5

Batch normalisation in `batch` mode: J_i also holds what x_i does to the other samples, as in the official code. Higher
is better. A network that ignores its input has no correlations, and status `non_finite`, as one that is not finite. C
is formed on the device in float32, its eigenvalues on the host in float64; those that rounding makes negative count as
0. Source: Mellor et al., "Neural Architecture Search without Training", first version of the preprint, arXiv
2006.04647v1, section 3; the definition of zero-cost-nas (Abdelfattah et al., ICLR 2021) and of NASLib (there `jacov`)
is the same.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy, Reading, Status
from jaxnas.nets.products import matmul
from jaxnas.proxies.evaluation import embedded

K = 1e-5


@registry.register("proxy", "jacob_cov")
@dataclasses.dataclass(frozen=True)
class JacobCov(Proxy):
  """The proxy."""

  name: str = "jacob_cov"

  def measure(self, evaluation: Evaluated) -> Float[Array, "N N"]:
    e, x = evaluation, embedded(evaluation)

    def total(x):
      logits = e.network.apply(e.params, x, e.arch, "batch").logits
      return logits.sum(), jnp.isfinite(logits).all()  # a ReLU's pull-back forgets what is not

    rows, finite = jax.grad(total, has_aux=True)(x)
    rows = rows.reshape(len(x), -1)
    rows = rows - rows.mean(1, keepdims=True)
    largest = jnp.abs(rows).max(1, keepdims=True)  # squares of exploding or vanishing gradients leave float32
    rows = rows / largest
    rows = rows / jnp.sqrt(jnp.square(rows).sum(1, keepdims=True))
    return jnp.where(finite, matmul(rows, rows.T), jnp.nan)

  def finish(self, measured: np.ndarray) -> Reading:
    if not np.isfinite(measured).all():
      return Reading(math.nan, Status.NON_FINITE)
    shifted = np.maximum(np.linalg.eigvalsh(np.asarray(measured, np.float64)), 0) + K
    return super().finish(-np.sum(np.log(shifted) + 1 / shifted))
