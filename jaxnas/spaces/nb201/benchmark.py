"""NAS-Bench-201's accuracies: the table in the package, tables of the same form, and the benchmark's own files.

`accuracies.csv.gz` is the work of Dong & Yang; `accuracies.md` beside it says how it came here.
"""

import pathlib

from jaxnas import registry
from jaxnas.spaces.nb201.accuracies import ACCURACY_COLUMNS, COLUMNS, DATASETS, FIX, NUM_ARCHS, check_archs
from jaxnas.tabular import Benchmark
from jaxnas.tabular.csv_table import read_csv
from jaxnas.tabular.reading import first_bytes, problem

_EMBEDDED = pathlib.Path(__file__).with_name("accuracies.csv.gz")


def read(path: pathlib.Path) -> Benchmark:
  """Opens a benchmark; the content of the file decides how it is read.

  Warning: NATS-Bench files are pickles, and opening a pickle runs whatever code it holds. Open only files that you
  trust. Tables (.csv, .csv.gz) are plain data.

  Args:
    path: a NATS-Bench topology folder (`NATS-tss-v1_0-3ffb9-simple/`; rows are read when asked for), the single
      NATS-Bench file (`NATS-tss-v1_0-3ffb9.pickle.pbz2`; opening it takes minutes and many GB of memory), or a table
      with the columns of `accuracies.COLUMNS`, as `python -m jaxnas.tabular` writes.

  Raises:
    BenchmarkError: missing, unreadable, truncated, no benchmark, or of another space.
  """
  from jaxnas.spaces.nb201 import nats

  if path.is_dir():
    return nats.read_nats(path)
  magic = first_bytes(path, FIX, "nb201")
  if magic.startswith(b"BZh"):
    return nats.read_nats(path)
  if magic.startswith((b"\x80", b"PK")):
    raise problem(path, "a bare pickle or a PyTorch archive, perhaps the older NAS-Bench-201 file", FIX)
  archs, columns = read_csv(path, COLUMNS, ACCURACY_COLUMNS, NUM_ARCHS, FIX, "nb201")
  return Benchmark(
    name=path.name,
    space="nb201",
    path=str(path),
    archs=check_archs(path, archs),
    columns=columns,
    datasets=DATASETS,
  )


@registry.register("benchmark", "nb201")
def embedded() -> Benchmark:
  """The table in the package: accuracies of all 15,625 architectures, by Dong & Yang."""
  return read(_EMBEDDED)
