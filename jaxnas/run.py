"""A whole run: one search per seed, kept in a work directory, looked up, printed and reported."""

import contextlib
import logging
import math
import time
from typing import Any

from jaxnas import report
from jaxnas.algorithms import random_search, score, tenas
from jaxnas.data import ImageSource
from jaxnas.report import summary
from jaxnas.scoring import Engine
from jaxnas.spaces import NB201
from jaxnas.tabular import Benchmark

# Settings that say where things lie or how a run shows itself: it may continue with others.
MAY_DIFFER = ("workdir", "data_dir", "download", "benchmark", "compilation_cache", "progress")

log = logging.getLogger("jaxnas")


def run(
  *,
  space: NB201,
  source: ImageSource,
  settings: Any,
  seeds: tuple[int, ...],
  benchmark: Benchmark | None,
  workdir: str | None,
  config: dict[str, Any],
  progress: bool,
) -> dict[str, Any]:
  """Runs, prints the table and returns what result.json holds.

  Args:
    settings: a config of one of the algorithms; its type says which.
    config: every setting, for config.json; only those in `MAY_DIFFER` may change when a run continues.
    workdir: folder to keep everything in; None keeps nothing.

  Raises:
    JaxnasError: as the library does; a work directory keeps what was scored before.
  """
  begin = time.perf_counter()
  engine = Engine()
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(report.Workdir.open(workdir, config, ignore=MAY_DIFFER)) if workdir else None
    if folder:
      _log_to(folder.log, stack)
    log.info("%s; %s", config, "continued" if folder and folder.resumed else "new")
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    total, unit = _work(space, settings, benchmark, len(seeds))
    with report.Progress(total, unit, label=config["algorithm"], enabled=progress) as bar:
      runtime = {
        "engine": engine,
        "records": folder.records() if folder else [],
        "keep": folder.append if folder else lambda record: None,
        "advance": bar.advance,
      }
      for seed in seeds:
        found, extra = _one(space, source, settings, seed, benchmark, **runtime)
        rows += [summary.look_up(space, benchmark, {"seed": seed, **row}) for row in found]
        extras.append(extra)
        log.info("seed %d: %s", seed, rows[-1])
    wall = time.perf_counter() - begin
    seconds = {
      "wall": wall,
      "compile": engine.seconds.compile,
      "score": engine.seconds.score,
      "other": wall - engine.seconds.compile - engine.seconds.score,
    }
    result = {
      "config": config,
      "results": rows,
      "seconds": seconds,
      "history": extras[0].get("history", []),
    }
    print(summary.text(result, benchmark))
    if folder:
      folder.write_json("result.json", {**result, "provenance": report.provenance()})
      page = summary.write_html(folder, space, result, extras[0], benchmark)
      print(f"\nEverything is in {folder.path}; open {page}")
  return result


def _log_to(handler: logging.Handler, stack: contextlib.ExitStack) -> None:
  """Sends jaxnas's messages to the work directory's log only; the terminal has the progress and the table."""
  log.setLevel(logging.INFO)
  log.propagate = False
  log.addHandler(handler)
  stack.callback(log.removeHandler, handler)


def _work(space: NB201, settings: Any, benchmark: Benchmark | None, seeds: int) -> tuple[int, str]:
  """How much there is to do, in which unit; refuses what would fail only later."""
  if isinstance(settings, tenas.TENASConfig):
    return seeds * tenas.evaluations(space, settings), "supernets"
  if isinstance(settings, random_search.RandomSearchConfig):
    random_search.check(settings, benchmark is not None)
    return seeds * settings.samples, "architectures"
  return seeds * len([score.resolve(space, a) for a in settings.archs]), "architectures"


def _one(space, source, settings, seed, benchmark, **runtime) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """One seed: its result rows, and what only the report shows."""
  if isinstance(settings, tenas.TENASConfig):
    found = tenas.search(space, source, settings, seed=seed, **runtime)
    last = found.history[-1]
    row = {
      "arch": space.format(found.arch),
      "supernet_condition_number": _median(found.history[0]["cond_before"]),
      "supernet_regions": _median(found.history[0]["regions_before"]),
      "clipped": sum(r["clipped"] for r in found.history),
      "rounds": last["round"],
    }
    return [row], {"history": found.history, "eigenvalues": found.eigenvalues}
  if isinstance(settings, random_search.RandomSearchConfig):
    validation = (lambda arch: benchmark.accuracy(arch, "cifar10", "valid_12ep")) if benchmark else None
    drawn = random_search.search(space, source, settings, seed=seed, validation=validation, **runtime)
    return [{"arch": space.format(drawn.arch), settings.criterion: float(drawn.scores[drawn.best])}], {}
  rows = score.score(space, source, settings, seed=seed, engine=runtime["engine"])
  runtime["advance"](len(rows))
  return rows, {}


def _median(values: list[float]) -> float:
  finite = sorted(v for v in values if math.isfinite(v))
  return finite[len(finite) // 2] if finite else math.nan
