"""What a finished run leaves in its folder: result.json, the artefacts, comparison, scores, one HTML page."""

import csv
import io
import logging
import math
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnas import figures, registry
from jaxnas.base import Artefact
from jaxnas.errors import JaxnasError
from jaxnas.report import comparison as comparing
from jaxnas.report import comparison_tables
from jaxnas.report.correlation_plots import plot_ranks, plot_scatter
from jaxnas.report.html import Image, Section, write_report
from jaxnas.report.proxy_pictures import plot_correlations, plot_cost, plot_picks
from jaxnas.report.summary import Finished, accuracy, shown, table
from jaxnas.workdir import Workdir, provenance

_SCORES = 1000  # architectures of which the page lists the scores

log = logging.getLogger(__name__)


def write(finished: Finished, folder: Workdir) -> pathlib.Path:
  """Writes result.json, every artefact, the comparison and report.html into the folder; returns the page's path.

  Of artefacts that several seeds call the same, the first seed's is kept.
  """
  folder.write_json("result.json", {**finished.as_json(), "provenance": provenance()})
  if finished.comparison:
    comparison_tables.write_markdown(finished.comparison, folder.path / "comparison.md")
    comparison_tables.write_csv(finished.comparison, folder.path / "comparison.csv")
  images, proxies, failed = _draw(finished, folder.path)
  made = provenance()
  if finished.all_scores:
    folder.write_text("scores.csv", _scores_csv(finished.all_scores))
  return write_report(
    folder,
    title=f"jaxnas: {finished.config['algorithm']} on {finished.config['space']}",
    summary=[
      *_found(finished),
      ("data set", finished.config["dataset"]),
      ("time", str(finished.times)),
      ("made", f"{made['date']}, jaxnas {made['jaxnas']} ({made['revision'] or 'released'}), jax {made['jax']}"),
      ("device", f"{made['device_count']} x {made['device_kind']}"),
    ],
    sections=[
      Section("Result", *_result(finished)),
      *([Section("Pictures", images=images)] if images else []),
      *([Section("Proxies", images=proxies)] if proxies else []),
      *([Section("Missing pictures", text="\n".join(failed))] if failed else []),
      *_comparison(finished),
      *_score_table(finished),
      _settings(finished.config),
    ],
  )


def _found(finished: Finished) -> list[tuple[str, str]]:
  """The architecture of a run that found one, with its accuracies."""
  row = finished.rows[0]
  if len(finished.outcomes[0].rows) > 1 or "arch" not in row:
    return []
  index = f"index {row['index']}: " if "index" in row else ""
  found = [("found", f"{index}{row['arch']}")]
  for name in finished.datasets:
    rank = f" of {row[f'{name}_known']:,}" if row.get(f"{name}_rank") else ""
    found.append((f"{name} %", accuracy(row, name, finished.benchmark.split if finished.benchmark else "") + rank))
  return found


def _result(finished: Finished) -> tuple[list[str], list[list[Any]]]:
  return table(finished.rows, finished.columns, finished.benchmark, accuracies_first=True, groups=finished.groups)


def _comparison(finished: Finished) -> list[Section]:
  if not finished.comparison:
    return []
  header, body, note = comparison_tables.as_table(finished.comparison)
  return [Section("Comparison of the proxies", header, body, note)]


def _score_table(finished: Finished) -> list[Section]:
  """The best architectures by the first proxy, a column a proxy, of the first seed and repeat."""
  lines = finished.all_scores
  if not lines:
    return []
  first = [line for line in lines if (line["seed"], line["repeat"]) == (lines[0]["seed"], lines[0]["repeat"])]
  names = list(dict.fromkeys(line["proxy"] for line in first))
  values: dict[str, dict[str, Mapping[str, Any]]] = {}
  for line in first:
    values.setdefault(line["arch"], {})[line["proxy"]] = line
  best = sorted(values, key=lambda arch: -values[arch][names[0]]["rank_by"] if names[0] in values[arch] else math.inf)
  rows = []
  for arch in best[:_SCORES]:
    cells = (values[arch].get(name) for name in names)
    rows.append([arch, *(None if one is None else shown(one["value"], one["status"]) for one in cells)])
  text = f"The best {len(rows):,} of {len(best):,} by {names[0]}; every score is in scores.csv."
  return [Section("Scores", ("architecture", *names), rows, text)]


