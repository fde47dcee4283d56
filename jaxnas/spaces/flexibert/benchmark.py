"""GLUE scores of NAS-Bench-BERT encoders from a JSON file.

    {"archs": [{"hidden_size": 256, "encoder_layers": [{"operation_type": "SA", "operation_parameter": "SDP",
      "num_operation_heads": 4, "feed_forward_dimension": 1024, "num_feed_forward": 3}, ...],
      "scores": {"glue": 74.7, "cola": 42.7, ...}, "pretrain_seconds": 3399.7}, ...]}

Scores are per cent on the development sets, of encoders pre-trained for 100,000 steps and fine-tuned on each task;
CoLA's is Matthews' correlation and STS's a correlation, both times 100, and `glue` is the mean of all. Their columns
are `glue_dev`, `cola_dev`, ...; `pretrain_seconds` is one more. An encoder that was trained twice has the mean.

Source: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and Transformers", ACL 2023.
"""

import math
import pathlib
from typing import Any

import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.spaces.flexibert import encoding
from jaxnas.tabular import Benchmark
from jaxnas.tabular.json_file import read_entries
from jaxnas.tabular.reading import problem

TASKS = ("glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
SPLIT = "dev"

_FIX = "give a JSON file whose `archs` each have `hidden_size`, `encoder_layers` and `scores` (percentages)"
_OPS = {
  ("SA", "SDP"): "sdp", ("SA", "WMA"): "wma", ("LT", "DFT"): "dft", ("LT", "DCT"): "dct", ("DSC", 5): "dsc5",
  ("DSC", 9): "dsc9",
}  # fmt: skip
_KEYS = (
  "operation_type", "operation_parameter", "num_operation_heads", "feed_forward_dimension", "num_feed_forward",
)  # fmt: skip


def read(path: pathlib.Path) -> Benchmark:
  """Reads a whole file (250 encoders in less than a second).

  Raises:
    BenchmarkError: no JSON, another form, an encoder that is not in the space, a score outside -100..100; says where.
  """
  entries = read_entries(path, ("hidden_size", "encoder_layers", "scores"), _FIX, "flexibert")
  found: dict[str, list[dict[str, float]]] = {}
  for i, entry in enumerate(entries):
    try:
      arch = from_entry(entry)
    except ArchitectureError as error:
      raise problem(path, f"archs[{i}] is no encoder of --space=flexibert: {error}", "correct or delete it") from error
    found.setdefault(arch, []).append(_values(path, i, entry))
  columns = {name: np.array([np.mean([run[name] for run in runs]) for runs in found.values()]) for name in _COLUMNS}
  return Benchmark(
    name=path.name,
    space="flexibert",
    path=str(path),
    archs=tuple(found),
    columns=columns,
    datasets=TASKS,
    split=SPLIT,
    find=lambda text: _place(found, text),
  )


def from_entry(entry: dict[str, Any]) -> str:
  """The text form of an encoder as the benchmark has it.

  Raises:
    ArchitectureError: a setting that is missing or not in the space.
  """
  layers = entry["encoder_layers"]
  if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
    raise ArchitectureError(f"encoder_layers is {str(layers)[:40]!r}; give a list of objects")
  groups = [str(entry["hidden_size"])]
  for i, layer in enumerate(layers):
    if missing := [key for key in _KEYS if key not in layer]:
      raise ArchitectureError(f"layer {i} lacks {', '.join(missing)}")
    kind, parameter, heads, width, depth = (layer[key] for key in _KEYS)
    name = next((op for own, op in _OPS.items() if own == (kind, parameter)), None)
    if name is None:
      raise ArchitectureError(f"layer {i} has the operation {str(kind)[:20]!r}, {str(parameter)[:20]!r}")
    groups.append(f"{name}:{heads}:{width}x{depth}")
  return encoding.format(encoding.parse("|".join(groups)))


_COLUMNS = (*(f"{task}_{SPLIT}" for task in TASKS), "pretrain_seconds")


def _values(path: pathlib.Path, i: int, entry: dict[str, Any]) -> dict[str, float]:
  scores = entry["scores"]
  if not isinstance(scores, dict) or "glue" not in scores:
    raise problem(path, f"archs[{i}] has scores {str(scores)[:40]!r}, where an object with `glue` must stand", _FIX)
  found = {}
  for task in TASKS:
    value = scores.get(task, math.nan)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (-100 <= value <= 100 or (task not in scores)):
      what = f"archs[{i}] has the score {str(value)[:40]!r} of {task}, which is not a percentage in -100..100"
      raise problem(path, what, "correct or delete it")
    found[f"{task}_{SPLIT}"] = float(value)
  seconds = entry.get("pretrain_seconds")
  found["pretrain_seconds"] = float(seconds) if isinstance(seconds, int | float) else math.nan
  return found


def _place(found: dict[str, Any], text: str) -> int | None:
  """The row of an encoder that is written with other white space."""
  arch = encoding.format(encoding.parse(text))
  return list(found).index(arch) if arch in found else None
