"""Measures many architectures through one compiled program per set of proxies and network."""

import collections
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num, PyTree

from jaxnas.base import Batch, Collect, Dispatched, Parametrised, Proxy, Reading
from jaxnas.errors import ConfigError
from jaxnas.nets import products
from jaxnas.nets.choose import Slots
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.scoring.checks import checked
from jaxnas.scoring.spread import Spread
from jaxnas.scoring.together import SIZE, Together, TooLarge

BLOCK = 6  # architectures a call; 24, 18 and 12 candidates of TE-NAS on NB201 leave no part of a call idle
ROWS = 8  # rows of a per-sample pass to begin with where memory is short
CPU_MEMORY = 4 << 30  # bytes that intermediates may take on a CPU unless the caller says otherwise
CALL_SECONDS = 5.0  # that a call should not take much longer than, if it can be shorter
CPU_STREAMS = 4  # at most so many blocks at a time on a CPU

Batching = Literal["auto", "loop", "dispatch"]
Which = tuple[tuple[Proxy, ...], Parametrised, bool]  # proxies, network, whether each architecture has its own weights

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Seconds:
  """Wall seconds spent compiling and scoring."""

  compile: float = 0.0
  score: float = 0.0


class Engine:
  """Keeps compiled programs and counts their seconds.

  There are two programs. "loop" takes a block of architectures one after the other on the device (`lax.fori_loop`, with
  the number of architectures as data): a loop needs one architecture's memory, and one program serves a set of any
  size. On a CPU, a thread a core runs a block: what one architecture cannot keep busy, its neighbour does. "dispatch"
  takes a block at once, each operation for those architectures that chose it (`nets.choose`), of a network that is
  `base.Dispatched`; blocks are packed so that operations are chosen evenly. Between blocks the host reports progress
  and saves. An architecture's numbers do not depend on its neighbours in a block, but for the rounding of sums that
  "dispatch" makes in another order. Several devices, also those of other hosts, share the architectures of a call (see
  `Spread`).

  Args:
    block: architectures a call and device, at most; fewer where they take long, or where "dispatch" lacks the memory.
      Default: 6 of "loop", 100 of "dispatch".
    memory: bytes that the intermediates of all streams may take; per-sample passes hold as many rows as fit. Default:
      4 GiB on a CPU, most of the device elsewhere. A program that the device refuses for lack of memory is tried again
      with half the rows.
    streams: blocks at a time. Default: the cores this process may use, 4 at most, on one CPU device; 1 elsewhere.
    devices: of JAX; default all.
    note: told "compiling" when a program is, which may take minutes, and "" when it is done.
    batching: "loop", "dispatch", or "auto": "dispatch" on accelerators for networks that have it. What cannot be
      measured so, of proxies with a network of their own or with operations that JAX cannot batch, is looped over, and
      the log says so.
  """

  def __init__(
    self,
    block: int | None = None,
    memory: int | None = None,
    streams: int | None = None,
    devices: Sequence[Any] | None = None,
    note: Callable[[str], object] = lambda text: None,
    batching: Batching = "auto",
  ):
    for name, value in (("block", block), ("streams", streams)):
      if value is not None and value < 1:
        raise ConfigError(f"{name}={value} must be at least 1")
    if batching not in get_args(Batching):
      raise ConfigError(f"batching={batching!r} must be one of {', '.join(get_args(Batching))}")
    self.block, self.batching = block, batching
    self.memory = _memory() if memory is None else memory
    self.spread = Spread(devices)
    self.streams = _streams(self.spread.size) if streams is None or not self.spread.alone else streams
    self.rows: int | None = None  # what the proxies prefer, until memory says otherwise
    self.seconds = Seconds()
    self.note = note
    self._programs: dict[Any, tuple[Any, int]] = {}
    self._slots: dict[Any, dict[int, Slots]] = {}
    self._looped: set[Which] = set()  # what "dispatch" cannot do

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
  ) -> Iterator[tuple[list[int], list[list[PyTree]]]]:
    """Which architectures, and what each proxy's `measure` gives for them, on the host: [proxy][architecture].

    A block after the other, in an order that "dispatch" chooses.

    Args:
      proxies: measured together, sharing their passes.
      network: what each proxy `needs`.
      params: the same weights for all architectures; None: `network.init` of each one's key in `init_keys` [A].
      archs: integer codes of architectures [A, L], or weights of their operations [A, cells, E, O] for a network that
        mixes them.
      batch: the same for all.
      key: for proxies that draw; the same for all.

    Raises:
      ConfigError: as `checks.checked`; "dispatch" for a network of the space that lacks it.
      DatasetError: inputs that the network does not take.
    """
    batch = checked(batch, network, proxies)
    encoded = _encoded(network, archs)
    batch, own_key = self.spread.same((batch, jax.random.key(0) if key is None else key))
    which = (tuple(proxies), network, init_keys is not None)
    weights = self.spread.same(params) if init_keys is None else init_keys
    left = np.arange(len(encoded))
    if self._dispatches(which, archs):
      try:
        for own_network, part in cast(Dispatched, network).by_program(encoded):
          together = self._together((which[0], own_network, which[2]))
          args = (encoded[part], weights[part] if which[2] else weights, batch, own_key, self.block or SIZE)
          for places, values in together.blocks(own_network, *args):
            rows = part[places]
            left = np.setdiff1d(left, rows)
            yield rows.tolist(), [_apart(own, range(len(rows))) for own in values]
      except TooLarge:
        log.warning("little memory: architectures one after the other")
      except NotImplementedError as error:  # of JAX: an operation has no rule for batches
        self._only_loops(which, str(error).partition("\n")[0][:200])
    yield from self._in_turn(which, encoded, left, weights, batch, own_key)

  def _in_turn(
    self, which: Which, encoded, left, weights, batch, key
  ) -> Iterator[tuple[list[int], list[list[PyTree]]]]:
    """`blocks` of the architectures `left`, by "loop"."""

    def arguments(start: int, stop: int):
      places = start + self._places(stop - start)
      rows = left[np.minimum(places, stop - 1)]
      counts = (places < stop).reshape(self.spread.size, -1).sum(1, dtype=np.int32)
      own = self.spread.shared(weights[rows]) if which[2] else weights
      return own, *self.spread.shared((encoded[rows], counts)), batch, key

    waiting, start, pace = collections.deque(), 0, None
    ahead = 2 * self.streams if self.spread.alone else 1  # exchanges with other processes must not overtake one another
    with ThreadPoolExecutor(self.streams) as pool:
      try:
        while waiting or start < len(left):
          while start < len(left) and len(waiting) < ahead:
            count = self._count(len(left) - start, pace)
            args = arguments(start, start + count)  # here, not in the thread: jax's settings are the calling thread's
            program = self._program(*which, args)
            rows = left[start : start + count].tolist()
            waiting.append((rows, args, self.rows, pool.submit(self._execute, program, args)))
            start += count
          rows, args, held, future = waiting.popleft()
          values, seconds = self._result(which, args, held, future)
          pace = seconds / len(rows)
          order = np.argsort(self._places(len(rows)), kind="stable")[: len(rows)].tolist()
          yield rows, [_apart(own, order) for own in values]
      finally:
        pool.shutdown(cancel_futures=True)

  def _dispatches(self, which: Which, archs: Num[np.ndarray, "A ..."]) -> bool:
    proxies, network, _ = which
    if self.batching == "loop" or which in self._looped:
      return False
    if not np.issubdtype(archs.dtype, np.integer):
      if self.batching == "dispatch":
        self._only_loops(which, "mixtures choose nothing")
      return False
    able = isinstance(network, Dispatched)
    if able or self.batching == "auto":
      return able and (self.batching == "dispatch" or jax.default_backend() != "cpu")
    if all(proxy.Settings is None for proxy in proxies):
      raise ConfigError("--batching=dispatch: networks of this space cannot be measured so; give 'loop' or 'auto'")
    self._only_loops(which, "their network has no choices")
    return False

  def _only_loops(self, which: Which, why: str) -> None:
    self._looped.add(which)
    names = ", ".join(proxy.name for proxy in which[0])
    log.warning("--batching: %s cannot be measured many at a time (%s): one after the other", names, why)

  def _together(self, which: Which) -> Together:
    def compiled(name, run, arguments, args):
      return self._compiled((*which, self.rows, "dispatch", *name), run, arguments, args)

    slots = self._slots.setdefault((*which, self.rows), {})
    return Together(_one(*which, self.rows), which[2], self.spread, self.memory, compiled, slots)

  def measure(
    self, proxies: Sequence[Proxy], *args: Any, advance: Callable[[int], None] = lambda n: None, **kwargs: Any
  ) -> list[list[PyTree]]:
    """All of `blocks`, [proxy][architecture]; `advance` is called with the number of architectures after each."""
    found: list[dict[int, PyTree]] = [{} for _ in proxies]
    for rows, values in self.blocks(proxies, *args, **kwargs):
      for own, new in zip(found, values, strict=True):
        own.update(zip(rows, new, strict=True))
      advance(len(rows))
    return [[own[i] for i in range(len(own))] for own in found]

  def score(self, proxies: Sequence[Proxy], *args: Any, **kwargs: Any) -> list[list[Reading]]:
    """Readings instead of raw values, [proxy][architecture]; arguments as of `measure`."""
    raw = self.measure(proxies, *args, **kwargs)
    return [[proxy.finish(r) for r in own] for proxy, own in zip(proxies, raw, strict=True)]

  def _places(self, count: int) -> np.ndarray:
    """Which of `count` architectures each loop of each device takes, [devices * block]; from `count` on: none."""
    each, block = -(-count // self.spread.size), self.block or BLOCK
    device, turn = np.divmod(np.arange(self.spread.size * block), block)
    return np.where(turn < each, device * each + turn, count)

  def _count(self, left: int, pace: float | None) -> int:
    """Architectures of the next call, one of which takes `pace` seconds: a kill loses little, streams end together."""
    wanted = 1 if pace is None else int(CALL_SECONDS / max(pace, 1e-9))
    most = min((self.block or BLOCK) * self.spread.size, wanted, -(-left // self.streams))
    return min(left, max(self.spread.size, most))

  def _result(self, which: Which, args, rows, future):
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
      run = _loop(_one(proxies, network, draw, self.rows), draw)
      name = (proxies, network, draw, self.rows, "loop")
      program, needed = self._compiled(name, run, "sssaa" if draw else "assaa", args)
      share = self.memory / max(1, needed * self.streams)
      if needed == before:  # there is no per-sample pass in it
        self.rows = first
        log.warning("needs %.1f GiB, more than --memory_gb, however few rows", needed * self.streams / 2**30)
        return program
      before = needed if self.rows else math.inf
      if share >= 1 or not self._fewer_rows(share):
        return program

  def _compiled(self, name: tuple, run: Callable, arguments: str, args: tuple) -> tuple[Any, int]:
    """`run` compiled for these arguments, once, and the bytes of its intermediates."""
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), args[1:])
    name = (*name, products.precision(), *jax.tree.leaves(shapes, is_leaf=lambda s: isinstance(s, tuple)))
    if name not in self._programs:
      begin = time.perf_counter()
      self.note("compiling")
      program = self.spread.program(run, arguments).lower(*args).compile()
      analysis = program.memory_analysis()  # takes 0.1 s: once
      self._programs[name] = program, 0 if analysis is None else analysis.temp_size_in_bytes
      self.seconds.compile += time.perf_counter() - begin
      self.note("")
    return self._programs[name]

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


def _one(proxies: Sequence[Proxy], network: Parametrised, draw: bool, rows: int | None):
  """The measurement of one architecture: weights or a key, architecture, batch, key -> a tree a proxy."""

  def one(weights, arch, batch, key):
    params = network.init(weights) if draw else weights
    collects: list[Collect] = [what for proxy in proxies for what in proxy.collects]
    evaluation = Evaluation(network, params, arch, *batch, key=key, rows=rows, collects=collects)
    return [proxy.measure(evaluation) for proxy in proxies]

  return one


def _loop(one, draw: bool):
  """The program: weights or keys, archs [block, ...], count [1], batch, key -> a tree a proxy, leaves [block, ...]."""

  def run(weights, block, count, batch, key):
    def at(i):
      return one(weights[i] if draw else weights, block[i], batch, key)

    empty = jax.tree.map(lambda s: jnp.zeros((len(block), *s.shape), s.dtype), jax.eval_shape(at, 0))

    def step(i, out):
      return jax.tree.map(lambda all_values, value: all_values.at[i].set(value), out, at(i))

    return lax.fori_loop(0, count[0], step, empty)

  return run


def _apart(values: PyTree, order: Sequence[int]) -> list[PyTree]:
  """The rows of all leaves, in that order."""
  return [jax.tree.map(lambda leaf, i=i: leaf[i], values) for i in order]


def _memory() -> int:
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit", 0) if device.platform != "cpu" else 0
  return int(0.8 * limit) or CPU_MEMORY


def _streams(devices: int) -> int:
  if jax.default_backend() != "cpu" or devices > 1:
    return 1
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return min(cores, CPU_STREAMS)
