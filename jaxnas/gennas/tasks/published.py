"""The published proxy tasks by name, and where a user's task is found.

`published.json` has, in the published schema, the tasks that the paper's code was run with (`CONF_...`), and those of a
single basis (`single_...`). The latter are published for sequences only (`CONF_NLP_...`); those for images follow them:
level 1, 64 channels at every stage, no noise, a draw for every image, dots in all cells, and the frequencies of the
published combination (low 0.0125 ... 0.125 periods per cell, mid 0.125 ... 0.35, high, the default, 0.375 ... 0.4875).
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from jaxnas import registry
from jaxnas.errors import ConfigError
from jaxnas.files import user_path
from jaxnas.gennas.tasks.records import SequenceTask, SignalTask
from jaxnas.gennas.tasks.schema import from_json, sequence_from_json


@functools.cache
def _published() -> dict[str, Any]:
  return json.loads(pathlib.Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
  """Published tasks on images."""
  return tuple(name for name, document in _published().items() if "dimension" not in document)


def sequence_names() -> tuple[str, ...]:
  """Published tasks on sequences."""
  return tuple(name for name, document in _published().items() if "dimension" in document)


def get(name_or_path: str) -> SignalTask:
  """The published task of a name, or the task in a JSON file.

  Raises:
    ConfigError: no such name or file, not JSON, wrong schema, values out of range, or a task of sequences.
  """
  return _find(name_or_path, names(), from_json)


def get_sequence(name_or_path: str) -> SequenceTask:
  """As `get`, for sequences."""
  return _find(name_or_path, sequence_names(), sequence_from_json)


def _find(name_or_path: str, known: tuple[str, ...], read: Callable[[Any, str], Any]) -> Any:
  if name_or_path in _published():
    return read(_published()[name_or_path], name_or_path)  # raises where it is one of the other kind
  try:
    document = json.loads(user_path(name_or_path, "task").read_text(encoding="utf-8"))
  except OSError as error:
    what = f"task {name_or_path!r}, which is no readable file ({error.strerror}),"
    raise ConfigError(registry.unknown(what, name_or_path, known)) from None
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"task {name_or_path!r}: not JSON ({error}); pass a file of the published schema") from None
  return read(document, name_or_path)
