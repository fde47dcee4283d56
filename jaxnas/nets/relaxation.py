"""Continuous relaxation of any space: Gumbel samples of edge-op weights.

    soft:              w = softmax((alpha + g) / tau) on every edge,    g ~ Gumbel(0, 1)
    straight-through:  w = onehot(argmax(alpha + g)), with the derivative of soft

Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017; NASI, appendix B.3.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxnas.errors import ConfigError

RELAXATIONS = ("straight_through", "soft")


def relax(
  alphas: Float[Array, "cells E O"],
  noise: Float[Array, "cells E O"],
  kind: Literal["straight_through", "soft"] = "straight_through",
  tau: float = 1.0,
  allowed: Bool[np.ndarray, "cells E O"] | None = None,
) -> Float[Array, "cells E O"]:
  """A relaxed sample of the distribution softmax(alphas), differentiable in `alphas`; rows sum to 1.

  Args:
    alphas: logits of each edge's operations.
    noise: standard Gumbel noise; the sampled operation of an edge is argmax(alphas + noise).
    kind: "soft" gives every operation a positive weight; "straight_through" is exactly one-hot.
    tau: temperature, above 0.
    allowed: operations to choose from, default all. The others have weight and derivative 0; so has a whole edge
      without any.

  Raises:
    ConfigError: an unknown `kind`, or `tau` not above 0.
  """
  if kind not in RELAXATIONS:
    raise ConfigError(f"kind={kind!r} must be one of {', '.join(RELAXATIONS)}")
  if not tau > 0:
    raise ConfigError(f"tau={tau} must be above 0")
  logits = alphas + noise
  if allowed is not None:
    # A softmax of nothing but -inf is NaN, and so is its derivative: an edge without any draws from all, times 0.
    logits = jnp.where(allowed | ~allowed.any(-1, keepdims=True), logits, -jnp.inf)
  weights = soft = jax.nn.softmax(logits / jnp.asarray(tau, logits.dtype), -1)
  if kind == "straight_through":
    hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    weights = hard + (soft - lax.stop_gradient(soft))  # the bracket is exactly 0
  return weights if allowed is None else weights * allowed.astype(weights.dtype)
