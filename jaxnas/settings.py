"""The fields of a configuration, for every room that has one."""

import dataclasses
from typing import Any


def setting(default: Any, text: str) -> Any:
  """A dataclass field whose `text` is also the help of its flag."""
  return dataclasses.field(default=default, metadata={"help": text})
