"""Accuracies of trained architectures: tables, metrics, and the way to open a benchmark by name or path.

A search never needs a benchmark; it only says afterwards how good the found architecture is. The readers of files are
the spaces' own (`Space.read_benchmark`), the table that they give is `Benchmark`.
`python -m jaxnas.tabular SOURCE OUT.csv.gz` turns a benchmark that is read row by row into a table once.
"""

import os
from typing import TYPE_CHECKING

from jaxnas import registry
from jaxnas.errors import ArchitectureError, BenchmarkError
from jaxnas.files import user_path
from jaxnas.tabular.csv_table import write_csv
from jaxnas.tabular.reading import FLAG
from jaxnas.tabular.table import Benchmark

if TYPE_CHECKING:
  from jaxnas.base import Accuracies, Space

__all__ = ["Benchmark", "open_benchmark", "write_csv"]

NONE = "none"  # what a user gives who wants no benchmark


def open_benchmark(
  source: str | os.PathLike[str] | None, space: "Space", *, trust_pickle: bool = False
) -> "Accuracies | None":
  """Opens a benchmark of a space.

  Args:
    source: None: the table that the package has of this space, registered under its name, if any; "none": no
      benchmark; the name of a registered benchmark; or the path of a file or folder that the space reads, see its
      `read_benchmark`.
    space: the search space that the architectures must belong to.
    trust_pickle: whether a path may hold pickles, as NATS-Bench's files do. Opening a pickle runs whatever code it
      holds: only for files that you trust.

  Raises:
    BenchmarkError: missing, unreadable, truncated, no benchmark, or of another space.
  """
  known = registry.names("benchmark")
  if source is None:
    source = space.name if space.name in known else NONE
  if source == NONE:
    return None
  if source in known:
    return _registered(str(source), space)
  text = os.fspath(source)
  if not text:
    raise BenchmarkError(f"{FLAG}: an empty path; give a file, {NONE!r}, or one of the names {', '.join(known)}")
  path = user_path(text, FLAG.removesuffix("="))
  if text.isidentifier() and not path.exists():
    raise BenchmarkError(f"{registry.unknown(FLAG + repr(text), text, (NONE, *known))}, or give the path of a file")
  return space.read_benchmark(path, trust_pickle=trust_pickle)


def _registered(name: str, space: "Space") -> "Accuracies":
  """The benchmark of a name, if its architectures are the space's."""
  benchmark = registry.get("benchmark", name, "--benchmark")()
  try:
    space.parse(benchmark.archs[0])
  except ArchitectureError as error:
    raise BenchmarkError(f"{FLAG}{name}: a benchmark of another space than {space.name} ({error})") from error
  return benchmark
