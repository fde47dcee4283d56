"""What runs left in their folders, for tables of one's own: `pandas.DataFrame(report.load("out"))`."""

import csv
import math
import os
from typing import Any

from jaxnas.errors import WorkdirError
from jaxnas.files import read_json, user_path

RUN = ("algorithm", "space", "dataset")


def read_result(workdir: str | os.PathLike[str], flag: str) -> dict[str, Any]:
  """What a finished run's result.json holds; `flag` is what messages call the folder.

  Raises:
    WorkdirError: there is no finished run.
  """
  path = user_path(workdir, flag)
  result = read_json(path / "result.json", flag)
  if not _is_result(result):
    raise WorkdirError(f"{flag}={path} holds no finished run: no result.json as this version writes; let the run end")
  return result


def _is_result(value: Any) -> bool:
  """Whether a value is what `Finished.as_json` gives, as far as it is read here: the file may have been edited."""
  match value:
    case {"config": dict(), "results": [dict(), *_] as rows, "accuracies": list(keys)}:
      found = [row.get(key, math.nan) for row in rows if isinstance(row, dict) for key in keys if isinstance(key, str)]
      groups = value.get("groups", [])  # earlier versions left none
      named = isinstance(groups, list) and all(isinstance(name, str) for name in groups)
      return named and len(found) == len(rows) * len(keys) and all(isinstance(number, int | float) for number in found)
  return False


def load(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The rows of a finished run's result: seed, architecture, its size, accuracies, ranks, what the algorithm says.

  Each has also `workdir`, `algorithm`, `space` and `dataset`.

  Raises:
    WorkdirError: there is no finished run.
  """
  result = read_result(workdir, "--workdir")
  about = {"workdir": str(user_path(workdir, "--workdir")), **{name: result["config"].get(name) for name in RUN}}
  return [{**about, **row} for row in result["results"]]


def load_scores(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Every score of a finished run, a line an architecture, proxy, seed and repeat; see `scoring.Score`.

  Raises:
    WorkdirError: there is no finished run, or it scored nothing.
  """
  path = user_path(workdir, "--workdir")
  file = path / "scores.csv"
  if not file.exists():
    raise WorkdirError(f"--workdir={path} holds no scores of a finished run: no scores.csv")
  with file.open(newline="", encoding="utf-8") as text:
    return [{name: _number(value) for name, value in line.items()} for line in csv.DictReader(text)]


def _number(text: str) -> str | int | float:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text
