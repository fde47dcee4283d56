"""Any proxies over any set of architectures, as a table."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

from jaxnas.base import Batch, Indexed, NetworkConfig, Parametrised, Proxy, RecordKind, Records, Space, Status, lacking
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.scoring.engine import Engine


class Score(NamedTuple):
  """One line of the table.

  Attributes:
    arch: the architecture's text form.
    proxy: the proxy's name.
    value: the proxy's own figure.
    status: whether the value can be trusted.
    rank_by: the figure to rank by: higher is better, degenerate networks last.
    seed, repeat: which weights and batch.
    seconds: wall seconds an architecture of its block took (all proxies of the pass together, blocks side by side),
      without compilation.
  """

  arch: str
  proxy: str
  value: float
  status: Status
  rank_by: float
  seed: int
  repeat: int
  seconds: float


RECORD = RecordKind(
  "score",
  {"arch": str, "proxy": str, "value": float, "status": Status, "rank_by": float, "repeat": int, "seconds": float},
)


def score(
  proxies: Sequence[Proxy],
  space: Space,
  architectures: Any,
  batches: Batch | Callable[[int, Array], Batch],
  seed: int = 0,
  *,
  network: Parametrised | NetworkConfig | Callable[[Hashable], Parametrised] | None = None,
  repeats: int = 1,
  share_weights: bool = True,
  engine: Engine | None = None,
  records: Records = (),
  keep: Callable[..., object] = lambda *records: None,
  advance: Callable[..., object] = lambda n, **earlier: None,
) -> list[Score]:
  """Scores every architecture with every proxy, `repeats` times; lines in the order given.

  All proxies of a call share a pass: the same weights, the same batch, and what they compute in common. A score does
  not depend on the other architectures, on their order or on an interruption.

  Args:
    architectures: codes [A, L], or text forms and benchmark indices.
    batches: one batch for all repeats, or a function of (repeat, key) that draws one.
    seed: of weights, batches and what proxies draw.
    network: for all architectures, or what `space.network` makes one of for each of their shapes, or a function that
      makes it of a shape; default `space.default_config`.
    repeats: independent initialisations (and batches).
    share_weights: the same initialisation for all architectures of a repeat and shape (a comparison of lower variance,
      and cheaper); else each has its own, drawn from its text form.
    engine: compiled programs to share.
    records: what an interrupted call passed to `keep`; not scored again.
    keep: called with the new lines of a block, one argument each, JSON-able.
    advance: called with the number of architectures done (in one repeat) since the last call, and with `earlier=True`
      if they are in `records` (or repeated).

  Raises:
    ArchitectureError: an architecture of another space, or malformed.
    ConfigError: no proxies, two of the same name, labels missing, or a network that a proxy cannot be measured on.
  """
  names = [p.name for p in proxies]
  if not names or len(set(names)) < len(names):
    raise ConfigError(f"proxies={names}: give at least one, and each name once")
  if repeats < 1:
    raise ConfigError(f"repeats={repeats} must be at least 1")
  codes = as_architectures(space, architectures)
  texts = [space.format(code) for code in codes]
  position: dict[str, int] = {}
  for i, text in enumerate(texts):
    position.setdefault(text, i)
  engine = engine or Engine()
  groups = by_shape(space, codes, space.default_config if network is None else network)
  known = {(r["arch"], r["proxy"], r["repeat"]): _line(r) for r in RECORD.of(records, seed)}
  for repeat in range(repeats):
    wanted = [i for t, i in position.items() if any((t, n, repeat) not in known for n in names)]
    advance(len(texts) - len(wanted), earlier=True)
    if not wanted:
      continue
    init_key, batch_key, own_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), repeat), 3)
    batch = batches(repeat, batch_key) if callable(batches) else batches

    for own, members in groups:
      left = [i for i in wanted if i in members]
      params = own.init(init_key) if share_weights and left else None
      keys = None if share_weights or not left else _own_keys(init_key, [texts[i] for i in left])
      blocks = engine.blocks(proxies, own, params, codes[left], batch, key=own_key, init_keys=keys) if left else ()
      for rows, values, seconds in _timed(blocks, engine):
        part = [left[row] for row in rows]
        lines = _lines(proxies, [texts[i] for i in part], values, (seed, repeat, seconds))
        new = [line for line in lines if (line.arch, line.proxy, repeat) not in known]
        known.update({(line.arch, line.proxy, repeat): line for line in new})
        keep(*(RECORD.make(**line._asdict()) for line in new))
        advance(len(part))
  return [known[t, n, r] for r in range(repeats) for t in texts for n in names]


def by_shape(
  space: Space, codes: np.ndarray, network: Parametrised | NetworkConfig | Callable[[Hashable], Parametrised]
) -> list[tuple[Parametrised, set[int]]]:
  """Networks, and the places of the architectures that each is for: one a shape, or the one given for all."""
  if isinstance(network, Parametrised):
    return [(network, set(range(len(codes))))]
  places: dict[Hashable, set[int]] = {}
  for i, code in enumerate(codes):
    places.setdefault(space.shape(code), set()).add(i)

  def made(shape: Hashable) -> Parametrised:
    if isinstance(network, NetworkConfig):
      return space.network(dataclasses.replace(network, shape=shape))
    return network(shape)

  return [(made(shape), own) for shape, own in places.items()]


def _lines(
  proxies: Sequence[Proxy], texts: Sequence[str], values: list[list[Any]], rest: tuple[int, int, float]
) -> list[Score]:
  """The lines of a block, from `values` [proxy][architecture]; `rest` are a line's last fields."""
  found = []
  for a, text in enumerate(texts):
    for proxy, raw in zip(proxies, values, strict=True):
      reading = proxy.finish(raw[a])
      found.append(Score(text, proxy.name, *reading, proxy.ranking_value(reading), *rest))
  return found


