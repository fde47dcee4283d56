"""Random changes of a batch of images, on the device: flips and crops, parts at random sizes, colours, cutout."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Shaped, UInt8


def flip_and_crop(key: Array, images: UInt8[Array, "N H W C"]) -> UInt8[Array, "N H W C"]:
  """Flips each image left to right with probability 1/2, then crops it at random from a black frame.

  The frame is an eighth of the width: 4 pixels at 32, 2 at 16, as usual for training on such images.
  """
  count, height, width, channels = images.shape
  pad = max(1, width // 8)
  flip_key, crop_key = jax.random.split(key)
  corners = jax.random.randint(crop_key, (count, 2), 0, 2 * pad + 1)
  framed = jnp.pad(_flip(flip_key, images), ((0, 0), (pad, pad), (pad, pad), (0, 0)))

  def crop(image, corner):
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

  return jax.vmap(crop)(framed, corners)


def flip_and_resize(key: Array, images: UInt8[Array, "N H W C"], size: int) -> Float32[Array, "N size size C"]:
  """A random part of each image, resized to size x size, and flipped with probability 1/2; values still 0..255.

  The part has 8 to 100 % of the image's area and a ratio of width to height between 3/4 and 4/3 (uniform in its
  logarithm), no side longer than the image's; interpolation is bilinear, with anti-aliasing where it shrinks.
  Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6, in the usual later form.
  """
  count, height, width, channels = images.shape
  flip_key, crop_key = jax.random.split(key)
  area, ratio, y, x = jax.random.uniform(crop_key, (4, count), jnp.float32)
  root = jnp.sqrt((0.08 + 0.92 * area) * (height * width))
  stretch = jnp.exp((ratio - 0.5) * jnp.log(jnp.float32(4 / 3)))  # square root of the ratio
  sides = jnp.stack([jnp.minimum(root / stretch, height), jnp.minimum(root * stretch, width)], 1)
  corners = jnp.stack([y, x], 1) * (jnp.asarray([[height, width]], jnp.float32) - sides)

  def resize(image, side, corner):
    scale = size / side
    shape = (size, size, channels)
    return jax.image.scale_and_translate(image, shape, (0, 1), scale, -corner * scale, "linear", antialias=True)

  return _flip(flip_key, jax.vmap(resize)(images.astype(jnp.float32), sides, corners))


def jitter_colors(key: Array, images: Shaped[Array, "N H W 3"], strength: float) -> Float32[Array, "N H W 3"]:
  """Random brightness, contrast, saturation and hue of each image of values 0..255, in an order drawn for the batch.

  The first three blend the image with black, with the mean of its grey image and with that image; the image's weight
  is uniform in 1 - strength .. 1 + strength, and values stay in 0..255. The hue moves by -strength/2 .. strength/2 of
  its circle. Source: PyTorch's ColorJitter, which draws an order for each image and rounds to whole values after each.
  """
  order_key, *keys = jax.random.split(key, 5)
  half = (strength, strength, strength, strength / 2)
  draws = [jax.random.uniform(k, (len(images), 1, 1, 1), jnp.float32, -h, h) for k, h in zip(keys, half, strict=True)]
  changes = [
    lambda x: _blend(x, jnp.zeros_like(x), draws[0]),
    lambda x: _blend(x, _grey(x).mean((1, 2), keepdims=True), draws[1]),
    lambda x: _blend(x, _grey(x), draws[2]),
    lambda x: shift_hue(x, draws[3]),
  ]
  x = images.astype(jnp.float32)
  for index in jax.random.permutation(order_key, len(changes)):
    x = jax.lax.switch(index, changes, x)
  return x


def shift_hue(images: Float32[Array, "N H W 3"], turns: Float32[Array, "N 1 1 1"]) -> Float32[Array, "N H W 3"]:
  """Moves the hue of HSV (red, green and blue at 0, 1/3 and 2/3 of its circle); saturation and value stay."""
  red, green, blue = jnp.moveaxis(images, -1, 0)
  value, spread = images.max(-1), jnp.ptp(images, -1)
  safe = jnp.where(spread > 0, spread, 1)
  after_green = jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
  sixth = jnp.where(value == red, (green - blue) / safe, after_green)[..., None] + 6 * turns
  place = (sixth + jnp.asarray([5, 3, 1], jnp.float32)[None, None, None]) % 6
  return value[..., None] - spread[..., None] * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def middle(images: Shaped[Array, "N H W C"], size: int) -> Shaped[Array, "N H2 W2 C"]:
  """The middle of each image."""
  top, left = ((side - size) // 2 for side in images.shape[1:3])
  return images[:, top : top + size, left : left + size]


def cut_out(key: Array, images: Float32[Array, "N H W C"], side: int) -> Float32[Array, "N H W C"]:
  """Sets a square of each image to 0; its centre is any pixel, and what lies beyond the border is cut off.

  Source: DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout", arXiv 1708.04552.
  """
  count, height, width, _ = images.shape

  def inside(key, length):  # [N, length]: rows (columns) of the square
    start = jax.random.randint(key, (count, 1), 0, length) - side // 2
    place = jnp.arange(length)[None]
    return (start <= place) & (place < start + side)

  row_key, column_key = jax.random.split(key)
  square = inside(row_key, height)[:, :, None] & inside(column_key, width)[:, None, :]
  return jnp.where(square[..., None], 0, images)


def normalise(images: Shaped[Array, "N H W C"], mean: Array, std: Array) -> Float32[Array, "N H W C"]:
  """(images / 255 - mean) / std, with `mean` and `std` [C] in 0..1 units."""
  units = images.astype(jnp.float32) / 255
  return (units - mean[None, None, None]) / std[None, None, None]


def _blend(image: Array, other: Array, change: Array) -> Array:
  return jnp.clip((1 + change) * image - change * other, 0, 255)


def _grey(images: Array) -> Array:
  """[N, H, W, 1], by the weights of ITU-R 601."""
  return (images * jnp.asarray([0.299, 0.587, 0.114], jnp.float32)[None, None, None]).sum(-1, keepdims=True)


def _flip(key: Array, images: Array) -> Array:
  flips = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
  return jnp.where(flips, images[:, :, ::-1], images)
