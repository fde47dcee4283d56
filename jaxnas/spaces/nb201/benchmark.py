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


def read(path: pathlib.Path, trust_pickle: bool = False) -> Benchmark:
  """Opens a benchmark.

  NATS-Bench files are pickles, and opening a pickle runs whatever code it holds: they are opened only if they are
  called so and `trust_pickle` says that you trust where they come from. Tables (.csv, .csv.gz) are plain data.

  Args:
    path: a NATS-Bench topology folder (`NATS-tss-v1_0-3ffb9-simple/`; rows are read when asked for), the single
      NATS-Bench file (`NATS-tss-v1_0-3ffb9.pickle.pbz2`; opening it takes minutes and many GB of memory), or a table
      with the columns of `accuracies.COLUMNS`, as `python -m jaxnas.tabular` writes.

  Raises:
    BenchmarkError: missing, unreadable, truncated, no benchmark, of another space, or not trusted.
  """
  magic = b"" if path.is_dir() else first_bytes(path, FIX, "nb201")
  if path.is_dir() or (magic.startswith(b"BZh") and path.name.endswith(".pickle.pbz2")):
    return _of_pickles(path, trust_pickle)
  if magic.startswith(b"BZh"):
    raise problem(path, "a bzip2 file that is not called *.pickle.pbz2", FIX)
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


def _of_pickles(path: pathlib.Path, trust: bool) -> Benchmark:
  from jaxnas.spaces.nb201 import nats

  nats.check_folder(path)
  if not trust:
    what = "pickles, and opening a pickle runs whatever code it holds"
    raise problem(path, what, "give --trust_pickle if you trust where it comes from, or a table (.csv.gz)")
  return nats.read_nats(path)


@registry.register("benchmark", "nb201")
def embedded() -> Benchmark:
  """The table in the package: accuracies of all 15,625 architectures, by Dong & Yang."""
  return read(_EMBEDDED)
