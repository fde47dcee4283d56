"""The one interface to the accuracies of trained architectures, whatever file they came from."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float64, Int64

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.tabular.reading import problem

# An accuracy is a mean over at most three seeds of (correct / images), so two of them differ by
# nothing or by more than 6e-4 points. Smaller gaps are float32 noise of the original sums; counted
# as differences they would move ranks by more than 300 places.
RANK_DECIMALS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
  """Accuracies of A trained architectures, in the benchmark's own order.

  Attributes:
    name: file or folder name, for reports.
    space: the name of the search space.
    path: where it was opened from.
    archs: A architecture strings; the place in the tuple is the architecture's index.
    columns: float64 [A] by name: accuracies in percent, called by data set and split
      (`cifar10_test`), and whatever else the file has; nan where unknown or not read yet.
    datasets: those that `accuracy` knows.
    read_row: reads the values of one architecture from the source.
    unread: indices that the source holds and `columns` does not yet. They are read when asked for;
      rankings need all of them.
    split: the split of the accuracies that are asked for without saying which.
    find: the index of an architecture that is written otherwise than in `archs`, None if it is not
      there; may raise ArchitectureError.
  """

  name: str
  space: str
  path: str
  archs: tuple[str, ...] = dataclasses.field(repr=False)
  columns: Mapping[str, Float64[np.ndarray, "A"]] = dataclasses.field(repr=False)
  datasets: tuple[str, ...]
  read_row: Callable[[int], Mapping[str, float]] | None = dataclasses.field(default=None, repr=False)
  unread: set[int] = dataclasses.field(default_factory=set, repr=False)
  split: str = "test"
  find: Callable[[str], int | None] | None = dataclasses.field(default=None, repr=False)
  _orders: dict[str, tuple[Int64[np.ndarray, "A"], int]] = dataclasses.field(
    default_factory=dict, init=False, repr=False
  )

  def index(self, arch: str | SupportsIndex) -> int:
    """The index of an architecture given as the benchmark's exact string or as an index.

    With `find` also of one that is written otherwise.

    Raises:
      ArchitectureError: no such architecture.
    """
    if isinstance(arch, str):
      found = self._index_of.get(arch)
      if found is None and self.find is not None:
        found = self.find(arch)
      if found is None:
        raise ArchitectureError(
          f"arch {arch!r}: not among the {len(self.archs):,} architectures of {self.path};"
          f" write it as in {self.archs[0]!r}"
        )
      return found
    index = operator.index(arch)
    if not 0 <= index < len(self.archs):
      raise ArchitectureError(f"arch {index}: not an index; give 0..{len(self.archs) - 1}")
    return index

  def accuracy(self, arch: str | SupportsIndex, dataset: str, split: str | None = None) -> float:
    """Accuracy in percent, mean over the trained seeds; nan if the benchmark lacks it.

    Args:
      arch: as for `index`.
      dataset: one of `datasets`.
      split: what follows the data set in a column's name, such as "test"; what it means the space's reader says.
        Default: `split`.

    Raises:
      ArchitectureError: no such architecture.
      ConfigError: no such data set or split.
      BenchmarkError: the architecture's file is damaged.
    """
    return self.value(arch, self._column(dataset, split))

  def accuracies(self, dataset: str, split: str | None = None) -> Float64[np.ndarray, "A"]:
    """Accuracies in percent of all architectures (read-only), nan where unknown.

    Raises:
      ConfigError, BenchmarkError: as `accuracy`.
    """
    name = self._column(dataset, split)
    self.read_all()
    view = self.columns[name].view()
    view.flags.writeable = False
    return view

  def rank(self, arch: str | SupportsIndex, dataset: str, split: str | None = None) -> tuple[int | None, int]:
    """Competition rank (1 = best, ties share the better rank) and the number of known accuracies.

    Accuracies closer than 1e-4 points are ties. The rank is None if the accuracy is unknown. The
    first call of a (dataset, split) sorts, later ones look up.

    Raises:
      ArchitectureError, ConfigError, BenchmarkError: as `accuracy`.
    """
    index = self.index(arch)
    ranks, known = self._ranks(self._column(dataset, split))
    return int(ranks[index]) or None, known

  def best(self, dataset: str, split: str | None = None) -> tuple[int, float]:
    """Index and accuracy (percent) of the best known architecture, the first one of equals.

    Raises:
      ConfigError: no such data set or split.
      BenchmarkError: no accuracy is known, or a file is damaged.
    """
    name = self._column(dataset, split)
    ranks, known = self._ranks(name)
    if not known:
      raise problem(self.path, f"holds no {split or self.split} accuracy of {dataset}", f"it has {self.datasets}")
    index = int(np.argmax(ranks == 1))
    return index, float(self.columns[name][index])

  def value(self, arch: str | SupportsIndex, column: str) -> float:
    """The figure of one architecture in any column; nan if the benchmark lacks it.

    Raises:
      ArchitectureError, BenchmarkError: as `accuracy`.
    """
    index = self.index(arch)
    self._read(index)
    return float(self.columns[column][index]) if column in self.columns else math.nan

  def read_all(self, progress: Callable[[int, int], None] | None = None) -> None:
    """Reads what the source still holds; `progress(rows read, rows to read)` is called after each.

    Raises:
      BenchmarkError: a file is damaged.
    """
    todo = sorted(self.unread)
    for done, index in enumerate(todo, start=1):
      self._read(index)
      if progress is not None:
        progress(done, len(todo))

  @functools.cached_property
  def _index_of(self) -> dict[str, int]:
    return {arch: index for index, arch in enumerate(self.archs)}

  def _read(self, index: int) -> None:
    if index in self.unread and self.read_row is not None:
      for name, value in self.read_row(index).items():
        self.columns[name][index] = value
      self.unread.discard(index)

  def _column(self, dataset: str, split: str | None) -> str:
    if dataset not in self.datasets:
      raise ConfigError(f"dataset {dataset!r}: not in the benchmark; give one of {self.datasets}")
    prefix, split = f"{dataset}_", split or self.split
    known = tuple(name.removeprefix(prefix) for name in self.columns if name.startswith(prefix))
    if split not in known:
      raise ConfigError(f"split {split!r}: the benchmark has none of {dataset}; give one of {known}")
    return prefix + split

  def _ranks(self, name: str) -> tuple[Int64[np.ndarray, "A"], int]:
    """Ranks of a column (0 where unknown) and the number of known values."""
    self.read_all()
    if name not in self._orders:
      values = np.round(self.columns[name], RANK_DECIMALS)
      ascending = np.sort(values[~np.isnan(values)])
      ranks = len(ascending) - np.searchsorted(ascending, values, side="right") + 1
      self._orders[name] = (np.where(np.isnan(values), 0, ranks), len(ascending))
    return self._orders[name]
