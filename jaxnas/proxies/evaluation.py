"""One network on one batch, as proxies see it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.errors import ConfigError


class Evaluation:
  """One architecture's network on one batch; what several proxies need is computed once.

  Lives inside one trace: proxies that are measured together share their passes.

  Attributes:
    network: `logits(params, images, alphas, stats=None)`, `moments`, `with_batch_norm(mode)`, `for_rows()` and
      `rows_on_cpu`; some proxies need more of it and say so.
    params: its parameters; of a network with `own_params`, those of this architecture (its own initial values).
    alphas: edge-op weights, [cell types, E, O].
    images: normalised, [N, H, W, C].
    key: for proxies that draw inputs or directions; the same for all architectures.
    rows: the most cotangents or samples of a per-sample pass to hold at a time; None: no limit.
  """

  def __init__(
    self,
    network: Any,
    params: PyTree,
    alphas: Float[Array, "cells E O"],
    images: Array,
    labels: Int[Array, " N"] | None = None,
    key: Array | None = None,
    rows: int | None = None,
  ):
    own = getattr(network, "own_params", None)
    self.network, self.params, self.alphas = network, own(params, alphas) if own else params, alphas
    self.images, self.key, self.rows = images, key, rows
    self._labels = labels
    self._known: dict[Any, Any] = {}

  @property
  def labels(self) -> Int[Array, " N"]:
    """Classes of the images.

    Raises:
      ConfigError: the batch has none.
    """
    if self._labels is None:
      raise ConfigError("a proxy of the loss needs labels: give Batch(images, labels)")
    return self._labels

  def logits(self, params: PyTree, batch_norm: str) -> Float[Array, "N K"]:
    """The network's outputs in a mode of batch normalisation."""
    return self.network.with_batch_norm(batch_norm).logits(params, self.images, self.alphas)

  def loss(self, params: PyTree, batch_norm: str) -> Float[Array, ""]:
    """Mean cross-entropy in nats."""
    return cross_entropy(self.logits(params, batch_norm), self.labels).mean()

  def loss_gradient(self, batch_norm: str = "batch") -> PyTree:
    """d mean cross-entropy / d params."""
    return self._once(("loss", batch_norm), lambda: jax.grad(self.loss)(self.params, batch_norm))

  def output_gradient(self, batch_norm: str = "batch") -> PyTree:
    """d mean over samples of the sum over classes of the logits / d params."""

    def output(params):
      return self.mean_output(self.logits(params, batch_norm))

    return self._once(("output", batch_norm), lambda: jax.grad(output)(self.params))

  def mean_output(self, logits: Float[Array, "N K"]) -> Float[Array, ""]:
    """Mean over samples of the sum over classes, with weights that XLA takes for data.

    Of sums over pixels times a constant matrix, which the gradient would else contain, jaxlib 0.10.2 compiles programs
    for CPUs that read other memory (BUILD_NOTES.md, decision 39).
    """
    pixel = self.images[:, 0, 0, 0]
    weights = jnp.where(jnp.isnan(pixel), pixel, 1 / len(pixel))
    return (logits * weights.astype(logits.dtype)[:, None]).sum()

  @property
  def own_channels(self) -> PyTree | None:
    """`network.own_channels` where the architecture uses a part of each parameter; None: it uses whole ones."""
    own = getattr(self.network, "own_channels", None)
    return self._once("own channels", lambda: own(self.alphas)) if own else None

  @property
  def stats(self) -> PyTree:
    """Statistics of this batch at every batch normalisation, constants."""
    moments = self._once("stats", lambda: self.network.moments(self.params, self.images, self.alphas))
    return jax.lax.stop_gradient(moments)

  def frozen(self, params: PyTree, images: Array) -> Float[Array, "N K"]:
    """The outputs of any images with the statistics of the batch as constants: samples do not see each other."""
    network = self.network.with_batch_norm("running").for_rows()
    return network.logits(params, images, self.alphas, stats=self.stats)

  def rows_at_once(self, usual: int) -> int:
    """How many rows of a per-sample pass to hold: `usual` on a CPU, all samples elsewhere, fewer if memory is short."""
    wanted = usual if jax.default_backend() == "cpu" else len(self.images)
    return wanted if self.rows is None else min(self.rows, wanted)

  @property
  def observation(self) -> Any:
    """What the forward pass in mode `batch` shows: `network.observe`."""
    return self._once("observation", lambda: self.network.observe(self.params, self.images, self.alphas))

  def _once(self, name, compute):
    if name not in self._known:
      self._known[name] = compute()
    return self._known[name]


def cross_entropy(logits: Float[Array, "N K"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
  """Cross-entropy of every sample, in nats."""
  hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return -(jax.nn.log_softmax(logits) * hot).sum(-1)


def sum_of_squares(tree: PyTree) -> Float[Array, ""]:
  """Squared Euclidean norm of all leaves together."""
  squares = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)]
  return sum(squares[1:], squares[0])
