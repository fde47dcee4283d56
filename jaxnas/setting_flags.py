"""Settings as command-line flags: defined from dataclasses, read back into them, refused where nothing reads them."""

import dataclasses
import types
import typing
from collections.abc import Collection
from typing import Any, Literal

from absl import flags

from jaxnas import settings
from jaxnas.base import Space, lacking
from jaxnas.errors import ConfigError


class SettingFlags:
  """The flags of any number of settings dataclasses; a dataclass that several things read is one set of flags.

  Args:
    values: where the flags are defined.
  """

  def __init__(self, values: flags.FlagValues):
    self.values = values
    self._owner: dict[str, type] = {}
    self._needs: dict[str, type | None] = {}
    self._readers: dict[type, list[str]] = {}

  def define(self, config: type, reader: str) -> None:
    """One flag for every field with a help text of `config` and the configurations in it.

    Args:
      reader: who reads these settings, for messages, such as "--algorithm=tenas".

    Raises:
      ConfigError: a flag of that name stands already for something else, or a type that flags do not have.
    """
    for part in settings.parts(config):
      self._define(part, reader)
      readers = self._readers.setdefault(part, [])
      if reader not in readers:
        readers.append(reader)

  def _define(self, part: type, reader: str) -> None:
    kinds = typing.get_type_hints(part)
    for field in dataclasses.fields(part):
      if "help" not in field.metadata:
        continue
      if field.name in self.values:
        if self._owner.get(field.name) is part:
          continue
        other = self._owner.get(field.name)
        whose = "the command line itself" if other is None else " and ".join(self._readers[other])
        raise ConfigError(
          f"the setting {field.name!r} of {reader} ({part.__module__}.{part.__qualname__}) has the name of a flag of "
          f"{whose}; choose another name"
        )
      text: Any = field.metadata["help"]
      _define_flag(self.values, field.name, kinds[field.name], field.default, text if isinstance(text, str) else text())
      self._owner[field.name], self._needs[field.name] = part, field.metadata.get("needs")

  def read(self, config: type) -> Any:
    """An instance of `config` with the flags' values.

    Raises:
      ConfigError: as the dataclasses do.
    """
    given: dict[str, Any] = {name: self.read(kind) for name, kind in settings.inner(config).items()}
    for field in dataclasses.fields(config):
      if "help" in field.metadata:
        value = self.values[field.name].value
        given[field.name] = _whole(value) if isinstance(value, list) else value
    return config(**given)

  def refuse_unread(self, read: Collection[type], algorithm: str, space: Space) -> None:
    """A flag that is given and that nothing reads is a mistake, not a setting.

    Args:
      read: the dataclasses that this run reads; those inside them need not be listed.
      algorithm: name of the one that runs.
      space: where it runs.

    Raises:
      ConfigError: there is such a flag; says whose it is, or what the space lacks.
    """
    parts = {part for config in read for part in settings.parts(config)}
    for name in [name for name in self._owner if self.values[name].present]:
      owner, needs = self._owner[name], self._needs[name]
      if owner not in parts:
        whose = " and ".join(self._readers[owner])
        raise ConfigError(
          f"--{name} is a setting of {whose}, not of --algorithm={algorithm} with these flags; drop one of them"
        )
      if needs and (lacks := lacking(space, needs)):
        raise ConfigError(
          f"--{name} has no meaning with --space={space.name} (it is not {needs.__name__}: no {', '.join(lacks)}); "
          "drop it"
        )


def _define_flag(values: flags.FlagValues, name: str, kind: Any, default: Any, text: str) -> None:
  """One flag of a field's type; `X | None` is X with the default None."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and arguments[1] is type(None):
    kind, origin, arguments = arguments[0], typing.get_origin(arguments[0]), typing.get_args(arguments[0])
  if origin is tuple:
    flags.DEFINE_list(name, list(default), text, flag_values=values)
  elif origin is Literal:
    flags.DEFINE_enum(name, default, arguments, text, flag_values=values)
  elif kind is bool:
    flags.DEFINE_bool(name, default, text, flag_values=values)
  elif kind is int:
    flags.DEFINE_integer(name, default, text, upper_bound=2**31 - 1, flag_values=values)
  elif kind is float:
    flags.DEFINE_float(name, default, text, flag_values=values)
  elif kind is str:
    flags.DEFINE_string(name, default, text, flag_values=values)
  else:
    raise ConfigError(
      f"the setting {name!r} is of type {kind}, for which there is no flag; take bool, int, float, str, Literal, "
      "tuple[str, ...], or one of these | None"
    )


def _whole(pieces: list[str]) -> tuple[str, ...]:
  """A list's entries, out of its text split at every comma: those in brackets belong to the entry, a genotype."""
  entries: list[str] = []
  depth = 0
  for piece in pieces:
    if depth > 0:
      entries[-1] += f", {piece}"
    else:
      entries.append(piece)
    depth += sum((c in "([{") - (c in ")]}") for c in piece)
  return tuple(entries)
