"""Data sets through `tfds.data_source`: random access to array_record files, without TensorFlow.

- `cifar10`, `cifar100`: 32x32 as they are.
- `imagenet2012`: images of any size, resized to 32x32 with Pillow's box filter, or their middle square resized to the
  side that is asked for. A slice such as `split="train[:50000]"` keeps all of its decoded images in memory at 32x32.
- `imagenet16_120`: images of the first 120 classes at 16x16. NAS-Bench-201 cuts its ImageNet16-120 from the downsampled
  ImageNet (Chrabaszcz et al., arXiv 1707.08819); that is TFDS's `imagenet_resized/16x16`, which is read if it is there.
  Otherwise `imagenet2012` is resized: the same shapes and statistics, but another set of 120 classes, since
  the two number their classes differently. Of a split, the first 10,000 such images are used.

TFDS reads without TensorFlow but prepares only with it, so `download` runs TFDS in a process of its own.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
from typing import Any, Literal

import numpy as np

from jaxnas import registry
from jaxnas.data.source import ImageSource, check_split
from jaxnas.errors import DatasetError
from jaxnas.files import user_path

_SUBSET = 10_000
_CHUNK = 256  # records held undecoded at a time; those of ImageNet have 100 kB each


@dataclasses.dataclass(frozen=True)
class _Kind:
  builders: tuple[str, ...]
  classes: int
  side: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  resize: bool = False
  subset: bool = False
  sizes: Literal["one", "many"] = "one"  # of the images as they are stored
  cut: bool = False  # resize the middle square, not the whole image


# cifar100 and imagenet16_120: the constants of NAS-Bench-201's training code.
_KINDS = {
  "cifar10": _Kind(("cifar10",), 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  "cifar100": _Kind(("cifar100",), 100, 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
  "imagenet16_120": _Kind(
    ("imagenet_resized/16x16", "imagenet2012"),
    120,
    16,
    (0.4811, 0.4575, 0.4079),
    (0.2479, 0.2402, 0.2553),
    resize=True,
    subset=True,
  ),
  "imagenet2012": _Kind(
    ("imagenet2012",), 1000, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=True, sizes="many"
  ),
}


def source(
  name: str, split: str, data_dir: str | os.PathLike[str] | None, download: bool, side: int = 0
) -> ImageSource:
  """Opens one of the sets above; arguments and errors as of `data.load`."""
  kind = _KINDS[name]
  if side and kind.sizes == "many":
    kind = dataclasses.replace(kind, side=side, cut=True)
  home = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  root = user_path(home if data_dir is None else data_dir, "--data_dir")
  folder = _prepared(kind, root)
  if folder is None and download:
    _download(name, kind.builders[0], root)
    folder = _prepared(kind, root)
  if folder is None:
    raise DatasetError(
      f"data set {name!r} is not in {root}: give --data_dir=FOLDER, the TFDS folder that holds {kind.builders[0]}/ "
      f"as array_record files, or --download to prepare it once"
    )
  records = _open(name, folder, root, split)
  keep = _first_classes(records, kind.classes, name, folder) if kind.subset else None
  shape = (kind.side, kind.side, 3)

  def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positions = indices if keep is None else keep[indices]
    images, labels = np.empty((len(positions), *shape), np.uint8), np.empty(len(positions), np.int64)

    def decode(row: int, record: dict[str, Any]) -> None:
      images[row] = _decode(record["image"], kind, f"image {positions[row]} of {name!r} in {folder}")
      labels[row] = record["label"]

    with contextlib.ExitStack() as stack:
      large = kind.sizes == "many"  # photographs take milliseconds each, in which Pillow lets other threads run
      each = stack.enter_context(concurrent.futures.ThreadPoolExecutor()).map if large else map
      for start in range(0, len(positions), _CHUNK):
        found = _records(records, positions[start : start + _CHUNK], name, folder)
        collections.deque(each(decode, range(start, start + len(found)), found), maxlen=0)
    return images, labels

  opened = ImageSource(
    name=name,
    classes=kind.classes,
    image_shape=shape,
    size=len(records) if keep is None else len(keep),
    mean=np.array(kind.mean),
    std=np.array(kind.std),
    read=read,
  )
  opened.examples(np.array([0, len(opened) - 1]))  # a damaged or foreign file shows here, not minutes into a search
  return opened


for _name in _KINDS:
  registry.register("dataset", _name, functools.partial(source, _name))


def _prepared(kind: _Kind, root: pathlib.Path) -> pathlib.Path | None:
  """The newest version's folder of the first of the builders that is in `root`."""
  for builder in kind.builders:
    found = [info.parent for info in (root / builder).glob("*/dataset_info.json")]
    versions = [folder for folder in found if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
    if versions:
      return max(versions, key=lambda folder: [int(part) for part in folder.name.split(".")])
  return None


def _open(name: str, folder: pathlib.Path, root: pathlib.Path, split: str) -> Any:
  """A TFDS data source with the images undecoded. Naming the version makes TFDS read the folder and nothing else."""
  try:
    info = json.loads((folder / "dataset_info.json").read_text())
    form = info.get("fileFormat", "tfrecord")
    sizes = {entry["name"]: sum(map(int, entry.get("shardLengths", ()))) for entry in info["splits"]}
  except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
    raise DatasetError(_damaged(name, folder, error)) from error
  if form != "array_record":
    raise DatasetError(
      f"data set {name!r} in {folder} is stored as {form}, which needs TensorFlow to read: prepare it as array_record "
      f"in another folder and give that as --data_dir; with: {_command(_builder(folder, root), 'ANOTHER_FOLDER')}"
    )
  check_split(split, name, sizes)
  with _quiet():
    try:
      import tensorflow_datasets as tfds

      return tfds.data_source(
        f"{_builder(folder, root)}:{folder.name}",
        split=split,
        data_dir=root,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
      )
    except Exception as error:  # TFDS raises nearly anything on a folder, or a protobuf, that it does not expect
      versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("tensorflow-datasets", "protobuf"))
      raise DatasetError(
        f"data set {name!r} in {folder} cannot be opened ({type(error).__name__}: {_line(error)}): files may be "
        f"missing, or these packages do not go together: {versions}; update them, or give another --data_dir"
      ) from error


