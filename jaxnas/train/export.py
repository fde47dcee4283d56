"""A finished training as two files that a few lines of Flax load; experiments/examples/load_trained.py has them.

- module.msgpack: the variables of the space's readable module (`spaces/<name>/module.py`), {"params", "batch_stats"},
  as flax.serialization writes them;
- module.json: the module's fields, how its images are normalised, and how well it classifies the held-out ones.

A fine-tuned encoder is a folder `encoder` instead, in the form of pre-trained ones.
"""

import dataclasses
import pathlib

import jax
from flax import serialization

from jaxnas import files
from jaxnas.base import Code, NamedClasses, Pretrained, Source, Trainable
from jaxnas.train.recipe import TrainConfig
from jaxnas.train.trainer import Result


def export(
  folder: pathlib.Path, space: Trainable, code: Code, config: TrainConfig, result: Result, images: Source
) -> None:
  """Writes both files, each whole or not at all; or the folder of an encoder.

  Args:
    folder: exists.
    code: the trained architecture, for which `trained_network` was made.
    config: the recipe.
    result: of the training.
    images: those that it was evaluated on.

  Raises:
    WorkdirError: a file cannot be written.
  """
  if isinstance(space, Pretrained):
    names = images.class_names if isinstance(images, NamedClasses) else [str(label) for label in range(images.classes)]
    space.export(folder / "encoder", code, jax.device_get(result.params), names)
    return
  module = space.module(code, config.network(images.classes))
  trained = jax.device_get((result.params, result.batch_stats))
  fields = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
  about = {
    "space": space.name,
    "module": {name: getattr(module, name) for name in fields},
    "images": {"dataset": images.name, "mean": images.mean, "std": images.std, "image_size": config.image_size},
    **{name: result.history[-1][name] for name in ("epoch", "valid_loss", "valid_accuracy", "valid_top5")},
  }
  variables = serialization.msgpack_serialize(space.module_variables(module, *trained))
  files.write_atomically(folder / "module.msgpack", variables)
  files.write_atomically(folder / "module.json", files.encode(about, indent=2).encode())
