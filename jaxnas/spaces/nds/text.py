"""Networks as text: a call of literals, or the JSON object of the published tables' field `net`.

Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[4, 5, 6], reduce=[...], reduce_concat=[...], width=32, ...)
{"width": 32, "depth": 10, "genotype": {"normal": [["sep_conv_3x3", 0], ...], ...}}
"""

import ast
import json
import warnings
from typing import Any, NoReturn

from jaxnas.errors import ArchitectureError, quoted


def read(text: Any, name: str, form: str) -> dict[str, Any]:
  """The fields of a text; what they hold is not checked.

  Args:
    name: of the call.
    form: what to write, for messages.

  Raises:
    ArchitectureError: it is no such text; says where.
  """
  if not isinstance(text, str):
    raise ArchitectureError(f"architecture is {repr(text)[:80]}; use text such as {form}")
  if text.lstrip().startswith("{"):
    try:
      return json.loads(text)
    except (ValueError, RecursionError) as error:
      raise ArchitectureError(f"network {quoted(text)} is no JSON ({error}); use {form}") from error
  return _fields(text, name, form)


def _fields(text: str, name: str, form: str) -> dict[str, Any]:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Python warns of odd escapes in the text
      call = ast.parse(text.strip(), mode="eval").body
  except SyntaxError as error:
    place = f"line {error.lineno}, character {error.offset}: {error.msg}"
    raise ArchitectureError(f"network {quoted(text)}, {place}; use {form}") from error
  except (ValueError, RecursionError, MemoryError) as error:
    raise ArchitectureError(f"network {quoted(text)} cannot be read ({error}); use {form}") from error
  if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != name:
    _fail(text, f"it does not begin with {name}(...)", form)
  if call.args:
    _fail(text, f"{ast.unparse(call.args[0])[:40]!r} has no name in front of it", form)
  found: dict[str, Any] = {}
  for keyword in call.keywords:
    if keyword.arg is None or keyword.arg in found:
      _fail(text, f"field {keyword.arg!r} is {'given twice' if keyword.arg else 'no name'}", form)
    try:
      found[keyword.arg] = _value(keyword.value)
    except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
      _fail(text, f"{keyword.arg} is {quoted(ast.get_source_segment(text, keyword.value) or '?')}, no literal", form)
  return found


def _value(node: ast.expr) -> Any:
  """A literal, or a list of the integers of a short range."""
  match node:
    case ast.Call(func=ast.Name(id="range"), args=limits, keywords=[]):
      whole = range(*(ast.literal_eval(limit) for limit in limits))
      if len(whole) > 100:
        raise ValueError("a long range")
      return list(whole)
    case _:
      return ast.literal_eval(node)


def _fail(text: str, problem: str, form: str) -> NoReturn:
  raise ArchitectureError(f"network {quoted(text)}: {problem}; use {form}")


def fields(net: Any, names: tuple[str, ...], where: str = "network") -> list[Any]:
  """The values of exactly these fields.

  Raises:
    ArchitectureError: it is no mapping, lacks one, or has another.
  """
  if not isinstance(net, dict):
    raise ArchitectureError(f"{where} is {repr(net)[:80]}; use a mapping with {', '.join(names)}")
  for name in names:
    if name not in net:
      raise ArchitectureError(f"{where} lacks the field {name}; it has {', '.join(names)}")
  for name in net:
    if name not in names:
      raise ArchitectureError(f"{where}: field {repr(name)[:40]} is unknown; it has {', '.join(names)}")
  return [net[name] for name in names]


def integer(value: Any, where: str, least: int, most: int) -> int:
  """The value, if it is an integer in this range.

  Raises:
    ArchitectureError: it is not.
  """
  if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
    raise ArchitectureError(f"{where} is {repr(value)[:80]}; use an integer from {least} to {most}")
  return value


def sequence(value: Any, where: str, length: int | None = None) -> list[Any]:
  """The value as a list.

  Raises:
    ArchitectureError: it is none, or of another length.
  """
  if not isinstance(value, list | tuple) or length not in (None, len(value)):
    got = f"{len(value)} entries" if isinstance(value, list | tuple) else repr(value)[:80]
    raise ArchitectureError(f"{where}: got {got}; use a list{'' if length is None else f' of {length}'}")
  return list(value)
