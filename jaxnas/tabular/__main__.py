"""Command: turns a benchmark that is read row by row, such as a NATS-Bench folder or file, into a table, once."""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from jaxnas import registry
from jaxnas.errors import BenchmarkError, JaxnasError
from jaxnas.files import user_path
from jaxnas.tabular.csv_table import check_out, write_csv
from jaxnas.tabular.reading import FLAG
from jaxnas.tabular.table import Benchmark
from jaxnas.terminal import complain, say

_PROGRAM = "python -m jaxnas.tabular"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns 0, 2 for bad input (one line on stderr), or 130 if interrupted."""
  arguments = _parser().parse_args(argv)
  try:
    _convert(arguments)
  except JaxnasError as error:
    text = str(error)
    if text.startswith(FLAG):  # the flag of jaxnas.main; here it is the first argument
      text = f"SOURCE={text.removeprefix(FLAG)}"
    complain(f"{_PROGRAM}: {text}")
    return 2
  except KeyboardInterrupt:
    complain(f"{_PROGRAM}: interrupted; nothing was written")
    return 130
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=_PROGRAM,
    description=(
      "Read a NATS-Bench topology benchmark once and write it as a table that opens in a fraction"
      " of a second: python -m jaxnas.main --benchmark=OUT."
    ),
    epilog=(
      "NATS-Bench files are pickles, which run code when opened: convert only files that you trust, with"
      " --trust_pickle. A full folder takes about five minutes. OUT is written wholly or not at all."
    ),
  )
  parser.add_argument(
    "source",
    metavar="SOURCE",
    help="NATS-tss-v1_0-3ffb9-simple folder or NATS-tss-v1_0-3ffb9.pickle.pbz2 file",
  )
  parser.add_argument("out", metavar="OUT", help="table to write; ends in .csv.gz or .csv")
  spaces = registry.names("space")
  parser.add_argument("--space", default=spaces[0], help=f"its search space, one of {', '.join(spaces)} (%(default)s)")
  parser.add_argument("--trust_pickle", action="store_true", help="open pickles, whatever code they hold")
  parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
  return parser


def _convert(arguments: argparse.Namespace) -> None:
  from rich import progress
  from rich.console import Console

  source, out, overwrite = arguments.source, arguments.out, arguments.overwrite
  check_out(out, overwrite=overwrite)
  read = registry.make("space", arguments.space, "--space").read_benchmark
  start = time.monotonic()
  console = Console(stderr=True)
  with console.status("opening SOURCE (minutes for a single file of 2 GB)"):
    benchmark: Benchmark = read(user_path(source, "SOURCE"), trust_pickle=arguments.trust_pickle)
  held = len(benchmark.unread)
  if not held:
    raise BenchmarkError(f"{FLAG}{source}: already a table; use it as it is")
  columns = (
    progress.TextColumn("reading"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TextColumn("{task.fields[rate]} ETA"),
    progress.TimeRemainingColumn(),
  )
  quiet = not console.is_terminal
  with progress.Progress(*columns, console=console, transient=True, disable=quiet) as bar:
    task = bar.add_task("", total=held, rate="")

    def report(done: int, total: int) -> None:
      speed = bar.tasks[0].speed or 0.0
      bar.update(task, completed=done, total=total, rate=f"{speed:.0f}/s")

    write_csv(benchmark, out, overwrite=overwrite, progress=report)
  size = pathlib.Path(out).stat().st_size / 1e6
  seconds = time.monotonic() - start
  counts = f"{held:,} of {len(benchmark.archs):,} architectures"
  say(f"{out}: {counts}, {size:.2f} MB, in {seconds:.1f} s")


if __name__ == "__main__":
  sys.exit(main())
