"""Fisher: the loss's sensitivity to removing whole channels, to second order, summed over all of them.

    d_lc = 1/2 mean_n ( sum_hw a_lnchw * dL / da_lnchw )^2,   a_l the output of convolution or linear layer l
    score = sum_l fan_in_l sum_c d_lc,   L the mean cross-entropy of the batch

zero-cost-nas copies a channel's d to each of its weights before it sums, hence fan_in_l = the weights a channel has
(Cin k k, or Cin); `weighting="channels"` is the sum without it, the formula of the pruning paper. Batch normalisation
in `batch` mode. Higher is better. Sources: Theis et al., "Faster gaze prediction with dense networks and Fisher
pruning", 2018; Turner et al., "BlockSwap", ICLR 2020; as an architecture score Abdelfattah et al., ICLR 2021, sec. 3.1.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation, cross_entropy
from jaxnas.proxies.proxy import Proxy
from jaxnas.proxies.scalar import finite_reading, names_of


def fan_in(
  params: PyTree, executed: PyTree, prefix: list[str], own_channels: PyTree | None = None
) -> Float[Array, "*cells"]:
  """Weights per output channel of the executed kernel below `prefix`: [], or [cells] where kernels are stacked.

  `own_channels`: see `Evaluation.own_channels`.
  """
  found = []
  own = jax.tree.leaves(own_channels) or [None] * len(jax.tree.leaves(params))
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), mask, pair in zip(leaves, jax.tree.leaves(executed), own, strict=True):
    names = names_of(path)
    if names[: len(prefix)] == prefix and names[-1] == "kernel":
      channels_in = leaf.shape[-2] if pair is None else pair[..., 0].astype(leaf.dtype)
      found.append(math.prod(leaf.shape[mask.ndim : -2]) * channels_in * mask.astype(leaf.dtype))
  return sum(found[1:], found[0])


def _measure(evaluation: Evaluation, *, weighting: str) -> Float[Array, ""]:
  network = evaluation.network.with_batch_norm("batch")
  images, alphas, labels = evaluation.images, evaluation.alphas, evaluation.labels

  def loss(gates, head):
    logits = network.logits(evaluation.params, images, alphas, gates=gates)
    return cross_entropy(logits * head, labels).mean()

  gates = jax.tree.map(lambda g: g.astype(images.dtype), network.gates(len(images)))
  logits = jax.eval_shape(lambda: network.logits(evaluation.params, images, alphas))
  # The derivative in a factor of 1 on a map is the sum of map times gradient.
  by_gate, by_head = jax.grad(loss, (0, 1))(gates, jnp.ones(logits.shape, logits.dtype))
  executed, own_channels = network.executed(alphas), evaluation.own_channels

  def weight_of(prefix):
    return fan_in(evaluation.params, executed, prefix, own_channels) if weighting == "weights" else 1.0

  def layer(path, gradient):  # [N, C], or [cells, N, C]
    importance = 0.5 * jnp.square(gradient).mean(-2).sum(-1)
    return (importance * weight_of(names_of(path))).sum()

  layers = jax.tree.leaves(jax.tree_util.tree_map_with_path(layer, by_gate))
  return sum(layers, layer((jax.tree_util.DictKey("classifier"),), by_head))


@functools.cache
def fisher(weighting: Literal["weights", "channels"] = "weights") -> Proxy:
  """The proxy, called `fisher` or `fisher_channels`.

  Raises:
    ConfigError: an unknown weighting.
  """
  if weighting not in ("weights", "channels"):
    raise ConfigError(f"weighting={weighting!r} must be one of weights, channels")
  return Proxy(
    name="fisher" if weighting == "weights" else "fisher_channels",
    higher_is_better=True,
    worst=0.0,
    batch_norm="batch",
    measure=functools.partial(_measure, weighting=weighting),
    finish=finite_reading,
    needs_labels=True,
  )
