"""The weights of a folder as the network's tree, and back.

A linear layer's matrix is [outputs, inputs] there and [inputs, outputs] here. Weights are read as float32.
"""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.spaces.encoder.folder import FLAG, WEIGHTS, Sizes
from jaxnas.spaces.encoder.parameters import body_shapes

PREFIX = "bert."  # before every name, in files of models with heads
HEAD = "classifier"

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_OUTER = {
  "word": "embeddings.word_embeddings", "position": "embeddings.position_embeddings",
  "segment": "embeddings.token_type_embeddings", "embedding_norm": "embeddings.LayerNorm", "pooler": "pooler.dense",
}  # fmt: skip
_LAYERS = {
  "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
  "output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
  "feed_in": "intermediate.dense", "feed_out": "output.dense", "feed_norm": "output.LayerNorm",
}  # fmt: skip


@functools.lru_cache(maxsize=2)
def read(path: pathlib.Path, sizes: Sizes) -> PyTree:
  """The parameters of the encoder and its pooler, float32 NumPy arrays; those of the layers are side by side.

  Raises:
    ConfigError: `safetensors` is not installed.
    DatasetError: no such file; a weight is missing, of another shape than config.json says, or of no finite floats;
      there are more layers than config.json says.
  """
  found = _tensors(path)
  prefix = PREFIX if any(name.startswith(PREFIX) for name in found) else ""
  if deeper := [name for name in found if name.startswith(f"{prefix}encoder.layer.{sizes.layers}.")]:
    raise DatasetError(
      f"{FLAG}={path}: {WEIGHTS} has {deeper[0]}, where its config.json has {sizes.layers} layers; give files of one "
      "encoder, and leave layers out by drop in a variant"
    )

  def take(name: str, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    if name not in found:
      raise DatasetError(f"{FLAG}={path}: {WEIGHTS} has no {name}, which its config.json asks for; give a whole one")
    value = np.asarray(found[name])
    wanted = shape[::-1] if transposed else shape
    if value.shape != wanted:
      raise DatasetError(
        f"{FLAG}={path}: {WEIGHTS} has {name} of shape {list(value.shape)}, where its config.json asks for "
        f"{list(wanted)}; give files of one encoder"
      )
    if not jnp.issubdtype(value.dtype, jnp.floating):
      raise DatasetError(f"{FLAG}={path}: {WEIGHTS} has {name} of type {value.dtype}; give weights that are floats")
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
      raise DatasetError(f"{FLAG}={path}: {WEIGHTS} has numbers in {name} that are not finite; give a whole one")
    return np.ascontiguousarray(value.T) if transposed else value

  tree: dict[str, Any] = {}
  for layer, leaf, names, shape in _entries(sizes):
    values = [take(prefix + name, shape, leaf == "kernel") for name in names]
    own = tree.setdefault("layers", {}) if layer in _LAYERS else tree
    own.setdefault(layer, {})[leaf] = np.stack(values) if layer in _LAYERS else values[0]
  return tree


def read_head(path: pathlib.Path, sizes: Sizes) -> PyTree:
  """The classifier of a fine-tuned encoder.

  Raises:
    ConfigError, DatasetError: as `read`.
  """
  found = _tensors(path)
  kernel, bias = (np.asarray(found.get(f"{HEAD}.{leaf}", ()), np.float32) for leaf in ("weight", "bias"))
  if kernel.ndim != 2 or kernel.shape != (len(bias), sizes.hidden):
    raise DatasetError(f"{FLAG}={path}: {WEIGHTS} has no classifier; give a fine-tuned encoder")
  return {"kernel": np.ascontiguousarray(kernel.T), "bias": bias}


def as_file(params: PyTree, sizes: Sizes) -> bytes:
  """The file of parameters with `sizes.layers` layers and a classifier; `read` and `read_head` read it."""
  from safetensors import numpy as safetensors

  out: dict[str, np.ndarray] = {}
  for layer, leaf, names, _ in _entries(sizes):
    values = np.asarray((params["layers"] if layer in _LAYERS else params)[layer][leaf], np.float32)
    for name, value in zip(names, values if layer in _LAYERS else values[None], strict=True):
      out[PREFIX + name] = np.ascontiguousarray(value.T) if leaf == "kernel" else np.ascontiguousarray(value)
  head = params[HEAD]
  out[f"{HEAD}.weight"] = np.ascontiguousarray(np.asarray(head["kernel"], np.float32).T)
  out[f"{HEAD}.bias"] = np.asarray(head["bias"], np.float32)
  return safetensors.save(out, {"format": "pt"})


def _entries(sizes: Sizes) -> Iterator[tuple[str, str, list[str], tuple[int, ...]]]:
  """(layer, leaf, names in the file, one for each encoder layer or one, shape here) of every parameter but the head."""
  outer, inner = body_shapes(sizes)
  for layer, leaves in outer.items():
    for leaf, shape in leaves.items():
      yield layer, leaf, [f"{_OUTER[layer]}.{_LEAVES[leaf]}"], shape
  for layer, leaves in inner.items():
    for leaf, shape in leaves.items():
      names = [f"encoder.layer.{i}.{_LAYERS[layer]}.{_LEAVES[leaf]}" for i in range(sizes.layers)]
      yield layer, leaf, names, shape


def _tensors(path: pathlib.Path) -> dict[str, Any]:
  try:
    from safetensors import numpy as safetensors
  except ImportError as error:
    raise ConfigError('--space=encoder needs the package safetensors: pip install "jaxnas[text]"') from error
  try:
    return safetensors.load_file(path / WEIGHTS)
  except Exception as error:  # of that package, of no type of its own
    raise DatasetError(f"{FLAG}={path}: {WEIGHTS} cannot be read ({str(error)[:100]}); give a whole file") from error
