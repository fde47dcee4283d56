"""The fields of a configuration, for every room that has one."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

C = TypeVar("C")  # a configuration


def setting(default: Any, text: str | Callable[[], str], *, later: bool = False, needs: type | None = None) -> Any:
  """A dataclass field whose `text` is also the help of its flag; a function where that is not known before imports end.

  With `later` the setting is taken at its default where a run's record lacks it (`completed`), so that runs continue
  that began before there was one. `needs` is the capability of a space without which the setting means nothing.
  """
  return dataclasses.field(default=default, metadata={"help": text, "later": later, "needs": needs})


def inner(config: type) -> dict[str, type]:
  """The configurations inside a configuration, by field name."""
  types = typing.get_type_hints(config)
  kinds = {field.name: types[field.name] for field in dataclasses.fields(config)}
  return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def parts(config: type) -> list[type]:
  """A configuration and those inside it."""
  return [config, *(part for kind in inner(config).values() for part in parts(kind))]


def recorded(config: Any) -> dict[str, Any]:
  """The settings that tell one run from another, by name: those of the configurations inside first."""
  inside = inner(type(config))
  found: dict[str, Any] = {}
  for name in inside:
    found |= recorded(getattr(config, name))
  return found | {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in inside}


def completed(record: Mapping[str, Any], config: type) -> dict[str, Any]:
  """A run's record with the defaults of those settings of `config` that came later than the run did.

  A record without any setting of `config` is not of a run that had one, and stays as it is.
  """
  fields = [f for part in parts(config) for f in dataclasses.fields(part) if f.name not in inner(part)]
  if not any(f.name in record for f in fields):
    return dict(record)
  return {f.name: f.default for f in fields if f.metadata.get("later")} | dict(record)


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
