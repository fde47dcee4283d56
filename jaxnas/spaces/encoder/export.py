"""A fine-tuned variant as a folder in the form of pre-trained encoders, and back.

The folder has the layers that the variant executes, one after the other, each with weights of its own, so shared ones
are copied. Where all are in sequence, with the residual of their input, that is a BERT with a classifier as any reader
of this form knows it (`BertForSequenceClassification`). Else config.json says so: its `model_type` is another, and
`jaxnas_layers` has for each layer its order and residual, as in the text form of `encoding`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import DatasetError
from jaxnas.files import encode, refusing, write_atomically
from jaxnas.spaces.encoder import encoding, mapping, weights
from jaxnas.spaces.encoder import folder as folders
from jaxnas.spaces.encoder.module import EncoderModule
from jaxnas.spaces.mapping import gather

VARIANT = "jaxnas_encoder"  # `model_type` of one that is no plain BERT
LAYERS = "jaxnas_layers"
_PLAIN = "seq:1"


def write(
  folder: pathlib.Path, source: pathlib.Path, sizes: folders.Sizes, code: Any, params: PyTree, names: Sequence[str]
) -> None:
  """Writes the three files, each whole or not at all, into `folder`, which is made.

  Args:
    source: the folder of the pre-trained encoder; the tokenizer and what config.json says besides are taken over.
    code: the variant.
    params: of its network.
    names: of the classes.

  Raises:
    WorkdirError: a file cannot be written.
  """
  rows = encoding.rows_of(code, sizes.layers)
  rows[0, 2] = 0  # before the first layer there is one state only
  orders = [encoding.OPS[1 + 2 * parallel + earlier].removeprefix("keep:") for _, parallel, earlier in rows.tolist()]
  plain = all(order == _PLAIN for order in orders)
  taken = {**params, "layers": jax.tree.map(lambda leaf: np.asarray(leaf)[rows[:, 0]], params["layers"])}
  config = {
    **folders.read_config(source),
    "model_type": folders.KIND if plain else VARIANT,
    "architectures": ["BertForSequenceClassification" if plain else "EncoderModule"],
    "num_hidden_layers": len(rows),
    "id2label": {str(i): name for i, name in enumerate(names)},
    "label2id": {name: i for i, name in enumerate(names)},
    **({} if plain else {LAYERS: orders}),
  }
  with refusing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / folders.TOKENIZER, (source / folders.TOKENIZER).read_bytes())
  write_atomically(folder / folders.WEIGHTS, weights.as_file(taken, dataclasses.replace(sizes, layers=len(rows))))
  write_atomically(folder / folders.CONFIG, encode(config, indent=2).encode())


def read(folder: pathlib.Path) -> tuple[EncoderModule, dict[str, Any]]:
  """The module of a fine-tuned variant, and its variables.

  Raises:
    ConfigError: `safetensors` is not installed.
    DatasetError: a file is missing, damaged, or no such variant's.
  """
  folder = folders.resolve(str(folder))
  config = folders.read_config(folder)
  orders = config.get(LAYERS)
  sizes = folders.read_sizes(folder, folders.KIND if orders is None else VARIANT)
  orders = [_PLAIN] * sizes.layers if orders is None else orders
  if (
    not isinstance(orders, list) or len(orders) != sizes.layers or any(f"keep:{o}" not in encoding.OPS for o in orders)
  ):
    raise DatasetError(f"{folder}: config.json has {LAYERS}={json.dumps(orders)[:80]}, which are no layers")
  params = {**weights.read(folder, sizes), weights.HEAD: weights.read_head(folder, sizes)}
  own = {name: value for name, value in dataclasses.asdict(sizes).items() if name != "layers"}
  text = "|".join(f"keep:{order}" for order in orders)
  module = EncoderModule(arch=text, **own, classes=params[weights.HEAD]["bias"].shape[0])
  return module, {"params": gather(mapping.parameters(module, sizes), params)}
