"""A whole run: one search per seed, kept in a work directory, looked up, printed and reported."""

import contextlib
import functools
import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas import algorithms, hosts, report, spaces
from jaxnas.algorithms import knas, nasi, random_search, score, tenas, train
from jaxnas.base import Accuracies, Space
from jaxnas.data import ImageSource
from jaxnas.errors import ConfigError
from jaxnas.files import write_atomically
from jaxnas.gennas import search as gennas
from jaxnas.gennas import task_search as gennas_task
from jaxnas.gennas import tasks
from jaxnas.report import summary
from jaxnas.scoring import Engine
from jaxnas.workdir import Workdir, provenance

# Settings that say where things lie or how a run shows itself: it may continue with others.
MAY_DIFFER = ("workdir", "data_dir", "download", "benchmark", "compilation_cache", "progress", "memory_gb")

log = logging.getLogger("jaxnas")


class _Run(NamedTuple):
  """What every seed shares. `runtime` are the keyword arguments that all searches take, `images` is for training."""

  space: Any
  source: ImageSource
  settings: Any
  benchmark: Accuracies | None
  folder: pathlib.Path | None
  runtime: dict[str, Any]
  images: train.Images | None = None
  note: Callable[..., None] = lambda *text: None  # see `report.Progress.note`


def run(
  *,
  space: Space,
  source: ImageSource,
  settings: Any,
  seeds: tuple[int, ...],
  benchmark: Accuracies | None,
  workdir: str | None,
  config: dict[str, Any],
  progress: bool,
  memory: int | None = None,
  open_split: Callable[[str], ImageSource] | None = None,
) -> dict[str, Any]:
  """Runs, prints the table and returns what result.json holds.

  Of several processes (see `hosts`) each must call this alike; the first prints and writes.

  Args:
    settings: a config of one of the algorithms; its type says which.
    config: every setting, for config.json; only those in `MAY_DIFFER` may change when a run continues.
    workdir: folder to keep everything in; None keeps nothing.
    memory: bytes, see `Engine`.
    open_split: opens another split of the same data set, for --algorithm=train.

  Raises:
    JaxnasError: as the library does; a work directory keeps what was scored before.
  """
  _check_space(space, config["algorithm"])
  _refuse_hosts(settings)
  begin = time.perf_counter()
  folder: Workdir | None = None
  images = train.images(source, settings, open_split) if isinstance(settings, train.TrainingConfig) else None
  with contextlib.ExitStack() as stack:
    if hosts.leads():
      _log_to(_Warnings(logging.WARNING), stack)

    def opened() -> list[dict[str, Any]]:
      nonlocal folder
      if not workdir:
        return []
      folder = stack.enter_context(Workdir.open(workdir, config, ignore=MAY_DIFFER))
      _log_to(folder.log, stack)
      return folder.records()

    records = hosts.from_lead(opened)
    log.info("%s; %s", config, "continued" if folder and folder.resumed else "new")
    rows: list[dict[str, Any]] = []
    extras: list[dict[str, Any]] = []
    total, unit = _work(space, settings, benchmark, len(seeds), images)
    with report.Progress(total, unit, label=config["algorithm"], enabled=progress and hosts.leads()) as bar:
      engine = Engine(memory=memory, note=bar.note)
      runtime = {
        "engine": engine,
        "records": records,
        "keep": lambda *new: hosts.from_lead(lambda: folder.append(*new) if folder else None),
        "advance": bar.advance,
      }
      whole = _Run(space, source, settings, benchmark, folder.path if folder else None, runtime, images, bar.note)
      for seed in seeds:
        found, extra = _one(whole, seed)
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
    scores = [line for extra in extras for line in extra.get("scores", [])]
    comparison = summary.comparison(scores, benchmark)
    result = {
      "config": config,
      "results": rows,
      "comparison": comparison,
      "seconds": seconds,
      "history": extras[0].get("history", []),
      "summaries": [extra["summary"] for extra in extras if "summary" in extra],
    }
    if hosts.leads():
      print(summary.text(result, benchmark))
    if folder:
      folder.write_json("result.json", {**result, "provenance": provenance()})
      page = summary.write_html(folder, space, result, {**extras[0], "scores": scores}, benchmark)
      print(f"\nEverything is in {folder.path}; open {page}")
  return result


class _Warnings(logging.Handler):
  """Prints warnings to standard error, which a progress bar there replaces by one that moves below them."""

  def emit(self, record: logging.LogRecord) -> None:
    print(f"jaxnas: warning: {record.getMessage()}", file=sys.stderr)


def _log_to(handler: logging.Handler, stack: contextlib.ExitStack) -> None:
  """Sends jaxnas's messages to `handler` too, and no further."""
  if log.propagate:
    stack.callback(setattr, log, "propagate", True)
    stack.callback(log.setLevel, log.level)
  log.setLevel(logging.INFO)
  log.propagate = False
  log.addHandler(handler)
  stack.callback(log.removeHandler, handler)


