"""The fields of a configuration, for every room that has one."""

import dataclasses
from typing import Any


def setting(default: Any, text: str, *, later: bool = False) -> Any:
  """A dataclass field whose `text` is also the help of its flag.

  With `later` the setting is not recorded at its default, so that runs continue that began before there was one.
  """
  return dataclasses.field(default=default, metadata={"help": text, "later": later})


def recorded(config: Any) -> dict[str, Any]:
  """The settings of a configuration that tell one run from another, by name."""
  values = {f: getattr(config, f.name) for f in dataclasses.fields(config)}
  return {f.name: value for f, value in values.items() if not (f.metadata.get("later") and value == f.default)}
