"""The result of a run, as a table on the terminal and as JSON; `page` is what it leaves in a folder."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from jaxnas.base import Accuracies, Column, Outcome, Source, Space
from jaxnas.errors import ArchitectureError
from jaxnas.report import comparison as comparing
from jaxnas.report import comparison_tables
from jaxnas.report.progress import format_duration
from jaxnas.report.tables import mean_std, text_table

COMPARED = 31  # architectures of a benchmark from which on proxies are compared
_LONG = 24  # characters of an architecture that no longer stands in the terminal's table
_SLOW_LOOKUP = 1000  # unread rows of a NATS folder beyond which a rank would take minutes


@dataclasses.dataclass(frozen=True)
class Times:
  """Wall seconds of a run, and those that its engine spent compiling and scoring."""

  wall: float
  compile: float
  score: float

  def as_json(self) -> dict[str, float]:
    """The seconds, and what is left of the whole as "other"."""
    return {**dataclasses.asdict(self), "other": self.wall - self.compile - self.score}

  def __str__(self) -> str:
    """Those parts that take a second or more, behind the whole."""
    parts = {name: value for name, value in self.as_json().items() if name != "wall" and value >= 1}
    text = ", ".join(f"{name} {value:.1f} s" for name, value in parts.items())
    return f"wall time {format_duration(self.wall)}{': ' if parts else ''}{text}"


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
  """A finished run.

  Attributes:
    space, source, benchmark, config, seeds: what was run; the settings are those of config.json.
    outcomes: what the algorithm gave, one a seed.
    times: what the run took.
  """

  space: Space
  source: Source
  benchmark: Accuracies | None
  config: Mapping[str, Any]
  seeds: tuple[int, ...]
  outcomes: tuple[Outcome, ...]
  times: Times

  @property
  def columns(self) -> Sequence[Column]:
    """What the table shows of a row, beside what every table shows."""
    return self.outcomes[0].columns

  @property
  def groups(self) -> Sequence[str]:
    """Fields that tell a seed's rows apart."""
    return self.outcomes[0].groups

  @functools.cached_property
  def rows(self) -> list[dict[str, Any]]:
    """All rows, with seed, size and accuracies."""
    pairs = zip(self.seeds, self.outcomes, strict=True)
    return [
      look_up(self.space, self.source, self.benchmark, {"seed": seed, **row})
      for seed, outcome in pairs
      for row in outcome.rows
    ]

  @functools.cached_property
  def all_scores(self) -> list[Mapping[str, Any]]:
    """Lines of all seeds."""
    return [line for outcome in self.outcomes for line in outcome.scores]

  @functools.cached_property
  def scores(self) -> list[Mapping[str, Any]]:
    """Lines of all seeds, of the architectures that the benchmark knows; of two forms of one the first."""
    if self.benchmark is None:
      return []
    lines = self.all_scores
    first: dict[int, str] = {}
    for arch in dict.fromkeys(line["arch"] for line in lines):
      if (index := _index(self.benchmark, arch)) is not None:
        first.setdefault(index, arch)
    kept = set(first.values())
    return [line for line in lines if line["arch"] in kept]

  @functools.cached_property
  def comparison(self) -> list[dict[str, Any]]:
    """How each proxy ranks the architectures; empty without a benchmark or with few architectures."""
    if self.benchmark is None or len({line["arch"] for line in self.scores}) < COMPARED:
      return []
    return comparing.compare(self.scores, self.benchmark)

  @property
  def datasets(self) -> tuple[str, ...]:
    """Of the benchmark."""
    return () if self.benchmark is None else self.benchmark.datasets

  def as_json(self) -> dict[str, Any]:
    """What result.json holds."""
    return {
      "config": self.config,
      "benchmark": None if self.benchmark is None else self.benchmark.name,
      "accuracies": [f"{name}_{self.benchmark.split}" for name in self.datasets] if self.benchmark else [],
      "groups": list(self.groups),
      "results": self.rows,
      "comparison": self.comparison,
      "seconds": self.times.as_json(),
      "records": [{"seed": seed, **one.record} for seed, one in zip(self.seeds, self.outcomes, strict=True)],
    }

  def text(self) -> str:
    """The final table, and where the time went."""
    header, body = table(self.rows, self.columns, self.benchmark, groups=self.groups)
    body, notes = _noted(header, body, {row["arch"]: row.get("index") for row in self.rows if "arch" in row})
    width = shutil.get_terminal_size().columns
    text = text_table(header, body, width)
    wide = self.groups or max(map(len, text.splitlines())) > width
    if wide and len(self.rows) > len(self.seeds) == 1 and "architecture" in header:  # columns that tell no row apart
      kept = [i for i, title in enumerate(header) if title not in ("seed", "params M", "MACs M")]
      header, *body = ([row[i] for i in kept] for row in (header, *body))
      header[header.index("architecture")] = "pick"
      text = text_table(header, body, width)
    lines = ["", text, *notes]
    ranked = {row[f"{name}_known"] for name in self.datasets for row in self.rows if row.get(f"{name}_rank")}
    if ranked and any("(rank)" in title for title in header):
      lines.append(f"(rank) among the {' or '.join(f'{n:,}' for n in sorted(ranked))} architectures of the benchmark")
    if self.comparison:
      lines += ["", comparison_tables.to_text(self.comparison, width)]
    if self.benchmark is None:
      lines.append("no benchmark: give --benchmark (or JAXNAS_BENCHMARK) to look the result up")
    elif len(self.benchmark.unread) >= _SLOW_LOOKUP:
      lines.append("no ranks: they need every row; convert once with `python -m jaxnas.tabular SOURCE OUT.csv.gz`")
    lines.append(str(self.times))
    return "\n".join(lines)


