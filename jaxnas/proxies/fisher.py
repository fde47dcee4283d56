"""Fisher: the loss's sensitivity to removing whole channels, to second order, summed over all of them.

    d_lc = 1/2 mean_n ( sum_hw a_lnchw * dL / da_lnchw )^2,   a_l the output of convolution or linear layer l
    score = sum_l fan_in_l sum_c d_lc,   L the mean cross-entropy of the batch

zero-cost-nas copies a channel's d to each of its weights before it sums, hence fan_in_l = the weights a channel has
(Cin k k, or Cin); `weighting="channels"` is the sum without it, the formula of the pruning paper. Batch normalisation
in `batch` mode. Higher is better. Sources: Theis et al., "Faster gaze prediction with dense networks and Fisher
pruning", 2018; Turner et al., "BlockSwap", ICLR 2020; as an architecture score Abdelfattah et al., ICLR 2021, sec. 3.1.
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import embedded, losses, names_of


def fan_in(
  params: PyTree, executed: PyTree, prefix: list[str], used_channels: PyTree | None = None
) -> Float[Array, "*cells"]:
  """Weights per output channel of the executed kernel below `prefix`: [], or [cells] where kernels are stacked.

  `used_channels`: see `Single.used_channels`.
  """
  found = []
  own = jax.tree.leaves(used_channels) or [None] * len(jax.tree.leaves(params))
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), mask, pair in zip(leaves, jax.tree.leaves(executed), own, strict=True):
    names = names_of(path)
    if names[: len(prefix)] == prefix and names[-1] == "kernel":
      channels_in = leaf.shape[-2] if pair is None else pair[..., 0].astype(leaf.dtype)
      found.append(math.prod(leaf.shape[mask.ndim : -2]) * channels_in * mask.astype(leaf.dtype))
  return sum(found[1:], found[0])


@registry.register("proxy", "fisher")
@dataclasses.dataclass(frozen=True)
class Fisher(Proxy):
  """The proxy, called `fisher` or `fisher_channels`.

  Attributes:
    weighting: see the module.

  Raises:
    ConfigError: an unknown weighting.
  """

  name: str = ""
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True
  weighting: Literal["weights", "channels"] = "weights"

  def __post_init__(self):
    if self.weighting not in ("weights", "channels"):
      raise ConfigError(f"weighting={self.weighting!r} must be one of weights, channels")
    if not self.name:
      object.__setattr__(self, "name", "fisher" if self.weighting == "weights" else "fisher_channels")

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    network, params, arch, x = evaluation.network, evaluation.params, evaluation.arch, embedded(evaluation)

    def loss(gates, head):
      logits = network.apply(params, x, arch, "batch", gates=gates).logits
      return losses(logits * head, evaluation.labels).mean()

    gates = jax.tree.map(lambda g: g.astype(x.dtype), network.gates(len(x)))
    logits = jax.eval_shape(lambda: network.apply(params, x, arch, "batch").logits)
    # The derivative in a factor of 1 on a map is the sum of map times gradient.
    by_gate, by_head = jax.grad(loss, (0, 1))(gates, jnp.ones(logits.shape, logits.dtype))
    executed, used = network.executed(arch), network.used_channels(arch)

    def weight_of(prefix):
      return fan_in(params, executed, prefix, used) if self.weighting == "weights" else 1.0

    def layer(path, gradient):  # [N, C], or [cells, N, C]
      importance = 0.5 * jnp.square(gradient).mean(-2).sum(-1)
      return (importance * weight_of(names_of(path))).sum()

    layers = jax.tree.leaves(jax.tree_util.tree_map_with_path(layer, by_gate))
    return sum(layers, layer((jax.tree_util.DictKey("classifier"),), by_head))
