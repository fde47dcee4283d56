"""Data sets by name."""

import os

from jaxnas import registry
from jaxnas.base import Source


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
) -> Source:
  """Opens a data set.

  Args:
    name: one of `names()`. `synthetic` is generated on the fly and needs no files; the others of the package are read
      through TFDS (see `jaxnas.data.tfds_source`).
    split: `train`, `test`, ...; TFDS sets also take slices such as `train[:5000]`.
    data_dir: the TFDS folder (the one that holds `cifar10/`). None: TFDS' own default, which is
      the environment variable TFDS_DATA_DIR or else ~/tensorflow_datasets.
    download: fetch a missing data set. Without it the network is never touched.
    side: height and width of the images where a data set's own have many sizes (`imagenet2012`), cut from their
      middle; 0: all of an image, at 32 x 32. Data sets whose images have one size give them as they are.

  Raises:
    ConfigError: there is no such name.
    DatasetError: an unknown split; a data set that is missing, incomplete or damaged.
  """
  return registry.get("dataset", name, "--dataset")(split, data_dir, download, side)
