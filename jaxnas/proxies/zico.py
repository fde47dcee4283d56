"""ZiCo: how alike the loss's gradients are from one mini-batch to the next, summed over the layers.

    score = sum_l log sum_w  mean_b |g_wb| / std_b g_wb,   g_b = dL_b / dW,   L_b the mean cross-entropy of mini-batch b

over the convolution and linear kernels W_l; std divides by the number of mini-batches. Weights whose gradient does not
vary are left out, and layers that have no other. The batch is cut into mini-batches, two unless told otherwise (what is
left over is not read), each with its own statistics (mode `batch`). By construction the score grows with the number of
layers and of weights. Higher is better; a network without gradients scores 0. The code takes whole batches of the data
instead of parts of one. Source: Li, Yang, Bhardwaj, Marculescu, "ZiCo: Zero-shot NAS via Inverse Coefficient of
Variation on Gradients", ICLR 2023, section 3.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import cross_entropy, embedded


@registry.register("proxy", "zico")
@dataclasses.dataclass(frozen=True)
class ZiCo(Proxy):
  """The proxy.

  Attributes:
    batches: how many mini-batches the batch is cut into.

  Raises:
    ConfigError: fewer than two.
  """

  name: str = "zico"
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True
  batches: int = 2

  def __post_init__(self):
    if self.batches < 2:
      raise ConfigError(f"batches={self.batches} must be at least 2: zico compares gradients of mini-batches")

  @property
  def least_inputs(self) -> int:
    return self.batches

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    e, x = evaluation, embedded(evaluation)
    size = len(x) // self.batches

    def cut(rows: Array) -> Array:
      return rows[: size * self.batches].reshape(self.batches, size, *rows.shape[1:])

    def gradient(part):
      def loss(params):
        return cross_entropy(e.network.apply(params, part[0], e.arch, "batch").logits, part[1]).mean()

      return jax.grad(loss)(e.params)

    stacked = jax.lax.map(gradient, (cut(x), cut(e.labels)))
    gradients = [jax.tree.map(lambda leaf, b=b: leaf[b], stacked) for b in range(self.batches)]
    return e.network.by_layer(_of_layer, *gradients).sum()


def _of_layer(*gradients: Array) -> Float[Array, ""]:
  """log of the sum over weights of mean / deviation, 0 of a layer that has none that varies."""
  largest = jnp.max(jnp.stack([jnp.abs(g).max() for g in gradients]))
  g = jnp.stack(gradients) / jnp.where(largest > 0, largest, 1)  # squares of small gradients leave float32
  deviation = jnp.sqrt(jnp.square(g - g.mean(0, keepdims=True)).mean(0))
  varies = deviation != 0  # what is no number stays that
  total = jnp.where(varies, jnp.abs(g).mean(0) / jnp.where(varies, deviation, 1), 0).sum()
  return jnp.where(total == 0, 0, jnp.log(jnp.where(total == 0, 1, total)))
