"""Batches of normalised images and crops, or of what else a data set has; the same JAX key gives the same batch."""

import numpy as np
from jaxtyping import Array, Float32, Num

from jaxnas.base import Source, host_generator
from jaxnas.errors import ConfigError


def plain_batch(
  source: Source, key: Array, size: int, called: str = "size"
) -> tuple[Num[np.ndarray, "N ..."], Num[np.ndarray, "N ..."]]:
  """`size` different inputs and their labels; images are normalised by the source's mean and standard deviation.

  Args:
    called: what messages call `size`, such as a flag.

  Raises:
    ConfigError: `size` is not in [1, len(source)].
    DatasetError: an image cannot be read.
  """
  inputs, labels = source.examples(_choose(source, host_generator(key), size, called))
  return (_normalise(source, inputs) if inputs.dtype == np.uint8 else inputs), labels


def augmented_batch(source: Source, key: Array, size: int, called: str = "size") -> Float32[np.ndarray, "N H W 3"]:
  """`size` different images, flipped with probability 1/2, cropped at random from a black frame, normalised.

  The padding is 4 pixels for images of 32 and 2 for images of 16, an eighth of the width, as usual for training on
  them. Arguments and errors as of `plain_batch`.
  """
  _refuse_other(source)
  generator = host_generator(key)
  images, _ = source.examples(_choose(source, generator, size, called))
  flips = generator.random(size) < 0.5
  images = np.where(flips[:, None, None, None], images[:, :, ::-1], images)
  pad = max(1, images.shape[2] // 8)
  frame = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  rows, columns = generator.integers(0, 2 * pad + 1, (2, size))
  return _normalise(source, _crops(frame, rows, columns, *images.shape[1:3]))


def region_crops(
  source: Source,
  key: Array,
  *,
  batches: int = 3,
  batch_size: int = 1000,
  size: int = 3,
  channels: int = 1,
) -> Float32[np.ndarray, "batches batch_size size size channels"]:
  """Random crops of random normalised images, one randomly chosen colour channel each: TE-NAS's region inputs.

  No flip, no padding. Images are drawn with replacement, since a batch may be larger than the data set; `channels`
  repeats the chosen colour. Raises:
    ConfigError: a size below 1, or crops larger than the images.
    DatasetError: an image cannot be read.
  """
  _refuse_other(source)
  height, width, colours = source.image_shape
  for name, value in (
    ("batches", batches),
    ("batch_size", batch_size),
    ("size", size),
    ("channels", channels),
  ):
    if value < 1:
      raise ConfigError(f"{name}={value} must be at least 1")
  if size > min(height, width):
    raise ConfigError(f"size={size} is larger than the {height}x{width} images of {source.name!r}")
  generator, count = host_generator(key), batches * batch_size
  images, _ = source.examples(generator.integers(0, len(source), count))
  rows = generator.integers(0, height - size + 1, count)
  columns = generator.integers(0, width - size + 1, count)
  colour = generator.integers(0, colours, count)
  crops = _crops(images, rows, columns, size, size)[np.arange(count), :, :, colour]
  normal = (crops / np.float32(255) - source.mean[colour, None, None]) / source.std[colour, None, None]
  return np.repeat(normal.reshape(batches, batch_size, size, size, 1), channels, axis=-1)


def _choose(source: Source, generator: np.random.Generator, size: int, called: str) -> np.ndarray:
  if not 1 <= size <= len(source):
    raise ConfigError(f"{called}={size} must lie in [1, {len(source)}], the examples of {source.name!r}")
  return generator.choice(len(source), size, replace=False)


def _refuse_other(source: Source) -> None:
  """ConfigError where a data set has no images."""
  if len(source.image_shape) != 3:
    raise ConfigError(f"--dataset={source.name} has sequences where images are needed; give a data set of images")


def _crops(images: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
  """One window of each image, [N, height, width, C]."""
  y = rows[:, None, None] + np.arange(height)[None, :, None]
  x = columns[:, None, None] + np.arange(width)[None, None, :]
  return images[np.arange(len(images))[:, None, None], y, x]


def _normalise(source: Source, images: np.ndarray) -> np.ndarray:
  return (images / np.float32(255) - source.mean) / source.std
