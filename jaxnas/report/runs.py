"""Finished runs side by side, as an algorithm: nothing is computed, what they left in their folders is read."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxnas import registry
from jaxnas.base import Algorithm, Artefact, Column, Context, Outcome, Work
from jaxnas.errors import ConfigError
from jaxnas.figures import BLUE, FAINT, GREEN, VERMILION, new_figure, save_png
from jaxnas.report.loading import RUN, read_result
from jaxnas.report.tables import mean_std
from jaxnas.settings import setting

_COLOURS = (BLUE, VERMILION, GREEN)


@dataclasses.dataclass(frozen=True)
class RunsConfig:
  """Which runs are compared."""

  runs: tuple[str, ...] = setting((), "work directories of finished runs, which --algorithm=compare puts side by side")


@registry.register("algorithm", "compare")
class CompareRuns(Algorithm[RunsConfig]):
  """The table: mean and standard deviation of the seeds' accuracies, of a run, or of each rule that a run compares."""

  name: ClassVar[str] = "compare"
  summary: ClassVar[str] = "finished runs (--runs=WORKDIR,...) side by side, in one table and on one page"
  Settings: ClassVar[type] = RunsConfig
  extends: ClassVar[tuple[str, ...]] = ("runs",)

  def work(self, context: Context[RunsConfig]) -> Work:
    """A unit a run, which is read here already: a folder without a result is refused before anything is written."""
    return Work(len(_loaded(context.settings)), "runs")

  def search(self, context: Context[RunsConfig], seed: int) -> Outcome:
    """The table; `seed` has no part in it."""
    del seed
    runs = _loaded(context.settings)
    keys = list(dict.fromkeys(key for run in runs.values() for key in run["accuracies"] or _validated(run)))
    table, found = [], {}
    for name, run in runs.items():
      about = {field: run["config"].get(field) for field in RUN}
      for own, rows in _apart(run).items():
        label = ": ".join(filter(None, (name, own)))
        found[label] = rows
        values = {key: mean_std([_value(row, key) for row in rows], digits=2) for key in keys}
        table.append({"run": label, **about, "architectures": len(rows), **values})
      context.advance(1)
    columns = [Column(key, key) for key in ("run", *RUN, "architectures")]
    columns += [Column(key, f"{key.replace('_', ' ')} %") for key in keys]
    picture = Artefact(
      "runs.png",
      "Accuracies of the architectures that each run found, a point each, and their mean.",
      lambda path: plot(found, keys, path),
    )
    return Outcome(table, columns, artefacts=[picture] if keys else [])


def _loaded(settings: RunsConfig) -> dict[str, dict[str, Any]]:
  """The result of each run by its folder's name, or by its path where two have one name."""
  if not settings.runs:
    raise ConfigError("--algorithm=compare needs --runs: work directories of finished runs, apart by commas")
  names = [pathlib.Path(run).name for run in settings.runs]
  if len(set(settings.runs)) < len(settings.runs):
    raise ConfigError(f"--runs={','.join(settings.runs)} names a run twice")
  found = {}
  for run, name in zip(settings.runs, names, strict=True):
    found[name if names.count(name) == 1 else run] = read_result(run, "--runs")
  return found


def _validated(run: Mapping[str, Any]) -> list[str]:
  """What a run without a benchmark validated its architectures by itself: the fields of a row that have it."""
  return [key for key in ("validation", "valid_accuracy") if any(key in row for row in run["results"])]


def _value(row: Mapping[str, Any], key: str) -> float:
  """An accuracy of a row; NaN where it has none."""
  value = row.get(key)
  return float(value) if isinstance(value, int | float) else math.nan


def _apart(run: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
  """A run's rows by what tells those of one seed apart, such as what they were ranked by; "" where nothing does."""
  found: dict[str, list[Mapping[str, Any]]] = {}
  for row in run["results"]:
    found.setdefault(", ".join(str(row.get(name)) for name in run.get("groups", [])), []).append(row)
  return found


def plot(runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str], path: pathlib.Path) -> pathlib.Path:
  """Draws the accuracies of every run, a panel a data set."""
  figure = new_figure(3.4 * len(keys), 1.2 + 0.45 * len(runs))
  for position, key in enumerate(keys):
    axis = figure.add_subplot(1, len(keys), position + 1)
    for line, rows in enumerate(runs.values()):
      values = np.array([_value(row, key) for row in rows], np.float64)
      axis.axhline(line, color=FAINT, linewidth=0.5, zorder=0)
      axis.plot(values, np.full(len(values), line), "o", color=_COLOURS[position % len(_COLOURS)], alpha=0.5)
      if np.isfinite(values).any():
        axis.plot(np.nanmean(values), line, "|", color="black", markersize=14)
    axis.set_yticks(range(len(runs)), list(runs) if not position else [])
    axis.set_ylim(len(runs) - 0.5, -0.5)
    axis.set_xlabel(f"{key.replace('_', ' ')} %")
  return save_png(figure, path)
