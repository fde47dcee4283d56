"""Scores sets of architectures with any proxies: the same weights and images for all that are compared."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import jax
import numpy as np
from jaxtyping import Int

from jaxnas import registry
from jaxnas.algorithms.measuring import UsualInputs, measure, passes
from jaxnas.base import Accuracies, Algorithm, Column, Context, Indexed, Outcome, Proxy, Space, Work, lacking
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.scoring import Score
from jaxnas.settings import setting

LISTED = 30  # architectures that are listed one by one


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """Settings of scoring."""

  inputs: UsualInputs = dataclasses.field(default_factory=UsualInputs)
  archs: tuple[str, ...] = setting(
    (),
    "architectures to score: benchmark indices or text forms (|op~0|+...; of darts Genotype(...) or a published name, "
    "such as DARTS_V2), comma-separated; 'random:N' draws N different ones (from seed 0, whatever --seeds is), 'all' "
    "is the whole space, 'benchmark' is all of those in --benchmark, 'benchmark:N' N drawn from them",
  )
  proxies: tuple[str, ...] = setting(
    ("naswot", "mgm", "ntk_condition_number_frozen", "linear_regions", "params"),
    f"what to score with, comma-separated, out of {', '.join(registry.names('proxy'))}; or 'all'",
  )
  repeats_per_seed: int = setting(1, "initialisations and batches per seed; the table has their mean rank")
  share_weights: bool = setting(
    True,
    "one initialisation for all architectures of a repeat; off, each architecture has its own (signal_regression "
    "always draws each its own, since it trains them)",
  )

  def __post_init__(self):
    if not self.archs:
      raise ConfigError("--archs is empty: name the architectures that --algorithm=score is to score")
    if self.repeats_per_seed < 1:
      raise ConfigError(f"--repeats_per_seed={self.repeats_per_seed} must be at least 1")
    names = self.names
    for name in names:
      registry.get("proxy", name, "--proxies")
    if not names or len(set(names)) < len(names):
      raise ConfigError(f"--proxies={','.join(names)!r}: name at least one, and each once")

  @property
  def names(self) -> tuple[str, ...]:
    """The proxies asked for."""
    return registry.names("proxy") if self.proxies == ("all",) else self.proxies


def resolve(space: Space, archs: Sequence[str], benchmark: Accuracies | None = None) -> Int[np.ndarray, "A L"]:
  """The architectures that `--archs` names.

  Raises:
    ArchitectureError: malformed, out of range, or (of one that is named) without a path from input to output.
    ConfigError: a malformed 'random:N', or what the space or the benchmark cannot give.
  """
  found = []
  for text in (a.strip() for a in archs):
    kind, _, count = text.partition(":")
    if text == "all":
      if lacking(space, Indexed):
        raise ConfigError(f"--archs='all': {space.name} is too large to list; say random:N or benchmark:N")
      found.append(cast(Indexed, space).enumerate_all())
    elif kind == "benchmark":
      if benchmark is None:
        raise ConfigError(f"--archs={text!r} needs --benchmark: name its file")
      found.append(_of_benchmark(space, text, count, benchmark))
    elif text.startswith("random:"):
      if not count.isdigit() or not 1 <= int(count) <= len(space):
        raise ConfigError(f"--archs={text!r}: say random:N with N from 1 to {len(space)}")
      found.append(space.sample(jax.random.key(0), int(count)))
    else:
      found.append(_named(space, text)[None])
  return np.concatenate(found)


def _of_benchmark(space: Space, text: str, count: str, benchmark: Accuracies) -> Int[np.ndarray, "A L"]:
  """All architectures of a benchmark, or `count` of them drawn with seed 0."""
  most = len(benchmark.archs)
  if count and not (count.isdigit() and 1 <= int(count) <= most):
    raise ConfigError(f"--archs={text!r}: say benchmark:N with N from 1 to {most}")
  chosen = np.random.default_rng(0).permutation(most)[: int(count)] if count else np.arange(most)
  return np.stack([space.parse(benchmark.archs[i]) for i in chosen])


def _named(space: Space, text: str) -> Int[np.ndarray, " L"]:
  """One architecture by its number or text form."""
  numbered = text.lstrip("-").isdigit() and not lacking(space, Indexed)
  one = cast(Indexed, space).from_index(int(text)) if numbered else space.parse(text)
  if not space.is_connected(one):
    raise ArchitectureError(
      f"--archs={text!r}: no path from input to output, so its output does not depend on the images; "
      "put another operation than 'none' on the edges of some path"
    )
  return one


@registry.register("algorithm", "score")
class Scoring(Algorithm[ScoreConfig]):
  """Scores what `--archs` names; its `found` is the list of `scoring.Score` lines."""

  name: ClassVar[str] = "score"
  summary: ClassVar[str] = "scores architectures that you name, and compares the proxies by a benchmark"
  Settings: ClassVar[type] = ScoreConfig

  def proxies(self, settings: ScoreConfig) -> tuple[Proxy, ...]:
    return tuple(registry.get("proxy", name, "--proxies")() for name in settings.names)

  def work(self, context: Context[ScoreConfig]) -> Work:
    settings = context.settings
    archs = len(resolve(context.space, settings.archs, context.benchmark))
    return Work(archs * passes(self.proxies(settings)) * settings.repeats_per_seed, "architectures")

  def search(self, context: Context[ScoreConfig], seed: int) -> Outcome:
    """Scores everything with one seed; the benchmark is only read for its architectures."""
    settings = context.settings
    lines = measure(
      context,
      self.proxies(settings),
      settings.inputs,
      resolve(context.space, settings.archs, context.benchmark),
      seed,
      repeats=settings.repeats_per_seed,
      share_weights=settings.share_weights,
    )
    rows, columns = _shown(lines)
    return Outcome(rows, columns=columns, scores=[line._asdict() for line in lines], found=lines)


def _shown(lines: Sequence[Score]) -> tuple[list[dict[str, Any]], list[Column]]:
  """Rows of the first repeat: every architecture of few, else the best by each proxy."""
  archs = list(dict.fromkeys(line.arch for line in lines))
  first = [line for line in lines if line.repeat == 0]
  if len(archs) <= LISTED:
    rows: dict[str, dict[str, Any]] = {arch: {"arch": arch} for arch in archs}
    for line in first:
      rows[line.arch] |= {line.proxy: line.value, f"{line.proxy}_status": str(line.status)}
    names = dict.fromkeys(line.proxy for line in first)
    return list(rows.values()), [Column(name, name, f"{name}_status") for name in names]
  best: dict[str, Score] = {}
  for line in first:
    if line.proxy not in best or line.rank_by > best[line.proxy].rank_by:
      best[line.proxy] = line
  found = [{"best_by": name, "arch": line.arch, "score": line.value} for name, line in best.items()]
  return found, [Column("best_by", "best by"), Column("score", "score")]
