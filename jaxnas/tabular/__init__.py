"""Accuracies of trained architectures: NATS-Bench files, CSV tables, JSON cells behind one interface.

A search never needs a benchmark; it only says afterwards how good the found architecture is.
`python -m jaxnas.tabular SOURCE OUT.csv.gz` turns a NATS-Bench folder or file into a table once.
"""

import os
import pathlib

from jaxnas.tabular.csv_table import read_csv, write_csv
from jaxnas.tabular.nats import read_nats
from jaxnas.tabular.nb101_json import read_nb101
from jaxnas.tabular.nb301_json import read_nb301
from jaxnas.tabular.table import FIXES, Benchmark, problem

__all__ = ["Benchmark", "open_benchmark", "write_csv"]

_JSON = {"nb101": read_nb101, "darts": read_nb301}


def open_benchmark(path: str | os.PathLike[str], space: str = "nb201") -> Benchmark:
  """Opens a benchmark; the content of the file decides how it is read.

  Warning: NATS-Bench files are pickles, and opening a pickle runs whatever code it holds. Open
  only files that you trust. Tables (.csv, .csv.gz) and JSON files are plain data.

  Args:
    path: for "nb201", a NATS-Bench topology folder (`NATS-tss-v1_0-3ffb9-simple/`; rows are read
      when asked for), the single NATS-Bench file (`NATS-tss-v1_0-3ffb9.pickle.pbz2`; opening it
      takes minutes and many GB of memory), or a table with the columns of `table.COLUMNS`, as
      `python -m jaxnas.tabular` writes. For "nb101" and "darts", a JSON file of cells, see
      `nb101_json` and `nb301_json`.
    space: the search space that the architectures must belong to, "nb201", "nb101" or "darts".

  Raises:
    BenchmarkError: missing, unreadable, truncated, no benchmark, or of another space.
  """
  file = pathlib.Path(path).expanduser()
  if space not in FIXES:
    raise problem(file, f"no benchmark is known for the space {space!r}", "leave --benchmark out")
  fix = FIXES[space]
  if not os.fspath(path):
    raise problem("", "an empty path", fix)
  if file.is_dir():
    if space != "nb201":
      raise problem(file, "a folder, perhaps of NAS-Bench-201", fix)
    return read_nats(file)
  if not file.exists():
    raise problem(file, "no such file or folder", fix)
  if not file.is_file():
    raise problem(file, "neither a file nor a folder", fix)
  try:
    with file.open("rb") as stream:
      magic = stream.read(4)
  except OSError as error:
    raise problem(file, f"cannot be read ({error.strerror})", "check its permissions") from error
  if not magic:
    raise problem(file, "an empty file", fix)
  if space in _JSON:
    return _JSON[space](file)
  if magic.startswith(b"BZh"):
    return read_nats(file)
  if magic.startswith((b"\x80", b"PK")):
    raise problem(file, "a bare pickle or a PyTorch archive, perhaps the older NAS-Bench-201 file")
  return read_csv(file)
