"""Images a second that a training's input pipeline gives, without a network.

  python experiments/benchmark_pipeline.py --dataset=imagenet2012 --data_dir=FOLDER --image_size=224 --out=FILE.md

The defaults are those of the preset train_darts_imagenet. Parts: reading and decoding (records, JPEG, to an eighth more
than the network sees) on the host; random crop, flip, colours and normalisation on the device; both one after another
as a training asks for them, the next batch being read while the device works. Every image is decoded anew, as in an
epoch that does not fit into the cache. Wall and CPU seconds are medians of an image over batches, after a first one.
"""

import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxnas import data, report
from jaxnas.train import augment

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "imagenet2012", "images to read, as of jaxnas")
flags.DEFINE_string("split", "train", "which of them")
flags.DEFINE_string("data_dir", None, "TFDS folder")
flags.DEFINE_integer("image_size", 224, "side that the network sees", lower_bound=8)
flags.DEFINE_float("color_jitter", 0.4, "see --color_jitter of jaxnas", lower_bound=0, upper_bound=0.99)
flags.DEFINE_integer("batch", 64, "images in a batch", lower_bound=1)
flags.DEFINE_integer("batches", 10, "batches to time", lower_bound=2)
flags.DEFINE_string("out", None, "Markdown file for the table")


def batches(source: data.ImageSource) -> list[np.ndarray]:
  """Positions of every batch in a random order, again from the first where there are not enough."""
  order = np.random.default_rng(0).permutation(len(source))
  wanted = np.arange((FLAGS.batches + 1) * FLAGS.batch) % len(source)
  return list(order[wanted].reshape(-1, FLAGS.batch))


def augmented(source: data.ImageSource) -> Callable[[int, np.ndarray], jax.Array]:
  """What a training step does to uint8 images before its network sees them, compiled; called with a step's number."""

  @jax.jit
  def change(step: jax.Array, images: jax.Array) -> jax.Array:
    crop_key, color_key = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
    images = augment.flip_and_resize(crop_key, images, FLAGS.image_size)
    if FLAGS.color_jitter:
      images = augment.jitter_colors(color_key, images, FLAGS.color_jitter)
    return augment.normalise(images, jnp.asarray(source.mean), jnp.asarray(source.std))

  return lambda step, images: change(jnp.asarray(step), images)


def both(read: Callable[[np.ndarray], np.ndarray], change: Callable[[int, np.ndarray], jax.Array]):
  """Reads a batch while the device changes the one before, as `jaxnas.train` does."""
  pending: list[jax.Array] = []

  def step(i: int, indices: np.ndarray) -> None:
    pending.append(change(i, read(indices)))
    if len(pending) > 1:
      pending.pop(0).block_until_ready()

  return step


def row(name: str, step: Callable[[int, np.ndarray], object], given: Iterable[np.ndarray]) -> tuple[str, ...]:
  """Times `step` on every batch; the first is a warm-up."""
  marks = [(time.process_time(), time.perf_counter())]
  for i, one in enumerate(given):
    step(i, one)
    marks.append((time.process_time(), time.perf_counter()))
  cpu, wall = (
    statistics.median(np.diff([m[k] for m in marks])[1:].tolist()) / FLAGS.batch for k in range(len(marks[0]))
  )
  return name, f"{1 / wall:.0f}", f"{1e3 * wall:.2f}", f"{1e3 * cpu:.2f}"


def main(argv: list[str]) -> None:
  """Prints the table, and writes it."""
  del argv
  options = {"split": FLAGS.split, "data_dir": FLAGS.data_dir, "side": -(-FLAGS.image_size * 8 // 7)}
  source = data.load(FLAGS.dataset, **options)
  if not isinstance(source, data.ImageSource):
    raise app.UsageError(f"--dataset={FLAGS.dataset} has no images")
  if min(source.image_shape[:2]) < FLAGS.image_size:
    raise app.UsageError(f"--image_size={FLAGS.image_size}: images of {source.name} are {source.image_shape}; lower it")

  def read(indices: np.ndarray) -> np.ndarray:
    return source.read(indices)[0]

  given, change = batches(source), augmented(source)
  images = [read(indices) for indices in given[:2]]
  ready = [images[i % 2] for i in range(len(given))]
  rows = [
    row("reading and decoding", lambda _, indices: read(indices), given),
    row("augmentation", lambda i, batch: change(i, batch).block_until_ready(), ready),
    row("both", both(read, change), given),
  ]
  side, device = source.image_shape[0], jax.devices()[0]
  text = (
    f"{source.name}, {len(source)} images of `{FLAGS.split}` cut to {side}x{side}, seen at {FLAGS.image_size}, "
    f"batches of {FLAGS.batch}; {os.cpu_count()} cores, {device.platform} ({device.device_kind})\n\n"
  ) + report.markdown_table(["part", "images/s", "wall ms an image", "CPU ms an image"], rows)
  print(text)
  if FLAGS.out:
    pathlib.Path(FLAGS.out).write_text(f"{text}\n")


if __name__ == "__main__":
  app.run(main)
