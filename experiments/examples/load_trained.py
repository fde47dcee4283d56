"""What --algorithm=train left in a work directory, in plain Flax: loads the module and classifies the images again.

    python -m jaxnas.main --algorithm=train --space=darts --genotype=DARTS_V2 --train_channels=4 --workdir=out
    python experiments/examples/load_trained.py out/trainings/seed0

`load` is all that is needed to use a trained network, or to go on training it: `variables` are its collections params
and batch_stats, module.apply(variables, images, train=True, mutable=["batch_stats"]) is a step's forward pass.
"""

import argparse
import dataclasses
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from jaxnas import data
from jaxnas.spaces.darts.module import DARTSModule
from jaxnas.spaces.nb201.module import NB201Module


def load(folder: pathlib.Path) -> tuple[nn.Module, dict, dict]:
  """(module, its variables, what module.json says of them)."""
  about = json.loads((folder / "module.json").read_text())
  variables = serialization.msgpack_restore((folder / "module.msgpack").read_bytes())
  module = {"nb201": NB201Module, "darts": DARTSModule}[about["space"]](**about["module"])
  return module, variables, about


def accuracy(folder: pathlib.Path, source: data.ImageSource, batch: int = 500) -> float:
  """Per cent of the images that the trained module classifies as labelled."""
  module, variables, about = load(folder)
  mean, std = (np.asarray(about["images"][name], np.float32) for name in ("mean", "std"))

  @jax.jit
  def answers(images):
    normalised = (images.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]
    return module.apply(variables, normalised).argmax(-1)

  right = 0
  for start in range(0, len(source), batch):
    images, labels = source.examples(np.arange(start, min(start + batch, len(source))))
    side = about["images"]["image_size"] or images.shape[1]
    top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
    right += int((answers(images[:, top : top + side, left : left + side]) == labels).sum())
  return 100 * right / len(source)


def main() -> None:
  parser = argparse.ArgumentParser(description="Measures a trained network again.")
  parser.add_argument("folder", type=pathlib.Path, help="that of one training, with module.json")
  parser.add_argument("--split", default="test", help="images to classify")
  parser.add_argument("--images", type=int, help="only the first so many of them")
  parser.add_argument("--data_dir", help="the folder of TFDS data sets")
  flags = parser.parse_args()
  about = load(flags.folder)[2]
  source = data.load(about["images"]["dataset"], split=flags.split, data_dir=flags.data_dir)
  source = dataclasses.replace(source, size=flags.images or len(source))
  print(f"{accuracy(flags.folder, source):.2f} % (logged: {about['valid_accuracy']:.2f} %)")


if __name__ == "__main__":
  main()