def look_up(space: Space, source: Source, benchmark: Accuracies | None, row: Mapping[str, Any]) -> dict[str, Any]:
  """`row` with the size of its network and, from the benchmark, its index, accuracies and ranks.

  The network is the space's usual one on the data set, unless `row` has another one's "params" and "macs".
  """
  if "arch" not in row:
    return dict(row)
  arch, out = row["arch"], dict(row)
  if not {"params", "macs"} <= row.keys():
    costs = space.costs_on(space.parse(arch), source)
    out |= {"params": int(costs.params), "macs": int(costs.macs)}
  if benchmark is None:
    return out
  try:
    out["index"] = int(benchmark.index(arch))
  except ArchitectureError:  # a table of a part of its space
    return out | {f"{dataset}_{benchmark.split}": math.nan for dataset in benchmark.datasets}
  for dataset in benchmark.datasets:
    out[f"{dataset}_{benchmark.split}"] = float(benchmark.accuracy(arch, dataset))
    if len(benchmark.unread) < _SLOW_LOOKUP:
      rank, known = benchmark.rank(arch, dataset)
      out[f"{dataset}_rank"], out[f"{dataset}_known"] = rank, known
  return out


def _index(benchmark: Accuracies, arch: str) -> int | None:
  """None for an architecture that a table of a part of its space does not have."""
  try:
    return int(benchmark.index(arch))
  except ArchitectureError:
    return None


def _noted(
  header: list[str], body: list[list[Any]], indices: Mapping[str, int | None]
) -> tuple[list[list[Any]], list[str]]:
  """Rows of the terminal's table with numbers in the place of long texts, and a line for each number.

  Args:
    indices: of architectures in the benchmark.
  """
  if "architecture" not in header:
    return body, []
  column = header.index("architecture")
  long = dict.fromkeys(row[column] for row in body if len(row[column]) > _LONG)
  numbers = {text: f"[{i}]" for i, text in enumerate(long, start=1)}
  rows = [[numbers.get(cell, cell) if i == column else cell for i, cell in enumerate(row)] for row in body]
  known = {text: "" if index is None else f"index {index}: " for text, index in indices.items()}
  return rows, [f"{number} {known.get(text, '')}{text}" for text, number in numbers.items()]


def table(
  rows: Sequence[Mapping[str, Any]],
  columns: Sequence[Column],
  benchmark: Accuracies | None,
  *,
  accuracies_first: bool = False,
  groups: Sequence[str] = (),
) -> tuple[list[str], list[list[Any]]]:
  """Header and one row per architecture; several seeds end with mean ± standard deviation.

  Rows without an architecture show their seed and the columns alone. With `groups`, fields that tell a seed's rows
  apart, several seeds have a row a group instead: mean ± standard deviation of its accuracies.
  """
  if groups and benchmark is not None and len({row["seed"] for row in rows}) > 1:
    return _group_means(rows, columns, benchmark, groups)
  shown = [column for column in columns if any(column.key in row for row in rows)]
  header = ["seed", *(column.title for column in shown)]
  if "arch" not in rows[0]:
    return header, [[row["seed"], *(_cell(row, column) for column in shown)] for row in rows]
  datasets, split = ((), "") if benchmark is None else (benchmark.datasets, benchmark.split)
  header[1:1] = ["architecture"]
  header += ["params M", "MACs M", *(f"{dataset} {split} % (rank)" for dataset in datasets)]
  body: list[list[Any]] = []
  for row in rows:
    line = [row["seed"], row["arch"], *(_cell(row, column) for column in shown)]
    line += [f"{row['params'] / 1e6:.3f}", f"{row['macs'] / 1e6:.1f}"]
    body.append(line + [accuracy(row, dataset, split) for dataset in datasets])
  if len({row["seed"] for row in rows}) > 1 and datasets:
    means = [mean_std([row[f"{dataset}_{split}"] for row in rows], digits=2) for dataset in datasets]
    body.append(["all", "mean ± std", *("" for _ in shown), "", "", *means])
  if accuracies_first and datasets:
    header, *body = ([line[0], *line[-len(datasets) :], *line[1 : -len(datasets)]] for line in (header, *body))
  return header, body


def _group_means(
  rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], benchmark: Accuracies, groups: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
  """A row a group of rows, of all seeds."""
  titles = {column.key: column.title for column in columns}
  keys = [f"{dataset}_{benchmark.split}" for dataset in benchmark.datasets]
  header = [*(titles.get(name, name) for name in groups), "seeds"]
  header += [f"{dataset} {benchmark.split} %" for dataset in benchmark.datasets]
  together: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
  for row in rows:
    together.setdefault(tuple(row[name] for name in groups), []).append(row)
  body = [
    [*group, len(own), *(mean_std([row[key] for row in own], digits=2) for key in keys)]
    for group, own in together.items()
  ]
  return header, body


def _cell(row: Mapping[str, Any], column: Column) -> str:
  return shown(row.get(column.key), row.get(column.status, "ok"))


def shown(value: Any, status: Any) -> str:
  text = "-" if value is None else str(value) if isinstance(value, str | int) else f"{value:.5g}"
  return text + ("" if status == "ok" else f" ({status})")


def accuracy(row: Mapping[str, Any], dataset: str, split: str) -> str:
  value = row[f"{dataset}_{split}"]
  if math.isnan(value):
    return "not in this benchmark"
  rank = row.get(f"{dataset}_rank")
  return f"{value:.2f}" + (f" ({rank})" if rank else "")
