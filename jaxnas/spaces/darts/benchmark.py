"""Accuracies of DARTS cells from a JSON file, as predicted by NAS-Bench-301.

    {"archs": [{"normal": [["sep_conv_3x3", 0], ...], "reduce": [...], "val_accuracy": 93.1}, ...]}

A cell is the 8 pairs of `jaxnas.spaces.darts.encoding.from_cells`; `val_accuracy` is the validation accuracy on
CIFAR-10 in percent that a surrogate model predicts; no network was trained for it. Its column is `cifar10_valid`.

Source: Zela et al., "Surrogate NAS Benchmarks", ICLR 2022 (the benchmark is called NAS-Bench-301).
"""

import pathlib
from typing import Any

import numpy as np

from jaxnas.spaces.darts.encoding import canonical, format, from_nb301
from jaxnas.tabular import Benchmark
from jaxnas.tabular.json_file import read_cells, read_entries
from jaxnas.tabular.reading import problem

_FIX = "give a JSON file whose `archs` each have `normal`, `reduce` and `val_accuracy` (a percentage)"


def read(path: pathlib.Path) -> Benchmark:
  """Reads a whole file.

  `archs` are the text forms of the cells. `index` also finds a cell whose nodes are numbered otherwise.

  Raises:
    BenchmarkError: no JSON, another form, an illegal cell, the same cell twice, an accuracy outside 0..100 or none
      above 1; says where.
  """
  entries = read_entries(path, ("normal", "reduce", "val_accuracy"), _FIX, "darts")
  cells = read_cells(path, entries, "darts", from_nb301, format, canonical)
  accuracies = np.array([_percent(path, i, entry["val_accuracy"]) for i, entry in enumerate(entries)])
  if accuracies.max() <= 1:
    raise problem(path, "val_accuracy holds fractions", "give percentages, 0..100")
  return Benchmark(
    name=path.name,
    space="darts",
    path=str(path),
    archs=cells.archs,
    columns={"cifar10_valid": accuracies},
    datasets=("cifar10",),
    split="valid",
    find=cells.find,
  )


def _percent(path: pathlib.Path, i: int, value: Any) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
    what = f"archs[{i}] has the val_accuracy {str(value)[:40]!r}, which is not a percentage in 0..100"
    raise problem(path, what, "correct or delete it")
  return float(value)
