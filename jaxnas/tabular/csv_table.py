"""Plain tables, .csv or .csv.gz: one row an architecture in the benchmark's own order.

The first columns are `index` and `arch`, those of the benchmark follow. An empty field is an unknown value. Further
columns of a file are ignored.
"""

import csv
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Float64

from jaxnas.errors import BenchmarkError
from jaxnas.files import replace
from jaxnas.tabular.reading import elsewhere, problem
from jaxnas.tabular.table import Benchmark

_INDEX, _ARCH = "index", "arch"
_LONGEST_HEADER = 65_536


def read_csv(
  path: pathlib.Path, columns: Sequence[str], accuracies: Collection[str], most: int, fix: str, space: str
) -> tuple[list[str], dict[str, Float64[np.ndarray, " A"]]]:
  """Reads a whole table (15,625 rows in 0.1 s); gzip is recognised by content, not by name.

  Args:
    columns: those that it must have beside `index` and `arch`.
    accuracies: which of them are percentages.
    most: how many rows it may have.
    fix: ends the messages: what the space takes.
    space: its name.

  Returns:
    The architectures' texts, and the columns by name.

  Raises:
    BenchmarkError: truncated, a column missing, a field that is no number or out of range, or rows out of order.
  """
  try:
    with path.open("rb") as file:
      packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
      archs, rows = _parse(path, text, columns, most, fix, space)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    what = f"truncated or damaged gzip file ({error})"
    raise problem(path, what, "copy or download it again") from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise problem(path, f"not a table ({error})", fix) from error
  except OSError as error:
    raise problem(path, f"cannot be read ({error.strerror or error})", fix) from error
  found = {name: np.ascontiguousarray(rows[:, place]) for place, name in enumerate(columns)}
  for name, column in found.items():
    _check_range(path, name, column, name in accuracies, fix)
  return archs, found


def _parse(
  path: pathlib.Path, text: io.TextIOBase, columns: Sequence[str], most: int, fix: str, space: str
) -> tuple[list[str], Float64[np.ndarray, "A columns"]]:
  first = text.readline(_LONGEST_HEADER)
  header = [name.strip() for name in next(csv.reader([first]), [])]
  missing = [name for name in (_INDEX, _ARCH, *columns) if name not in header]
  if missing:
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    what = f"not a table of {space}: its first line {first[:60]!r} lacks the columns {names}"
    raise problem(path, what, f"{fix}; {elsewhere(space)}")
  index, arch = header.index(_INDEX), header.index(_ARCH)
  places = [header.index(name) for name in columns]
  archs: list[str] = []
  rows: list[list[float]] = []
  reader = csv.reader(text)
  for number, fields in enumerate(filter(None, reader)):  # blank lines do no harm
    line = f"line {reader.line_num + 1}"
    if len(fields) != len(header):
      raise problem(path, f"{line} has {len(fields)} of {len(header)} fields (truncated?)", fix)
    if number == most:
      raise problem(path, f"more rows than the {most:,} architectures of {space}", fix)
    if fields[index] != str(number):
      raise problem(path, f"{line} has index {fields[index]!r} where {number} must stand", fix)
    archs.append(fields[arch])
    try:
      rows.append([float(fields[place] or "nan") for place in places])
    except ValueError as error:
      raise problem(path, f"{line} has a field that is no number ({error})", fix) from error
  return archs, np.array(rows, np.float64).reshape(len(rows), len(columns))


def _check_range(path: pathlib.Path, name: str, column: np.ndarray, percent: bool, fix: str) -> None:
  inside = np.isfinite(column) & (column >= 0) & (column <= (100 if percent else np.inf))
  outside = ~inside & ~np.isnan(column)
  if outside.any():
    row = int(np.argmax(outside))
    bound = "a percentage in 0..100" if percent else "a number from 0 up"
    raise problem(path, f"line {row + 2} has {name} = {column[row]:g}, which is not {bound}", fix)
  if percent and inside.any() and column[inside].max() <= 1:
    raise problem(path, f"{name} holds fractions", "give percentages, 0..100")


def check_out(out: str | os.PathLike[str], *, overwrite: bool = False) -> pathlib.Path:
  """The path to write to, checked before minutes go into reading.

  Raises:
    BenchmarkError: `out` exists, has another ending, or its folder cannot be written to.
  """
  target = pathlib.Path(out)
  if not target.name.endswith((".csv", ".csv.gz")):
    raise BenchmarkError(f"OUT={target}: not a table's name; end it in .csv.gz or .csv")
  if target.is_dir() or not os.access(target.parent, os.W_OK):
    raise BenchmarkError(f"OUT={target}: cannot be written; give a file in a writable folder")
  if target.exists() and not overwrite:
    raise BenchmarkError(f"OUT={target}: exists; give --overwrite or another name")
  return target


def write_csv(
  benchmark: Benchmark,
  out: str | os.PathLike[str],
  *,
  overwrite: bool = False,
  progress: Callable[[int, int], None] | None = None,
) -> None:
  """Writes a benchmark as a table: wholly or not at all.

  Args:
    benchmark: its unread rows are read now.
    out: a path that ends in .csv or .csv.gz.
    overwrite: replace a file that exists.
    progress: called as `progress(rows read, rows to read)`.

  Raises:
    BenchmarkError: `out` exists, has another ending or cannot be written; the source is damaged, or finds
      architectures up to isomorphism.
  """
  if benchmark.find is not None:
    what = f"a table knows architectures by their exact text, not {benchmark.space}'s up to isomorphism"
    raise BenchmarkError(f"OUT={os.fspath(out)}: {what}; use {benchmark.path} as it is")
  target = check_out(out, overwrite=overwrite)
  benchmark.read_all(progress)
  table = _format(benchmark).encode()
  try:
    # No time in the gzip header: equal tables are equal files.
    replace(target, gzip.compress(table, mtime=0) if target.suffix == ".gz" else table)
  except OSError as error:
    what = error.strerror or error
    raise BenchmarkError(f"OUT={target}: cannot be written ({what}); give another file") from error


def _format(benchmark: Benchmark) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow([_INDEX, _ARCH, *benchmark.columns])
  for index, arch in enumerate(benchmark.archs):
    values = [float(column[index]) for column in benchmark.columns.values()]
    # repr is the shortest text that reads back as the same float.
    writer.writerow([index, arch, *("" if np.isnan(value) else repr(value) for value in values)])
  return text.getvalue()
