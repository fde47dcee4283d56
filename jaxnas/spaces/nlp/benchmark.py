"""Trainings of NAS-Bench-NLP recipes on Penn Treebank from a file of JSON lines, plain or gzipped.

    {"position": 0, "cell": 0, "recipe": {...}, "ptb": [{"status": "OK", "test_loss": 4.9, ...}]}

`recipe` is the benchmark's own form. Many recipes are repeats of one cell: `cell` is the smallest `position` with the
same one. (The file's rule is coarser than `canonical`: two equal `linear` nodes count as one that is read twice.) Of
each cell the first recipe of the file is taken. Of a recipe the first run of `ptb` counts; where its status is not OK,
nothing is known.

Columns are percentages, higher is better, as of all benchmarks: 100 / perplexity = 100 exp(-loss), the geometric mean
of the probabilities that the network gives the right words, after the last of 50 epochs (`ptb_test`, `ptb_valid`) or
earlier (`ptb_valid_3ep`, `ptb_valid_10ep`). The test perplexity itself is the column `perplexity_ptb_test`.

Source: Klyuchnikov et al., "NAS-Bench-NLP", 2020; the logs as Li et al. released them with GenNAS, NeurIPS 2021.
"""

import gzip
import json
import math
import pathlib
import zlib
from collections.abc import Hashable, Iterator
from typing import Any, Final

import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.spaces.nlp.encoding import format, from_recipe
from jaxnas.spaces.nlp.isomorphism import canonical
from jaxnas.tabular import Benchmark
from jaxnas.tabular.reading import elsewhere, first_bytes, problem

_FIX: Final = "give a file of JSON lines (.jsonl or .jsonl.gz) that each have `recipe`, `position`, `cell` and `ptb`"
_KEYS: Final = ("recipe", "position", "cell", "ptb")
_LOSSES: Final = {
  "ptb_test": "test_loss",
  "ptb_valid": "val_loss",
  "ptb_valid_3ep": "val_loss_3",
  "ptb_valid_10ep": "val_loss_10",
}
_GZIP: Final = b"\x1f\x8b"


def read(path: pathlib.Path) -> Benchmark:
  """Reads a whole file (7,546 recipes in some seconds).

  `index` also finds a recipe that is another form of one of the file's cells.

  Raises:
    BenchmarkError: not such a file, another form, an illegal recipe, two cells that are one, a loss that is no number;
      says in which line.
  """
  archs: list[str] = []
  losses: list[list[float]] = []
  cells: dict[int, int] = {}
  row_of: dict[Hashable, int] = {}
  for line, entry in _entries(path):
    try:
      code = from_recipe(entry["recipe"])
    except ArchitectureError as error:
      raise problem(path, f"line {line}, recipe: no recipe of --space=nlp: {error}", "correct or delete it") from error
    row = cells.setdefault(entry["cell"], len(archs))
    first = row_of.setdefault(canonical(code), row)
    if first != row:
      what = f"line {line}: the recipe is that of cell {entry['cell']} and of an earlier one, {archs[first]}"
      raise problem(path, what, "give both the same `cell`, or delete one")
    if row == len(archs):
      archs.append(format(code))
      losses.append(_losses(path, line, entry["ptb"]))
  if not archs:
    raise problem(path, "no line in it", _FIX)
  table = 100 * np.exp(-np.array(losses))
  columns = dict(zip(_LOSSES, table.T, strict=True))
  return Benchmark(
    name=path.name,
    space="nlp",
    path=str(path),
    archs=tuple(archs),
    columns=columns | {"perplexity_ptb_test": 100 / columns["ptb_test"]},
    datasets=("ptb",),
    find=lambda text: row_of.get(canonical(text)),
  )


def _entries(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number of the line, what it holds), of lines that are not empty."""
  packed = first_bytes(path, _FIX, "nlp").startswith(_GZIP)
  try:
    with gzip.open(path) if packed else path.open("rb") as file:
      for line, text in enumerate(file, start=1):
        if text.strip():
          yield line, _entry(path, line, text)
  except (OSError, EOFError, zlib.error) as error:
    raise problem(path, f"cannot be read ({error})", "copy or download it again") from error


def _entry(path: pathlib.Path, line: int, text: bytes) -> dict[str, Any]:
  try:
    entry = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise problem(path, f"line {line} is no JSON ({error})", f"{_FIX}; {elsewhere('nlp')}") from error
  missing = [key for key in _KEYS if not isinstance(entry, dict) or key not in entry]
  if missing:
    raise problem(path, f"line {line} lacks {', '.join(missing)}", f"{_FIX}; {elsewhere('nlp')}")
  for key in ("position", "cell"):
    if isinstance(entry[key], bool) or not isinstance(entry[key], int):
      raise problem(path, f"line {line}, {key}: {str(entry[key])[:40]!r} where an integer must stand", _FIX)
  return entry


def _losses(path: pathlib.Path, line: int, runs: Any) -> list[float]:
  """Those of the first run, NaN where it failed or there is none."""
  if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
    raise problem(path, f"line {line}, ptb: {str(runs)[:40]!r} where a list of runs must stand", _FIX)
  if not runs or runs[0].get("status") != "OK":
    return [math.nan] * len(_LOSSES)
  return [_loss(path, line, key, runs[0].get(key)) for key in _LOSSES.values()]


def _loss(path: pathlib.Path, line: int, key: str, value: Any) -> float:
  if value is None:
    return math.nan
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
    what = f"line {line}, ptb[0].{key}: {str(value)[:40]!r}, which is no loss in nats"
    raise problem(path, what, "correct it, or write null")
  return float(value)
