"""Measures many architectures through one compiled program per set of proxies and network."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies import Evaluation, Proxy, Reading

BLOCK = 6  # architectures a call; 24, 18 and 12 candidates of TE-NAS on NB201 leave no part of a call idle
ROWS = 8  # rows of a per-sample pass to begin with where memory is short
CPU_MEMORY = 4 << 30  # bytes that a program's intermediates may take on a CPU unless the caller says otherwise

log = logging.getLogger(__name__)


class Batch(NamedTuple):
  """Normalised images, float32 [N, H, W, C] (or what a proxy asks for), and their classes, int32 [N], where known."""

  images: Any
  labels: Any = None


@dataclasses.dataclass
class Seconds:
  """Wall seconds spent compiling and scoring."""

  compile: float = 0.0
  score: float = 0.0


class Engine:
  """Keeps compiled programs and counts their seconds.

  A program loops over a block of architectures on the device (`lax.fori_loop`, with the number of architectures as
  data): a loop needs one architecture's memory, and one program serves a set of any size. Between blocks the host
  reports progress and saves. An architecture's numbers do not depend on its neighbours in a block.

  Args:
    block: architectures a call.
    memory: bytes that a program's intermediates may take; per-sample passes hold as many rows as fit. Default: 4 GiB
      on a CPU, most of the device elsewhere. A program that the device refuses for lack of memory is tried again with
      half the rows.
  """

  def __init__(self, block: int = BLOCK, memory: int | None = None):
    if block < 1:
      raise ConfigError(f"block={block} must be at least 1")
    self.block = block
    self.memory = _memory() if memory is None else memory
    self.rows: int | None = None  # what the proxies prefer, until memory says otherwise
    self.seconds = Seconds()
    self._programs: dict[Any, Any] = {}

  def measure(
    self,
    proxies: Sequence[Proxy],
    network: Any,
    params: PyTree | None,
    alphas: Float[np.ndarray, "A cells E O"],
    batch: Batch,
    *,
    key: Array | None = None,
    init_keys: Array | None = None,
    advance: Callable[[int], None] = lambda n: None,
  ) -> list[list[PyTree]]:
    """What each proxy's `measure` gives for each architecture, on the host: [proxy][architecture].

    Args:
      proxies: measured together, sharing their passes.
      network: see `Evaluation`.
      params: the same weights for all architectures; None: `network.init_params` of each one's key in `init_keys` [A].
      alphas: edge-op weights of A architectures or supernets.
      batch: the same for all.
      key: for proxies that draw; the same for all.
      advance: called with the number of architectures done after each block.

    Raises:
      ConfigError: a proxy needs labels and the batch has none.
    """
    for proxy in proxies:
      if proxy.needs_labels and batch.labels is None:
        raise ConfigError(f"proxy {proxy.name!r} needs labels and the batch has none: give Batch(images, labels)")
    batch = Batch(*(None if b is None else jnp.asarray(b) for b in batch))
    key = jax.random.key(0) if key is None else key
    found: list[list[PyTree]] = [[] for _ in proxies]
    for start in range(0, len(alphas), self.block):
      part = np.asarray(alphas[start : start + self.block], np.float32)
      block = np.zeros((self.block, *part.shape[1:]), np.float32)
      block[: len(part)] = part
      weights = params if init_keys is None else init_keys[np.minimum(start + np.arange(self.block), len(alphas) - 1)]
      args = (weights, jnp.asarray(block), jnp.asarray(len(part), jnp.int32), batch, key)
      measured = self._run(tuple(proxies), network, init_keys is not None, args)
      for own, values in zip(found, measured, strict=True):
        own += [jax.tree.map(lambda a, i=i: a[i], values) for i in range(len(part))]
      advance(len(part))
    return found

  def score(self, proxies: Sequence[Proxy], *args: Any, **kwargs: Any) -> list[list[Reading]]:
    """Readings instead of raw values, [proxy][architecture]; arguments as of `measure`."""
    raw = self.measure(proxies, *args, **kwargs)
    begin = time.perf_counter()
    readings = [[proxy.finish(r) for r in own] for proxy, own in zip(proxies, raw, strict=True)]
    self.seconds.score += time.perf_counter() - begin
    return readings

  def _run(self, proxies, network, draw, args):
    """One block on the device; with fewer rows where the device has not the memory."""
    while True:
      program = self._program(proxies, network, draw, args)
      begin = time.perf_counter()
      try:
        return jax.device_get(program(*args))
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or not self._fewer_rows():
          raise
      finally:
        self.seconds.score += time.perf_counter() - begin

  def _program(self, proxies, network, draw, args):
    while True:
      shapes = jax.tree.map(lambda a: (a.shape, a.dtype), args[1:])
      name = (proxies, network, draw, self.rows, *jax.tree.leaves(shapes, is_leaf=lambda s: isinstance(s, tuple)))
      if name not in self._programs:
        begin = time.perf_counter()
        self._programs[name] = jax.jit(_loop(proxies, network, draw, self.rows)).lower(*args).compile()
        self.seconds.compile += time.perf_counter() - begin
      program = self._programs[name]
      analysis = program.memory_analysis()
      if analysis is None or analysis.temp_size_in_bytes <= self.memory or not self._fewer_rows():
        return program

  def _fewer_rows(self) -> bool:
    """Halves the rows held at a time; False where one is held already."""
    if self.rows == 1:
      return False
    self.rows = ROWS if self.rows is None else self.rows // 2
    log.warning("little memory: per-sample passes now hold %d rows at a time", self.rows)
    return True


def _loop(proxies, network, draw, rows):
  """The program: weights or keys, alphas [block, ...], count, batch, key -> one tree a proxy, leaves [block, ...]."""

  def run(weights, block, count, batch, key):
    def one(i):
      params = network.init_params(weights[i]) if draw else weights
      evaluation = Evaluation(network, params, block[i], *batch, key=key, rows=rows)
      return [proxy.measure(evaluation) for proxy in proxies]

    empty = jax.tree.map(lambda s: jnp.zeros((len(block), *s.shape), s.dtype), jax.eval_shape(one, 0))

    def step(i, out):
      return jax.tree.map(lambda all_values, value: all_values.at[i].set(value), out, one(i))

    return lax.fori_loop(0, count, step, empty)

  return run


def _memory() -> int:
  device = jax.devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit", 0) if device.platform != "cpu" else 0
  return int(0.8 * limit) or CPU_MEMORY
