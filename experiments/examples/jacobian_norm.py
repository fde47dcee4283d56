"""A proxy of your own in one file: the Frobenius norm of the Jacobian of the logits in the inputs.

    J_i = d logits[i] / d x_i  [K, inputs],    score = sqrt(mean over samples i of ||J_i||^2)

A network that changes much with its inputs before it is trained is held to be hard to train, so lower is better. The
batch's statistics are constants (`batch_frozen`): then a sample's logits depend on its own input alone, and one
backward pass a class gives a row of every sample's Jacobian.

    python -m jaxnas.main --plugins=experiments/examples/jacobian_norm.py --algorithm=score --archs=random:20 \
      --proxies=jacobian_norm,naswot

It works in every space, with any number of devices, and continues after a kill; nothing has to be said for that. It is
a criterion of --algorithm=random_search too.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy, Reading, Status


@registry.register("proxy", "jacobian_norm")
@dataclasses.dataclass(frozen=True)
class JacobianNorm(Proxy):
  """The proxy. Fields of the dataclass would be its variants; this one has none but its name."""

  name: str = "jacobian_norm"
  higher_is_better: ClassVar[bool] = False
  worst: ClassVar[float] = float("inf")  # what a network without a usable score ranks with

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    """On the device, for one architecture, inside a traced program: no Python branches on values."""
    e = evaluation
    inputs = e.network.embed(e.params, e.inputs)  # images are their own embedding

    def logits(inputs: Array) -> Array:
      return e.network.apply(e.params, inputs, e.arch, "running", stats=e.stats).logits

    outputs, pull_back = jax.vjp(logits, inputs)

    def squares_of_class(row: Float[Array, " K"]) -> Float[Array, ""]:
      (gradients,) = pull_back(jnp.broadcast_to(row, outputs.shape))  # a row of every sample's Jacobian
      return jnp.square(gradients).sum()

    rows = jnp.eye(outputs.shape[-1], dtype=outputs.dtype)
    return jnp.sqrt(jax.lax.map(squares_of_class, rows).sum() / outputs.shape[0])

  def finish(self, measured: Any) -> Reading:
    """On the host, in float64: the score, and whether it can be trusted."""
    value = float(np.asarray(measured, np.float64))
    if not np.isfinite(value):
      return Reading(value, Status.NON_FINITE)
    return Reading(value, Status.OK if value > 0 else Status.SINGULAR)  # 0: no path from the inputs to the logits