def _own_keys(key: Array, texts: Sequence[str]) -> Array:
  """A key an architecture, from its text form."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, np.array([zlib.crc32(t.encode()) for t in texts], np.uint32))


def _timed(
  blocks: Iterable[tuple[list[int], list[list[Any]]]], engine: Engine
) -> Iterator[tuple[list[int], list[list[Any]], float]]:
  """Blocks as they come, with the seconds that each of their architectures took, without compilation."""
  begin = time.perf_counter() - engine.seconds.compile
  for rows, values in blocks:
    now = time.perf_counter() - engine.seconds.compile
    yield rows, values, (now - begin) / len(rows)
    begin = now


def as_architectures(space: Space, architectures: Any) -> np.ndarray:
  """Codes [A, L] of codes, text forms, benchmark indices, or a mixture of the latter two.

  Raises:
    ArchitectureError: malformed, out of range, of another space, or none at all.
  """
  if isinstance(architectures, str):
    architectures = [architectures]
  if not isinstance(architectures, np.ndarray):
    architectures = [_code(space, one) for one in architectures]
  codes = space.as_codes(architectures)
  if codes.ndim != 2 or not len(codes):
    raise ArchitectureError(
      f"architectures of shape {codes.shape}: expected [A, {codes.shape[-1]}] with A of at least 1"
    )
  return codes


def _code(space: Space, one: Any) -> Any:
  """An architecture's code, from its text form or index."""
  if isinstance(one, str):
    return space.parse(one)
  if np.ndim(one):
    return one
  if lacking(space, Indexed):
    raise ArchitectureError(f"architectures by index: the space {space.name!r} has none; give text forms or arrays")
  return cast(Indexed, space).from_index(one)


def _line(record: Mapping[str, Any]) -> Score:
  line = Score(**{name: record[name] for name in Score._fields})
  return line._replace(status=Status(line.status))


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
    if not line.status.degenerate:
      groups[line.arch, line.proxy].append(line.value)
  return {name: _summary(np.array(values, np.float64)) for name, values in groups.items()}


def _summary(values: np.ndarray) -> Summary:
  if not len(values):
    return Summary(np.nan, np.nan, 0)
  error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
  return Summary(float(values.mean()), float(error), len(values))
