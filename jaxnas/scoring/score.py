"""Any proxies over any set of architectures, as a table."""

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.proxies import Proxy
from jaxnas.scoring.engine import Batch, Engine


class Score(NamedTuple):
  """One line of the table.

  Attributes:
    arch: the architecture's text form.
    proxy: the proxy's name.
    value: the proxy's own figure.
    status: "ok", or what is wrong with it.
    rank_by: the figure to rank by: higher is better, degenerate networks last.
    seed, repeat: which weights and batch.
    seconds: wall seconds an architecture of its block took (all proxies of the pass together, blocks side by side),
      without compilation.
  """

  arch: str
  proxy: str
  value: float
  status: str
  rank_by: float
  seed: int
  repeat: int
  seconds: float


def score(
  proxies: Sequence[Proxy],
  space: Any,
  architectures: Any,
  batches: Batch | Callable[[int, Array], Batch],
  seed: int = 0,
  *,
  network: Any = None,
  repeats: int = 1,
  share_weights: bool = True,
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
) -> list[Score]:
  """Scores every architecture with every proxy, `repeats` times; lines in the order given.

  All proxies of a call share a pass: the same weights, the same batch, and what they compute in common. A score does
  not depend on the other architectures, on their order or on an interruption.

  Args:
    architectures: op columns [A, E], or text forms and benchmark indices.
    batches: one batch for all repeats, or a function of (repeat, key) that draws one.
    seed: of weights, batches and what proxies draw.
    network: default `space.plain_network()`.
    repeats: independent initialisations (and batches).
    share_weights: the same initialisation for all architectures of a repeat (a comparison of lower variance, and
      cheaper); else each has its own, drawn from its text form.
    engine: compiled programs to share.
    records: what an interrupted call passed to `keep`; not scored again.
    keep: called with the new lines of a block, one argument each, JSON-able.
    advance: called with the number of architectures done (in one repeat) since the last call, and with `earlier=True`
      if they are in `records` (or repeated).

  Raises:
    ArchitectureError: an architecture of another space, or malformed.
    ConfigError: no proxies, two of the same name, or labels missing.
  """
  names = [p.name for p in proxies]
  if not names or len(set(names)) < len(names):
    raise ConfigError(f"proxies={names}: give at least one, and each name once")
  if repeats < 1:
    raise ConfigError(f"repeats={repeats} must be at least 1")
  archs = as_architectures(space, architectures)
  texts = [space.format(a) for a in archs]
  position: dict[str, int] = {}
  for i, text in enumerate(texts):
    position.setdefault(text, i)
  engine, network = engine or Engine(), network or space.plain_network()
  known = {(r["arch"], r["proxy"], r["repeat"]): _line(r) for r in records if _is_score(r, seed)}
  for repeat in range(repeats):
    wanted = [i for t, i in position.items() if any((t, n, repeat) not in known for n in names)]
    advance(len(texts) - len(wanted), earlier=True)
    if not wanted:
      continue
    init_key, batch_key, own_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), repeat), 3)
    batch = batches(repeat, batch_key) if callable(batches) else batches
    params = network.init_params(init_key) if share_weights else None
    keys = None
    if not share_weights:
      keys = jax.vmap(jax.random.fold_in, (None, 0))(
        init_key, np.array([zlib.crc32(texts[i].encode()) for i in wanted], np.uint32)
      )
    own = space.alphas(archs[wanted])
    blocks = engine.blocks(proxies, network, params, own, batch, key=own_key, init_keys=keys)
    start, begin = 0, time.perf_counter() - engine.seconds.compile
    for values in blocks:
      part = wanted[start : start + len(values[0])]
      start, now = start + len(part), time.perf_counter() - engine.seconds.compile
      seconds, begin = (now - begin) / len(part), now
      new = []
      for a, i in enumerate(part):
        for proxy, raw in zip(proxies, values, strict=True):
          if (texts[i], proxy.name, repeat) not in known:
            reading = proxy.finish(raw[a])
            line = Score(texts[i], proxy.name, *reading, proxy.ranking_value(reading), seed, repeat, seconds)
            known[texts[i], proxy.name, repeat] = line
            new.append({"kind": "score", **line._asdict()})
      keep(*new)
      advance(len(part))
  return [known[t, n, r] for r in range(repeats) for t in texts for n in names]


def as_architectures(space: Any, architectures: Any) -> np.ndarray:
  """Op columns [A, E] of op columns, text forms, benchmark indices, or a mixture of the latter two.

  Raises:
    ArchitectureError: malformed, out of range, of another space, or none at all.
  """
  if isinstance(architectures, str):
    architectures = [architectures]
  if not isinstance(architectures, np.ndarray):
    if not hasattr(space, "from_index") and any(np.ndim(a) == 0 and not isinstance(a, str) for a in architectures):
      raise ArchitectureError(f"architectures by index: the space {space.name!r} has none; give text forms or arrays")
    architectures = [
      space.parse(a) if isinstance(a, str) else space.from_index(a) if np.ndim(a) == 0 else a for a in architectures
    ]
  archs = space.as_codes(architectures)
  if archs.ndim != 2 or not len(archs):
    raise ArchitectureError(
      f"architectures of shape {archs.shape}: expected [A, {archs.shape[-1]}] with A of at least 1"
    )
  return archs


def _is_score(record: dict[str, Any], seed: int) -> bool:
  return record.get("kind") == "score" and record["seed"] == seed


def _line(record: dict[str, Any]) -> Score:
  return Score(**{name: record[name] for name in Score._fields})


class Summary(NamedTuple):
  """An architecture's score over seeds and repeats.

  Attributes:
    mean: of the values of status ok or saturated, float64; NaN where there are none.
    error: standard error of that mean; NaN for fewer than two.
    values: how many entered.
  """

  mean: float
  error: float
  values: int


def summarise(scores: Iterable[Score]) -> dict[tuple[str, str], Summary]:
  """Mean and standard error over repeats and seeds, by (architecture, proxy)."""
  groups: dict[tuple[str, str], list[float]] = {}
  for line in scores:
    groups.setdefault((line.arch, line.proxy), [])
    if np.isfinite(line.value):
      groups[line.arch, line.proxy].append(line.value)
  return {name: _summary(np.array(values, np.float64)) for name, values in groups.items()}


def _summary(values: np.ndarray) -> Summary:
  if not len(values):
    return Summary(np.nan, np.nan, 0)
  error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
  return Summary(float(values.mean()), float(error), len(values))
