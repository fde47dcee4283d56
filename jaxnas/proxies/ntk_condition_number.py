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


def _kernel_coupled(network, params, alphas, images, *, chunk_size):
  """`batch` mode: every row needs a backward pass through the whole batch, cost O(N^2)."""
  network = network.with_batch_norm("batch")

  def logits(p, x):
    return network.apply({"params": p}, x, alphas)

  return ntk.gram_matrix(logits, params, images, coupled=True, select=_enters, chunk_size=chunk_size)


def _kernel_frozen(network, params, alphas, images, *, chunk_size):
  """`batch_frozen` mode: the batch's statistics are constants, so samples decouple, cost O(N)."""
  variables = {"params": params}
  _, state = network.with_batch_norm("batch").apply(variables, images, alphas, mutable=["moments"])
  network = network.with_batch_norm("running")

  def logits(p, x):
    return network.apply({"params": p, "batch_stats": state["moments"]}, x, alphas)

  return ntk.gram_matrix(logits, params, images, coupled=False, select=_enters, chunk_size=chunk_size)


def _finish(theta: np.ndarray) -> Reading:
  condition = ntk.condition_number(theta)
  return Reading(float(condition.ratio), _STATUS[ntk.Status(condition.status)])


@functools.cache
def ntk_condition_number(
  batch_norm: Literal["batch", "batch_frozen"] = "batch", *, chunk_size: int | None = None
) -> Proxy:
  """The proxy. A batch is normalised images, float32 [N, H, W, 3].

  The value is the raw ratio of the extreme eigenvalues (negative where lambda_min is); a kernel that is singular
  at its precision, not positive, or not finite has that status and ranks as `WORST`.

  Args:
    batch_norm: `batch` is what the official code does; `batch_frozen` is N times cheaper.
    chunk_size: rows computed together, which bounds memory (default 4 in `batch` mode, 8 in `batch_frozen`).
  """
  measures = {"batch": (_kernel_coupled, 4), "batch_frozen": (_kernel_frozen, 8)}
  if batch_norm not in measures:
    raise ConfigError(f"batch_norm={batch_norm!r} must be one of {', '.join(measures)}")
  kernel, default = measures[batch_norm]
  return Proxy(
    name="ntk_condition_number",
    higher_is_better=False,
    worst=WORST,
    batch_norm=batch_norm,
    measure=functools.partial(kernel, chunk_size=chunk_size or default),
    finish=_finish,
  )


def eigenvalues(network, params, alphas, images, batch_norm: Literal["batch", "batch_frozen"] = "batch") -> np.ndarray:
  """Eigenvalues of the kernel of one network, float64 [N] ascending: what the spectrum plot shows."""
  measure = ntk_condition_number(batch_norm).measure
  theta = jax.jit(measure, static_argnums=0)(network, params, alphas, images)
  return ntk.spectrum(theta).eigenvalues
