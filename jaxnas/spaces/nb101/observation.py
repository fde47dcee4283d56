"""What one BN with its ReLU shows of a batch, for proxies without gradients.

The same two figures as on NAS-Bench-201 (`Observation`): in how many units two samples are both active or both not, and
the log of the BN's scale. Only the channels that count do: a map may be wider than its vertex.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Seen = tuple[Float[Array, "N N"], Float[Array, ""]]  # agreement, log deviation


def seen_of(y: Float[Array, "N H W C"], variance: Float[Array, " C"], counts: Bool[Array, " C"] | None) -> Seen:
  """Of a ReLU's output y and the variance of its BN's input.

  Args:
    counts: which channels the architecture has; None: all.
  """
  code = jnp.where(y > 0, 1.0, -1.0).astype(jnp.float32)  # a product is 1 where two agree, and -1 where not
  units, mean = float(y[0].size), variance.mean()
  if counts is not None:
    own = counts.sum(dtype=jnp.int32)
    units = (own * (y[0].size // len(counts))).astype(jnp.float32)
    code = jnp.where(counts[None, None, None], code, 0)
    mean = jnp.where(counts, variance, 0).sum() / own.astype(variance.dtype)
  code = code.reshape(len(y), -1)
  deviation = jnp.where(mean > 0, 0.5 * jnp.log(jnp.where(mean > 0, mean, 1)), 0)
  return 0.5 * (units + code @ code.T), deviation


def nothing_seen(x: Float[Array, "N H W C"]) -> Seen:
  """Where there is no BN."""
  return jnp.zeros((len(x), len(x)), jnp.float32), jnp.zeros((), x.dtype)


def total(seen: dict[str, Any]) -> Seen:
  """The sums over layers."""
  return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *seen.values())