def _builder(folder: pathlib.Path, root: pathlib.Path) -> str:
  return folder.parent.relative_to(root).as_posix()


def _records(records: Any, positions: np.ndarray, name: str, folder: pathlib.Path) -> list[dict[str, Any]]:
  try:
    found = records.__getitems__(positions.tolist())
    return [{"image": record["image"], "label": int(record["label"])} for record in found]
  except Exception as error:  # the reader's own errors are bare RuntimeErrors
    raise DatasetError(_damaged(name, folder, error)) from error


def _first_classes(records: Any, classes: int, name: str, folder: pathlib.Path) -> np.ndarray:
  """Positions of the first `_SUBSET` examples with a label below `classes`.

  TFDS stores examples in the order of a hash of their keys, so these are a random sample, and a file of 1.28 million
  records need not be read to its end.
  """
  found: list[int] = []
  for start in range(0, len(records), _CHUNK):
    positions = np.arange(start, min(start + _CHUNK, len(records)))
    labels = [record["label"] for record in _records(records, positions, name, folder)]
    found += (start + np.flatnonzero(np.array(labels) < classes)).tolist()
    if len(found) >= _SUBSET:
      break
  return np.array(found[:_SUBSET], np.int64)


def _decode(encoded: bytes, kind: _Kind, where: str) -> np.ndarray:
  from PIL import Image, ImageOps

  side = (kind.side, kind.side)
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      if kind.resize and image.size != side:
        image.draft("RGB", (2 * kind.side, 2 * kind.side))  # JPEG decodes at a fraction of its size, much faster
        image = image.convert("RGB")
        fitted = (
          ImageOps.fit(image, side, Image.Resampling.BOX) if kind.cut else image.resize(side, Image.Resampling.BOX)
        )
        return np.asarray(fitted)
      if image.mode != "RGB" or image.size != side:
        size = "x".join(map(str, image.size))
        raise DatasetError(f"{where} is {size} in mode {image.mode}; expected {kind.side}x{kind.side} in RGB, 8 bits")
      return np.asarray(image)
  except DatasetError:
    raise
  except Exception as error:
    raise DatasetError(f"{where} cannot be decoded ({_line(error)}); prepare the data set again") from error


def _download(name: str, builder: str, root: pathlib.Path) -> None:
  """Lets TFDS prepare the data set in another process, so that TensorFlow never takes this one's GPU memory."""
  needed = [module for module in ("tensorflow", "importlib_resources") if importlib.util.find_spec(module) is None]
  if needed:
    manual = "; ILSVRC2012_img_train.tar must lie in downloads/manual there" if builder == "imagenet2012" else ""
    raise DatasetError(
      f"--download: TFDS prepares {name!r} with {' and '.join(needed)}, not installed here (reading needs neither): "
      f"in an environment with tensorflow, tensorflow-datasets, array_record and importlib_resources run: "
      f"{_command(builder, root)}{manual}; then give --data_dir={root}"
    )
  done = subprocess.run(
    [sys.executable, "-c", _script(builder, root)], env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}, check=False
  )
  if done.returncode:
    raise DatasetError(f"--download: TFDS could not prepare {name!r} in {root}; its own message is above")


def _script(builder: str, root: str | pathlib.Path) -> str:
  made = f"tfds.builder({builder!r}, data_dir={str(root)!r}, file_format='array_record')"
  return f"import tensorflow_datasets as tfds; {made}.download_and_prepare()"


def _command(builder: str, root: str | pathlib.Path) -> str:
  return f'python -c "{_script(builder, root)}"'


def _damaged(name: str, folder: pathlib.Path, error: Exception) -> str:
  return (
    f"data set {name!r} in {folder} cannot be read, it is damaged or incomplete ({_line(error)}); "
    f"remove that folder and prepare it again, or give another --data_dir"
  )


def _line(error: Exception) -> str:
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) <= 160 else f"{text[:157]}..."


@contextlib.contextmanager
def _quiet():
  """Keeps TFDS's advice (OpenCV, variants, cloud storage) off the terminal."""
  previous = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    yield
  finally:
    logging.disable(previous)
