"""Any network of the package as a Flax module: `init` and `apply`, parameters and running statistics as collections.

    module = FlaxNetwork(darts.PlainNetwork(darts.NetworkConfig()))
    variables = module.init(key, images, alphas)  # {"params": ..., "batch_stats": ...}
    logits, updates = module.apply(variables, images, alphas, train=True, mutable=["batch_stats"])

The collections are the trees of the network's own functions, so `network.logits(variables["params"], ...)` is the same.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import unfreeze
from jaxtyping import Array, Float

KEPT = 0.9  # share of the old running statistics


class FlaxNetwork(nn.Module):
  """A network as a module.

  Attributes:
    network: an object with `init_params`, `logits`, `moments` and `with_batch_norm`; those without
      `logits_and_moments` (supernets) keep running variances of n, as Flax does, the others of n - 1, as PyTorch does.
  """

  network: Any

  @nn.compact
  def __call__(
    self, images: Float[Array, "N H W C"], alphas: Float[Array, "cells E O"], train: bool = False, **training: Any
  ) -> Any:
    """Logits [N, K]: of running statistics, or (`train`) of the batch's, towards which running ones then move.

    Args:
      images: normalised.
      alphas: the architecture, see the network.
      train: which statistics; the running ones move if `batch_stats` is mutable.
      training: passed on to the network's `logits_and_moments`, such as `drop_path` and `key`.
    """
    if self.is_initializing():
      self._begin(images, alphas)
    own = unfreeze(dict(self.variables))
    params, stats = own["params"], own["batch_stats"]
    if not train:
      return self.network.with_batch_norm("running").logits(params, images, alphas, stats=stats)
    if hasattr(self.network, "logits_and_moments"):
      logits, seen = self.network.logits_and_moments(params, images, alphas, unbiased=True, **training)
    else:
      batch = self.network.with_batch_norm("batch")
      logits, seen = batch.logits(params, images, alphas), batch.moments(params, images, alphas)
    if self.is_mutable_collection("batch_stats") and not self.is_initializing():
      seen = jax.lax.stop_gradient(seen)
      for name, moved in jax.tree.map(lambda old, new: KEPT * old + (1 - KEPT) * new, stats, seen).items():
        self.put_variable("batch_stats", name, moved)
    return logits

  def _begin(self, images, alphas):
    """Fresh parameters, running means 0 and variances 1."""
    params = self.network.init_params(self.make_rng("params"))
    seen = jax.eval_shape(self.network.moments, params, images, alphas)

    def start(path, leaf):  # the last key is 0 or 1 of (mean, variance), or "mean" or "var"
      last = getattr(path[-1], "idx", getattr(path[-1], "key", None))
      return jnp.full(leaf.shape, float(last in (1, "var")), leaf.dtype)

    for collection, tree in (("params", params), ("batch_stats", jax.tree_util.tree_map_with_path(start, seen))):
      for name, value in tree.items():
        self.put_variable(collection, name, value)
