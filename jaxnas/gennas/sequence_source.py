"""GenNAS's sequences as a data set: `--dataset=signals`, for spaces whose networks read sequences.

An example is a pair of signals of the published task CONF_NLP: what a network reads, and as its label what it should
say, both of 8 steps of 48 numbers. There are no files; an example depends on its number and its split alone.
"""

import dataclasses
import os

import jax
import numpy as np
from jaxtyping import Float32

from jaxnas import registry
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.gennas import signals, tasks
from jaxnas.gennas.tasks import LENGTH, SequenceTask

NAME, TASK = "signals", "CONF_NLP"
SIZES = {"train": 50_000, "test": 10_000}


@dataclasses.dataclass(frozen=True)
class SequenceSource:
  """A `base.Source` of sequences; labels are the targets, float32 [n, T D].

  Attributes:
    task: whose signals these are.
    split: of `SIZES`.
    start, size: which part of the split.
  """

  task: SequenceTask
  split: str = "train"
  start: int = 0
  size: int = SIZES["train"]

  @property
  def name(self) -> str:
    """As in --dataset."""
    return NAME

  @property
  def classes(self) -> int:
    """D, the numbers of a step."""
    return self.task.dimension

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(T, D) of every sequence."""
    return LENGTH, self.task.dimension

  @property
  def mean(self) -> Float32[np.ndarray, "1"]:
    """0: sequences are not normalised."""
    return np.zeros(1, np.float32)

  @property
  def std(self) -> Float32[np.ndarray, "1"]:
    """1, as `mean`."""
    return np.ones(1, np.float32)

  def __len__(self) -> int:
    return self.size

  def examples(self, indices: np.ndarray) -> tuple[Float32[np.ndarray, "n T D"], Float32[np.ndarray, "n K"]]:
    """See `base.Source.examples`."""
    if len(indices) and not 0 <= min(indices) <= max(indices) < self.size:
      raise ConfigError(f"indices from {min(indices)} to {max(indices)}: {NAME!r} has {self.size} examples")
    key = jax.random.key(sorted(SIZES).index(self.split))
    drawn = [signals.sequences(self.task, 1, jax.random.fold_in(key, self.start + int(i))) for i in indices]
    empty = np.zeros((0, *self.image_shape), np.float32)
    inputs, targets = (np.concatenate([empty, *(np.asarray(pair[i]) for pair in drawn)]) for i in (0, 1))
    return inputs, targets.reshape(len(targets), -1)

  def first(self, count: int) -> "SequenceSource":
    """See `base.Source.first`."""
    if not 1 <= count <= self.size:
      raise ConfigError(f"count={count} must lie in [1, {self.size}], the examples of {NAME!r}")
    return dataclasses.replace(self, size=count)

  def halves(self) -> tuple["SequenceSource", "SequenceSource"]:
    """See `base.Source.halves`."""
    half = self.size // 2
    return dataclasses.replace(self, size=half), dataclasses.replace(
      self, start=self.start + half, size=self.size - half
    )


@registry.register("dataset", NAME)
def _open(split: str, data_dir: str | os.PathLike[str] | None, download: bool, side: int) -> SequenceSource:
  """As `data.load` opens it; there are no files."""
  del data_dir, download, side
  if split not in SIZES:
    raise DatasetError(f"split {split!r} is not in data set {NAME!r}; it has {', '.join(SIZES)}")
  return SequenceSource(tasks.get_sequence(TASK), split, size=SIZES[split])