def _check_space(space: Space, algorithm: str) -> None:
  """Refuses a space that the algorithm does not search."""
  known = _SPACES.get(algorithm, spaces.names())
  if space.name not in known:
    names = [name for name in algorithms.NAMES if space.name in _SPACES.get(name, spaces.names())]
    raise ConfigError(
      f"--algorithm={algorithm} does not search --space={space.name}; take --space={' or '.join(known)}, or one of the "
      f"algorithms {', '.join(names)}"
    )


def _refuse_hosts(settings: Any) -> None:
  """Trainings know the devices of one host only."""
  trains = isinstance(settings, train.TrainingConfig) or getattr(settings, "knas_fine", "") == "train"
  if trains and jax.process_count() > 1:
    raise ConfigError(
      f"--distributed has {jax.process_count()} processes, and a training knows one; start it on one host without "
      "--distributed, with --data_parallel for all of that host's devices"
    )


def _work(
  space: Any, settings: Any, benchmark: Accuracies | None, seeds: int, images: train.Images | None = None
) -> tuple[int, str]:
  """How much there is to do, in which unit; refuses what would fail only later."""
  if isinstance(settings, tenas.TENASConfig):
    return seeds * tenas.evaluations(space, settings), "supernets"
  if isinstance(settings, nasi.NASIConfig):
    return seeds * nasi.evaluations(settings), "steps"
  if isinstance(settings, random_search.RandomSearchConfig):
    random_search.check(settings, benchmark is not None)
    if settings.criterion == "valid_12ep":
      _require_12ep(benchmark, "--criterion=valid_12ep", "give another --criterion")
    return seeds * settings.samples, "architectures"
  if isinstance(settings, knas.KNASConfig):
    if settings.knas_fine == "table" and benchmark is None:
      raise ConfigError(
        "--knas_fine=table needs --benchmark: the accuracies come from its table; or give --knas_fine=train"
      )
    if settings.knas_fine == "table":
      _require_12ep(benchmark, "--knas_fine=table", "give --knas_fine=train")
    return seeds * (settings.knas_candidates + settings.knas_shortlist), "architectures"
  if isinstance(settings, gennas.GenNASConfig):
    return seeds * settings.evolution.individuals, "architectures"
  if isinstance(settings, gennas_task.GenNASTaskConfig):
    if benchmark is None:
      raise ConfigError("--algorithm=gennas_task needs --benchmark: a task is good if it ranks known accuracies")
    gennas_task.architectures(benchmark, settings.task_archs)
    return seeds * settings.evolution.individuals * settings.task_archs, "architectures"
  if isinstance(settings, train.TrainingConfig):
    assert images is not None
    return seeds * train.steps(space, images, settings), "steps"
  archs = len(score.resolve(space, settings.archs, benchmark))
  return seeds * archs * settings.passes * settings.repeats_per_seed, "architectures"


