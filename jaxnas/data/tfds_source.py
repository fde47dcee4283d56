"""Data sets through TFDS's data sources: random access to array_record files, without TensorFlow.

- `cifar10`, `cifar100`: 32x32 as they are.
- `imagenet2012`: resized to 32x32 with Pillow's box filter (an average over the pixels that fall together).
- `imagenet16_120`: the first 120 classes of `imagenet2012` resized to 16x16. NAS-Bench-201's own ImageNet16-120 is cut
  from the downsampled ImageNet of Chrabaszcz et al. (2017), whose class order is another one; shapes, the number of
  classes and the statistics used for normalisation are the same.
"""

import contextlib
import dataclasses
import io
import logging
import os
import warnings
from typing import Any

import numpy as np

from jaxnas.data.source import ImageSource
from jaxnas.errors import DatasetError


@dataclasses.dataclass(frozen=True)
class _Kind:
  builder: str
  classes: int
  side: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


# Means and standard deviations are those with which NAS-Bench-201 normalises (imagenet2012: the usual ImageNet ones).
_KINDS = {
  "cifar10": _Kind("cifar10", 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  "cifar100": _Kind("cifar100", 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
  "imagenet16_120": _Kind("imagenet2012", 120, 16, (0.4811, 0.4575, 0.4079), (0.2604, 0.2532, 0.2682)),
  "imagenet2012": _Kind("imagenet2012", 1000, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def source(name: str, *, split: str, data_dir: str | os.PathLike[str] | None, download: bool) -> ImageSource:
  """Opens one of the sets above; arguments and errors as of `data.load`."""
  kind = _KINDS[name]
  records = _open(name, kind.builder, split, data_dir, download)
  keep = _first_classes(records, kind.classes, name) if name == "imagenet16_120" else None

  def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((len(indices), kind.side, kind.side, 3), np.uint8)
    labels = np.empty(len(indices), np.int64)
    positions = (indices if keep is None else keep[indices]).tolist()
    try:
      with _quiet():
        for i, record in enumerate(records.__getitems__(positions)):
          images[i], labels[i] = _resized(record["image"], kind.side), record["label"]
    except Exception as error:  # whatever a damaged record breaks in the readers below
      raise DatasetError(_damaged(name, data_dir, error)) from error
    return images, labels

  size = len(records) if keep is None else len(keep)
  return ImageSource(
    name,
    kind.classes,
    (kind.side, kind.side, 3),
    size,
    np.array(kind.mean),
    np.array(kind.std),
    read,
  )


def _open(name: str, builder: str, split: str, data_dir: Any, download: bool) -> Any:
  where = "the default TFDS folder" if data_dir is None else f"--data_dir={os.fspath(data_dir)}"
  with _quiet():
    import tensorflow_datasets as tfds

    folder = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    try:
      made: Any = tfds.builder(builder, data_dir=folder, file_format="array_record", try_gcs=False)
      if not download and not os.path.isdir(made.data_dir):
        raise DatasetError(
          f"data set {name!r} is not in {where}; give --data_dir=FOLDER with the folder that holds {builder}/ as "
          f"array_record files, or --download to have TFDS prepare it there once"
        )
      if download:
        made.download_and_prepare()
      return made.as_data_source(split=split)
    except DatasetError:
      raise
    except (ValueError, KeyError) as error:
      if "split" in str(error).lower():
        raise DatasetError(f"data set {name!r} has no split {split!r} in {where}: {_line(error)}") from error
      raise DatasetError(_damaged(name, data_dir, error)) from error
    except Exception as error:  # TFDS raises many kinds, from missing dependencies to network failures
      raise DatasetError(_damaged(name, data_dir, error)) from error


def _first_classes(records: Any, classes: int, name: str) -> np.ndarray:
  """Positions of the examples of the first classes. Reads every label once: minutes for the whole ImageNet."""
  with _quiet():
    labels = np.array([int(records[i]["label"]) for i in range(len(records))])
  found = np.flatnonzero(labels < classes)
  if not len(found):
    raise DatasetError(f"data set {name!r}: no example of its first {classes} classes in this split")
  return found


def _resized(image: np.ndarray, side: int) -> np.ndarray:
  if image.shape == (side, side, 3):
    return image
  from PIL import Image

  return np.asarray(Image.fromarray(image).convert("RGB").resize((side, side), Image.Resampling.BOX))


def _damaged(name: str, data_dir: Any, error: Exception) -> str:
  where = "the default TFDS folder" if data_dir is None else f"--data_dir={os.fspath(data_dir)}"
  return (
    f"data set {name!r} in {where} cannot be read ({_line(error)}); "
    "prepare it again with --download, or give another --data_dir"
  )


def _line(error: Exception) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f"{text[:157]}..."


@contextlib.contextmanager
def _quiet():
  """Keeps the readers' advice (OpenCV, cloud storage, protocol versions) off the terminal."""
  previous = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.disable(previous)
