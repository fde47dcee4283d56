"""What a search keeps as it goes, and finds again when it continues after an interruption."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnas.base.data import Records
from jaxnas.errors import WorkdirError


@dataclasses.dataclass(frozen=True)
class RecordKind:
  """One kind of record: JSON objects with `kind`, `seed` and the same fields.

  A file of records may have been edited or damaged, so they are checked when they are read.

  Attributes:
    name: says whose records these are.
    fields: what stands in each: `str`, `int`, `float` (any number), `list`, `dict`, an `enum.StrEnum`, or `np.ndarray`
      for numbers in lists of equal length.
  """

  name: str
  fields: Mapping[str, type]

  def make(self, seed: int, **values: Any) -> dict[str, Any]:
    """A record, for `Context.keep`."""
    return {"kind": self.name, "seed": seed, **values}

  def of(self, records: Records, seed: int) -> list[Mapping[str, Any]]:
    """Those of this kind and seed, in order; all of this kind are checked, those of others are left alone.

    Raises:
      WorkdirError: a field is missing or holds something else; says in which line of the file.
    """
    mine = [(line, one) for line, one in enumerate(records, start=1) if one.get("kind") == self.name]
    for line, one in mine:
      for field, kind in {"seed": int, **self.fields}.items():
        if field not in one or not _is(one[field], kind):
          what = f"holds {str(one[field])[:40]!r} as {field}" if field in one else f"has no {field}"
          raise WorkdirError(
            f"--workdir: line {line} of scores.jsonl {what}, where a record of kind {self.name!r} has "
            f"{_called(kind)}; delete that line to have it computed again, or give "
            "another --workdir"
          )
    return [one for _, one in mine if one["seed"] == seed]


_CALLED = {
  str: "text",
  int: "an integer",
  float: "a number",
  list: "a list",
  dict: "an object",
  np.ndarray: "lists of numbers",
}


def _called(kind: type) -> str:
  return f"one of {', '.join(str(one.value) for one in kind)}" if issubclass(kind, enum.Enum) else _CALLED[kind]


def _is(value: Any, kind: type) -> bool:
  """Whether a JSON value is of that kind."""
  if issubclass(kind, enum.Enum):
    return value in list(kind)
  if kind is np.ndarray:
    try:
      return isinstance(value, list) and np.array(value).dtype.kind in "iuf"
    except ValueError:  # of lists that differ in length
      return False
  if isinstance(value, bool):
    return False
  return isinstance(value, int | float if kind is float else kind)