def _one(whole: _Run, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """One seed: its result rows, and what only the report shows."""
  return _SEARCHES[type(whole.settings)](whole, seed)


def _tenas(whole: _Run, seed: int):
  found = tenas.search(whole.space, whole.source, whole.settings, seed=seed, **whole.runtime)
  row = {
    "arch": whole.space.format(found.arch),
    "supernet_condition_number": _median(found.history[0]["cond_before"]),
    "supernet_regions": _median(found.history[0]["regions_before"]),
    "clipped": sum(r["clipped"] for r in found.history),
    "rounds": sum("group" not in r for r in found.history),
  }
  return [row], {"history": found.history, "eigenvalues": found.eigenvalues}


def _random_search(whole: _Run, seed: int):
  drawn = random_search.search(
    whole.space, whole.source, whole.settings, seed=seed, validation=_valid_12ep(whole), **whole.runtime
  )
  row = {"arch": whole.space.format(drawn.arch), whole.settings.criterion: float(drawn.scores[drawn.best])}
  return [row], {}


def _knas(whole: _Run, seed: int):
  settings = whole.settings
  evaluate = _valid_12ep(whole)
  if settings.knas_fine == "train":
    folder = whole.folder / "trainings" if whole.folder else None
    epochs = functools.partial(whole.note, level=1)
    evaluate = knas.by_training(whole.space, whole.source, settings.training, seed=seed, folder=folder, note=epochs)
  assert evaluate is not None
  found = knas.search(
    whole.space, whole.source, settings, seed=seed, evaluate=evaluate, note=whole.note, **whole.runtime
  )
  first_half = found.validation[: max(1, len(found.validation) // 2)]  # what a shortlist of half the size finds
  best, half = (int(np.nanargmax(v)) for v in (found.validation, first_half))
  row = {
    "arch": whole.space.format(found.arch),
    "validation": float(found.validation[best]),
    settings.knas_score: float(found.scores[found.shortlist[best]]),
    f"{settings.knas_score}_status": "ok",
    "half_arch": whole.space.format(found.candidates[found.shortlist[half]]),
  }
  return [row], {}


def _nasi(whole: _Run, seed: int):
  found = nasi.search(whole.space, whole.source, whole.settings, seed=seed, **whole.runtime)
  quarter = max(1, whole.settings.nasi_steps // 4)
  early = found.archs[quarter - 1]
  row = {
    "arch": whole.space.format(found.arch),
    "after_steps": whole.settings.nasi_steps,
    "nasi_status": found.status,
    "quarter_arch": whole.space.format(early) if (early >= 0).all() else "",
  }
  return [row], {"summary": found.summary, "trace_norms": found.history}


def _gennas(whole: _Run, seed: int):
  found = gennas.search(whole.space, whole.source, whole.settings, seed=seed, **whole.runtime)
  row = {
    "arch": whole.space.format(found.arch),
    "signal_regression": min(one.fitness for one in found.log),
    "evaluated": len({one.genome for one in found.log}),
  }
  evolution = {
    "values": [one.fitness for one in found.log],
    "population": whole.settings.evolution.evolution_population,
    "ylabel": "regression loss",
    "maximise": False,
  }
  curves = {"curves": found.curves, "interval": whole.settings.regression.signal_interval}
  channels = whole.settings.signal.task.channels
  return [row], {"evolution": evolution, "losses": curves, "targets": (found.targets, channels)}


def _gennas_task(whole: _Run, seed: int):
  assert whole.benchmark is not None
  found = gennas_task.search(
    whole.space, whole.source, whole.settings, seed=seed, benchmark=whole.benchmark, **whole.runtime
  )
  task = tasks.to_json(found.task)
  if whole.folder:
    write_atomically(whole.folder / f"task_seed{seed}.json", (json.dumps(task, indent=1) + "\n").encode())
  evolution = {
    "values": [one.fitness for one in found.log],
    "population": whole.settings.evolution.evolution_population,
    "ylabel": "|Spearman|",
    "maximise": True,
  }
  row = {"task": f"task_seed{seed}.json" if whole.folder else json.dumps(task), "task_fitness": found.fitness}
  return [row], {"evolution": evolution, "summary": {"seed": seed, "task": task}}


def _score(whole: _Run, seed: int):
  lines = score.score(whole.space, whole.source, whole.settings, seed=seed, benchmark=whole.benchmark, **whole.runtime)
  return summary.shown(lines), {"scores": [line._asdict() for line in lines]}


def _train(whole: _Run, seed: int):
  assert whole.images is not None
  folder = whole.folder / "trainings" / f"seed{seed}" if whole.folder else None
  advance = whole.runtime["advance"]
  done = train.run(whole.space, whole.images, whole.settings, seed=seed, folder=folder, advance=advance)
  last = done.history[-1]
  row = {
    "arch": whole.space.format(done.arch),
    "network_params": done.params,
    "network_macs": done.macs,
    "epochs": last["epoch"],
    "valid_accuracy": last["valid_accuracy"],
    "valid_accuracy_status": "ok" if done.status == "finished" else done.status,
    "valid_top5": last["valid_top5"],
    "evaluated_on": whole.images.description,
  }
  return [row], {"training": {f"seed {seed}": [done.history]}, "summary": {"seed": seed, "epochs": done.history}}


_SEARCHES: dict[type, Callable[[_Run, int], tuple[list[dict[str, Any]], dict[str, Any]]]] = {
  tenas.TENASConfig: _tenas,
  random_search.RandomSearchConfig: _random_search,
  knas.KNASConfig: _knas,
  nasi.NASIConfig: _nasi,
  gennas.GenNASConfig: _gennas,
  gennas_task.GenNASTaskConfig: _gennas_task,
  score.ScoreConfig: _score,
  train.TrainingConfig: _train,
}
_SPACES = {  # what each algorithm can search, where that is not every space
  "tenas": ("nb201", "darts"),
  "nasi": ("nb201", "darts"),
  "random_search": ("nb201", "darts"),
  "knas": ("nb201", "darts"),
  "train": ("nb201", "darts"),
}


def _valid_12ep(whole: _Run) -> Callable[[str], float] | None:
  """Cheap validation by the benchmark: CIFAR-10 validation accuracy after 12 epochs."""
  table = whole.benchmark
  return None if table is None else lambda arch: table.accuracy(arch, "cifar10", "valid_12ep")


def _require_12ep(benchmark: Accuracies | None, flag: str, fix: str) -> None:
  if benchmark is not None and "cifar10_valid_12ep" not in benchmark.columns:
    raise ConfigError(f"{flag}: the benchmark {benchmark.name} has no accuracies after 12 epochs; {fix}")


def _median(values: list[float]) -> float:
  finite = sorted(v for v in values if math.isfinite(v))
  return finite[len(finite) // 2] if finite else math.nan
