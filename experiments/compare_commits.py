"""Benchmarks of another checkout and of this one, alternating: medians of every figure, and what they changed by.

  git worktree add ../before COMMIT
  python experiments/compare_commits.py --before=../before --out=FILE.md -- "benchmark_steps.py" "benchmark_darts.py"

Each argument is a script of this folder with its flags; both checkouts run their own copy of it. Of the tables that it
prints, the figures are those whose row or column says "CPU s", "wall s" or "ms". With --compilation_cache a first run
of either side, which is not counted, keeps its programs there: the rest is quick, and says nothing of compilation.
Quote figures of an idle machine only.
"""

import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys

from absl import app, flags

from jaxnas import report

FLAGS = flags.FLAGS
flags.DEFINE_string("before", None, "root of the checkout to compare with", required=True)
flags.DEFINE_integer("rounds", 5, "runs of each side", lower_bound=1)
flags.DEFINE_float("allowed", 1.1, "mark ratios above this")
flags.DEFINE_string("compilation_cache", None, "folder for compiled programs; compilation is then not compared")
flags.DEFINE_string("out", None, "Markdown file for the report")

HERE = pathlib.Path(__file__).resolve().parents[1]
SECONDS = re.compile(r"\b(cpu|wall) s\b|\bms\b", re.IGNORECASE)
Figures = dict[str, float]


def figures(text: str) -> Figures:
  """The seconds in the Markdown tables of a text, by row and column; a cell may hold several, apart by slashes."""
  found, header = {}, []
  for line in text.splitlines():
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] if "|" in line else []
    if not cells:
      header = []
    elif not header:
      header = cells
    else:
      for column, cell in zip(header[1:], cells[1:], strict=False):
        for part, number in enumerate(cell.split("/")):
          name = f"{cells[0]}; {column}" + f" ({part + 1})" * ("/" in cell)
          if SECONDS.search(name) and "ratio" not in name and re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", number.strip()):
            found[name] = float(number)
  return found


def run(root: pathlib.Path, command: str) -> Figures:
  """Runs a script of a checkout on its own package."""
  script, *args = shlex.split(command)
  cache = FLAGS.compilation_cache
  env = {**os.environ, "PYTHONPATH": str(root), "JAX_ENABLE_COMPILATION_CACHE": "true" if cache else "false"}
  if cache:
    env |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  done = subprocess.run(
    [sys.executable, str(root / "experiments" / script), *args], cwd=root, env=env, stdout=subprocess.PIPE, text=True
  )
  if done.returncode:
    sys.exit(f"{command} failed in {root}")
  return figures(done.stdout)


def main(argv: list[str]) -> None:
  """Prints and writes the tables."""
  before = pathlib.Path(FLAGS.before).resolve()
  text = f"Medians of {FLAGS.rounds} runs, alternating; load average before {os.getloadavg()[0]:.1f}\n"
  if FLAGS.compilation_cache:
    text += "\nPrograms were read from a cache: figures of compilation are of reading them.\n"
  for command in argv[1:]:
    for root in (before, HERE) if FLAGS.compilation_cache else ():
      run(root, command)
    sides: tuple[list[Figures], list[Figures]] = ([], [])
    for i in range(FLAGS.rounds):
      for side, root in zip(sides, (before, HERE), strict=True):
        side.append(run(root, command))
      print(f"{command}: {i + 1} of {FLAGS.rounds}", file=sys.stderr, flush=True)
    rows = []
    for name in [n for n in sides[0][0] if n in sides[1][0]]:
      old, new = (statistics.median(one[name] for one in side) for side in sides)
      ratio = new / old if old else float("nan")
      rows.append([name, f"{old:.4g}", f"{new:.4g}", f"{ratio:.2f}" + " !" * (ratio > FLAGS.allowed)])
    text += f"\n`{command}`\n\n" + report.markdown_table(["", "before", "now", "ratio"], rows) + "\n"
    if FLAGS.out:
      pathlib.Path(FLAGS.out).write_text(text)
  print(text)


if __name__ == "__main__":
  app.run(main)
