"""Random flips and crops of a batch of images, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8


def flip_and_crop(key: Array, images: UInt8[Array, "N H W C"]) -> UInt8[Array, "N H W C"]:
  """Flips each image left to right with probability 1/2, then crops it at random from a black frame.

  The frame is an eighth of the width: 4 pixels at 32, 2 at 16, as usual for training on such images.
  """
  count, height, width, channels = images.shape
  pad = max(1, width // 8)
  flip_key, crop_key = jax.random.split(key)
  flips = jax.random.bernoulli(flip_key, 0.5, (count, 1, 1, 1))
  corners = jax.random.randint(crop_key, (count, 2), 0, 2 * pad + 1)
  framed = jnp.pad(jnp.where(flips, images[:, :, ::-1], images), ((0, 0), (pad, pad), (pad, pad), (0, 0)))

  def crop(image, corner):
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

  return jax.vmap(crop)(framed, corners)


def normalise(images: UInt8[Array, "N H W C"], mean: Array, std: Array) -> Float32[Array, "N H W C"]:
  """(images / 255 - mean) / std, with `mean` and `std` [C] in 0..1 units."""
  units = images.astype(jnp.float32) / 255
  return (units - mean[None, None, None]) / std[None, None, None]
