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

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy, SampleGram
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import embedded, frozen, losses, names_of, sum_of_squares
from jaxnas.proxies.mgm import tensor_mgm

Outputs = Callable[[Float[Array, "N K"], Num[Array, "N ..."]], Float[Array, "N M"]]  # of logits and labels

OUTPUTS: dict[str, Outputs] = {
  "per_sample": lambda logits, labels: losses(logits, labels)[:, None],
  "exact": lambda logits, labels: logits,
  "successor": lambda logits, labels: jnp.take_along_axis(logits, labels[:, None], 1),
}


def squared_rows(
  evaluation: Evaluated, outputs: Outputs, labels: Num[Array, "N ..."], batch_norm: str, *, kernels_only: bool = False
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

    def logits(p):
      return e.network.apply(p, e.network.embed(p, e.inputs), e.arch, "batch", rows=True).logits

    basis, row = basis_and_row(lambda p: outputs(logits(p), labels))
    return jax.lax.map(row, basis, batch_size=chunk)

  if isinstance(e.network, SampleGram) and (kernels_only or not _has_embeddings(e.params)):
    network, inputs = e.network, embedded(e)
    logits = jax.eval_shape(lambda: network.apply(e.params, inputs, e.arch, "batch_frozen").logits)
    count = jax.eval_shape(lambda z: outputs(z, labels), logits).shape[1]

    def of_output(index):
      include = ("kernel",) if kernels_only else ("kernel", "scale", "bias")
      return network.sample_gram(
        e.params, inputs, e.arch, lambda z: outputs(z, labels)[:, index], include=include, diagonal=True
      )

    return of_output(0) if count == 1 else jax.lax.map(of_output, jnp.arange(count)).sum(0)

  def values(p, i):
    return outputs(frozen(e, p, e.inputs[i][None]), labels[i][None])[0]

  def one(i):
    basis, row = basis_and_row(lambda p: values(p, i))
    return jax.vmap(row)(basis).sum()

  e.stats  # noqa: B018  known before the loop: inside, it would be the loop's own
  each = jax.eval_shape(values, e.params, 0).size
  return jax.lax.map(one, jnp.arange(len(e.inputs)), batch_size=max(1, chunk // each))


def _has_embeddings(params: PyTree) -> bool:
  """Whether there are parameters before what a `SampleGram` reads."""
  return any(names_of(path)[-1] == "embedding" for path, _ in jax.tree_util.tree_leaves_with_path(params))


@dataclasses.dataclass(frozen=True)
class TraceNorm(Proxy):
  """The variant `paper`; a BN mode that is not the default is in the default name.

  Raises:
    ConfigError: an unknown mode.
  """

  name: str = ""
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True
  batch_norm: Literal["batch", "batch_frozen"] = "batch"

  def __post_init__(self):
    _check_and_name(self, "trace_norm", "batch")

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    return tensor_mgm(evaluation, "loss", self.batch_norm)[0].sum()


@dataclasses.dataclass(frozen=True)
class TraceNormPerSample(Proxy):
  """The variant `per_sample`, and what its relatives have in common; named like `TraceNorm`.

  Raises:
    ConfigError: an unknown mode.
  """

  name: str = ""
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True
  variant: ClassVar[str] = "per_sample"
  batch_norm: Literal["batch", "batch_frozen"] = "batch_frozen"

  def __post_init__(self):
    _check_and_name(self, f"trace_norm_{self.variant}", "batch_frozen")

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    count, successor = len(evaluation.inputs), self.variant == "successor"
    labels = evaluation.labels if self.needs_labels else jnp.zeros(count, jnp.int32)
    if successor and not jnp.issubdtype(labels.dtype, jnp.integer):
      raise ConfigError(
        f"proxy {self.name!r} takes the output of an input's class, and targets have none; leave it out"
      )
    squares = squared_rows(evaluation, OUTPUTS[self.variant], labels, self.batch_norm, kernels_only=successor)
    mean = squares.sum() / count
    return jnp.sqrt(mean) if successor else mean


@dataclasses.dataclass(frozen=True)
class TraceNormExact(TraceNormPerSample):
  """The variant `exact`."""

  needs_labels: ClassVar[bool] = False
  variant: ClassVar[str] = "exact"


@dataclasses.dataclass(frozen=True)
class TraceNormSuccessor(TraceNormPerSample):
  """The variant `successor`."""

  variant: ClassVar[str] = "successor"


def _check_and_name(proxy: TraceNorm | TraceNormPerSample, name: str, default: str) -> None:
  if proxy.batch_norm not in ("batch", "batch_frozen"):
    raise ConfigError(f"batch_norm={proxy.batch_norm!r} must be one of batch, batch_frozen (trace_norm)")
  if not proxy.name:
    object.__setattr__(proxy, "name", name + ("" if proxy.batch_norm == default else f"_{proxy.batch_norm}"))


registry.register("proxy", "trace_norm", TraceNorm)
registry.register("proxy", "trace_norm_per_sample", TraceNormPerSample)
registry.register("proxy", "trace_norm_exact", TraceNormExact)
registry.register("proxy", "trace_norm_successor", TraceNormSuccessor)
