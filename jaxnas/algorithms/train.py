"""Training of one architecture for real: the end of a search, not a search.

It is trained from fresh weights, or fine-tuned from those of a pre-trained encoder, and evaluated after every epoch on
images that it does not see; the figures are those of the last epoch, not of the best.
"""

import dataclasses
import functools
import itertools
import logging
import pathlib
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxnas import hosts, registry
from jaxnas import train as training
from jaxnas.algorithms.naming import named
from jaxnas.algorithms.training_plots import plot_confusion, plot_training
from jaxnas.base import (
  Algorithm,
  Artefact,
  Code,
  Column,
  Context,
  NamedClasses,
  Outcome,
  Source,
  Space,
  Trainable,
  Work,
)
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.settings import setting
from jaxnas.train import TrainConfig

HELD_OUT = ("split", "half")
MOBILE = 600_000_000  # multiply-adds below which a network counts as mobile on ImageNet
_SPLITS = {  # of the others it is "test"
  **dict.fromkeys(("imagenet2012", "imagenet16_120"), "validation"),
  **dict.fromkeys(("rte", "tsv"), "dev"),
}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
  """What is trained, on which images, by which recipe."""

  training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  genotype: str = setting(
    "",
    "the architecture to train: its text form, its index where the space has one, (darts) a published name, or "
    "(encoder) unchanged",
  )
  held_out: Literal["split", "half"] = setting(
    "split",
    "images to evaluate on: 'split' is the data set's own test (ImageNet: validation) split, 'half' the second half of "
    "its training images, and only the first is trained on",
  )
  train_images: int = setting(0, "train on the first so many images only; 0: on all")
  eval_images: int = setting(0, "evaluate on the first so many images only; 0: on all")

  def __post_init__(self):
    if self.held_out not in HELD_OUT:
      raise ConfigError(f"--held_out={self.held_out!r} must be one of {', '.join(HELD_OUT)}")
    for name in ("train_images", "eval_images"):
      if getattr(self, name) < 0:
        raise ConfigError(f"--{name}={getattr(self, name)} must be at least 0")


@dataclasses.dataclass(frozen=True)
class TrainedArchitecture:
  """A trained architecture.

  Attributes:
    arch: which.
    params, macs: trainable parameters and multiply-adds an image of the trained network, without the auxiliary head.
    status, history: as of `jaxnas.train.Result`.
    confusion: of the held-out images, a row a class; None where it diverged, or of more than 20 classes.
  """

  arch: Code
  params: int
  macs: int
  status: str
  history: list[dict[str, Any]]
  confusion: Int[np.ndarray, "K K"] | None = None


