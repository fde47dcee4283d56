"""A data set with random access, whose examples are decoded once (`base.Source`)."""

import dataclasses
import math
import re
import threading
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8

from jaxnas.errors import ConfigError, DatasetError

_CACHE_BYTES = 200_000_000

# Examples at the given indices, as (uint8 images, integer labels).
Reader = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_split(split: str, name: str, sizes: Mapping[str, int]) -> tuple[int, int]:
  """Checks the name of a split, or a slice of one: `train`, `train[:5000]`, `train[50%:]`.

  Args:
    name: of the data set.
    sizes: examples of its splits, 0 where that is not known.

  Returns:
    The first example and the one behind the last; zeros where the size is not known.

  Raises:
    DatasetError: no such split, several, or a slice that is empty or reaches beyond it.
  """
  fix = f"give one of {', '.join(sizes)}, or a slice such as {next(iter(sizes))}[:1000] or [50%:]"
  match = _SPLIT.fullmatch(split)
  if match is None or match["name"] not in sizes:
    raise DatasetError(f"split {split!r} is not in data set {name!r}; {fix}")
  size = sizes[match["name"]]
  if match["slice"] is None or not size:
    return 0, size
  start, stop = (_place(match[end], size, default) for end, default in (("start", 0), ("stop", size)))
  if not 0 <= start < stop <= size:
    raise DatasetError(f"split {split!r}: {match['name']!r} of data set {name!r} has examples 0 to {size}; {fix}")
  return start, stop


_SPLIT = re.compile(r"(?P<name>\w+)(?P<slice>\[(?P<start>-?[0-9]+%?)?:(?P<stop>-?[0-9]+%?)?\])?")


def _place(text: str | None, size: int, default: int) -> int:
  """Where a slice begins or ends, counted from the first image."""
  if not text:
    return default
  place = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
  return place + size if place < 0 else place


class _Cache:
  """Decoded examples, oldest out first: a search asks for the same images again and again."""

  def __init__(self, size: int, image_shape: tuple[int, int, int]):
    capacity = max(1, min(size, _CACHE_BYTES // math.prod(image_shape)))
    self.slot = np.full(size, -1, np.int32)
    self.owner = np.full(capacity, -1, np.int64)
    self.images = np.empty((capacity, *image_shape), np.uint8)
    self.labels = np.empty(capacity, np.int32)
    self.next = 0
    self.lock = threading.Lock()

  def fetch(self, indices: np.ndarray, read: Reader) -> tuple[np.ndarray, np.ndarray]:
    with self.lock:
      slots = self.slot[indices]
      hit = slots >= 0
      if hit.all():
        return self.images[slots], self.labels[slots]
      missing = np.unique(indices[~hit])
      new_images, new_labels = read(missing)
      images = np.empty((len(indices), *self.images.shape[1:]), np.uint8)
      labels = np.empty(len(indices), np.int32)
      images[hit], labels[hit] = self.images[slots[hit]], self.labels[slots[hit]]
      position = np.searchsorted(missing, indices[~hit])
      images[~hit], labels[~hit] = new_images[position], new_labels[position]
      self._store(missing, new_images, new_labels)
      return images, labels

  def _store(self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
    capacity = len(self.owner)
    kept = min(len(indices), capacity)
    slots = (self.next + np.arange(kept)) % capacity
    evicted = self.owner[slots]
    self.slot[evicted[evicted >= 0]] = -1
    self.owner[slots] = indices[:kept]
    self.slot[indices[:kept]] = slots
    self.images[slots], self.labels[slots] = images[:kept], labels[:kept]
    self.next = int((self.next + kept) % capacity)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSource:
  """A data set with random access. Examples are decoded on demand and kept, up to 200 MB.

  Attributes:
    name: as in --dataset.
    classes: K; labels lie in [0, K).
    image_shape: (H, W, 3) of every image.
    size: number of examples, also `len(source)`.
    mean: float32 [3] (other floats are converted), channel means in 0..1 units, for normalisation.
    std: float32 [3] (likewise), channel standard deviations in 0..1 units.
    read: uncached access, indices int64 [n] -> (uint8 [n, H, W, 3], integer [n]).
  """

  name: str
  classes: int
  image_shape: tuple[int, int, int]
  size: int
  mean: Float[np.ndarray, "3"]
  std: Float[np.ndarray, "3"]
  read: Reader = dataclasses.field(repr=False)
  _cache: _Cache = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    if self.size < 1:
      raise DatasetError(f"data set {self.name!r} has no images in this split; choose another one")
    for field in ("mean", "std"):
      object.__setattr__(self, field, np.array(getattr(self, field), np.float32))
    object.__setattr__(self, "_cache", _Cache(self.size, self.image_shape))

  def __len__(self) -> int:
    return self.size

  def halves(self) -> tuple["ImageSource", "ImageSource"]:
    """The first and the second half, to train on and to choose by, as NAS-Bench-201 splits CIFAR-10's training set.

    Raises:
      DatasetError: there is one image only.
    """
    middle = self.size // 2
    first = dataclasses.replace(self, size=middle)
    return first, dataclasses.replace(self, size=self.size - middle, read=lambda indices: self.read(indices + middle))

  def first(self, count: int) -> "ImageSource":
    """The first `count` examples.

    Raises:
      ConfigError: there are not so many.
    """
    if not 1 <= count <= self.size:
      raise ConfigError(f"count={count} must lie in [1, {self.size}], the images of {self.name!r}")
    return dataclasses.replace(self, size=count)

  def images(self, indices: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W 3"]:
    """Images at `indices`, uint8 [n, H, W, 3]. Raises as `examples` does."""
    return self.examples(indices)[0]

  def labels(self, indices: Int[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
    """Labels at `indices`, int32 [n] in [0, K). Raises as `examples` does."""
    return self.examples(indices)[1]

  def examples(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n H W 3"], Int32[np.ndarray, "n"]]:
    """Images and labels at `indices` (any order, repeats allowed).

    Raises:
      ConfigError: `indices` is not a one-dimensional integer array within [0, len(source)).
      DatasetError: a record cannot be read, or is not what the data set promises.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
      raise ConfigError(f"indices must be a one-dimensional integer array; got {indices.dtype}{indices.shape}")
    indices = indices.astype(np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < self.size:
      raise ConfigError(f"indices must lie in [0, {self.size}) for {self.name!r}; got {indices.min()}..{indices.max()}")
    return self._cache.fetch(indices, self._read_checked)

  def _read_checked(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, labels = self.read(indices)
    expected = (len(indices), *self.image_shape)
    if images.dtype != np.uint8 or images.shape != expected:
      raise DatasetError(
        f"data set {self.name!r} must give uint8 images of shape {expected}; got {images.dtype} {images.shape}"
      )
    if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
      raise DatasetError(
        f"labels of data set {self.name!r} must lie in [0, {self.classes}); got {labels.min()}..{labels.max()}"
      )
    return images, labels
