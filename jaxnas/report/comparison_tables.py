"""The comparison of proxies as Markdown, as CSV, and in a terminal's width."""

import csv
import io
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from jaxnas.errors import ConfigError
from jaxnas.files import write_atomically
from jaxnas.report.comparison import RANDOM, SHORTLIST, TOP, Line, datasets_of, missing
from jaxnas.report.tables import markdown_table, text_table

Path = str | os.PathLike[str]

_MEASURES = (
  ("Kendall τ-b", "kendall", 3),
  (f"top {TOP:.0%} retrieved", "retrieving_rate", 3),
  ("top-1 regret", "top1_regret", 2),
  (f"top-{SHORTLIST} regret", "top10_regret", 2),
)


def to_markdown(lines: Sequence[Line]) -> str:
  """The table as Markdown: Spearman ± standard error a column a data set, the other measures as "a / b / c".

  Raises:
    ConfigError: no lines.
  """
  header, body, note = as_table(lines)
  return f"{markdown_table(header, body)}\n{note}\n"


def as_table(lines: Sequence[Line]) -> tuple[list[str], list[list[Any]], str]:
  """Header, rows and explanation of what `to_markdown` writes.

  Raises:
    ConfigError: no lines.
  """
  datasets = datasets_of(_first(lines))
  header = ["proxy", "n", "degenerate", *(f"Spearman {d}" for d in datasets)]
  several = any((line["passes"] or 1) > 1 for line in lines)
  header += ["passes", "Spearman of one pass", "Kendall of one pass"] if several else []
  header += [title for title, _, _ in _MEASURES] + ["accuracy of its best, %", "s/architecture"]
  body = []
  for line in lines:
    row = [line["proxy"], line["n"], line["degenerate"]]
    row += [_plus_minus(line[f"{d}_spearman"], line[f"{d}_spearman_se"]) for d in datasets]
    if several:
      row.append(line["passes"])
      for name in ("pass_spearman", "pass_kendall"):
        row.append(" / ".join(_plus_minus(line[f"{d}_{name}"], line[f"{d}_{name}_sd"]) for d in datasets))
    for _, key, digits in (*_MEASURES, ("", "best_accuracy", 2)):
      row.append(" / ".join(_fixed(line[f"{d}_{key}"], digits) for d in datasets))
    seconds = line["seconds"]
    body.append([*row, None if seconds is None else f"{seconds:.3g}"])
  note = (
    f"Columns of several numbers: {' / '.join(datasets)}. Spearman ± standard error (bootstrap over architectures). "
    + (
      "Of one pass: mean ± standard deviation over seeds and repeats; Spearman beside it is of their mean ranks. "
      if several
      else ""
    )
    + "Regret: percentage points of accuracy below the best of the sample. "
    f"{RANDOM.capitalize()}: the mean of one drawn at random (top-1 regret, accuracy of its best) and the "
    f"expected best of {SHORTLIST} drawn at random (top-{SHORTLIST} regret)."
  )
  return header, body, note


def to_text(lines: Sequence[Line], width: int) -> str:
  """What a terminal has room for: Spearman ± standard error, on as many data sets as fit, the first at least.

  Args:
    width: characters that a line should have at most.

  Raises:
    ConfigError: no lines.
  """
  datasets = datasets_of(_first(lines))
  proxies = [line for line in lines if line["proxy"] != RANDOM]
  text, shown = "", len(datasets)
  for shown in range(len(datasets), 0, -1):
    some = datasets[:shown]
    rows = [
      [line["proxy"], line["n"], *(_plus_minus(line[f"{d}_spearman"], line[f"{d}_spearman_se"]) for d in some)]
      for line in proxies
    ]
    text = text_table(["proxy", "n", *some], rows, width)
    if max(map(len, text.splitlines())) <= width:
      break
  note = "Spearman ± standard error over the n architectures; "
  if dead := [f"{line['proxy']} {line['degenerate']}" for line in proxies if line["degenerate"]]:
    note += f"degenerate, ranked last: {', '.join(dead)}; "
  others = f", {' and '.join(datasets[shown:])}" if shown < len(datasets) else ""
  note += f"Kendall, retrieving rates, regrets{others}: comparison.md of --workdir"
  return text + textwrap.fill(note, width, break_long_words=False, break_on_hyphens=False) + "\n"


def to_csv(lines: Sequence[Line]) -> str:
  """The table as CSV with every column of `compare`, numbers to the last digit; None and nan are empty fields.

  Raises:
    ConfigError: no lines.
  """
  columns = list(_first(lines))
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(columns)
  writer.writerows([None if missing(line[column]) else line[column] for column in columns] for line in lines)
  return text.getvalue()


def write_markdown(lines: Sequence[Line], path: Path) -> pathlib.Path:
  """Writes `to_markdown`, whole or not at all; returns the path. Raises WorkdirError if it cannot be written."""
  return write_atomically(path, to_markdown(lines).encode())


def write_csv(lines: Sequence[Line], path: Path) -> pathlib.Path:
  """Writes `to_csv`, whole or not at all; returns the path. Raises WorkdirError if it cannot be written."""
  return write_atomically(path, to_csv(lines).encode())


def _first(lines: Sequence[Line]) -> Line:
  if not lines:
    raise ConfigError("lines: got none; a comparison has at least one proxy")
  return lines[0]


def _fixed(value: float | None, digits: int) -> str:
  return "-" if value is None or missing(value) else f"{value:.{digits}f}"


def _plus_minus(value: float | None, error: float | None) -> str:
  return _fixed(value, 3) if missing(error) else f"{_fixed(value, 3)} ± {_fixed(error, 3)}"
