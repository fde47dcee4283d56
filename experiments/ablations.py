"""Why a combination of proxies ranks NAS-Bench-201 as it does: one setting of its networks and batches at a time.

  python experiments/ablations.py --data_dir=TFDS_FOLDER --out=OUT

Runs `python -m jaxnas.main --algorithm=score` once a setting on the same random architectures, each in its own work
directory below --out, and continues there after a kill. The default is the first of --batches passes (weights and
batch) of the job `batches`; rows of several passes average each proxy's ranks before the combination. Then it writes
  OUT/ablations.md   Spearman of the combination on each data set, and its difference from the default with the
                     standard deviation of that difference over bootstrap samples of architectures (the same for both);
                     CPU seconds an architecture; the cheapest setting within --tolerance of the best
CPU seconds are measured in this process, see proxy_costs.py, and kept in OUT/costs.json.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags
from jaxtyping import Float
from kept_scores import Pass, combined, common, draws, passes, spearman_of
from proxy_costs import cpu_seconds

from jaxnas import data, report, spaces, tabular
from jaxnas.base import NetworkConfig
from jaxnas.files import write_atomically
from jaxnas.tabular import metrics

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "accuracy table, as of jaxnas.main; default: the embedded one")
flags.DEFINE_string("data_dir", None, "TFDS folder")
flags.DEFINE_string("out", "out_ablations", "folder for the work directories and the table")
flags.DEFINE_list("proxies", ["jacob_cov", "effective_params"], "what is combined; the first is shown alone too")
flags.DEFINE_integer("architectures", 300, "random ones", lower_bound=3)
flags.DEFINE_integer("batches", 5, "passes of the default", lower_bound=1)
flags.DEFINE_integer("timed", 20, "architectures that CPU seconds are measured on", lower_bound=1)
flags.DEFINE_integer("resamples", 2000, "bootstrap samples", lower_bound=2)
flags.DEFINE_float("tolerance", 0.005, "mean Spearman that a cheaper setting may lose to the best")
flags.DEFINE_list("only", [], "jobs to run and tabulate; default: all")

DEFAULT = "batches"
JOBS = {  # job -> (title, flags that depart from the default)
  DEFAULT: ("default: N=32, C=16, 5 cells a stage, torch_default, CIFAR-10", {}),
  "batch16": ("N=16", {"score_batch": "16"}),
  "batch64": ("N=64", {"score_batch": "64"}),
  "batch128": ("N=128", {"score_batch": "128"}),
  "channels4": ("C=4", {"score_channels": "4"}),
  "channels8": ("C=8", {"score_channels": "8"}),
  "cells1": ("1 cell a stage", {"score_cells": "1"}),
  "cells2": ("2 cells a stage", {"score_cells": "2"}),
  "kaiming_fan_in": ("Kaiming normal, fan in", {"score_init": "kaiming_fan_in"}),
  "kaiming_fan_out": ("Kaiming normal, fan out", {"score_init": "kaiming_fan_out"}),
  "synthetic": ("synthetic images", {"dataset": "synthetic"}),
  "imagenet16_120": ("ImageNet16-like images, 16 x 16", {"dataset": "imagenet16_120"}),
  "small_batch16": ("the same, N=16", {"score_batch": "16", "dataset": "imagenet16_120"}),
  "small_batch64": ("the same, N=64", {"score_batch": "64", "dataset": "imagenet16_120"}),
  "small_cells2": ("the same, 2 cells a stage", {"score_cells": "2", "dataset": "imagenet16_120"}),
}


def run_job(name: str, out: pathlib.Path) -> None:
  """Runs or continues one job; a failure stops the script."""
  settings = {"dataset": "cifar10", **JOBS[name][1], "proxies": ",".join(FLAGS.proxies), "workdir": str(out / name)}
  settings |= {"archs": f"random:{FLAGS.architectures}"}
  settings |= {flag: FLAGS[flag].value for flag in ("benchmark", "data_dir") if FLAGS[flag].value}
  if name == DEFAULT:
    settings["repeats_per_seed"] = str(FLAGS.batches)
  command = [sys.executable, "-m", "jaxnas.main", "--algorithm=score"]
  print(f"\n== {name}", flush=True)
  subprocess.run(command + [f"--{flag}={value}" for flag, value in settings.items()], check=True)


def cost(name: str, path: pathlib.Path) -> float:
  """CPU seconds an architecture of one pass, measured once."""
  known = json.loads(path.read_text()) if path.exists() else {}
  if name not in known:
    own = JOBS[name][1]
    dataset = own.get("dataset", "cifar10")
    cells = int(own["score_cells"]) if "score_cells" in own else None
    classes = data.load(dataset, data_dir=FLAGS.data_dir).classes
    config = NetworkConfig(int(own.get("score_channels", 16)), cells, classes, own.get("score_init", "torch_default"))
    batch = int(own.get("score_batch", 32))
    known[name] = cpu_seconds(FLAGS.proxies, "nb201", config, dataset, FLAGS.data_dir, batch, FLAGS.timed)
    write_atomically(path, json.dumps(known).encode())
  return known[name]


def main(argv: list[str]) -> None:
  """Runs the jobs and writes the table."""
  del argv
  unknown = set(FLAGS.only) - set(JOBS)
  if unknown:
    raise app.UsageError(f"--only={','.join(sorted(unknown))}: choose from {', '.join(JOBS)}")
  out, names = pathlib.Path(FLAGS.out), [DEFAULT, *(name for name in FLAGS.only or JOBS if name != DEFAULT)]
  for name in names:
    run_job(name, out)
  kept = {name: [one for _, one in sorted(passes([out / name]).items())] for name in names}
  archs = common([one for several in kept.values() for one in several], FLAGS.proxies)[: FLAGS.architectures]
  seconds = {name: cost(name, out / "costs.json") for name in names}

  rows: list[tuple[str, list[Pass], float]] = [(JOBS[DEFAULT][0], kept[DEFAULT][:1], seconds[DEFAULT])]
  for count in range(2, FLAGS.batches + 1):
    rows.append((f"{count} batches, mean ranks", kept[DEFAULT][:count], count * seconds[DEFAULT]))
  rows += [(JOBS[name][0], kept[name], seconds[name]) for name in names if name != DEFAULT]
  text = table(rows, kept[DEFAULT], archs)
  print(text)
  write_atomically(out / "ablations.md", text.encode())


def table(rows: list[tuple[str, list[Pass], float]], default: list[Pass], archs: list[str]) -> str:
  """The table with what follows from it; `default` are all passes of the default setting."""
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get("nb201"))
  assert benchmark is not None
  truths = [np.array([benchmark.accuracy(a, d) for a in archs]) for d in benchmark.datasets]
  drawn = draws(len(archs), FLAGS.resamples)

  def rhos(scores: Float[np.ndarray, " m"]) -> Float[np.ndarray, " D"]:
    return np.array([metrics.spearman(scores, truth) for truth in truths])

  def resampled(scores: Float[np.ndarray, " m"]) -> Float[np.ndarray, "D R"]:
    return np.array([spearman_of(scores, truth, drawn) for truth in truths])

  reference = combined(rows[0][1], FLAGS.proxies, archs)
  base, base_resampled, means, body = rhos(reference), resampled(reference), [], []
  for title, several, seconds in rows:
    scores, alone = combined(several, FLAGS.proxies, archs), combined(several, FLAGS.proxies[:1], archs)
    found, difference = rhos(scores), rhos(scores) - base
    error = (resampled(scores) - base_resampled).std(1, ddof=1)
    means.append(found.mean())
    departs = " / ".join(f"{d:+.3f} ± {e:.3f}" for d, e in zip(difference, error, strict=True))
    first = " / ".join(f"{rho:.3f}" for rho in rhos(alone))
    body.append([title, *(f"{rho:.3f}" for rho in found), departs if body else "", first, f"{seconds:.3f}"])
  header = ["setting", *benchmark.datasets, "difference", f"{FLAGS.proxies[0]} alone", "CPU s an architecture"]
  best = int(np.argmax(means))
  cheap = min((i for i, mean in enumerate(means) if mean >= means[best] - FLAGS.tolerance), key=lambda i: rows[i][2])
  error = base_resampled.std(1, ddof=1)
  notes = [
    f"{len(archs)} architectures. Error of a single Spearman by the bootstrap: "
    + " / ".join(f"{e:.3f}" for e in error)
    + ".",
    f"Best mean of the data sets: {rows[best][0]} ({means[best]:.3f}); cheapest within {FLAGS.tolerance} of it: "
    f"{rows[cheap][0]} ({means[cheap]:.3f}, {rows[cheap][2]:.3f} CPU s).",
  ]
  if len(default) > 1:
    each = np.array([rhos(combined([one], FLAGS.proxies, archs)) for one in default])
    spread = " / ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(each.mean(0), each.std(0, ddof=1), strict=True))
    notes.append(f"The {len(default)} passes of the default one by one, mean ± standard deviation: {spread}.")
  return "\n".join([report.markdown_table(header, body), "", *notes]) + "\n"


if __name__ == "__main__":
  app.run(main)
