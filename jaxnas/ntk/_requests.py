"""How a function that gives several kernels or predictions reads `get`, and what it then returns."""

import collections
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from jaxnas.errors import ConfigError


def requested(get: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
  """The names that `get` asks for, in lower case and without duplicates; None asks for "nngp" and "ntk".

  Raises:
    ConfigError: a name is not one of `known`, or there is none.
  """
  listed = ("nngp", "ntk") if get is None else (get,) if isinstance(get, str) else get
  names: tuple[str, ...] = ()
  if isinstance(listed, Iterable) and all(isinstance(name, str) for name in listed):
    names = tuple(dict.fromkeys(name.lower() for name in listed))
  if not names or any(name not in known for name in names):
    raise ConfigError(f"get={get!r}: expected one of {', '.join(map(repr, known))}, several in a tuple, or None.")
  return names


def named(typename: str, get: str | Sequence[str] | None, values: dict[str, Any]) -> Any:
  """The one value if `get` is a string, else a named tuple of exactly the values asked for."""
  if isinstance(get, str):
    return values[get.lower()]
  return _named_tuple(typename, tuple(values))(**values)


@functools.cache
def _named_tuple(typename: str, fields: tuple[str, ...]) -> Any:
  """One type for each name and fields: results of two calls are trees of the same structure."""
  return collections.namedtuple(typename, fields)
