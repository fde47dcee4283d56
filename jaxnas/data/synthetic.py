"""Embedded images with natural-image statistics: the default data set, made on the fly.

Occluding shapes over a 1/f texture ("dead leaves"; Lee, Mumford and Huang, "Occlusion Models for
Natural Images", IJCV 2001; power spectrum about f^-2: Field, "Relations between the statistics of
natural images and the response properties of cortical cells", JOSA A 1987). Channel means,
deviations and correlations are CIFAR-10's. Neighbouring pixels must be correlated: on white noise
nearly every crop has its own linear region and the count says nothing.

The label decides the shape in the middle and whether it is warm or cool, so it can be learned.
"""

import math
import os

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from jaxnas import registry
from jaxnas.data.source import ImageSource
from jaxnas.errors import DatasetError

SIZES = {"train": 50_000, "test": 10_000}

_SIDE = 32
_CLASSES = 10
_LEAVES = 4
_CHUNK = 256

_MEAN = np.array([125.3, 123.0, 113.9], np.float32)  # CIFAR-10's, of 255
_STD = np.array([63.0, 62.1, 66.7], np.float32)
_CORRELATION = np.array([[1.0, 0.92, 0.80], [0.92, 1.0, 0.91], [0.80, 0.91, 1.0]])
_MIX = np.linalg.cholesky(_CORRELATION).astype(np.float32)
_TINT = np.array([0.4, 0.0, -0.4], np.float32)
_GAIN = 1.12  # makes up for clipping to 0..255


def source(split: str = "train") -> ImageSource:
  """The synthetic data set: 10 classes, 32x32x3, 50,000 train and 10,000 test images.

  Raises:
    DatasetError: `split` is neither `train` nor `test`.
  """
  if split not in SIZES:
    raise DatasetError(f"split {split!r} is not in data set 'synthetic'; it has train, test")
  return ImageSource(
    name="synthetic",
    classes=_CLASSES,
    image_shape=(_SIDE, _SIDE, 3),
    size=SIZES[split],
    mean=_MEAN / 255,
    std=_STD / 255,
    read=lambda indices: generate(indices, split),
  )


@registry.register("dataset", "synthetic")
def _open(split: str, data_dir: str | os.PathLike[str] | None, download: bool, side: int) -> ImageSource:
  """As `data.load` opens it; there are no files, and images of one size."""
  del data_dir, download, side
  return source(split)


def generate(
  indices: Int[np.ndarray, "n"], split: str = "train", seed: int = 0
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int32[np.ndarray, "n"]]:
  """Images and labels at `indices`; each depends on (seed, split, index) alone, bit for bit."""
  images = np.empty((len(indices), _SIDE, _SIDE, 3), np.uint8)
  labels = np.asarray(indices % _CLASSES, np.int32)
  stream = sorted(SIZES).index(split)
  for start in range(0, len(indices), _CHUNK):
    part = slice(start, start + _CHUNK)
    images[part] = _render([(seed, stream, int(i)) for i in indices[part]], labels[part])
  return images, labels


def _render(entropies: list[tuple[int, int, int]], labels: np.ndarray) -> np.ndarray:
  # Only element-wise operations run over the batch. A batched Fourier transform or matrix product
  # may round differently with the batch's size, and an image must not depend on its neighbours.
  n, shapes = len(entropies), _LEAVES + 1
  texture = np.empty((n, 3, _SIDE, _SIDE), np.float32)
  colour = np.empty((n, shapes + 1, 3), np.float32)
  place = np.empty((n, shapes, 5), np.float32)
  turn = np.empty((n, shapes, 2), np.float32)
  for row, entropy in enumerate(entropies):
    rng = np.random.default_rng(entropy)
    texture[row] = np.fft.irfft2(rng.standard_normal((3, _SIDE, 34)).view(complex) * _AMPLITUDE)
    colour[row] = rng.standard_normal((shapes + 1, 3))
    place[row] = rng.random((shapes, 5))
    turn[row] = [(math.cos(6.3 * u), math.sin(6.3 * u)) for u in rng.random(shapes).tolist()]

  texture = _mix_channels(np.moveaxis(texture, 1, -1))
  colour = _mix_channels(colour)
  warm = np.where(labels < _CLASSES // 2, 1.0, -1.0).astype(np.float32)
  canvas = 0.85 * colour[:, 0, None, None, :] + 0.42 * texture
  for leaf in range(shapes):
    u = place[:, leaf]
    fill = 0.95 * colour[:, leaf + 1]
    if leaf < _LEAVES:
      centre, radius = u[:, :2] * _SIDE, 2.5 / np.sqrt(1 - u[:, 2] * np.float32(0.97))
      x, y = _local(centre, turn[:, leaf])
      flat = np.maximum(np.abs(x), np.abs(y) * (0.5 + 1.5 * u[:, 4, None, None]))
      reach = np.where(u[:, 3, None, None] < 0.5, np.sqrt(x * x + y * y), flat)
    else:
      centre, radius = _SIDE / 2 + 6 * (u[:, :2] - np.float32(0.5)), 8 + 4 * u[:, 2]
      upright = np.stack([np.ones(n), 0.4 * (u[:, 3] - 0.5)], 1).astype(np.float32)
      reach = _reach(labels % 5, *_local(centre, upright))
      fill = fill + warm[:, None] * _TINT
    cover = np.clip((radius[:, None, None] - reach) * np.float32(0.6) + np.float32(0.5), 0, 1)[..., None]
    canvas += cover * (fill[:, None, None, :] + 0.34 * texture - canvas)
  return np.clip(np.rint(_MEAN + _GAIN * _STD * canvas), 0, 255).astype(np.uint8)


def _amplitude() -> np.ndarray:
  """1/f amplitudes of a real field's half spectrum, without the mean, for unit variance."""
  f = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :])
  f[0, 0] = np.inf
  twice = np.full(f.shape[1], 2.0)
  twice[[0, -1]] = 1.0
  return (1 / f) * _SIDE**2 / np.sqrt(2 * np.sum(twice / f**2))


_AMPLITUDE = _amplitude()


def _mix_channels(white: Float32[np.ndarray, "... 3"]) -> Float32[np.ndarray, "... 3"]:
  r, g, b = white[..., 0], white[..., 1], white[..., 2]
  return np.stack([m[0] * r + m[1] * g + m[2] * b for m in _MIX], axis=-1)


def _local(centre: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Pixel coordinates, float32 [n, 32, 32] each, about `centre` [n, 2], turned by `turn` [n, 2]."""
  pixel = np.arange(_SIDE, dtype=np.float32) + np.float32(0.5)
  dx = pixel[None, None, :] - centre[:, 0, None, None]
  dy = pixel[None, :, None] - centre[:, 1, None, None]
  cos, sin = turn[:, 0, None, None], turn[:, 1, None, None]
  return cos * dx + sin * dy, cos * dy - sin * dx


def _reach(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Radius at which shape 0..4 (disc, square, ring, cross, triangle) covers (x, y)."""
  ax, ay = np.abs(x), np.abs(y)
  round_ = np.sqrt(x * x + y * y)
  square = np.maximum(ax, ay)
  ring = np.maximum(round_, np.float32(1.45) * (10 - round_))
  cross = np.minimum(np.maximum(ax, 3 * ay), np.maximum(3 * ax, ay))
  triangle = np.maximum(np.float32(1.4) * y, np.float32(1.5) * ax - np.float32(0.8) * y)
  pick = shape[:, None, None]
  return np.select([pick == s for s in range(4)], [round_, square, ring, cross], triangle)
