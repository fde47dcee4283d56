"""Images: the embedded synthetic set, TFDS sets read without TensorFlow, and batches of them."""

from jaxnas.data.batches import augmented_batch, plain_batch, region_crops
from jaxnas.data.source import NAMES, ImageSource, load

__all__ = ["NAMES", "ImageSource", "augmented_batch", "load", "plain_batch", "region_crops"]
