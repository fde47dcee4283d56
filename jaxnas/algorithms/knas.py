"""KNAS: a shortlist by the mean of the Gram matrix of gradients (MGM), then the best of a short training.

    candidates = N architectures drawn uniformly
    shortlist  = the k of them with the largest MGM          coarse: nothing is trained
    result     = the best of the shortlist by validation     fine: a short training, or its entry in a table
    controls   = the best of the k largest, of k at random, of named ones, by the same validation, if asked for

Source: Xu et al., "KNAS: Green Neural Architecture Search", ICML 2021, algorithm 1. Not copied from the released code:
scores as dictionary keys (equal ones collapse), and a fine stage that differs from data set to data set.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxnas import registry, scoring
from jaxnas.algorithms.measuring import networks
from jaxnas.algorithms.naming import named, refuse_too_many
from jaxnas.algorithms.validation import WAYS, HeldOut, evaluation, validate
from jaxnas.base import (
  Algorithm,
  Batch,
  Column,
  Context,
  NetworkConfig,
  Outcome,
  Proxy,
  RecordKind,
  Space,
  Work,
)
from jaxnas.data.batches import plain_batch
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.settings import setting
from jaxnas.train import TrainConfig

Coarse = Literal[
  "mgm", "mgm_output", "mgm_layer_mean", "mgm_batch1", "mgm_code", "mgm_truncated", "params",
  "ntk_condition_number_frozen", "naswot", "synflow", "grad_norm",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KNASConfig:
  """Settings of KNAS. Defaults are the paper's k and the released scripts' N."""

  training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  knas_candidates: int = setting(300, "architectures that KNAS draws, without replacement, and scores")
  knas_shortlist: int = setting(20, "k, how many of them go into the fine stage (the paper: 20 and 40)")
  knas_score: Coarse = setting(
    "mgm", "what the shortlist is made by; 'mgm_code' is the released code's score, 'params' a control"
  )
  knas_fine: Literal["table", "train"] = setting(
    "table",
    "fine stage: 'table' reads the 12-epoch CIFAR-10 validation accuracy of --benchmark, 'train' trains every "
    "architecture of the shortlist for --train_epochs on one half of the images and validates on the other",
  )
  knas_split: str = setting(
    "",
    "with --knas_fine=train: a split to validate on, such as dev, while all training images are trained on; default: "
    "halves of the training images",
    later=True,
  )
  knas_images: int = setting(0, "with --knas_fine=train: train on the first so many images only; 0: on all", later=True)
  knas_controls: tuple[str, ...] = setting(
    (),
    "comma-separated, a row of the table each: 'params', the best by the fine stage of the k candidates with most "
    "parameters; 'random', of k candidates at random; or an architecture as --genotype names one, such as 'unchanged'",
    later=True,
  )
  knas_batch: int = setting(32, "images n of the Gram matrix (the released code's variants use 50)")
  knas_channels: int = setting(16, "channels C of the scored networks in their first stage")
  knas_cells: int | None = setting(
    None, "cells N of the scored networks (default: as the space's networks have, nb201 5 per stage, darts 8 in all)"
  )

  def __post_init__(self):
    for name, allowed in (("knas_score", get_args(Coarse)), ("knas_fine", WAYS)):
      if getattr(self, name) not in allowed:
        raise ConfigError(f"--{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
    for name in ("knas_candidates", "knas_shortlist", "knas_channels", "knas_cells"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ConfigError(f"--{name}={value} must be at least 1")
    if self.knas_images < 0:
      raise ConfigError(f"--knas_images={self.knas_images} must be at least 0")
    for name in ("knas_split", "knas_images"):
      if getattr(self, name) and self.knas_fine != "train":
        raise ConfigError(f"--{name}={getattr(self, name)} is of trainings; give --knas_fine=train, or drop it")
    if self.knas_split.partition("[")[0] == "train":
      raise ConfigError(
        f"--knas_split={self.knas_split}: that is trained on; give another split, or drop it for halves"
      )
    if len({*self.knas_controls, self.knas_score}) <= len(self.knas_controls):
      raise ConfigError(f"--knas_controls={','.join(self.knas_controls)}: name each once, and not --knas_score itself")
    if self.knas_batch < 2:
      raise ConfigError(f"--knas_batch={self.knas_batch} must be at least 2: the Gram matrix compares samples")
    if self.knas_shortlist > self.knas_candidates:
      raise ConfigError(
        f"--knas_shortlist={self.knas_shortlist} is more than --knas_candidates={self.knas_candidates}: "
        "lower the former or raise the latter"
      )


@dataclasses.dataclass(frozen=True)
class Shortlisted:
  """What both stages gave.

  Attributes:
    arch: the best architecture.
    candidates: all that were drawn, [N, L].
    scores: their coarse scores, float64 [N], as the proxy gives them.
    shortlist: positions in `candidates`, best score first, [k].
    validation: fine-stage accuracy of the shortlist in per cent, float64 [k].
  """

  arch: Int[np.ndarray, " L"]
  candidates: Int[np.ndarray, "N L"]
  scores: Float[np.ndarray, " N"]
  shortlist: Int[np.ndarray, " k"]
  validation: Float[np.ndarray, " k"]


def select(ranking: Float[np.ndarray, " N"], count: int) -> Int[np.ndarray, " k"]:
  """Positions of the `count` largest, largest first; equal ones in their order."""
  return np.argsort(-np.asarray(ranking, np.float64), kind="stable")[:count]


RECORD = RecordKind("knas", {"arch": str, "validation": float})


@registry.register("algorithm", "knas")
class KNAS(Algorithm[KNASConfig]):
  """The search; see the head of this file."""

  name: ClassVar[str] = "knas"
  summary: ClassVar[str] = "a shortlist by the mean of the Gram matrix, then short trainings or a table (KNAS)"
  Settings: ClassVar[type] = KNASConfig
  extends: ClassVar[tuple[str, ...]] = ("seeds", "knas_controls")

  def proxies(self, settings: KNASConfig, space: Space) -> tuple[Proxy, ...]:
    return (registry.make("proxy", settings.knas_score, "--knas_score"),)

  def work(self, context: Context[KNASConfig]) -> Work:
    settings = context.settings
    refuse_too_many(context.space, settings.knas_candidates, "--knas_candidates")
    _evaluation(context, seed=0)
    validated = settings.knas_shortlist
    for name in settings.knas_controls:
      validated += settings.knas_shortlist if name in ("params", "random") else len(_named(context.space, name))
    return Work(settings.knas_candidates + validated, "architectures")

  def search(self, context: Context[KNASConfig], seed: int) -> Outcome:
    """Runs one search. The fine stage notes which of the shortlist it is at, such as "training 3/20"."""
    settings, space = context.settings, context.space
    evaluate = _evaluation(context, seed)
    draw_key, score_key = jax.random.split(jax.random.key(seed))
    candidates = space.sample(draw_key, settings.knas_candidates)
    lines = scoring.score(
      self.proxies(settings, space),
      space,
      candidates,
      Batch(*plain_batch(context.source, score_key, settings.knas_batch, "--knas_batch")),
      seed,
      network=networks(
        space, NetworkConfig(settings.knas_channels, settings.knas_cells, context.source.classes), "knas"
      ),
      engine=context.engine,
      records=context.records,
      keep=context.keep,
      advance=context.advance,
    )
    shortlist = select(np.array([line.rank_by for line in lines]), settings.knas_shortlist)
    rules = {settings.knas_score: [lines[position].arch for position in shortlist]}
    rules |= {f"control: {name}": _control(name, context, candidates) for name in settings.knas_controls}
    archs = [arch for own in rules.values() for arch in own]
    found = validate(context, archs, evaluate, RECORD, seed, WAYS[settings.knas_fine])
    accuracy = dict(zip(archs, found.tolist(), strict=True))
    scores = {line.arch: line.value for line in lines}
    rows = [_row(rule, own, accuracy, scores, settings) for rule, own in rules.items()]
    validated = {
      rule: [{"arch": arch, settings.knas_score: scores.get(arch), "validation": accuracy[arch]} for arch in own]
      for rule, own in rules.items()
    }
    values = np.array([line.value for line in lines], np.float64)
    best = space.parse(rows[0]["arch"])
    columns = [Column("validation", "valid %"), Column(settings.knas_score, settings.knas_score)]
    return Outcome(
      rows,
      columns=[Column("rule", "ranked by"), *columns] if settings.knas_controls else columns,
      groups=("rule",) if settings.knas_controls else (),
      record={
        "shortlist": validated.pop(settings.knas_score),
        **({"controls": validated} if settings.knas_controls else {}),
      },
      found=Shortlisted(best, candidates, values, shortlist, found[: len(shortlist)]),
    )


def _named(space: Space, name: str) -> list[str]:
  """The architecture that a control names.

  Raises:
    ConfigError: there is none of that name.
  """
  try:
    return [space.format(named(space, name, "--knas_controls"))]
  except ArchitectureError as error:
    raise ConfigError(f"{error}; and it is neither params nor random") from error


def _control(name: str, context: Context[KNASConfig], candidates: Int[np.ndarray, "N L"]) -> list[str]:
  """What a control validates: of equally large ones the first drawn; at random the first drawn of all."""
  space, k = context.space, context.settings.knas_shortlist
  if name == "random":
    return [space.format(code) for code in candidates[:k]]
  if name == "params":
    sizes = np.array([space.costs_on(code, context.source).params for code in candidates], np.float64)
    return [space.format(candidates[position]) for position in select(sizes, k)]
  return _named(space, name)


def _evaluation(context: Context[KNASConfig], seed: int) -> Callable[[str], float]:
  """The fine stage."""
  settings = context.settings
  held_out = HeldOut("knas", settings.knas_split, settings.knas_images)
  return evaluation(context, settings.knas_fine, settings.training, "knas_fine", seed, held_out)


def _row(
  rule: str, archs: list[str], accuracy: Mapping[str, float], scores: Mapping[str, float], settings: KNASConfig
) -> dict[str, Any]:
  """The best of `archs` by the fine stage, with what the first half of them finds; a control may have no value."""
  values = np.array([accuracy[arch] for arch in archs], np.float64)
  none = bool(np.isnan(values).all())
  if none and rule == settings.knas_score:
    raise ConfigError(f"--knas_fine={settings.knas_fine}: none of the {len(archs)} architectures by {rule} has a value")
  best = 0 if none else int(np.nanargmax(values))
  half = values[: max(1, len(archs) // 2)]
  return {
    "rule": rule,
    "arch": archs[best],
    "validation": float(values[best]),
    settings.knas_score: scores.get(archs[best]),
    "half_arch": "" if np.isnan(half).all() else archs[int(np.nanargmax(half))],
  }
