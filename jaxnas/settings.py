"""The fields of a configuration, for every room that has one."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C")  # a configuration


def setting(default: Any, text: str, *, later: bool = False) -> Any:
  """A dataclass field whose `text` is also the help of its flag.

  With `later` the setting is not recorded at its default, so that runs continue that began before there was one.
  """
  return dataclasses.field(default=default, metadata={"help": text, "later": later})


def recorded(config: Any) -> dict[str, Any]:
  """The settings of a configuration that tell one run from another, by name."""
  values = {f: getattr(config, f.name) for f in dataclasses.fields(config)}
  return {f.name: value for f, value in values.items() if not (f.metadata.get("later") and value == f.default)}


def filled(config: C, published: Mapping[str, Any]) -> C:
  """`config`, and the configurations in it, with the published values where a field is None.

  Args:
    published: values by field name, see `Space.published`; a name that no configuration has is left alone.
  """
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(config):  # type: ignore[arg-type]
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      changes[field.name] = filled(value, published)
    elif value is None and field.name in published:
      changes[field.name] = published[field.name]
  return dataclasses.replace(config, **changes)  # type: ignore[type-var]
