"""Data sets by name."""

import inspect
import os
from typing import Any

from jaxnas import registry
from jaxnas.base import Source
from jaxnas.data.token_source import TokenConfig
from jaxnas.errors import ConfigError


def names() -> tuple[str, ...]:
  """The names of all data sets, those of plugins last."""
  return registry.names("dataset")


def load(
  name: str = "synthetic",
  *,
  split: str = "train",
  data_dir: str | os.PathLike[str] | None = None,
  download: bool = False,
  side: int = 0,
  tokens: TokenConfig | None = None,
) -> Source:
  """Opens a data set.

  Args:
    name: one of `names()`, or NAME:FILE for one of a user's own file. `synthetic` and `tokens` are generated on the fly
      and need no files; other images of the package are read through TFDS (see `jaxnas.data.tfds_source`), text from
      files of tab-separated values (see `jaxnas.data.text`).
    split: `train`, `test`, ...; sets that are read from files also take slices such as `train[:5000]`.
    data_dir: the folder that holds the data set's own (`cifar10/`, `RTE/`). None: for images TFDS' own default, which
      is the environment variable TFDS_DATA_DIR or else ~/tensorflow_datasets.
    download: fetch a missing data set. Without it the network is never touched.
    side: height and width of the images where a data set's own have many sizes (`imagenet2012`), cut from their
      middle; 0: all of an image, at 32 x 32. Data sets whose images have one size give them as they are.
    tokens: how text becomes tokens, of a data set of text; None: the defaults.

  Raises:
    ConfigError: there is no such name, a file for a set that takes none, or `tokens` for images.
    DatasetError: an unknown split; a data set that is missing, incomplete or damaged.
  """
  kind, colon, file = name.partition(":")
  make = registry.get("dataset", kind, "--dataset")
  takes, given = inspect.signature(make).parameters, dict[str, Any]()
  if colon:
    if "file" not in takes:
      raise ConfigError(f"--dataset={name!r}: {kind} takes no file; give --dataset={kind}, or tsv:FILE")
    given["file"] = file
  if tokens is not None:
    if "tokens" not in takes:
      raise ConfigError(f"--tokens and --tokenizer have no meaning with --dataset={name}, which is no text; drop them")
    given["tokens"] = tokens
  return make(split, data_dir, download, side, **given)
