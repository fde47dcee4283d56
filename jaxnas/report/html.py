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
body { margin: 2rem auto; padding: 0 1rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; padding: 1rem;
  background: var(--wash); border: 1px solid var(--line); border-radius: 8px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
.long { overflow-wrap: anywhere; min-width: 14rem; } section, details { overflow-x: auto; }
th { background: var(--wash); cursor: pointer; } .number { text-align: right; }
summary { font-size: 1.2rem; font-weight: bold; margin-top: 2.2rem; cursor: pointer; }
pre { padding: 1rem; background: var(--wash); border: 1px solid var(--line); border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 62rem) {
  thead { display: none; } table, tbody, tr { display: block; }
  tr { padding: .6rem 0; border-bottom: 2px solid var(--line); }
  td, td.number { display: grid; grid-template-columns: 9rem 1fr; gap: .6rem; border: 0; padding: .1rem 0;
    text-align: left; overflow-wrap: anywhere; min-width: 0; }
  td::before { content: attr(data-title); color: var(--soft); }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
}
figure { margin: 1.5rem 0; } figcaption { color: var(--soft); font-size: .92rem; overflow-wrap: anywhere; }
img { max-width: 100%; box-sizing: border-box; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
p { white-space: pre-line; }
"""

_LONG = 24  # characters of a word, such as an architecture, that may be broken anywhere

# Sorts a table by the column whose title is clicked: numbers by value, the largest first, and again the other way.
_SCRIPT = """<script>
for (const title of document.querySelectorAll("th")) title.onclick = () => {
  const body = title.closest("table").tBodies[0], column = title.cellIndex;
  const key = row => { const text = row.cells[column].textContent, number = parseFloat(text);
    return isNaN(number) ? text : number; };
  const down = title.dataset.sorted !== "down";
  title.dataset.sorted = down ? "down" : "up";
  const order = (a, b) => typeof a === typeof b ? (a < b ? 1 : a > b ? -1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => (down ? 1 : -1) * order(key(a), key(b))).forEach(row => body.append(row));
};
</script>"""


@dataclasses.dataclass(frozen=True)
class Image:
  """A PNG file, its name taken from the work directory unless absolute, and what it shows."""

  file: str | os.PathLike[str]
  caption: str


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading with any of a text, a line of code, a table and pictures, in this order.

  Cells are formatted as in `tables`; a click on a column's title sorts by it. A `folded` section opens on a click.
  """

  title: str
  header: Sequence[str] = ()
  rows: Sequence[Sequence[Any]] = ()
  text: str = ""
  code: str = ""
  images: Sequence[Image] = ()
  folded: bool = False


def write_report(
  workdir: Workdir,
  *,
  title: str,
  summary: Sequence[tuple[str, str]],
  sections: Sequence[Section] = (),
) -> pathlib.Path:
  """Writes report.html, with style and pictures inside it, and returns its path.

  Args:
    workdir: the run's folder.
    title: the page's title.
    summary: (name, value) pairs, shown first.
    sections: in order.

  Raises:
    WorkdirError: a picture cannot be read, or the report cannot be written.
  """
  terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in summary)
  body = [
    f"<h1>{_text(title)}</h1>",
    f"<dl>\n{terms}</dl>" if terms else "",
    *(_section(workdir.path, section) for section in sections),
    _SCRIPT,
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


def _section(folder: pathlib.Path, section: Section) -> str:
  parts = [f"<p>{_text(section.text)}</p>"] if section.text else []
  if section.code:
    parts.append(f"<pre>{_text(section.code)}</pre>")
  if section.header:
    right = numeric_columns(len(section.header), section.rows)
    head = "".join(f"<th{_mark(r)}>{_text(title)}</th>" for title, r in zip(section.header, right, strict=True))
    rows = "\n".join(_row(row, section.header, right) for row in section.rows)
    parts.append(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>")
  parts += [_figure(folder, image) for image in section.images]
  title, body = _text(section.title), "\n".join(parts)
  if section.folded:
    return f"<details>\n<summary>{title}</summary>\n{body}\n</details>"
  return f"<section>\n<h2>{title}</h2>\n{body}\n</section>"


def _row(cells: Sequence[Any], titles: Sequence[str], right: Sequence[bool]) -> str:
  """Cells name their column, which a narrow window shows beside them."""
  text = ""
  for cell, title, to_the_right in zip(cells, titles, right, strict=True):
    shown = _text(cell)
    long = max(map(len, shown.split()), default=0) > _LONG
    text += f'<td{_mark(to_the_right, long)} data-title="{_text(title)}">{shown}</td>'
  return f"<tr>{text}</tr>"


def _mark(right: bool, long: bool = False) -> str:
  names = ["number"] * right + ["long"] * long
  return f' class="{" ".join(names)}"' if names else ""


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
