"""A finished training as two files that a few lines of Flax load; experiments/examples/load_trained.py has them.

- module.msgpack: the variables of the space's readable module (`spaces/<name>/module.py`), {"params", "batch_stats"},
  as flax.serialization writes them;
- module.json: the module's fields, how its images are normalised, and how well it classifies the held-out ones.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax import serialization
from jaxtyping import PyTree

from jaxnas import files
from jaxnas.base import Source


def export(
  folder: pathlib.Path,
  space: str,
  module: nn.Module,
  variables: PyTree,
  images: Source,
  image_size: int,
  last: Mapping[str, Any],
) -> None:
  """Writes both files, each whole or not at all.

  Args:
    folder: exists.
    space: its name.
    module: of the trained architecture, see `trained_module`.
    variables: its collections.
    images: those that it was evaluated on.
    image_size: side of what it sees of their middle; 0: all.
    last: the record of the last epoch.

  Raises:
    WorkdirError: a file cannot be written.
  """
  fields = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
  about = {
    "space": space,
    "module": {name: getattr(module, name) for name in fields},
    "images": {"dataset": images.name, "mean": images.mean, "std": images.std, "image_size": image_size},
    **{name: last[name] for name in ("epoch", "valid_loss", "valid_accuracy", "valid_top5")},
  }
  files.write_atomically(folder / "module.msgpack", serialization.msgpack_serialize(variables))
  files.write_atomically(folder / "module.json", files.encode(about, indent=2).encode())
