"""Accuracies of Network Design Spaces on ImageNet from a file of lines, a JSON object each, perhaps compressed by gzip.

    {"net": {...}, "base_lr": 0.05, "weight_decay": 5e-05, "epochs": 50, "params": 3019768, "flops": 334138600,
     "test_error_final": 34.632, "test_error_min": 34.632, "test_error_ep5": 59.534}

Errors are top-1 on the 50,000 validation images, in percent, after the last epoch, the lowest of all epochs, and after
epoch 5. The columns `imagenet2012_test`, `imagenet2012_lowest` and `imagenet2012_test_5ep` are 100 less these; the
others keep their names.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and the data of its code.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from jaxnas.base import Code
from jaxnas.spaces.nds.tables import BlockTable, CellTable
from jaxnas.tabular import Benchmark
from jaxnas.tabular.json_file import read_cells
from jaxnas.tabular.reading import elsewhere, first_bytes, problem

_ERRORS = {"test_error_final": "test", "test_error_min": "lowest", "test_error_ep5": "test_5ep"}
_NUMBERS = ("params", "flops", "base_lr", "weight_decay", "epochs")
_ENOUGH = 50  # networks of a sample, of which each value is met; every published table has more
_FIX = "give a file of lines of JSON, or their .gz, which each have `net`, `test_error_final` and others"


def read(
  path: pathlib.Path,
  table: CellTable | BlockTable,
  from_net: Callable[[Any], Code],
  format: Callable[[Any], str],
  canonical: Callable[[Any], Hashable],
) -> Benchmark:
  """Reads a whole file.

  Args:
    table: the space.
    from_net, format, canonical: as of the space.

  Raises:
    BenchmarkError: no such file, of another space or of another training of the same one, an illegal network, the same
      twice, or an error outside 0..100; says where.
  """
  entries = _lines(path, table.name)
  cells = read_cells(path, entries, table.name, lambda entry: from_net(entry["net"]), format, canonical)
  columns = {f"imagenet2012_{name}": 100 - _column(path, entries, key, 100) for key, name in _ERRORS.items()}
  columns |= {name: _column(path, entries, name, np.inf) for name in _NUMBERS}
  _check_training(path, table, columns["base_lr"])
  _check_sample(path, table, entries)
  return Benchmark(
    name=path.name,
    space=table.name,
    path=str(path),
    archs=cells.archs,
    columns=columns,
    datasets=("imagenet2012",),
    find=cells.find,
  )


def _lines(path: pathlib.Path, space: str) -> list[dict[str, Any]]:
  packed = first_bytes(path, _FIX, space).startswith(b"\x1f\x8b")
  try:
    with gzip.open(path, "rt") if packed else path.open() as file:
      lines = file.read().splitlines()
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise problem(path, f"damaged or truncated ({error})", "copy or download it again") from error
  found = []
  for number, line in enumerate(lines, 1):
    try:
      entry = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise problem(path, f"line {number} is no JSON ({error})", f"{_FIX}; {elsewhere(space)}") from error
    wanted = ("net", *_ERRORS, *_NUMBERS)
    missing = [key for key in wanted if not isinstance(entry, dict) or key not in entry]
    if missing:
      raise problem(path, f"line {number} lacks {', '.join(missing)}", f"{_FIX}; {elsewhere(space)}")
    found.append(entry)
  return found


def _column(path: pathlib.Path, entries: list[dict[str, Any]], key: str, most: float) -> np.ndarray:
  for number, entry in enumerate(entries, 1):
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
      what = f"line {number} has the {key} {str(value)[:40]!r}, which is no number from 0 to {most}"
      raise problem(path, what, "correct or delete it")
  return np.array([entry[key] for entry in entries], np.float64)


def _check_training(path: pathlib.Path, table: CellTable | BlockTable, rates: np.ndarray) -> None:
  """Some spaces have the same networks, trained otherwise."""
  wanted = table.learning_rate
  if wanted is not None and (rates != wanted).any():
    row = int(np.argmax(rates != wanted))
    what = f"line {row + 1} was trained with base_lr={rates[row]:g}, those of {table.name} with {wanted:g}"
    raise problem(path, what, elsewhere(table.name))
  if wanted is None and len(rates) > 1 and (rates == rates[0]).all():
    what = f"all were trained with base_lr={rates[0]:g}, those of {table.name} each with its own"
    raise problem(path, what, elsewhere(table.name))


def _check_sample(path: pathlib.Path, table: CellTable | BlockTable, entries: list[dict[str, Any]]) -> None:
  """The networks of some spaces are legal in others too, which have more operations or other widths."""
  nets = [entry["net"] for entry in entries]
  if isinstance(table, CellTable):
    what, drawn = "op", table.ops
    met = {op for net in nets for name in ("normal", "reduce") for op, _ in net["genotype"][name]}
  else:
    what, drawn = "width", table.widths
    met = {width for net in nets for width in net["ws"][1:]}
  missing = [str(value) for value in drawn if value not in met]
  if missing and len(nets) >= _ENOUGH:
    text = f"none of {len(nets)} networks has the {what} {', '.join(missing)}, which those of {table.name} have"
    raise problem(path, text, elsewhere(table.name))
