"""Measures many architectures through one compiled program per set of proxies and network."""

import collections
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num, PyTree

from jaxnas.base import Batch, Parametrised, Proxy, Reading
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.scoring.checks import checked
from jaxnas.scoring.spread import Spread

BLOCK = 6  # architectures a call; 24, 18 and 12 candidates of TE-NAS on NB201 leave no part of a call idle
ROWS = 8  # rows of a per-sample pass to begin with where memory is short
CPU_MEMORY = 4 << 30  # bytes that intermediates may take on a CPU unless the caller says otherwise
CALL_SECONDS = 5.0  # that a call should not take much longer than, if it can be shorter
CPU_STREAMS = 4  # at most so many blocks at a time on a CPU

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Seconds:
  """Wall seconds spent compiling and scoring."""

  compile: float = 0.0
  score: float = 0.0


class Engine:
  """Keeps compiled programs and counts their seconds.

  A program loops over a block of architectures on the device (`lax.fori_loop`, with the number of architectures as
  data): a loop needs one architecture's memory, and one program serves a set of any size. On a CPU, a thread a core
  runs a block: what one architecture cannot keep busy, its neighbour does. Between blocks the host reports progress and
  saves. An architecture's numbers do not depend on its neighbours in a block. Several devices, also those of other
  hosts, share the architectures of a call (see `Spread`).

  Args:
    block: architectures a call and device, at most; fewer where they take long.
    memory: bytes that the intermediates of all streams may take; per-sample passes hold as many rows as fit. Default:
      4 GiB on a CPU, most of the device elsewhere. A program that the device refuses for lack of memory is tried again
      with half the rows.
    streams: blocks at a time. Default: the cores this process may use, 4 at most, on one CPU device; 1 elsewhere.
    devices: of JAX; default all.
    note: told "compiling" when a program is, which may take minutes, and "" when it is done.
  """

  def __init__(
    self,
    block: int = BLOCK,
    memory: int | None = None,
    streams: int | None = None,
    devices: Sequence[Any] | None = None,
    note: Callable[[str], object] = lambda text: None,
  ):
    for name, value in (("block", block), ("streams", streams)):
      if value is not None and value < 1:
        raise ConfigError(f"{name}={value} must be at least 1")
    self.block = block
    self.memory = _memory() if memory is None else memory
    self.spread = Spread(devices)
    self.streams = _streams(self.spread.size) if streams is None or not self.spread.alone else streams
    self.rows: int | None = None  # what the proxies prefer, until memory says otherwise
    self.seconds = Seconds()
    self.note = note
    self._programs: dict[Any, tuple[Any, int]] = {}

  def blocks(
    self,
    proxies: Sequence[Proxy],
    network: Parametrised,
    params: PyTree | None,
    archs: Num[np.ndarray, "A ..."],
    batch: Batch,
    *,
    key: Array | None = None,
    init_keys: Array | None = None,
  ) -> Iterator[list[list[PyTree]]]:
    """What each proxy's `measure` gives, on the host, a block after the other: [proxy][architecture of the block].

    Args:
      proxies: measured together, sharing their passes.
      network: what each proxy `needs`.
      params: the same weights for all architectures; None: `network.init` of each one's key in `init_keys` [A].
      archs: integer codes of architectures [A, L], or weights of their operations [A, cells, E, O] for a network that
        mixes them.
      batch: the same for all.
      key: for proxies that draw; the same for all.

    Raises:
      ConfigError: as `checks.checked`.
      DatasetError: inputs that the network does not take.
    """
    batch = checked(batch, network, proxies)
    encoded = _encoded(network, archs)
    batch, key = self.spread.same((batch, jax.random.key(0) if key is None else key))
    params = self.spread.same(params)
    which = (tuple(proxies), network, init_keys is not None)

    def arguments(start: int, stop: int):
      places = start + self._places(stop - start)
      block = np.zeros((len(places), *encoded.shape[1:]), encoded.dtype)
      block[places < stop] = encoded[places[places < stop]]
      counts = (places < stop).reshape(self.spread.size, self.block).sum(1, dtype=np.int32)
      own = self.spread.shared((block, counts))
      weights = params if init_keys is None else self.spread.shared(init_keys[np.minimum(places, stop - 1)])
      return weights, *own, batch, key

    waiting, start, pace = collections.deque(), 0, None
    ahead = 2 * self.streams if self.spread.alone else 1  # exchanges with other processes must not overtake one another
    with ThreadPoolExecutor(self.streams) as pool:
      try:
        while waiting or start < len(encoded):
          while start < len(encoded) and len(waiting) < ahead:
            count = self._count(len(encoded) - start, pace)
            args = arguments(start, start + count)  # here, not in the thread: jax's settings are the calling thread's
            program = self._program(*which, args)
            waiting.append((count, args, self.rows, pool.submit(self._execute, program, args)))
            start += count
          count, args, rows, future = waiting.popleft()
          values, seconds = self._result(which, args, rows, future)
          pace = seconds / count
          order = np.argsort(self._places(count), kind="stable")[:count]
          yield [[jax.tree.map(lambda a, i=i: a[i], own) for i in order] for own in values]
      finally:
        pool.shutdown(cancel_futures=True)

  def measure(
    self, proxies: Sequence[Proxy], *args: Any, advance: Callable[[int], None] = lambda n: None, **kwargs: Any
  ) -> list[list[PyTree]]:
    """All of `blocks`, [proxy][architecture]; `advance` is called with the number of architectures after each."""
    found: list[list[PyTree]] = [[] for _ in proxies]
    for values in self.blocks(proxies, *args, **kwargs):
      for own, new in zip(found, values, strict=True):
        own += new
      advance(len(values[0]))
    return found

  def score(self, proxies: Sequence[Proxy], *args: Any, **kwargs: Any) -> list[list[Reading]]:
    """Readings instead of raw values, [proxy][architecture]; arguments as of `measure`."""
    raw = self.measure(proxies, *args, **kwargs)
    return [[proxy.finish(r) for r in own] for proxy, own in zip(proxies, raw, strict=True)]

  def _places(self, count: int) -> np.ndarray:
    """Which of `count` architectures each loop of each device takes, [devices * block]; from `count` on: none."""
    each = -(-count // self.spread.size)
    device, turn = np.divmod(np.arange(self.spread.size * self.block), self.block)
    return np.where(turn < each, device * each + turn, count)

  def _count(self, left: int, pace: float | None) -> int:
    """Architectures of the next call, one of which takes `pace` seconds: a kill loses little, streams end together."""
    wanted = 1 if pace is None else int(CALL_SECONDS / max(pace, 1e-9))
    most = min(self.block * self.spread.size, wanted, -(-left // self.streams))
    return min(left, max(self.spread.size, most))

  def _result(self, which: tuple[Any, Any, bool], args, rows, future):
    """A block's values and seconds; with fewer than these rows where the device has not the memory."""
    begin = time.perf_counter()
    compiled = self.seconds.compile
    try:
      while True:
        try:
          return future.result() if future else self._execute(self._program(*which, args), args)
        except jax.errors.JaxRuntimeError as error:
          if "RESOURCE_EXHAUSTED" not in str(error) or (self.rows == rows and not self._fewer_rows()):
            raise
          future, rows = None, self.rows
    finally:
      self.seconds.score += time.perf_counter() - begin - (self.seconds.compile - compiled)

  def _program(self, proxies, network, draw, args):
    first, before = self.rows, math.inf
    while True:
      shapes = jax.tree.map(lambda a: (a.shape, a.dtype), args[1:])
      name = (proxies, network, draw, self.rows, *jax.tree.leaves(shapes, is_leaf=lambda s: isinstance(s, tuple)))
      if name not in self._programs:
        begin = time.perf_counter()
        self.note("compiling")
        run = _loop(proxies, network, draw, self.rows)
        program = self.spread.program(run, "sssaa" if draw else "assaa").lower(*args).compile()
        analysis = program.memory_analysis()  # takes 0.1 s: once
        self._programs[name] = program, 0 if analysis is None else analysis.temp_size_in_bytes
        self.seconds.compile += time.perf_counter() - begin
        self.note("")
      program, needed = self._programs[name]
      share = self.memory / max(1, needed * self.streams)
      if needed == before:  # there is no per-sample pass in it
        self.rows = first
        log.warning("needs %.1f GiB, more than --memory_gb, however few rows", needed * self.streams / 2**30)
        return program
      before = needed if self.rows else math.inf
      if share >= 1 or not self._fewer_rows(share):
        return program

  def _execute(self, program, args):
    begin = time.perf_counter()
    values = jax.device_get(program(*args))
    return values, self.spread.slowest(time.perf_counter() - begin)

  def _fewer_rows(self, share: float = 0.5) -> bool:
    """Halves the rows held at a time, or takes that share of them if it is less; False where one is held already."""
    if self.rows == 1:
      return False
    self.rows = ROWS if self.rows is None else max(1, min(self.rows // 2, int(self.rows * share)))
    log.warning("little memory: per-sample passes now hold %d rows at a time", self.rows)
    return True


def _encoded(network: Parametrised, archs: Num[np.ndarray, "A ..."]) -> np.ndarray:
  """What of architectures or supernets enters a program, [A, ...]."""
  if np.issubdtype(archs.dtype, np.integer):
    return network.encode(archs)
  return np.asarray(archs, np.float32)


def _loop(proxies, network, draw, rows):
  """The program: weights or keys, archs [block, ...], count [1], batch, key -> a tree a proxy, leaves [block, ...]."""

  def run(weights, block, count, batch, key):
    def one(i):
      params = network.init(weights[i]) if draw else weights
      evaluation = Evaluation(network, params, block[i], *batch, key=key, rows=rows)
      return [proxy.measure(evaluation) for proxy in proxies]

    empty = jax.tree.map(lambda s: jnp.zeros((len(block), *s.shape), s.dtype), jax.eval_shape(one, 0))

    def step(i, out):
      return jax.tree.map(lambda all_values, value: all_values.at[i].set(value), out, one(i))

    return lax.fori_loop(0, count[0], step, empty)

  return run


def _memory() -> int:
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit", 0) if device.platform != "cpu" else 0
  return int(0.8 * limit) or CPU_MEMORY


def _streams(devices: int) -> int:
  if jax.default_backend() != "cpu" or devices > 1:
    return 1
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return min(cores, CPU_STREAMS)
