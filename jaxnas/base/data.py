"""What data look like to everything that computes with them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float32, Float64, Num, UInt8


class Batch(NamedTuple):
  """What every architecture is measured on.

  Attributes:
    inputs: what the network takes, [N, ...], such as normalised images, float32 [N, H, W, C], or sequences, float32
      [N, T, D]; or several mini-batches of them, [B, N, ...].
    labels: what the network should say, where known: classes, int32 [N], or (of a `RecurrentNetwork`) numbers in the
      place of its outputs, float32 [N, K]. The loss is the cross-entropy of the former, the mean squared error to the
      latter.
    problem: a tree of arrays that a proxy posed for itself (`Proxy.prepare`), such as regression targets.
  """

  inputs: Any
  labels: Any = None
  problem: Any = None


def host_generator(key: Array) -> np.random.Generator:
  """NumPy's generator that a JAX key seeds, for what is drawn on the host."""
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


@runtime_checkable
class Source(Protocol):
  """A data set with random access."""

  @property
  def name(self) -> str:
    """As in --dataset."""
    ...

  @property
  def classes(self) -> int:
    """K; labels lie in [0, K). Of sequences that are learnt: the numbers D of a step."""
    ...

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, 3) of every image, (T, D) of every sequence."""
    ...

  @property
  def mean(self) -> Float32[np.ndarray, "3"]:
    """Of the channels in 0..1 units, for normalisation."""
    ...

  @property
  def std(self) -> Float32[np.ndarray, "3"]:
    """Standard deviations, as `mean`."""
    ...

  def __len__(self) -> int: ...

  def examples(
    self, indices: np.ndarray
  ) -> tuple[UInt8[np.ndarray, "n H W 3"] | Float32[np.ndarray, "n T D"], Num[np.ndarray, "n ..."]]:
    """Images (or sequences) and labels, as of `Batch`, at `indices`, any order, repeats allowed.

    Raises:
      ConfigError: an index out of range.
      DatasetError: a record cannot be read.
    """
    ...

  def first(self, count: int) -> "Source":
    """The first `count` examples; ConfigError where there are not so many."""
    ...

  def halves(self) -> tuple["Source", "Source"]:
    """The first and the second half, to train on and to choose by."""
    ...


@runtime_checkable
class NamedClasses(Source, Protocol):
  """A data set that knows what its classes are called."""

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the K classes; a label is the place of its name. A field of a frozen dataclass will do."""
    ...


@runtime_checkable
class Accuracies(Protocol):
  """A table of trained architectures. Ranks count from 1, the best; accuracies are in per cent."""

  @property
  def name(self) -> str:
    """For reports."""
    ...

  @property
  def archs(self) -> tuple[str, ...]:
    """Text forms; the place in the tuple is the architecture's index."""
    ...

  @property
  def columns(self) -> Mapping[str, Float64[np.ndarray, " A"]]:
    """By name; accuracies are called by data set and split (`cifar10_test`)."""
    ...

  @property
  def datasets(self) -> tuple[str, ...]:
    """Those that `accuracy` knows, the main one first."""
    ...

  @property
  def split(self) -> str:
    """The split of accuracies that are asked for without saying which."""
    ...

  @property
  def unread(self) -> set[int]:
    """Indices whose values are read when they are asked for."""
    ...

  def index(self, arch: str) -> int:
    """The architecture's place; ArchitectureError where the table lacks it."""
    ...

  def accuracy(self, arch: str, dataset: str, split: str | None = None) -> float:
    """One figure; NaN where the table has none."""
    ...

  def accuracies(self, dataset: str, split: str | None = None) -> Float64[np.ndarray, " A"]:
    """A whole column."""
    ...

  def rank(self, arch: str, dataset: str, split: str | None = None) -> tuple[int | None, int]:
    """(rank, how many are known); the rank is None where the table has no figure."""
    ...


Records = Sequence[Mapping[str, Any]]
