"""GradSign: for how many weights the gradients of single samples agree in sign.

    score = sum_w | sum_n sign g_wn |,   g_n = dL_n / dW,   L_n the cross-entropy of sample n alone

over the convolution and linear kernels. A pass a sample, whose batch normalisation sees that image only. Higher is
better; a network without gradients scores 0. Grows with the number of weights: at most N times it.

A gradient of less than 100 eps times the largest of its tensor has no sign here. In the code it has: but where one
pixel alone activates a channel, batch normalisation takes its size out again, the gradients are 0, and rounding decides
their signs (1 % of the score on maps of 2 x 2). Source: Zhang & Jia, "GradSign: Model Performance Inference with
Theoretical Insights", ICLR 2022, and its code.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.evaluation import cross_entropy, embedded, rows_at_once

NOISE = 100  # eps of the largest gradient, below which one counts as 0
ROWS = 8  # samples at a time on a CPU


@registry.register("proxy", "gradsign")
@dataclasses.dataclass(frozen=True)
class GradSign(Proxy):
  """The proxy. Of the samples' gradients only as many exist at a time as memory has room for."""

  name: str = "gradsign"
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    e, x = evaluation, embedded(evaluation)

    def signs(image, label):
      def loss(params):
        logits = e.network.apply(params, image[None], e.arch, "batch", rows=True).logits
        return cross_entropy(logits, label[None])[0]

      return jax.tree.map(_sign, jax.grad(loss)(e.params))

    def add(total, part):
      found = jax.vmap(signs)(*part)
      return jax.tree.map(lambda t, s: t + s.sum(0), total, found), None

    rows = next(n for n in range(rows_at_once(e, ROWS), 0, -1) if len(x) % n == 0)
    parts = [leaf.reshape(-1, rows, *leaf.shape[1:]) for leaf in (x, e.labels)]
    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, e.params), parts)
    return e.network.by_layer(lambda t: jnp.abs(t).sum(), total).sum()


def _sign(gradient: Array) -> Array:
  size = jnp.abs(gradient)
  return jnp.where(size <= NOISE * jnp.finfo(gradient.dtype).eps * size.max(), 0, jnp.sign(gradient))
