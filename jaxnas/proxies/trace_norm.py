"""Trace norm of the neural tangent kernel, and its estimates: NASI's score.

    exact       (1 / b) sum_x || d f(x) / d theta ||_F^2, f all logits: the trace of the kernel over the batch's size b
    per_sample  (1 / b) sum_x || d L_x / d theta ||^2, L_x the cross-entropy; at most 2 * exact (L is sqrt 2-Lipschitz)
    paper       || (1 / b) sum_x d L_x / d theta ||^2, at most per_sample: one backward pass, the T~ of the paper
    successor   sqrt((1 / b) sum_x || d f_y(x) / d theta ||^2), f_y the label's own logit, convolution and linear
                kernels only: the metric of the authors' later searches (HNAS, NeurIPS 2022; RoBoT, ICLR 2024)

`paper` equals `mgm` on the same batch. Since gradients of different samples are nearly orthogonal it is about
per_sample / b: compare values at one b only. Higher is better up to a bound that NASI chooses (`algorithms/nasi`). The
labels may be random ones. Source: Shu et al., "NASI: Label- and Data-agnostic Neural Architecture Search at
Initialization", ICLR 2022, equations 9 to 12.

BN: `batch` for `paper` (the gradient of one batch); the sums over samples default to `batch_frozen`, where samples do
not mix and a pass each is enough. Their `batch` mode gives row x the gradient through all samples' statistics, b
passes through the whole batch. The later codes of `successor` do neither: they split a single backward pass through
batch statistics among the samples at each layer.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation, cross_entropy, sum_of_squares
from jaxnas.proxies.mgm import tensor_mgm
from jaxnas.proxies.proxy import Proxy
from jaxnas.proxies.scalar import finite_reading, names_of

Outputs = Callable[[Float[Array, "N K"], Int[Array, " N"]], Float[Array, "N M"]]  # of logits and labels

OUTPUTS: dict[str, Outputs] = {
  "per_sample": lambda logits, labels: cross_entropy(logits, labels)[:, None],
  "exact": lambda logits, labels: logits,
  "successor": lambda logits, labels: jnp.take_along_axis(logits, labels[:, None], 1),
}


def squared_rows(
  evaluation: Evaluation, outputs: Outputs, labels: Int[Array, " N"], batch_norm: str, *, kernels_only: bool = False
) -> Float[Array, " R"]:
  """Squared norms of the gradients of `outputs`: [N], of a sample's rows together, or [N * M] in `batch` mode.

  Of the rows, `evaluation.rows` (8) exist at a time.
  """
  e, chunk = evaluation, evaluation.rows or 8

  def square(gradient: PyTree):
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return sum_of_squares([leaf for path, leaf in leaves if not kernels_only or names_of(path)[-1] == "kernel"])

  def basis_and_row(function):
    out, pullback = jax.vjp(function, e.params)
    basis = jnp.eye(out.size, dtype=out.dtype).reshape(out.size, *out.shape)
    return basis, lambda cotangent: square(pullback(cotangent)[0])

  if batch_norm == "batch":
    network = e.network.with_batch_norm("batch").for_rows()
    basis, row = basis_and_row(lambda p: outputs(network.logits(p, e.images, e.alphas), labels))
    return jax.lax.map(row, basis, batch_size=chunk)

  def values(p, i):
    return outputs(e.frozen(p, e.images[i][None]), labels[i][None])[0]

  def one(i):
    basis, row = basis_and_row(lambda p: values(p, i))
    return jax.vmap(row)(basis).sum()

  e.stats  # noqa: B018  known before the loop: inside, it would be the loop's own
  each = jax.eval_shape(values, e.params, 0).size
  return jax.lax.map(one, jnp.arange(len(e.images)), batch_size=max(1, chunk // each))


def _measure_paper(evaluation: Evaluation, *, batch_norm: str) -> Float[Array, ""]:
  return tensor_mgm(evaluation, "loss", batch_norm)[0].sum()


def _measure_rows(evaluation: Evaluation, *, variant: str, batch_norm: str) -> Float[Array, ""]:
  count, successor = len(evaluation.images), variant == "successor"
  labels = jnp.zeros(count, jnp.int32) if variant == "exact" else evaluation.labels
  squares = squared_rows(evaluation, OUTPUTS[variant], labels, batch_norm, kernels_only=successor)
  mean = squares.sum() / count
  return jnp.sqrt(mean) if successor else mean


@functools.cache
def trace_norm(
  variant: Literal["paper", "per_sample", "exact", "successor"] = "paper",
  *,
  batch_norm: Literal["batch", "batch_frozen"] | None = None,
) -> Proxy:
  """The proxy: `trace_norm`, `trace_norm_exact`, ..., with the BN mode behind it where it is not the default.

  Args:
    variant: see the module.
    batch_norm: `batch` for "paper" and `batch_frozen` for the others if not given.

  Raises:
    ConfigError: an unknown variant or mode.
  """
  default = "batch" if variant == "paper" else "batch_frozen"
  batch_norm = batch_norm or default
  for name, value, allowed in (
    ("variant", variant, ("paper", *OUTPUTS)),
    ("batch_norm", batch_norm, ("batch", "batch_frozen")),
  ):
    if value not in allowed:
      raise ConfigError(f"{name}={value!r} must be one of {', '.join(allowed)} (trace_norm)")
  if variant == "paper":
    measure = functools.partial(_measure_paper, batch_norm=batch_norm)
  else:
    measure = functools.partial(_measure_rows, variant=variant, batch_norm=batch_norm)
  suffix = ("" if variant == "paper" else f"_{variant}") + ("" if batch_norm == default else f"_{batch_norm}")
  return Proxy(
    name=f"trace_norm{suffix}",
    higher_is_better=True,
    worst=0.0,
    batch_norm=batch_norm,
    measure=measure,
    finish=finite_reading,
    needs_labels=variant != "exact",
  )
