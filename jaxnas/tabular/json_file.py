"""The list of architectures in a JSON file, `{"archs": [{...}, ...]}`, checked as far as all benchmarks share it."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxnas.errors import ArchitectureError
from jaxnas.tabular.table import problem

_HEAD = 64


class Cells(NamedTuple):
  """The architectures of a file.

  Attributes:
    archs: their text forms, as they are in the file.
    find: the row of a text form or of one that is isomorphic to it, or None.
  """

  archs: tuple[str, ...]
  find: Callable[[str], int | None]


def read_cells(path: pathlib.Path, entries: list[dict[str, Any]], space: Any, name: str, read: Callable) -> Cells:
  """The architectures of `entries`, `read` of each; `space` is an encoding with `canonical` and `format`.

  Raises:
    BenchmarkError: an illegal architecture, or the same (up to isomorphism) twice; says where.
  """
  archs: list[str] = []
  row_of: dict[str, int] = {}
  for i, entry in enumerate(entries):
    try:
      arch = read(entry)
    except ArchitectureError as error:
      raise problem(path, f"archs[{i}] is no cell of {name}: {error}", "correct or delete it") from error
    first = row_of.setdefault(space.canonical(arch), i)
    if first != i:
      raise problem(path, f"archs[{i}] is the same cell as archs[{first}], or isomorphic to it", "delete one of them")
    archs.append(space.format(arch))
  return Cells(tuple(archs), lambda text: row_of.get(space.canonical(text)))


def read_entries(path: pathlib.Path, keys: Sequence[str], fix: str) -> list[dict[str, Any]]:
  """The list `archs`, not empty, of mappings that have `keys`.

  Raises:
    BenchmarkError: unreadable, no JSON, another form, or an entry without one of the keys; ends in `fix`.
  """
  try:
    with path.open("rb") as file:
      # Files of another benchmark can have GBs: a look at the first bytes comes before all others are read.
      head = file.read(_HEAD)
      if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        raise problem(
          path, f"not JSON (it begins with {head[:12]})", f"{fix}; a benchmark of NAS-Bench-201 needs --space=nb201"
        )
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
