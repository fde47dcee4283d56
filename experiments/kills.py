"""Kills runs of every kind at random moments and continues them with the same command: nothing may be lost.

  python experiments/kills.py --out=experiments/results/kills.md      ten minutes

Each of six algorithms runs to its end once, at toy size on generated images. Then it runs twice more, each time ended
by SIGKILL, SIGTERM or Ctrl-C at a moment drawn uniformly from the last four fifths of the time that such a run takes,
and continued by the same command. What stood in scores.jsonl when the signal came must stand there in the end, and
results, records and scores (but for their seconds) must be those of the run that was left alone. Exit code 1 where they
are not.
"""

import datetime
import json
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

TOY = "--score_batch=8 --score_channels=4 --score_cells=1"
RUNS = {
  "score": f"--archs=random:100 --proxies=naswot,mgm {TOY}",
  "random_search": f"--samples=200 --criterion=naswot {TOY}",
  "knas": "--knas_candidates=150 --knas_shortlist=10 --knas_batch=8 --knas_channels=4 --knas_cells=1",
  "tenas": "--ntk_batch=8 --repeats=1 --region_batches=1 --region_samples=100",
  "nasi": "--nasi_steps=30 --nasi_batch=8 --nasi_channels=4 --nasi_cells=1",
  "gennas": "--evolution_population=6 --evolution_tournament=3 --evolution_children=6 --signal_steps=20 "
  "--signal_channels=4 --signal_cells=1",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST = 900.0  # seconds

_OUT = flags.DEFINE_string("out", "kills.md", "file for the table")
_ONLY = flags.DEFINE_list("only", list(RUNS), "algorithms")
_KILLS = flags.DEFINE_integer("kills", 2, "of each algorithm", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments")


class Runner:
  """Starts the program with one cache of compiled programs for all runs, below `folder`."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}

  def start(self, algorithm: str, workdir: pathlib.Path) -> subprocess.Popen:
    """One run of an algorithm."""
    given = [f"--algorithm={algorithm}", *RUNS[algorithm].split(), f"--workdir={workdir}"]
    command = [sys.executable, "-m", "jaxnas.main", *given]
    return subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

  def finish(self, algorithm: str, workdir: pathlib.Path) -> float:
    """Runs one to its end; returns its wall seconds."""
    begin = time.monotonic()
    process = self.start(algorithm, workdir)
    _, error = process.communicate(timeout=LONGEST)
    if process.returncode:
      sys.exit(f"--algorithm={algorithm} ended with exit code {process.returncode}:\n{error}")
    return time.monotonic() - begin

  def kill(self, algorithm: str, workdir: pathlib.Path, number: signal.Signals, after: float) -> tuple[int, str]:
    """(exit code, last line of standard error) of a run that gets a signal after so many seconds."""
    process = self.start(algorithm, workdir)
    try:
      process.wait(after)
    except subprocess.TimeoutExpired:
      process.send_signal(number)
    _, error = process.communicate(timeout=LONGEST)
    return process.returncode, (error.strip().splitlines() or [""])[-1]


def lines(workdir: pathlib.Path) -> list[str]:
  """The whole lines of scores.jsonl; none where there is no file yet."""
  file = workdir / "scores.jsonl"
  return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []


def left(workdir: pathlib.Path) -> dict[str, Any]:
  """What a finished run found: the result but for its times and its folder, and every record but for its seconds."""
  result = json.loads((workdir / "result.json").read_text(), object_hook=_timeless)
  records = [json.loads(line, object_hook=_timeless) for line in lines(workdir)]
  kept = {key: result[key] for key in result.keys() - {"provenance", "config"}}
  return {**kept, "lines": sorted(json.dumps(record, sort_keys=True) for record in records)}


def _timeless(value: dict[str, Any]) -> dict[str, Any]:
  return {key: item for key, item in value.items() if key != "seconds"}


def tried(runner: Runner, algorithm: str, kills: int, numbers: Sequence[signal.Signals], rng: random.Random):
  """A row a kill: the cells of the table, and whether all is as it should be."""
  whole = runner.folder / f"{algorithm}_whole"
  longest = runner.finish(algorithm, whole)
  wanted = left(whole)
  for i in range(kills):
    workdir = runner.folder / f"{algorithm}_{i}_0"
    while True:  # programs are compiled by now: a run takes less time than the first, and may end before its moment
      begin, after = time.monotonic(), rng.uniform(0.2, 1) * longest
      code, said = runner.kill(algorithm, workdir, numbers[i], after)
      if code != 0:
        break
      longest, workdir = time.monotonic() - begin, workdir.with_name(f"{workdir.name}0")
    before = lines(workdir)
    seconds = runner.finish(algorithm, workdir)
    kept = lines(workdir)[: len(before)] == before
    found = left(workdir)
    same = found == wanted
    if not same:
      print(*(f"{key}: {wanted[key]} became {found[key]}" for key in wanted if found[key] != wanted[key]), sep="\n")
    number = numbers[i]
    well = code in (
      -number,
      128 + number,
    )  # the first of Python too, in its last moments; a shell shows both as the second
    cells = [f"{after:.1f}", code, len(before), len(wanted["lines"]), f"{seconds:.1f}"]
    cells += [
      "yes" if kept else "NO",
      "yes" if same else "NO",
      f"`{said.replace(str(workdir), 'WORKDIR')}`" if number != signal.SIGKILL else "",
    ]
    yield [algorithm, number.name, *cells], kept and same and well


def run(argv: Sequence[str]) -> int:
  """Runs, kills, compares, and writes the table as it grows; returns the exit code."""
  del argv
  rng, rows = random.Random(_SEED.value), []
  with tempfile.TemporaryDirectory() as folder:
    for place, algorithm in enumerate(_ONLY.value):
      numbers = [SIGNALS[(place + i) % len(SIGNALS)] for i in range(_KILLS.value)]
      for row, well in tried(Runner(pathlib.Path(folder)), algorithm, _KILLS.value, numbers, rng):
        rows.append((row, well))
        print(*row, flush=True)
        pathlib.Path(_OUT.value).write_text(page(rows))
  return 1 if any(not well for _, well in rows) else 0


def page(rows: Sequence[tuple[Sequence[Any], bool]]) -> str:
  """The table of these kills, each with whether all is as it should be."""
  head = [
    "algorithm",
    "signal",
    "after s",
    "exit code",
    "records then",
    "in the end",
    "continued s",
    "kept",
    "the same",
  ]
  cells = [[*head, "said"], ["---"] * (len(head) + 1), *(row for row, _ in rows)]
  table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)
  wrong = sum(not well for _, well in rows)
  commands = "\n".join(f"    --algorithm={name} {RUNS[name]}" for name in dict.fromkeys(row[0] for row, _ in rows))
  return f"""Made by `python experiments/kills.py --out=experiments/results/kills.md`

# Runs that are killed and continued

{os.cpu_count()} virtual cores, no accelerator, Python {platform.python_version()}, jax {jax.__version__};
{datetime.date.today()}. {len(rows)} kills at random moments (seed {_SEED.value}), {wrong} of them with another result,
a record lost or a strange exit code. "Records" are lines of scores.jsonl; "kept": those stand there in the end, first;
"the same": results and records are those of a run that was left alone.

{table}

{commands}
"""


if __name__ == "__main__":
  app.run(run)
