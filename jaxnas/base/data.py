"""What data look like to everything that computes with them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64, Int32, UInt8


class Batch(NamedTuple):
  """What every architecture is measured on.

  Attributes:
    inputs: normalised images, float32 [N, H, W, C], or several mini-batches of them, [B, N, H, W, C].
    labels: their classes, int32 [N], where known.
    problem: a tree of arrays that a proxy posed for itself (`Proxy.prepare`), such as regression targets.
  """

  inputs: Any
  labels: Any = None
  problem: Any = None


class Source(Protocol):
  """A data set with random access.

  Attributes:
    name: as in --dataset.
    classes: K; labels lie in [0, K).
    image_shape: (H, W, 3) of every image.
    mean, std: float32 [3], of the channels in 0..1 units, for normalisation.
  """

  name: str
  classes: int
  image_shape: tuple[int, int, int]
  mean: Any
  std: Any

  def __len__(self) -> int: ...

  def examples(self, indices: np.ndarray) -> tuple[UInt8[np.ndarray, "n H W 3"], Int32[np.ndarray, " n"]]:
    """Images and labels at `indices`, any order, repeats allowed.

    Raises:
      ConfigError: an index out of range.
      DatasetError: a record cannot be read.
    """
    ...

  def halves(self) -> tuple["Source", "Source"]:
    """The first and the second half, to train on and to choose by."""
    ...


class Accuracies(Protocol):
  """A table of trained architectures. Ranks count from 1, the best; accuracies are in per cent.

  Attributes:
    name: for reports.
    archs: text forms; the place in the tuple is the architecture's index.
    columns: float64 [A] by name, accuracies called by data set and split (`cifar10_test`).
    datasets: those that `accuracy` knows, the main one first.
    split: the split of accuracies that are asked for without saying which.
    unread: indices whose values are read when they are asked for.
  """

  name: str
  archs: tuple[str, ...]
  columns: Mapping[str, Float64[np.ndarray, " A"]]
  datasets: tuple[str, ...]
  split: str
  unread: set[int]

  def index(self, arch: str) -> int:
    """The architecture's place; ArchitectureError where the table lacks it."""
    ...

  def accuracy(self, arch: str, dataset: str, split: str | None = None) -> float:
    """One figure; NaN where the table has none."""
    ...

  def accuracies(self, dataset: str, split: str | None = None) -> Float64[np.ndarray, " A"]:
    """A whole column."""
    ...

  def rank(self, arch: str, dataset: str, split: str | None = None) -> tuple[int, int]:
    """(rank, how many are known)."""
    ...


Records = Sequence[Mapping[str, Any]]
