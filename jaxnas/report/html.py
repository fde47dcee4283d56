"""One self-contained report.html: text, tables and pictures in a single file that opens offline."""

import base64
import dataclasses
import html
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxnas.errors import WorkdirError
from jaxnas.report.tables import format_cell, numeric_columns
from jaxnas.workdir import Workdir

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --line: #d0d7de; --soft: #59636e;
  --wash: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #14181d; --line: #3d444d;
  --soft: #9198a1; --wash: #1d232a; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; padding: 1rem;
  background: var(--wash); border: 1px solid var(--line); border-radius: 8px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
th { background: var(--wash); } .number { text-align: right; }
figure { margin: 1.5rem 0; } figcaption { color: var(--soft); font-size: .92rem; }
img { max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
p { white-space: pre-line; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading with a text, a table, or both; cells are formatted as in `tables`."""

  title: str
  header: Sequence[str] = ()
  rows: Sequence[Sequence[Any]] = ()
  text: str = ""


@dataclasses.dataclass(frozen=True)
class Image:
  """A PNG file, its name taken from the work directory unless absolute, and what it shows."""

  file: str | os.PathLike[str]
  caption: str


def write_report(
  workdir: Workdir,
  *,
  title: str,
  summary: Sequence[tuple[str, str]],
  sections: Sequence[Section] = (),
  images: Sequence[Image] = (),
) -> pathlib.Path:
  """Writes report.html, with style and pictures inside it, and returns its path.

  Args:
    workdir: the run's folder.
    title: the page's title.
    summary: (name, value) pairs, shown first.
    sections: tables and texts, in order.
    images: pictures, in order, after the sections.

  Raises:
    WorkdirError: a picture cannot be read, or the report cannot be written.
  """
  terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in summary)
  body = [
    f"<h1>{_text(title)}</h1>",
    f"<dl>\n{terms}</dl>" if terms else "",
    *map(_section, sections),
    *(_figure(workdir.path, image) for image in images),
  ]
  page = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    + "\n".join(part for part in body if part)
    + "\n</body>\n</html>\n"
  )
  return workdir.write_text("report.html", page)


def _text(value: Any) -> str:
  return html.escape(format_cell(value))


def _section(section: Section) -> str:
  parts = [f"<section>\n<h2>{_text(section.title)}</h2>"]
  if section.text:
    parts.append(f"<p>{_text(section.text)}</p>")
  if section.header:
    right = numeric_columns(len(section.header), section.rows)
    rows = [_row("td", row, right) for row in section.rows]
    parts.append(
      f'<div class="wide"><table>\n<thead>{_row("th", section.header, right)}</thead>\n'
      f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )
  return "\n".join([*parts, "</section>"])


def _row(tag: str, cells: Sequence[Any], right: Sequence[bool]) -> str:
  marks = [' class="number"' if to_the_right else "" for to_the_right in right]
  cell_texts = (f"<{tag}{m}>{_text(c)}</{tag}>" for m, c in zip(marks, cells, strict=True))
  return f"<tr>{''.join(cell_texts)}</tr>"


def _figure(folder: pathlib.Path, image: Image) -> str:
  file = folder / image.file
  try:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
  except OSError as error:
    raise WorkdirError(
      f"--workdir: cannot read the picture {file} ({error.strerror}); run again to make it anew"
    ) from error
  caption = _text(image.caption)
  return (
    f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">\n<figcaption>{caption}</figcaption></figure>'
  )
