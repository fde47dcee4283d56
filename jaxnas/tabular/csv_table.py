"""Plain tables, .csv or .csv.gz: one row an architecture in the benchmark's own order.

Columns: index, arch, and those of `table.COLUMNS`. An empty field is an unknown value. Further
columns are ignored.
"""

import csv
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from jaxnas.errors import BenchmarkError
from jaxnas.tabular.table import (
  ACCURACY_COLUMNS,
  COLUMNS,
  NUM_ARCHS,
  Benchmark,
  check_archs,
  empty_columns,
  problem,
)

_HEADER = ("index", "arch", *COLUMNS)
_LONGEST_HEADER = 65_536


def read_csv(path: pathlib.Path) -> Benchmark:
  """Reads a whole table (about 0.1 s); gzip is recognised by content, not by name.

  Raises:
    BenchmarkError: truncated, a column missing, a field that is no number or out of range, rows out
      of order, or another space.
  """
  try:
    with path.open("rb") as file:
      packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
      archs, columns = _parse(path, text)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    what = f"truncated or damaged gzip file ({error})"
    raise problem(path, what, "copy or download it again") from error
  except (UnicodeDecodeError, csv.Error) as error:
    raise problem(path, f"not a table ({error})") from error
  except OSError as error:
    raise problem(path, f"cannot be read ({error.strerror or error})") from error
  return Benchmark(
    name=path.name,
    space="nb201",
    path=str(path),
    archs=check_archs(path, archs),
    columns=columns,
  )


def _parse(path: pathlib.Path, text: io.TextIOBase) -> tuple[list[str], dict[str, np.ndarray]]:
  first = text.readline(_LONGEST_HEADER)
  header = [name.strip() for name in next(csv.reader([first]), [])]
  missing = [name for name in _HEADER if name not in header]
  if missing:
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    what = f"not a table of NAS-Bench-201: its first line {first[:60]!r} lacks the columns {names}"
    if first.lstrip().startswith("{"):
      raise problem(path, what, "give --space=nb101 or --space=darts if this JSON file holds cells of those spaces")
    raise problem(path, what)
  index, arch = header.index("index"), header.index("arch")
  places = [header.index(name) for name in COLUMNS]
  archs: list[str] = []
  rows = np.full((NUM_ARCHS, len(COLUMNS)), np.nan)
  for number, fields in enumerate(csv.reader(text)):
    line = f"line {number + 2}"
    if len(fields) != len(header):
      raise problem(path, f"{line} has {len(fields)} of {len(header)} fields (truncated?)")
    if number == NUM_ARCHS:
      raise problem(path, f"more rows than the {NUM_ARCHS:,} architectures of NAS-Bench-201")
    if fields[index] != str(number):
      raise problem(path, f"{line} has index {fields[index]!r} where {number} must stand")
    archs.append(fields[arch])
    try:
      rows[number] = [float(fields[place] or "nan") for place in places]
    except ValueError as error:
      raise problem(path, f"{line} has a field that is no number ({error})") from error
  columns = empty_columns()
  for place, (name, column) in enumerate(columns.items()):
    column[:] = rows[:, place]
    _check_range(path, name, column)
  return archs, columns


def _check_range(path: pathlib.Path, name: str, column: np.ndarray) -> None:
  percent = name in ACCURACY_COLUMNS
  inside = np.isfinite(column) & (column >= 0) & (column <= (100 if percent else np.inf))
  outside = ~inside & ~np.isnan(column)
  if outside.any():
    row = int(np.argmax(outside))
    bound = "a percentage in 0..100" if percent else "a number from 0 up"
    raise problem(path, f"line {row + 2} has {name} = {column[row]:g}, which is not {bound}")
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
    benchmark: of NAS-Bench-201; its unread rows are read now.
    out: a path that ends in .csv or .csv.gz.
    overwrite: replace a file that exists.
    progress: called as `progress(rows read, rows to read)`.

  Raises:
    BenchmarkError: `out` exists, has another ending or cannot be written; the source is damaged, or
      of another space.
  """
  if benchmark.space != "nb201":
    what = f"tables hold NAS-Bench-201, not {benchmark.space}"
    raise BenchmarkError(f"OUT={os.fspath(out)}: {what}; use {benchmark.path} as it is")
  target = check_out(out, overwrite=overwrite)
  benchmark.read_all(progress)
  table = _format(benchmark).encode()
  part = target.with_name(f".{target.name}.{os.getpid()}.part")
  try:
    with part.open("wb") as file:
      # No time in the gzip header: equal tables are equal files.
      file.write(gzip.compress(table, mtime=0) if target.suffix == ".gz" else table)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, target)
  except OSError as error:
    what = error.strerror or error
    raise BenchmarkError(f"OUT={target}: cannot be written ({what}); give another file") from error
  finally:
    part.unlink(missing_ok=True)


def _format(benchmark: Benchmark) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(_HEADER)
  for index, arch in enumerate(benchmark.archs):
    values = [float(benchmark.columns[name][index]) for name in COLUMNS]
    # repr is the shortest text that reads back as the same float.
    writer.writerow([index, arch, *("" if np.isnan(value) else repr(value) for value in values)])
  return text.getvalue()