def _scores_csv(lines: Sequence[Mapping[str, Any]]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue()


def _settings(config: Mapping[str, Any]) -> Section:
  """All settings, and the command that has them."""
  given = {name: value for name, value in config.items() if value is not None}
  words = ["python", "-m", "jaxnas.main", *(_flag(name, value) for name, value in given.items())]
  rows = [[f"--{name}", _flag_text(value)] for name, value in given.items()]
  return Section("Settings", ("flag", "value"), rows, code=shlex.join(words), folded=True)


def _flag(name: str, value: Any) -> str:
  if isinstance(value, bool):
    return f"--{name}" if value else f"--no{name}"
  return f"--{name}={_flag_text(value)}"


def _flag_text(value: Any) -> str:
  return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _draw(finished: Finished, folder: pathlib.Path) -> tuple[list[Image], list[Image], list[str]]:
  """Pictures of what was found, pictures of the proxies, and a line for each that could not be made.

  A run does not end for a picture.
  """
  images: list[Image] = []
  proxies: list[Image] = []
  failed: list[str] = []

  def attempt(what: str, draw: Callable[[], Iterable[Image]], into: list[Image] = images) -> None:
    try:
      into.extend(draw())
    except JaxnasError:  # the folder cannot be written to
      raise
    except Exception as error:
      failed.append(f"{what} could not be drawn: {type(error).__name__}: {error}")
      log.warning(failed[-1])

  artefacts: dict[str, Artefact] = {}
  for outcome in finished.outcomes:
    for one in outcome.artefacts:
      artefacts.setdefault(one.file, one)
  with figures.own_settings():
    attempt("the architecture", lambda: _draw_architecture(finished, folder))
    for one in artefacts.values():
      attempt(one.file, lambda one=one: _draw_artefact(one, folder))
    if len(finished.groups) == 2 and finished.benchmark is not None:
      attempt("what each rule found", lambda: _draw_picks(finished, folder))
    if finished.comparison:
      attempt("the comparison", lambda: _draw_comparison(finished, folder), proxies)
      attempt("the correlations", lambda: _draw_correlations(finished, folder), proxies)
      attempt("the costs", lambda: _draw_costs(finished, folder), proxies)
  return images, proxies, failed


def _draw_artefact(artefact: Artefact, folder: pathlib.Path) -> list[Image]:
  artefact.draw(folder / artefact.file)
  return [Image(artefact.file, artefact.caption)] if artefact.file.endswith(".png") else []


def _draw_architecture(finished: Finished, folder: pathlib.Path) -> list[Image]:
  """Drawings of the first architecture, where the rows have one."""
  text = finished.rows[0].get("arch")
  if text is None:
    return []
  return [Image(*picture) for picture in finished.space.draw(finished.space.parse(text), folder)]


def _draw_picks(finished: Finished, folder: pathlib.Path) -> list[Image]:
  """What each rule found, from how much, on the first data set."""
  assert finished.benchmark is not None
  rule, amount = finished.groups
  dataset, split = finished.benchmark.datasets[0], finished.benchmark.split
  titles = {column.key: column.title for column in finished.columns}
  plot_picks(
    finished.rows, (rule, amount), f"{dataset}_{split}", folder / "picks.png",
    titles=(titles.get(amount, amount).capitalize(), f"{split.capitalize()} accuracy, {dataset} (%)"),
  )  # fmt: skip
  seeds = f"mean and standard deviation over {len(finished.seeds)} seeds" if len(finished.seeds) > 1 else "one seed"
  return [Image("picks.png", f"Accuracy of what each rule found, {seeds}: the pick in red, the controls beside it.")]


def _controls(finished: Finished) -> list[str]:
  """Those of the proxies compared that are controls."""
  known, names = registry.names("proxy"), [line["proxy"] for line in finished.comparison]
  return [name for name in names if name in known and registry.make("proxy", name).control]


def _draw_correlations(finished: Finished, folder: pathlib.Path) -> list[Image]:
  """How the proxies agree."""
  assert finished.benchmark is not None
  names, matrix = comparing.correlations(finished.scores, finished.comparison, finished.benchmark)
  plot_correlations(names, matrix, folder / "correlations.png")
  what = "Spearman's rank correlation of every two, on the architectures that both scored"
  return [Image("correlations.png", f"{what}; the last row is the accuracy on {names[-1]}.")]


def _draw_costs(finished: Finished, folder: pathlib.Path) -> list[Image]:
  """What the proxies cost, where that is known."""
  assert finished.benchmark is not None
  dataset, known = finished.benchmark.datasets[0], registry.names("proxy")
  lines = [line for line in finished.comparison if line["seconds"]]
  if not lines:
    return []
  points = {
    line["proxy"]: (line["seconds"], line[f"{dataset}_spearman"], line[f"{dataset}_spearman_se"]) for line in lines
  }
  together = [name for name in points if name not in known]
  plot_cost(points, folder / "cost.png", dataset=dataset, controls=_controls(finished), combinations=together)
  return [
    Image("cost.png", "Median seconds an architecture against rank correlation; a pass that several share is theirs.")
  ]


def _draw_comparison(finished: Finished, folder: pathlib.Path) -> list[Image]:
  """The scatter and rank plots; combinations, which are no registered proxies, also in a scatter plot of their own."""
  lines, benchmark = finished.comparison, finished.benchmark
  assert benchmark is not None
  plot_ranks(comparing.spearman_by_dataset(lines), folder / "spearman.png", controls=_controls(finished))
  dataset = benchmark.datasets[0]
  panels = comparing.panels(finished.scores, lines, benchmark)
  plot_scatter(panels, folder / "scatter.png", dataset=dataset, title="Score against accuracy")
  together = [panel for panel in panels if panel.proxy not in registry.names("proxy")]
  if together:
    lowest = float(np.nanquantile(np.concatenate([panel.accuracies for panel in together]), 0.05))
    plot_scatter(together, folder / "combinations.png", x="rank", dataset=dataset, lowest_accuracy=lowest)
  ranks = (
    f"Rank of each architecture by the combinations against its accuracy on {dataset}, first seed; triangles: below."
  )
  return [
    *([Image("combinations.png", ranks)] if together else []),
    Image("spearman.png", "Spearman's rank correlation of each proxy with accuracy, and its standard error."),
    Image("scatter.png", f"Score of each architecture against its accuracy on {dataset}, first seed."),
  ]
