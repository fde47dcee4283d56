"""Number of linear regions that a sample of inputs falls into, TE-NAS's expressivity indicator.

The pattern of a sample is the sign of every executed ReLU's output (1 where positive); the score is the number of
distinct patterns. Higher is better. Exact: the official code obtains the same count, up to rounding, from half
precision matrix products. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.proxies.proxy import Proxy, Reading

SATURATED = 0.95  # share of samples with a pattern of their own beyond which the count says little


def activation_patterns(network, params, alphas, batches):
  """Packed patterns uint8 [B * n, bytes] of inputs [B, n, H, W, C]; each batch has its own BN statistics."""
  network = network.with_batch_norm("batch")

  bits = jax.vmap(lambda batch: network.patterns(params, batch, alphas))(batches)
  return jnp.packbits(bits.reshape(batches.shape[0] * batches.shape[1], -1), axis=1)


def _finish(packed: np.ndarray) -> Reading:
  rows = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
  count = len(np.unique(rows))
  return Reading(float(count), "saturated" if count >= SATURATED * len(rows) else "ok")


@functools.cache
def linear_regions() -> Proxy:
  """The proxy. A batch is [B, n, H, W, C]: B mini-batches of n inputs, normalised apart, counted together.

  A network whose output does not depend on its input has one region. The count cannot exceed B * n; within 5 % of
  that its status is `saturated`.
  """
  return Proxy(
    name="linear_regions",
    higher_is_better=True,
    worst=1.0,
    batch_norm="batch",
    measure=lambda e: activation_patterns(e.network, e.params, e.alphas, e.images),
    finish=_finish,
  )
