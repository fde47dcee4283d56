"""Cheap validation of a few architectures: by a benchmark's accuracies after 12 epochs, or by a short training."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int

from jaxnas import hosts
from jaxnas.base import Accuracies, Context, Indexed, RecordKind, Source, Space, lacking
from jaxnas.errors import ConfigError
from jaxnas.train import TrainConfig, refuse_source, total_steps, train, trained_network

WAYS: Mapping[str, str] = {"table": "look-up", "train": "training"}  # and what progress calls one


class HeldOut(NamedTuple):
  """What trainings are validated on.

  Attributes:
    flags: what the names of the flags begin with whose values the others are, as in --knas_split.
    split: of the data set, while all training images are trained on; "": the second half of those.
    images: train on the first so many only; 0: on all.
  """

  flags: str = ""
  split: str = ""
  images: int = 0


HALVES: Final = HeldOut()


def after_12_epochs(benchmark: Accuracies | None, flag: str, fix: str) -> Callable[[str], float]:
  """Accuracy in per cent of an architecture's text form; NaN where the table has none.

  Args:
    flag: what asks for it, for the message.
    fix: what else could be given.

  Raises:
    ConfigError: there is no benchmark, or it has no such accuracies.
  """
  if benchmark is None:
    raise ConfigError(f"{flag} needs --benchmark: the accuracies come from its table; or {fix}")
  if "cifar10_valid_12ep" not in benchmark.columns:
    raise ConfigError(f"{flag}: the benchmark {benchmark.name} has no accuracies after 12 epochs; {fix}")
  return lambda arch: benchmark.accuracy(arch, "cifar10", "valid_12ep")


def evaluation(
  context: Context, way: str, training: TrainConfig, flag: str, seed: int, held_out: HeldOut = HALVES
) -> Callable[[str], float]:
  """What validates an architecture's text form: the benchmark, or a training.

  Args:
    way: one of `WAYS`.
    flag: the flag whose value is `way`, for messages.

  Raises:
    ConfigError: the benchmark cannot, or as `by_training`, or several processes would train.
    DatasetError: as `by_training`.
  """
  if way == "table":
    return after_12_epochs(context.benchmark, f"--{flag}=table", f"give --{flag}=train")
  hosts.refuse_several("a training")
  return by_training(context, training, seed=seed, held_out=held_out)


def validate(
  context: Context, archs: Sequence[str], evaluate: Callable[[str], float], kind: RecordKind, seed: int, called: str
) -> Float[np.ndarray, " k"]:
  """Accuracy in per cent of each architecture, in order; one that stands there twice is validated once.

  Each is kept as a record of `kind` with "arch" and "validation", and found again in those of an interrupted run; it is
  a unit of progress each time that it stands there.

  Args:
    called: what progress calls one validation, of which it says the number: "training 3/20".

  Raises:
    WorkdirError: a damaged record.
  """
  earlier = {r["arch"]: float(r["validation"]) for r in kind.of(context.records, seed)}
  known = dict(earlier)
  for number, arch in enumerate(archs, 1):
    if arch not in known:
      context.note(f"{called} {number}/{len(archs)}")
      known[arch] = float(evaluate(arch))
      context.keep(kind.make(seed, arch=arch, validation=known[arch]))
    context.advance(1, earlier=arch in earlier)
  context.note("")
  return np.array([known[arch] for arch in archs], np.float64)


def by_training(
  context: Context, config: TrainConfig, *, seed: int, held_out: HeldOut = HALVES
) -> Callable[[str], float]:
  """Validation accuracy in per cent after a real training; NaN where it diverged.

  The first half of the images is trained on and the second validated on, unless `held_out` says otherwise. Below the
  context's folder, a folder per architecture has the checkpoints and metrics.jsonl; a killed training continues there.
  After every step it is noted where a training is, such as "epoch 2/12".

  Args:
    seed: of all trainings alike.

  Raises:
    ConfigError: the batch is larger than the images to train on, these are fewer than asked for, there is no
      `open_split`, the space has no networks to train, or its networks do not read such data.
    DatasetError: there is no such split.
  """
  space = context.space
  refuse_source(space, context.source)
  first, second = _sources(context, held_out)
  steps = total_steps(config, first)
  trained_network(space, config, context.source.classes)  # what it refuses, it refuses now

  def evaluate(arch: str) -> float:
    code, done = space.parse(arch), 0

    def advance(n: int, earlier: bool = False) -> None:
      del earlier
      nonlocal done
      done += n
      epoch = min(1 + done * config.train_epochs // steps, config.train_epochs)
      context.note(f"epoch {epoch}/{config.train_epochs}", level=1)

    advance(0)
    network = trained_network(space, config, context.source.classes, code)
    folder = context.folder and context.folder / "trainings" / f"{_short_name(space, code)}_seed{seed}"
    result = train(network, code, first, second, config, seed=seed, workdir=folder, advance=advance)
    return result.history[-1]["valid_accuracy"] if result.status == "finished" else float("nan")

  return evaluate


def _sources(context: Context, held_out: HeldOut) -> tuple[Source, Source]:
  """The images to train on and those to validate on."""
  split, images = f"--{held_out.flags}_split={held_out.split}", f"--{held_out.flags}_images={held_out.images}"
  if not held_out.split:
    first, second = context.source.halves()
  elif context.open_split is None:
    raise ConfigError(f"{split} needs the data set's other split; drop it")
  else:
    first, second = context.source, context.open_split(held_out.split)
  if held_out.images > len(first):
    raise ConfigError(f"{images} is more than the {len(first)} of {first.name!r} that there are")
  return first.first(held_out.images) if held_out.images else first, second


def _short_name(space: Space, arch: Int[np.ndarray, " L"]) -> str:
  """The benchmark's number where the space has one, else a checksum of the text form."""
  if lacking(space, Indexed):
    return f"{zlib.crc32(space.format(arch).encode()):08x}"
  return str(cast(Indexed, space).index_of(arch))
