"""Scores many architectures with shared weights through one compiled program per proxy and network."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies import Proxy, Reading

BLOCK = 6  # architectures a call; 24, 18 and 12 candidates of TE-NAS on NB201 leave no part of a call idle


@dataclasses.dataclass
class Seconds:
  """Wall seconds spent compiling and scoring."""

  compile: float = 0.0
  score: float = 0.0


class Engine:
  """Keeps compiled programs and counts their seconds.

  A program loops over a block of architectures on the device (`lax.fori_loop`, with the number of architectures as
  data): a loop needs one architecture's memory, and one program serves a round of any size. Between blocks the host
  can report progress.
  """

  def __init__(self, block: int = BLOCK):
    if block < 1:
      raise ConfigError(f"block={block} must be at least 1")
    self.block = block
    self.seconds = Seconds()
    self._programs: dict[Any, Any] = {}

  def measure(
    self,
    proxy: Proxy,
    network: Any,
    params: PyTree,
    alphas: Float[np.ndarray, "A cells E O"],
    batch: Array,
    *,
    advance: Callable[[int], None] = lambda n: None,
  ) -> np.ndarray:
    """What `proxy.measure` gives for each architecture, [A, ...] on the host; the same weights and batch for all.

    Args:
      proxy, network, params, batch: see `Proxy`.
      alphas: edge-op weights of A architectures or supernets.
      advance: called with the number of architectures done after each block.
    """
    batch = jnp.asarray(batch)

    def run(params, block, count, batch):
      def one(i):
        return proxy.measure(network, params, block[i], batch)

      empty = jax.eval_shape(one, 0)
      out = jnp.zeros((len(block), *empty.shape), empty.dtype)
      return lax.fori_loop(0, count, lambda i, out: out.at[i].set(one(i)), out)

    found = []
    for start in range(0, len(alphas), self.block):
      part = np.asarray(alphas[start : start + self.block], np.float32)
      block = np.zeros((self.block, *part.shape[1:]), np.float32)
      block[: len(part)] = part
      args = (params, jnp.asarray(block), jnp.asarray(len(part), jnp.int32), batch)
      program = self._program((proxy, network, batch.shape, batch.dtype, block.shape), run, *args)
      begin = time.perf_counter()
      found.append(np.asarray(program(*args))[: len(part)])
      self.seconds.score += time.perf_counter() - begin
      advance(len(part))
    return np.concatenate(found)

  def score(
    self, proxy: Proxy, network: Any, params: PyTree, alphas, batch, *, advance=lambda n: None
  ) -> list[Reading]:
    """One `Reading` per architecture; arguments as of `measure`."""
    if not len(alphas):
      return []
    raw = self.measure(proxy, network, params, alphas, batch, advance=advance)
    begin = time.perf_counter()
    readings = [proxy.finish(r) for r in raw]
    self.seconds.score += time.perf_counter() - begin
    return readings

  def _program(self, name: Any, fn: Callable, *args):
    if name not in self._programs:
      begin = time.perf_counter()
      self._programs[name] = jax.jit(fn).lower(*args).compile()
      self.seconds.compile += time.perf_counter() - begin
    return self._programs[name]