@registry.register("algorithm", "train")
class Train(Algorithm[TrainingConfig]):
  """The training; see the head of this file."""

  name: ClassVar[str] = "train"
  summary: ClassVar[str] = "trains the architecture that --genotype names"
  Settings: ClassVar[type] = TrainingConfig
  requires: ClassVar[tuple[type, ...]] = (Trainable,)

  def image_size(self, settings: TrainingConfig) -> int:
    """An eighth more than the network sees, to crop from."""
    return -(-settings.training.image_size * 8 // 7)

  def work(self, context: Context[TrainingConfig]) -> Work:
    hosts.refuse_several("a training")
    return Work(steps(context.space, split_images(context), context.settings), "steps")

  def search(self, context: Context[TrainingConfig], seed: int) -> Outcome:
    """Trains once; the folder gets metrics.jsonl, checkpoints, where a killed training continues, and the module."""
    images, recipe = split_images(context), context.settings.training
    classes, space = images.train.classes, context.space
    arch = resolve(space, context.settings.genotype)
    side = training.seen_shape(recipe, images.train)[0]
    params, macs = training.trained_costs(space, arch, recipe, classes, side)
    folder = context.folder and context.folder / "trainings" / f"seed{seed}"
    network = training.trained_network(space, recipe, classes, arch)
    result = training.train(
      network,
      arch,
      images.train,
      images.valid,
      recipe,
      seed=seed,
      architecture=space.format(arch),
      workdir=folder,
      advance=context.advance,
      log=lambda record: _log.info("seed %d, epoch %d: %s", seed, record["epoch"], record),
    )
    if folder and result.status == "finished":
      assert isinstance(space, Trainable)
      training.export(folder, space, arch, recipe, result, images.valid)
    matrix = None
    if result.status == "finished" and classes <= training.MOST:
      matrix = training.confusion(network, arch, result, images.valid, recipe.eval_batch, recipe.image_size)
    done = TrainedArchitecture(arch, params, macs, result.status, result.history, matrix)
    return _outcome(space, done, images, seed)


def _outcome(space: Space, done: TrainedArchitecture, images: "Images", seed: int) -> Outcome:
  """A row of the last epoch, the curves, and the confusion matrix."""
  held_out, source = images.description, images.valid
  last = done.history[-1]
  row = {
    "arch": space.format(done.arch),
    "params": done.params,
    "macs": done.macs,
    "epochs": last["epoch"],
    "valid_accuracy": last["valid_accuracy"],
    "valid_accuracy_status": "ok" if done.status == "finished" else done.status,
    "valid_top5": last["valid_top5"],
    "evaluated_on": held_out,
  }

  def draw(path: pathlib.Path) -> None:
    plot_training({f"seed {seed}": [done.history]}, path, title="Training")

  columns = [Column("epochs", "epochs"), Column("valid_accuracy", "top-1 %", "valid_accuracy_status")]
  columns += [Column("valid_top5", "top-5 %")] if source.classes > 5 else []
  artefacts = [Artefact("training.png", f"Loss and accuracy of every epoch, held out: {held_out}.", draw)]
  record: dict[str, Any] = {"epochs": done.history}
  if (matrix := done.confusion) is not None:
    names = source.class_names if isinstance(source, NamedClasses) else [str(label) for label in range(source.classes)]
    scores = training.f1_scores(matrix)
    row |= {"macro_f1": 100 * float(scores.mean()), "matthews": training.matthews(matrix)}
    columns += [Column("macro_f1", "macro F1 %"), Column("matthews", "Matthews corr.")]
    caption = f"How many of each class (row) are taken for each (column), of the {held_out}."
    artefacts.append(Artefact("confusion.png", caption, lambda path: plot_confusion(matrix, names, path)))
    record["confusion"] = {"classes": list(names), "matrix": matrix, "f1": 100 * scores}
  columns.append(Column("evaluated_on", "evaluated on"))
  return Outcome([row], columns, artefacts, record=record, found=done)


class Images(NamedTuple):
  """What is trained on, what is evaluated on, and what the second is, for the reader."""

  train: Source
  valid: Source
  description: str


def split_images(context: Context[TrainingConfig]) -> Images:
  """Training and evaluation images.

  Raises:
    ConfigError: there are fewer images than asked for, or no `open_split` for the data set's own.
    DatasetError: the split is not in the data set.
  """
  source, config = context.source, context.settings
  if config.held_out == "half":
    first, second = source.halves()
    description = f"second half of {source.name}"
  elif context.open_split is None:
    raise ConfigError("--held_out=split needs the data set's other split; give --held_out=half")
  else:
    name = _SPLITS.get(source.name.partition(":")[0], "test")
    try:
      first, second = source, context.open_split(name)
    except DatasetError as error:
      raise DatasetError(f"{error}; or give --held_out=half") from error
    description = f"{name} split of {source.name}"
  first = _first(first, config.train_images, "train_images")
  second = _first(second, config.eval_images, "eval_images")
  what = "images" if len(second.image_shape) == 3 else "examples"
  return Images(first, second, f"{description}, {len(second)} {what}")


def _first(source: Source, count: int, flag: str) -> Source:
  if count > len(source):
    raise ConfigError(f"--{flag}={count} is more than the {len(source)} images of {source.name!r} that there are")
  return source.first(count) if count else source


def resolve(space: Space, genotype: str) -> Code:
  """The architecture that --genotype names.

  Raises:
    ConfigError: it is empty.
    ArchitectureError: as `naming.named`.
  """
  if not genotype.strip():
    raise ConfigError(f"--algorithm=train needs --genotype: an architecture of --space={space.name} in text form")
  return named(space, genotype, "--genotype")


def steps(space: Space, images: Images, config: TrainingConfig) -> int:
  """Steps of one training, also the sum of what `advance` is told; refuses what would fail only later.

  Raises:
    JaxnasError: as `resolve` and `jaxnas.train.train`.
  """
  arch, recipe, classes = resolve(space, config.genotype), config.training, images.train.classes
  training.refuse_source(space, images.train)
  training.trained_network(space, recipe, classes, arch)
  costs = functools.partial(training.trained_costs, space, arch, classes=classes)
  side = training.seen_shape(recipe, images.train)[0]
  macs = costs(config=recipe, image_size=side)[1]
  if recipe.train_stem == "imagenet" and macs >= MOBILE:
    narrower = (dataclasses.replace(recipe, train_channels=c) for c in range(recipe.train_channels - 2, 1, -2))
    fitting = (r.train_channels for r in narrower if costs(config=r, image_size=side)[1] < MOBILE)
    fix = "".join(f"; --train_channels={c} keeps it" for c in itertools.islice(fitting, 1))
    _log.warning("%.0f M multiply-adds: above the mobile setting's limit of 600 M%s", macs / 1e6, fix)
  return training.total_steps(recipe, images.train)
