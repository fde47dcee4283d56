"""NATS-Bench topology files through the `nats_bench` package, imported when a file is opened (20 ms a row of a folder).

NATS-Bench: Dong, Liu, Musial, Gabrys, "NATS-Bench: Benchmarking NAS Algorithms for Architecture
Topology and Size", 2021. Its files are pickles: opening one runs whatever code it holds.
"""

import os
import pathlib
import re
from typing import Any

import numpy as np

from jaxnas.errors import BenchmarkError
from jaxnas.spaces.nb201.accuracies import COLUMNS, DATASETS, FIX, NUM_ARCHS, check_archs
from jaxnas.tabular import Benchmark
from jaxnas.tabular.reading import problem

_FOLDER = "NATS-tss-v1_0-3ffb9-simple"
_ROW = re.compile(r"0*(\d+)\.pickle\.pbz2")

# nats_bench's data set and number of epochs, and which of its metrics fills which column.
_METRICS = (
  ("cifar10", "200", {"test-accuracy": "cifar10_test"}),
  ("cifar100", "200", {"test-accuracy": "cifar100_test", "valid-accuracy": "cifar100_valid"}),
  (
    "ImageNet16-120",
    "200",
    {"test-accuracy": "imagenet16_120_test", "valid-accuracy": "imagenet16_120_valid"},
  ),
  ("cifar10-valid", "200", {"valid-accuracy": "cifar10_valid"}),
  (
    "cifar10-valid",
    "12",
    {"valid-accuracy": "cifar10_valid_12ep", "train-all-time": "cost_12ep_s"},
  ),
)


def read_nats(path: pathlib.Path) -> Benchmark:
  """Opens a NATS-Bench topology folder, or the single file.

  Pickles run code when they are opened: `benchmark.read` asks whether they are trusted.

  Of a folder only the list of architectures is read; each architecture's file follows when it is
  asked for. The single file is read whole, which takes minutes and many GB of memory: convert it
  once with `python -m jaxnas.tabular`.

  Raises:
    BenchmarkError: truncated, no NATS-Bench file, or its size search space; `check_folder` says more of a folder.
  """
  folder = path.is_dir()
  api = _create(path / "meta.pickle.pbz2" if folder else path, path)
  archs = check_archs(path, api.meta_archs)
  held = _rows_in(path) if folder else set(api.evaluated_indexes)
  if not held:
    raise problem(path, "holds the list of architectures but no results", FIX)
  return Benchmark(
    name=path.name,
    space="nb201",
    path=str(path),
    archs=archs,
    columns={name: np.full(NUM_ARCHS, np.nan) for name in COLUMNS},
    datasets=DATASETS,
    read_row=lambda index: _read_row(api, path, index, archs[index]),
    unread=held,
  )


def check_folder(path: pathlib.Path) -> None:
  """Refuses a folder that is not NATS-Bench's.

  Raises:
    BenchmarkError: it lacks the list of architectures.
  """
  if path.is_dir() and not (path / "meta.pickle.pbz2").is_file():
    if (path / _FOLDER).is_dir():
      raise problem(path, "holds no meta.pickle.pbz2", f"give the folder {path / _FOLDER}")
    raise problem(path, "a folder without meta.pickle.pbz2", FIX)


def _create(pickle: pathlib.Path, path: pathlib.Path) -> Any:
  """The `nats_bench` object for a folder (rows read on demand) or a file (read whole)."""
  try:
    import nats_bench
  except ImportError as error:
    raise problem(path, f"needs a package ({error})", "run `pip install nats_bench`") from error
  try:
    return nats_bench.create(str(path), "tss", fast_mode=not path.is_file(), verbose=False)
  except Exception as error:
    raise _damaged(path, pickle, error) from error


def _rows_in(path: pathlib.Path) -> set[int]:
  rows = (_ROW.fullmatch(name) for name in os.listdir(path))
  return {int(row[1]) for row in rows if row is not None and int(row[1]) < NUM_ARCHS}


def _read_row(api: Any, path: pathlib.Path, index: int, arch: str) -> dict[str, float]:
  """The known values of one architecture: column -> value."""
  row: dict[str, float] = {}
  file = path / f"{index:06d}.pickle.pbz2"
  try:
    for dataset, epochs, names in _METRICS:
      try:
        metrics = api.get_more_info(index, dataset, hp=epochs, is_random=False)
      except KeyError:  # no network of this architecture was trained in this setting
        continue
      for metric, column in names.items():
        if metrics.get(metric) is not None:
          row[column] = float(metrics[metric])
    results = api.arch2infos_dict[index]
    # `api.get_cost_info` says the same, after a deep copy that takes longer than all of the above.
    row["params_mb"] = float(results["200"].get_compute_costs("cifar10")["params"])
    inside = str(results["200"].arch_str)
  except Exception as error:
    raise _damaged(path, file, error) from error
  if inside != arch:
    where = file.name if path.is_dir() else f"entry {index}"
    raise problem(path, f"{where} holds the results of {inside[:80]}, not of {arch}", "copy or download it again")
  # nats_bench keeps every row it has read; all 15,625 would fill many GB.
  api.arch2infos_dict.pop(index)
  return row


def _damaged(path: pathlib.Path, pickle: pathlib.Path, error: Exception) -> BenchmarkError:
  """Any exception can leave a damaged pickle; each becomes one line that names the file."""
  if isinstance(error, MemoryError):
    return problem(path, "does not fit into memory", f"give the folder form, {_FOLDER}")
  name = f"{pickle.name} is " if path.is_dir() else ""
  text = f"{type(error).__name__}: {error}"[:160]
  if isinstance(error, EOFError):
    return problem(path, f"{name}truncated ({text})", "copy or download it again")
  return problem(path, f"{name}not a NATS-Bench file, or damaged ({text})", FIX)
