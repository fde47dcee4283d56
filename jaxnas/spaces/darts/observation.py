"""Batch normalisation within one pass, and what the pass is asked to collect.

What is collected of a layer or an operation is a dictionary by the place of its BN ("a" the first, "b" the second):
  - "moments", "unbiased": (mean, variance), for mode `running` and for running statistics;
  - "observation": (agreement, log deviation) as `Observation` sums them up;
  - "": nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.spaces.darts import blocks, operations
from jaxnas.spaces.darts.operations import Maps

Seen = tuple[Float[Array, "N N"], Float[Array, ""]]  # agreement, log deviation


class Pass(NamedTuple):
  """How BN normalises in this pass (a mode), and what is collected."""

  mode: str
  collect: str

  def norm(self, stats: PyTree | None, found: dict[str, Any]) -> blocks.Norm:
    """BN for the blocks of one layer or operation, which writes what it sees to `found`.

    `stats` are given moments, by place. To observe, `found` gets (output, variance).
    """

    def norm(name: str, z: Maps, bn: PyTree) -> Maps:
      place = name or "a"
      mean, variance = operations.statistics(z, self.mode, stats and lax.stop_gradient(stats[place]))
      y = operations.batch_norm(z, mean, variance, bn["scale"], bn["bias"])
      if self.collect == "unbiased":
        count = z.size // z.shape[0]
        found[place] = lax.stop_gradient((mean, variance * (count / max(1, count - 1))))
      elif self.collect:
        found[place] = (y, variance) if self.collect == "observation" else (mean, variance)
      return y

    return norm

  def finish(self, found: dict[str, Any], x: Maps, *reads: Maps) -> Any:
    """What is to be collected of a layer on x, whose BN wrote to `found`, and whose ReLU read `reads`."""
    if self.collect != "observation":
      return found
    deviations = [(jnp.zeros((1, 1), jnp.float32), _log_deviation(variance)) for _, variance in found.values()]
    return total([nothing_seen(x), *deviations, *((agreement(r), jnp.zeros((), x.dtype)) for r in reads)])


def agreement(x: Maps) -> Float[Array, "N N"]:
  """In how many units two samples are both positive or both not."""
  code = jnp.where(x > 0, 1.0, -1.0).astype(jnp.float32).transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
  return 0.5 * (float(code.shape[1]) + code @ code.T)


def total(seen: list[Seen]) -> Seen:
  """The sums over layers; agreements of shape [1, 1] are zeros."""
  return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *seen)


def nothing_seen(x: Maps) -> Seen:
  """Where there is neither BN nor ReLU."""
  return jnp.zeros((x.shape[1], x.shape[1]), jnp.float32), jnp.zeros((), x.dtype)


def _log_deviation(variance: Float[Array, " C"]) -> Float[Array, ""]:
  """log sqrt of the mean variance; 0 for a constant input."""
  mean = variance.mean()
  return jnp.where(mean > 0, 0.5 * jnp.log(jnp.where(mean > 0, mean, 1)), 0)


def unit_moments(seen: PyTree) -> PyTree:
  """A tree like collected moments (or their shapes): means 0, variances 1, float32."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(leaf.shape, float(path[-1].idx), jnp.float32), seen
  )
