"""Tables as Markdown and as plain text, and the mean ± std of a column."""

import itertools
import math
import numbers
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Row = Sequence[Any]


def markdown_table(header: Sequence[str], rows: Iterable[Row]) -> str:
  """A GitHub-flavoured Markdown table, columns of numbers to the right.

  Cells may hold Markdown, save that `|` and `~` (both occur in NAS-Bench-201's architecture
  strings) are escaped.

  Raises:
    ValueError: a row is not as long as the header.
  """
  cells, right = _layout(header, rows)
  cells = [[_escape(cell) for cell in row] for row in cells]
  widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
  ruler = ["-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)]
  lines = [_aligned(row, widths, right) for row in cells]
  lines.insert(1, ruler)
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(header: Sequence[str], rows: Iterable[Row], width: int | None = None) -> str:
  """A plain-text table for the terminal, columns of numbers to the right.

  Args:
    width: characters that a line should have at most: for it titles are broken into lines, columns moved together, and
      if that is enough the cells of the widest column of words broken into lines.

  Raises:
    ValueError: a row is not as long as the header.
  """
  cells, right = _layout(header, rows)
  cells = [[" ".join(cell.split()) for cell in row] for row in cells]
  whole = [[title] for title in cells[0]]
  needed = [max(map(len, column)) for column in zip(*cells[1:], strict=True)] if cells[1:] else [0] * len(header)
  broken = [_broken(title, most) for title, most in zip(cells[0], needed, strict=True)]
  text = ""
  for titles, gap in ((whole, "  "), (broken, "  "), (broken, " ")):
    text = _text(titles, cells[1:], right, gap)
    if width is None or _length(text) <= width:
      return text
  words = [i for i, r in enumerate(right) if not r and needed[i] > len(max(broken[i], key=len))]
  if not words:
    return text
  widest = max(words, key=lambda i: needed[i])
  folded = _folded(cells[1:], widest, needed[widest] - (_length(text) - width))
  broken[widest] = _broken(header[widest], max(len(row[widest]) for row in folded))
  shorter = _text(broken, folded, right, " ")
  return shorter if _length(shorter) <= width else text


def _length(text: str) -> int:
  return max(map(len, text.splitlines()))


def _folded(body: list[list[str]], column: int, width: int) -> list[list[str]]:
  """Rows with the cells of a column in lines of at most that many characters, or of its longest word."""
  width = max(width, *(len(word) for row in body for word in row[column].split()))
  found = []
  for row in body:
    for place, line in enumerate(textwrap.wrap(row[column], width) or [""]):
      cells = row if place == 0 else [""] * len(row)
      found.append([*cells[:column], line, *cells[column + 1 :]])
  return found


def _text(titles: list[list[str]], body: list[list[str]], right: Sequence[bool], gap: str) -> str:
  height = max(map(len, titles))
  head = [list(row) for row in zip(*([""] * (height - len(title)) + title for title in titles), strict=True)]
  widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
  lines = [_aligned(row, widths, list(right)) for row in [*head, *body]]
  lines.insert(height, ["-" * width for width in widths])
  return "".join(gap.join(line).rstrip() + "\n" for line in lines)


def _broken(title: str, width: int) -> list[str]:
  """A title in lines of at most that many characters, or of its longest word."""
  words = [word for part in title.split() for word in re.findall(r"[^_]*_|[^_]+", part)]
  starts = set(itertools.accumulate(len(part) for part in title.split()))  # where a space was
  width = max(width, max(map(len, words), default=0))
  lines, place = [""], 0
  for word in words:
    joint = " " if place in starts else ""
    if lines[-1] and len(lines[-1]) + len(joint) + len(word) > width:
      lines.append(word)
    else:
      lines[-1] += (joint if lines[-1] else "") + word
    place += len(word)
  return lines


def mean_std(values: Iterable[float], digits: int = 1) -> str:
  """The mean and the sample standard deviation (ddof=1), as "93.9 ± 0.5".

  NaNs are left out. A single value stands without its ±, no value at all is "-".
  """
  kept = np.asarray([float(value) for value in values], np.float64)
  kept = kept[~np.isnan(kept)]
  if kept.size == 0:
    return "-"
  if not np.isfinite(kept).all():
    return "inf" if (kept > -math.inf).all() else "-inf" if (kept < math.inf).all() else "nan"
  mean = f"{kept.mean():.{digits}f}"
  return mean if kept.size == 1 else f"{mean} ± {kept.std(ddof=1):.{digits}f}"


def format_cell(value: Any) -> str:
  """A cell's text: floats to six digits, None as "-", all else as `str` has it."""
  if value is None:
    return "-"
  if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
    return f"{float(value):.6g}"
  return str(value)


def numeric_columns(width: int, rows: Sequence[Row]) -> list[bool]:
  """Which of `width` columns hold numbers (or "93.9 ± 0.5", or nothing) and so go to the right."""
  columns = [[row[i] for row in rows] for i in range(width)]
  return [any(c not in (None, "") for c in column) and all(map(_numeric, column)) for column in columns]


def _layout(header: Sequence[str], rows: Iterable[Row]) -> tuple[list[list[str]], list[bool]]:
  rows = [list(row) for row in rows]
  if not header:
    raise ValueError("header: a table needs at least one column, got none")
  for row in rows:
    if len(row) != len(header):
      raise ValueError(f"rows: got {len(row)} cells under {len(header)} headings: {row}")
  cells = [[format_cell(cell) for cell in row] for row in [list(header), *rows]]
  return cells, numeric_columns(len(header), rows)


def _aligned(row: list[str], widths: list[int], right: list[bool]) -> list[str]:
  return [
    cell.rjust(width) if to_the_right else cell.ljust(width)
    for cell, width, to_the_right in zip(row, widths, right, strict=True)
  ]


def _numeric(value: Any) -> bool:
  if value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
    return True
  if not isinstance(value, str):
    return False
  if not value.strip():
    return True
  try:
    for part in value.split("±"):
      if part.strip() != "-":
        float(part)
  except ValueError:
    return False
  return True


def _escape(cell: str) -> str:
  cell = " ".join(cell.split()).replace("|", r"\|")
  return cell if cell.startswith("`") else cell.replace("~", r"\~")
