"""KNAS: a shortlist by the mean of the Gram matrix of gradients (MGM), then the best of a short training.

    candidates = N architectures drawn uniformly
    shortlist  = the k of them with the largest MGM          coarse: nothing is trained
    result     = the best of the shortlist by validation     fine: a short training, or its entry in a table

Source: Xu et al., "KNAS: Green Neural Architecture Search", ICML 2021, algorithm 1. Not copied from the released code:
scores as dictionary keys (equal ones collapse), and a fine stage that differs from data set to data set.
"""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxnas import data, proxies, scoring
from jaxnas.algorithms.indicators import setting
from jaxnas.base import NetworkConfig
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.scoring import Batch, Engine
from jaxnas.train import TrainConfig, total_steps, train, trained_network

FINE = {"table": "look-up", "train": "training"}  # and what progress calls one
COARSE = ("mgm", "mgm_output", "mgm_layer_mean", "mgm_batch1", "mgm_code", "mgm_truncated", "params")


@dataclasses.dataclass(frozen=True)
class KNASConfig:
  """Settings of KNAS. Defaults are the paper's k and the released scripts' N."""

  training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  knas_candidates: int = setting(300, "architectures that KNAS draws, without replacement, and scores")
  knas_shortlist: int = setting(20, "k, how many of them go into the fine stage (the paper: 20 and 40)")
  knas_score: Literal["mgm", "mgm_output", "mgm_layer_mean", "mgm_batch1", "mgm_code", "mgm_truncated", "params"] = (
    setting("mgm", "what the shortlist is made by; 'mgm_code' is the released code's score, 'params' a control")
  )
  knas_fine: Literal["table", "train"] = setting(
    "table",
    "fine stage: 'table' reads the 12-epoch CIFAR-10 validation accuracy of --benchmark, 'train' trains every "
    "architecture of the shortlist for --train_epochs on one half of the images and validates on the other",
  )
  knas_batch: int = setting(32, "images n of the Gram matrix (the released code's variants use 50)")
  knas_channels: int = setting(16, "channels C of the scored networks in their first stage")
  knas_cells: int = setting(5, "cells N of the scored networks: per stage on nb201, in all on darts")

  def __post_init__(self):
    for name, allowed in (("knas_score", COARSE), ("knas_fine", FINE)):
      if getattr(self, name) not in allowed:
        raise ConfigError(f"--{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
    for name in ("knas_candidates", "knas_shortlist", "knas_batch", "knas_channels", "knas_cells"):
      if getattr(self, name) < 1:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 1")
    if self.knas_shortlist > self.knas_candidates:
      raise ConfigError(
        f"--knas_shortlist={self.knas_shortlist} is more than --knas_candidates={self.knas_candidates}: "
        "lower the former or raise the latter"
      )


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished search.

  Attributes:
    arch: the best architecture, [L], in the encoding of its space.
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


def search(
  space: Any,
  source: ImageSource,
  config: KNASConfig,
  *,
  seed: int,
  evaluate: Callable[[str], float],
  engine: Engine | None = None,
  records: Iterable[dict[str, Any]] = (),
  keep: Callable[..., None] = lambda *records: None,
  advance: Callable[..., None] = lambda n, **earlier: None,
  note: Callable[[str], None] = lambda text: None,
) -> Result:
  """Runs one search; other arguments as of `tenas.search`.

  Args:
    space: any that draws architectures and has `network`.
    evaluate: the fine stage: validation accuracy in per cent of an architecture's text form.
    note: told which of the shortlist is being evaluated, such as "training 3/20"; "" at the end.

  Raises:
    ConfigError: no architecture of the shortlist has a validation accuracy.
  """
  draw_key, score_key = jax.random.split(jax.random.key(seed))
  records = list(records)
  candidates = space.sample(draw_key, config.knas_candidates)
  network = NetworkConfig(config.knas_channels, config.knas_cells, source.classes)
  lines = scoring.score(
    [proxies.get(config.knas_score)],
    space,
    candidates,
    Batch(*data.plain_batch(source, score_key, config.knas_batch)),
    seed,
    network=network,
    engine=engine,
    records=records,
    keep=keep,
    advance=advance,
  )
  shortlist = select(np.array([line.rank_by for line in lines]), config.knas_shortlist)
  known = {r["arch"]: r["validation"] for r in records if r.get("algorithm") == "knas" and r["seed"] == seed}
  validation = []
  for number, position in enumerate(shortlist, 1):
    arch = lines[position].arch
    earlier = arch in known
    if not earlier:
      note(f"{FINE[config.knas_fine]} {number}/{len(shortlist)}")
      known[arch] = float(evaluate(arch))
      keep({"algorithm": "knas", "seed": seed, "arch": arch, "validation": known[arch]})
    validation.append(known[arch])
    advance(1, earlier=earlier)
  note("")
  accuracy = np.array(validation, np.float64)
  if np.isnan(accuracy).all():
    raise ConfigError(
      f"--knas_fine={config.knas_fine}: none of the {len(accuracy)} shortlisted architectures has a value"
    )
  best = shortlist[int(np.nanargmax(accuracy))]
  return Result(candidates[best], candidates, np.array([line.value for line in lines]), shortlist, accuracy)


def by_training(
  space: Any,
  source: ImageSource,
  config: TrainConfig,
  *,
  seed: int,
  folder: pathlib.Path | None = None,
  note: Callable[[str], None] = lambda text: None,
) -> Callable[[str], float]:
  """A fine stage: validation accuracy in per cent after a real training; NaN where it diverged.

  Args:
    space: one that `trained_network` takes.
    source: its first half is trained on, the second validated on.
    seed: of all trainings alike.
    folder: a subfolder per architecture has the checkpoints and metrics.jsonl; a killed training continues there.
    note: told after every step where a training is, such as "epoch 2/12".

  Raises:
    ConfigError: the batch is larger than half of the images, or the space has no networks to train.
  """
  first, second = source.halves()
  steps = total_steps(config, first)
  trained_network(space, config, source.classes)  # what it refuses, it refuses now

  def evaluate(arch: str) -> float:
    columns, done = space.parse(arch), 0

    def advance(n: int, earlier: bool = False) -> None:
      del earlier
      nonlocal done
      done += n
      epoch = min(1 + done * config.train_epochs // steps, config.train_epochs)
      note(f"epoch {epoch}/{config.train_epochs}")

    advance(0)
    network = trained_network(space, config, source.classes, columns)
    workdir = None if folder is None else folder / f"{_short_name(space, columns)}_seed{seed}"
    result = train(network, columns, first, second, config, seed=seed, workdir=workdir, advance=advance)
    return result.history[-1]["valid_accuracy"] if result.status == "finished" else float("nan")

  return evaluate


def _short_name(space: Any, arch: Int[np.ndarray, " L"]) -> str:
  """The benchmark's index where the space has one, else a checksum of the text form."""
  return str(space.index_of(arch)) if hasattr(space, "index_of") else f"{zlib.crc32(space.format(arch).encode()):08x}"
