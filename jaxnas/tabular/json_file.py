"""The list of architectures in a JSON file, `{"archs": [{...}, ...]}`, checked as far as all benchmarks share it."""

import json
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxnas.errors import ArchitectureError
from jaxnas.tabular.reading import elsewhere, first_bytes, problem

if TYPE_CHECKING:
  from jaxnas.base import Code

_HEAD = 65_536


class Cells(NamedTuple):
  """The architectures of a file.

  Attributes:
    archs: their text forms, as they are in the file.
    find: the row of a text form or of one that is isomorphic to it, or None.
  """

  archs: tuple[str, ...]
  find: Callable[[str], int | None]


def read_cells(
  path: pathlib.Path,
  entries: list[dict[str, Any]],
  space: str,
  read: "Callable[[dict[str, Any]], Code]",
  format: "Callable[[Code], str]",
  canonical: Callable[[Any], Hashable],
) -> Cells:
  """The architectures of `entries`, `read` of each.

  Args:
    space: the name of their space.
    format, canonical: as of the space; `canonical` takes a text form too.

  Raises:
    BenchmarkError: an illegal architecture, or the same (up to isomorphism) twice; says where.
  """
  archs: list[str] = []
  row_of: dict[Hashable, int] = {}
  for i, entry in enumerate(entries):
    try:
      arch = read(entry)
    except ArchitectureError as error:
      raise problem(path, f"archs[{i}] is no cell of --space={space}: {error}", "correct or delete it") from error
    first = row_of.setdefault(canonical(arch), i)
    if first != i:
      raise problem(path, f"archs[{i}] is the same cell as archs[{first}], or isomorphic to it", "delete one of them")
    archs.append(format(arch))
  return Cells(tuple(archs), lambda text: row_of.get(canonical(text)))


def read_entries(path: pathlib.Path, keys: Sequence[str], fix: str, space: str) -> list[dict[str, Any]]:
  """The list `archs`, not empty, of mappings that have `keys`.

  Args:
    fix: ends the messages: what the space takes.
    space: its name.

  Raises:
    BenchmarkError: no file, unreadable, no JSON, another form, or an entry without one of the keys.
  """
  first_bytes(path, fix, space)
  try:
    with path.open("rb") as file:
      # Files of another benchmark can have GBs: a look at the first bytes comes before all others are read.
      head = file.read(_HEAD)
      if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        raise problem(path, f"not JSON (it begins with {head[:12]})", f"{fix}; {elsewhere(space)}")
      document = json.loads(head + file.read())
  except OSError as error:
    raise problem(path, f"cannot be read ({error.strerror or error})", "check its permissions") from error
  except (ValueError, RecursionError) as error:
    raise problem(path, f"damaged or truncated JSON ({error})", "copy or download it again") from error
  entries = document.get("archs") if isinstance(document, dict) else None
  if not isinstance(entries, list) or not entries:
    raise problem(path, "no `archs` in it, or an empty list", fix)
  for i, entry in enumerate(entries):
    missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
    if missing:
      raise problem(path, f"archs[{i}] lacks {', '.join(missing)}", fix)
  return entries
