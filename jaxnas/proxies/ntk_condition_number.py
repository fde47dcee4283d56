"""Condition number of the neural tangent kernel, TE-NAS's trainability indicator.

    K = G G',   G_i = d (sum_k logits[i, k]) / d theta_w,   kappa = lambda_max / lambda_min

theta_w are the convolution and classifier kernels and the scales of batch normalisation (the official code takes
every parameter whose name contains "weight"); biases stay out. Classes are summed before differentiating, not
traced. Lower is better. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.1.
"""

import functools
from typing import Literal

import jax
import numpy as np

from jaxnas import ntk
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.proxy import Proxy, Reading

WORST = 1e5  # the official code's value for a kernel that is not a number
_STATUS = {
  ntk.Status.OK: "ok",
  ntk.Status.SINGULAR: "singular",
  ntk.Status.NEGATIVE: "negative",
  ntk.Status.NON_FINITE: "non_finite",
}


def _enters(path: str) -> bool:
  return path.rsplit("/", 1)[-1] in ("kernel", "scale")


def _kernel_coupled(evaluation: Evaluation):
  """`batch` mode: every row needs a backward pass through the whole batch, cost O(N^2)."""
  network, alphas = evaluation.network.with_batch_norm("batch").for_rows(), evaluation.alphas

  def logits(p, x):
    return network.logits(p, x, alphas)

  rows = evaluation.rows_at_once(network.rows_on_cpu)
  return ntk.gram_matrix(logits, evaluation.params, evaluation.images, coupled=True, select=_enters, chunk_size=rows)


def _kernel_frozen(evaluation: Evaluation):
  """`batch_frozen` mode: the batch's statistics are constants, so samples decouple, cost O(N)."""
  e, rows = evaluation, evaluation.rows_at_once(8)
  _ = e.stats  # before the loop over samples, where it would be a value of the loop
  return ntk.gram_matrix(e.frozen, e.params, e.images, coupled=False, select=_enters, chunk_size=rows)


def _finish(theta: np.ndarray) -> Reading:
  condition = ntk.condition_number(theta)
  return Reading(float(condition.ratio), _STATUS[ntk.Status(condition.status)])


@functools.cache
def ntk_condition_number(batch_norm: Literal["batch", "batch_frozen"] = "batch") -> Proxy:
  """The proxy. A batch is normalised images, float32 [N, H, W, 3].

  The value is the raw ratio of the extreme eigenvalues (negative where lambda_min is); a kernel that is singular
  at its precision, not positive, or not finite has that status and ranks as `WORST`.

  Args:
    batch_norm: `batch` is what the official code does; `batch_frozen` is N times cheaper.
  """
  measures = {"batch": _kernel_coupled, "batch_frozen": _kernel_frozen}
  if batch_norm not in measures:
    raise ConfigError(f"batch_norm={batch_norm!r} must be one of {', '.join(measures)}")
  return Proxy(
    name="ntk_condition_number",
    higher_is_better=False,
    worst=WORST,
    batch_norm=batch_norm,
    measure=measures[batch_norm],
    finish=_finish,
  )


def eigenvalues(network, params, alphas, images, batch_norm: Literal["batch", "batch_frozen"] = "batch") -> np.ndarray:
  """Eigenvalues of the kernel of one network, float64 [N] ascending: what the spectrum plot shows."""
  measure = ntk_condition_number(batch_norm).measure

  def kernel(params, alphas, images):
    return measure(Evaluation(network, params, alphas, images))

  return ntk.spectrum(jax.jit(kernel)(params, alphas, images)).eigenvalues
