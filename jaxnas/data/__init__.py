"""Images: the embedded synthetic set, TFDS sets read without TensorFlow, and batches of them."""

from jaxnas.data.batches import augmented_batch, plain_batch, region_crops
from jaxnas.data.datasets import load, names
from jaxnas.data.source import ImageSource

__all__ = ["ImageSource", "augmented_batch", "load", "names", "plain_batch", "region_crops"]
