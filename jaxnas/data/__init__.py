"""Images (the embedded synthetic set, TFDS sets read without TensorFlow), text, random tokens, and batches of them."""

from jaxnas.data.batches import augmented_batch, plain_batch, region_crops
from jaxnas.data.datasets import load, names
from jaxnas.data.source import ImageSource
from jaxnas.data.token_source import TokenConfig, TokenSource

__all__ = [
  "ImageSource",
  "TokenConfig",
  "TokenSource",
  "augmented_batch",
  "load",
  "names",
  "plain_batch",
  "region_crops",
]
