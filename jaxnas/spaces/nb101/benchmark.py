"""Accuracies of NAS-Bench-101 cells from a JSON file, the form in which GenNAS publishes them.

    {"archs": [{"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"], "accuracy": 0.9}, ...]}

`matrix` and `ops` are the benchmark's own form of a cell, see `jaxnas.spaces.nb101`; `accuracy` is a fraction, the mean
of three runs on CIFAR-10. The published files do not say whether they hold test or validation accuracies. Here they
stand in the column `cifar10_test`.

Source: Ying et al., "NAS-Bench-101", ICML 2019; the selection of cells by Li et al., "Generic Neural Architecture
Search via Regression", NeurIPS 2021.
"""

import math
import pathlib
from typing import Any

import numpy as np

from jaxnas.spaces.nb101.encoding import format, from_cell
from jaxnas.spaces.nb101.isomorphism import canonical
from jaxnas.tabular import Benchmark
from jaxnas.tabular.json_file import read_cells, read_entries
from jaxnas.tabular.reading import problem

_FIX = "give a JSON file whose `archs` each have `matrix`, `ops` and `accuracy` (a fraction)"
_KEYS = ("matrix", "ops", "accuracy")


def read(path: pathlib.Path) -> Benchmark:
  """Reads a whole file (1,250 cells in less than a second).

  `archs` are the text forms of the cells as they are in the file. `index` also finds a cell that is isomorphic to one
  of them.

  Raises:
    BenchmarkError: no JSON, another form, an illegal cell, the same cell twice, an accuracy outside 0..1; says where.
  """
  entries = read_entries(path, _KEYS, _FIX, "nb101")
  for i, entry in enumerate(entries):
    if not isinstance(entry["ops"], list):
      raise problem(path, f"archs[{i}] has ops {str(entry['ops'])[:40]!r} where a list of labels must stand", _FIX)
  accuracies = np.array([_percent(path, i, entry["accuracy"]) for i, entry in enumerate(entries)])
  cells = read_cells(path, entries, "nb101", lambda e: from_cell(e["matrix"], e["ops"]), format, canonical)
  return Benchmark(
    name=path.name,
    space="nb101",
    path=str(path),
    archs=cells.archs,
    columns={"cifar10_test": accuracies},
    datasets=("cifar10",),
    find=cells.find,
  )


def _percent(path: pathlib.Path, i: int, value: Any) -> float:
  number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else value
  if not 0 <= number <= 1:
    what = f"archs[{i}] has the accuracy {str(value)[:40]!r}, which is not a fraction in 0..1"
    raise problem(path, what, "divide percentages by 100")
  return 100 * float(number)
