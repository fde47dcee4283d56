"""A whole run: one search per seed, kept in a work directory, looked up, reported and printed."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

from jaxnas import hosts, registry, report, stopping
from jaxnas.base import Algorithm, Context, Space, lacking
from jaxnas.errors import ConfigError, JaxnasError
from jaxnas.report import page, summary
from jaxnas.scoring import Batching, Engine
from jaxnas.terminal import complain, say
from jaxnas.workdir import Complete, Workdir

# Settings that say where things lie or how a run shows itself: it may continue with others.
MAY_DIFFER = (
  "workdir", "data_dir", "download", "benchmark", "trust_pickle", "plugins", "compilation_cache", "progress",
  "batching",
  "memory_gb",
)  # fmt: skip

log = logging.getLogger("jaxnas")


def run(
  algorithm: Algorithm,
  context: Context,
  *,
  seeds: Sequence[int],
  workdir: str | None,
  config: dict[str, Any],
  complete: Complete = dict,
  progress: bool,
  memory: int | None = None,
  batching: Batching = "auto",
) -> summary.Finished:
  """Runs a search per seed, writes what there is to write, then prints the table.

  Of several processes (see `hosts`) each must call this alike; the first prints and writes.

  Args:
    context: space, source, settings, benchmark and what else is known before the run; the run adds the rest.
    config: every setting, for config.json; only those in `MAY_DIFFER` may change when a run continues.
    complete: adds to the settings of an older run what it could not record yet, see `settings.completed`.
    workdir: folder to keep everything in; None keeps nothing.
    memory, batching: see `Engine`.

  Raises:
    JaxnasError: as the library does; a work directory keeps what was scored before. Nothing is written before space
      and settings are known to go together.
  """
  refuse_space(algorithm, context.space)
  begin = time.perf_counter()
  folder: Workdir | None = None
  with contextlib.ExitStack() as stack, _traced():
    if hosts.leads():
      _log_to(_Warnings(logging.WARNING), stack)
    work = algorithm.work(context)

    def opened() -> list[dict[str, Any]]:
      nonlocal folder
      if workdir is None:
        return []
      ignore, other_proxies = (*MAY_DIFFER, *algorithm.extends), {"proxies", "rank_by"} & {*algorithm.extends}
      folder = stack.enter_context(
        Workdir.open(workdir, config, ignore=ignore, may_lack=bool(other_proxies), complete=complete)
      )
      stack.enter_context(stopping.last_words(lambda: f"the same command continues in {workdir}"))
      _log_to(folder.log, stack)
      return folder.records()

    records = hosts.from_lead(opened)
    log.info("%s; %s", config, "continued" if folder and folder.resumed else "new")
    total = len(seeds) * work.amount
    with report.Progress(total, work.unit, label=algorithm.name, enabled=progress and hosts.leads()) as bar:
      stack.enter_context(stopping.last_words(bar.stopped))
      engine = Engine(memory=memory, note=bar.note, batching=batching)
      context = dataclasses.replace(
        context,
        engine=engine,
        records=records,
        keep=lambda *new: hosts.from_lead(lambda: folder.append(*new) if folder else None),
        advance=bar.advance,
        note=bar.note,
        folder=folder.path if folder else None,
      )
      outcomes = []
      for seed in seeds:
        outcomes.append(algorithm.search(context, seed))
        if not outcomes[-1].rows:
          raise ConfigError(f"--algorithm={algorithm.name} gave no rows for seed {seed}: an Outcome has one at least")
        log.info("seed %d: %s", seed, outcomes[-1].rows[-1])
    wall = time.perf_counter() - begin
    times = summary.Times(wall, engine.seconds.compile, engine.seconds.score)
    finished = summary.Finished(
      context.space, context.source, context.benchmark, config, tuple(seeds), tuple(outcomes), times
    )
    written = page.write(finished, folder) if folder else None
    if hosts.leads():
      say(finished.text())
    if folder:
      say(f"\nEverything is in {folder.path}; open {written}")
  return finished


def refuse_space(algorithm: Algorithm, space: Space) -> None:
  """Refuses a space that lacks what the algorithm requires.

  Raises:
    ConfigError: names what is lacking, the spaces that have it, and the algorithms that do without.
  """
  lacks = {need.__name__: members for need in algorithm.requires if (members := lacking(space, need))}
  if not lacks:
    return
  spaces = [name for name in registry.names("space") if _fits(algorithm, registry.make("space", name))]
  others = [name for name in registry.names("algorithm") if _fits(registry.make("algorithm", name), space)]
  fixes = [f"--{flag}={' or '.join(found)}" for flag, found in (("space", spaces), ("algorithm", others)) if found]
  why = "; ".join(f"it is not {name}: no {', '.join(members)}" for name, members in lacks.items())
  raise ConfigError(
    f"--algorithm={algorithm.name} does not search --space={space.name}; take {', or '.join(fixes)} ({why})"
  )


def _fits(algorithm: Algorithm, space: Space) -> bool:
  return not any(lacking(space, need) for need in algorithm.requires)


@contextlib.contextmanager
def _traced():
  """Writes the traceback of what is no error of jaxnas's own into the log."""
  try:
    yield
  except JaxnasError:
    raise
  except Exception as error:
    log.info("ended by %s", type(error).__name__, exc_info=True)
    raise


class _Warnings(logging.Handler):
  """Prints warnings to standard error, which a progress bar there replaces by one that moves below them."""

  def emit(self, record: logging.LogRecord) -> None:
    complain(f"jaxnas: warning: {record.getMessage()}")


def _log_to(handler: logging.Handler, stack: contextlib.ExitStack) -> None:
  """Sends jaxnas's messages to `handler` too, and no further."""
  if log.propagate:
    stack.callback(setattr, log, "propagate", True)
    stack.callback(log.setLevel, log.level)
  log.setLevel(logging.INFO)
  log.propagate = False
  log.addHandler(handler)
  stack.callback(log.removeHandler, handler)
