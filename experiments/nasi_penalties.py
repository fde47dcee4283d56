"""What NASI would have found with other penalties: its records hold gradients without the penalty, for any mu and nu.

  python experiments/nasi_penalties.py --benchmark=PATH WORKDIR ...

Each WORKDIR is one of --algorithm=nasi on NAS-Bench-201 with nu calibrated (--nasi_nu=0, the default); their seeds are
put together. For every mode and mu, and every quantile of the 32 values of T~ that nu starts from: test accuracy of the
architecture found, mean and standard deviation over seeds. Choosing the best row by these accuracies and quoting it for
the same seeds would be a selection on the test set: confirm on others.
"""

import itertools
import json
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

from jaxnas import report, spaces, tabular
from jaxnas.algorithms.nasi_ascent import Step, ascend
from jaxnas.errors import ConfigError, JaxnasError

_BENCHMARK = flags.DEFINE_string("benchmark", None, "accuracy table, as of jaxnas.main", required=True)
_STEPS = flags.DEFINE_integer("steps", 100, "steps T to use of each search", lower_bound=1)
_MU = flags.DEFINE_list("mu", ["0", "1", "2"], "penalties")
_QUANTILES = flags.DEFINE_list("quantiles", ["0.25", "0.5", "0.75"], "quantiles of T~ that nu starts from")

Records = dict[tuple[int, str, int], dict[str, Any]]


def records_of(folders: list[str]) -> Records:
  """By (seed, phase, step); a line that a kill cut short is left out."""
  found: Records = {}
  for folder in folders:
    for line in (pathlib.Path(folder) / "scores.jsonl").read_text().splitlines():
      record = json.loads(line) if line.endswith("}") else {}
      if record.get("algorithm") == "nasi":
        found[record["seed"], record["phase"], record["step"]] = record
  return found


def step_of(records: Records, seed: int, t: int) -> Step:
  record = records[seed, "search", t]
  return Step(float(record["trace_norm"]), np.array(record["gradient"], np.float64))


def main(argv: list[str]) -> None:
  """Prints the table."""
  space, benchmark = spaces.get("nb201"), tabular.open_benchmark(_BENCHMARK.value, spaces.get("nb201"))
  records = records_of(argv[1:])
  seeds = sorted({seed for seed, phase, t in records if phase == "search" and t == _STEPS.value})
  seeds = [s for s in seeds if (s, "calibration", 1) in records]
  if not seeds:
    sys.exit(f"no search of --steps={_STEPS.value} with a calibration in {' '.join(argv[1:]) or 'no WORKDIR'}")
  rows = []
  for mode, mu, quantile in itertools.product(
    ("fixed", "adaptive"), map(float, _MU.value), map(float, _QUANTILES.value)
  ):
    found = []
    for seed in seeds:
      norms = [float(r["trace_norm"]) for (s, phase, _), r in records.items() if s == seed and phase == "calibration"]
      nu = float(np.quantile([n for n in norms if np.isfinite(n)], quantile))
      try:
        ascent = ascend(lambda t, s=seed: step_of(records, s, t), steps=_STEPS.value, nu=nu, mode=mode, mu=mu)
      except ConfigError:  # every gradient was switched off
        continue
      found.append(space.format(space.from_weights(ascent.alphas)))
    accuracies = [[benchmark.accuracy(a, d) for a in found] for d in benchmark.datasets]
    rows.append(
      [mode, f"{mu:g}", f"{quantile:g}", str(len(found)), *(report.mean_std(a, digits=2) for a in accuracies)]
    )
  print(report.markdown_table(["nu", "mu", "quantile", "seeds", *benchmark.datasets], rows))


def _guarded(argv: list[str]) -> None:
  try:
    main(argv)
  except (JaxnasError, OSError) as error:
    sys.exit(f"nasi_penalties: {error}")


if __name__ == "__main__":
  app.run(_guarded)
