"""Why a combination of proxies ranks NAS-Bench-201 as it does: one setting of its networks and batches at a time.

  python experiments/ablations.py --data_dir=TFDS_FOLDER --out=OUT

Runs `python -m jaxnas.main --algorithm=score` once a setting on the same random architectures, each in its own work
directory below --out, and continues there after a kill. A seed is an initialisation and a batch, the same for all
settings as far as they let it. Then it writes
  OUT/ablations.md   Spearman of the combination on each data set, mean over the setting's seeds; its difference from
                     the default on the same seeds, with the standard deviation of that difference over bootstrap
                     samples of architectures (the same for both) and its standard error over seeds; CPU seconds an
                     architecture and batch; the cheapest setting within --tolerance of the best
Rows of several batches average each proxy's ranks over the seeds of the row above before they are combined.
CPU seconds are measured in this process, see proxy_costs.py, and kept in OUT/costs.json.
"""

import json
import math
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
flags.DEFINE_integer("batches", 5, "seeds of the default and of small images", lower_bound=1)
flags.DEFINE_integer(
  "seeds", 3, "seeds of settings that cost less than the default; the others have one", lower_bound=1
)
flags.DEFINE_integer("timed", 20, "architectures that CPU seconds are measured on; 0: none anew", lower_bound=0)
flags.DEFINE_integer("resamples", 2000, "bootstrap samples", lower_bound=2)
flags.DEFINE_float("tolerance", 0.005, "mean Spearman that a cheaper setting may lose to the best")
flags.DEFINE_bool("run", True, "run the jobs first; off: tabulate what the work directories hold")
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
  "imagenet16_120": ("16 x 16: ImageNet16-like images", {"dataset": "imagenet16_120"}),
  "small_batch16": ("16 x 16, N=16", {"score_batch": "16", "dataset": "imagenet16_120"}),
  "small_batch64": ("16 x 16, N=64", {"score_batch": "64", "dataset": "imagenet16_120"}),
  "small_batch128": ("16 x 16, N=128", {"score_batch": "128", "dataset": "imagenet16_120"}),
  "small_cells2": ("16 x 16, 2 cells a stage", {"score_cells": "2", "dataset": "imagenet16_120"}),
}
SEVERAL = (DEFAULT, "imagenet16_120")  # whose seeds are averaged too
ONE_SEED = ("batch64", "batch128", "kaiming_fan_in", "kaiming_fan_out", "synthetic", "small_batch128")


def run_job(name: str, out: pathlib.Path) -> None:
  """Runs or continues one job; a failure stops the script."""
  settings = {"dataset": "cifar10", **JOBS[name][1], "proxies": ",".join(FLAGS.proxies), "workdir": str(out / name)}
  settings |= {"archs": f"random:{FLAGS.architectures}"}
  settings |= {flag: FLAGS[flag].value for flag in ("benchmark", "data_dir") if FLAGS[flag].value}
  if settings["dataset"] == "synthetic":
    settings.pop("data_dir", None)
  seeds = FLAGS.batches if name in SEVERAL else 1 if name in ONE_SEED else FLAGS.seeds
  settings["seeds"] = ",".join(map(str, range(seeds)))
  command = [sys.executable, "-m", "jaxnas.main", "--algorithm=score"]
  print(f"\n== {name}", flush=True)
  subprocess.run(command + [f"--{flag}={value}" for flag, value in settings.items()], check=True)


def cost(name: str, path: pathlib.Path) -> float:
  """CPU seconds an architecture of one pass, measured once; nan if they were not."""
  known = json.loads(path.read_text()) if path.exists() else {}
  if name not in known and not FLAGS.timed:
    return math.nan
  if name not in known:
    own = JOBS[name][1]
    dataset = own.get("dataset", "cifar10")
    cells = int(own["score_cells"]) if "score_cells" in own else None
    folder = None if dataset == "synthetic" else FLAGS.data_dir
    classes = data.load(dataset, data_dir=folder).classes
    config = NetworkConfig(int(own.get("score_channels", 16)), cells, classes, own.get("score_init", "torch_default"))
    batch = int(own.get("score_batch", 32))
    known[name] = cpu_seconds(FLAGS.proxies, "nb201", config, dataset, folder, batch, FLAGS.timed)
    write_atomically(path, json.dumps(known).encode())
  return known[name]


def main(argv: list[str]) -> None:
  """Runs the jobs and writes the table."""
  del argv
  unknown = set(FLAGS.only) - set(JOBS)
  if unknown:
    raise app.UsageError(f"--only={','.join(sorted(unknown))}: choose from {', '.join(JOBS)}")
  out, names = pathlib.Path(FLAGS.out), [DEFAULT, *(name for name in FLAGS.only or JOBS if name != DEFAULT)]
  for name in names if FLAGS.run else ():
    run_job(name, out)
  kept: dict[str, dict[int, Pass]] = {}
  for name in names:
    found = {seed: one for (seed, _), one in sorted(passes([out / name]).items())}
    kept[name] = {seed: one for seed, one in found.items() if least(one) >= FLAGS.architectures}
  archs = common([one for several in kept.values() for one in several.values()], FLAGS.proxies)
  seconds = {name: cost(name, out / "costs.json") for name in names}
  text = table(kept, seconds, archs)
  print(text)
  write_atomically(out / "ablations.md", text.encode())


def least(one: Pass) -> int:
  """Architectures that every proxy has scored in a pass, fewer where it was interrupted."""
  return min(len(one.get(proxy, {})) for proxy in FLAGS.proxies)


def table(kept: dict[str, dict[int, Pass]], seconds: dict[str, float], archs: list[str]) -> str:
  """The table with what follows from it.

  Args:
    kept: of each job the scores by seed.
    seconds: CPU seconds an architecture, by job.
    archs: those that all have scored.
  """
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get("nb201"))
  assert benchmark is not None
  truths = [np.array([benchmark.accuracy(a, d) for a in archs]) for d in benchmark.datasets]
  drawn = draws(len(archs), FLAGS.resamples)

  def rhos(rankings: list[np.ndarray]) -> Float[np.ndarray, "K D"]:
    return np.array([[metrics.spearman(scores, truth) for truth in truths] for scores in rankings])

  def resampled(rankings: list[np.ndarray]) -> Float[np.ndarray, "D R"]:
    return np.mean([[spearman_of(scores, truth, drawn) for truth in truths] for scores in rankings], 0)

  default = {seed: combined([one], FLAGS.proxies, archs) for seed, one in kept[DEFAULT].items()}
  level = rhos(list(default.values())).mean()
  body, means, costs = [], [], []

  def row(title: str, rankings: list[np.ndarray], beside: list[np.ndarray], alone: list[np.ndarray], cost: float):
    """Adds a row; `beside` are the default's to compare with, one each, or of a single ranking those that it joins."""
    found, reference = rhos(rankings), rhos(beside)
    gains = found.mean(0) - reference.mean(0)
    errors = (resampled(rankings) - resampled(beside)).std(1, ddof=1)
    departs = [f"{gain:+.3f} ± {error:.3f}" for gain, error in zip(gains, errors, strict=True)]
    if len(found) > 1:
      over = (found - reference).std(0, ddof=1) / np.sqrt(len(found))
      departs = [f"{text} ({error:.3f})" for text, error in zip(departs, over, strict=True)]
    means.append(level + gains.mean())
    costs.append(cost)
    first = " / ".join(f"{rho:.3f}" for rho in rhos(alone).mean(0))
    difference = " / ".join(departs) if body else ""
    body.append(
      [
        title,
        len(rankings),
        *(f"{rho:.3f}" for rho in found.mean(0)),
        difference,
        first,
        f"{cost:.3f}" if cost > 0 else "-",
      ]
    )

  for name, own in kept.items():
    shared = [seed for seed in own if seed in default]
    rankings, alone = (
      [combined([own[seed]], some, archs) for seed in shared] for some in (FLAGS.proxies, FLAGS.proxies[:1])
    )
    row(JOBS[name][0], rankings, [default[seed] for seed in shared], alone, seconds[name])
    if name in SEVERAL:
      short = JOBS[name][0].split(":")[0]
      for count in range(2, min(len(own), FLAGS.batches) + 1):
        first = list(own.values())[:count]
        ranking, alone = (combined(first, some, archs) for some in (FLAGS.proxies, FLAGS.proxies[:1]))
        row(f"{short}, {count} batches", [ranking], list(default.values())[:count], [alone], count * seconds[name])
  header = ["setting", "seeds", *benchmark.datasets, "difference", f"{FLAGS.proxies[0]} alone", "CPU s"]
  best = int(np.argmax(means))
  close = [i for i, mean in enumerate(means) if mean >= means[best] - FLAGS.tolerance]
  cheap = min((i for i in close if costs[i] > 0), key=lambda i: costs[i], default=best)
  singly = rhos(list(default.values()))
  spread = singly.std(0, ddof=1) if len(singly) > 1 else ()
  notes = [
    f"{len(archs)} architectures. Of the default, "
    + (f"standard deviation over seeds: {' / '.join(f'{s:.3f}' for s in spread)}; " if len(singly) > 1 else "")
    + "bootstrap error: "
    + " / ".join(f"{e:.3f}" for e in resampled(list(default.values())[:1]).std(1, ddof=1))
    + ". Difference: from the default on the same seeds, ± paired bootstrap (standard error over seeds).",
    "Settings are compared by the default's mean over all its seeds and data sets plus the difference. "
    f"Best: {body[best][0]} ({means[best]:.4f})"
    + (
      f"; cheapest within {FLAGS.tolerance} of it: {body[cheap][0]} ({means[cheap]:.4f}, {costs[cheap]:.3f} CPU s)."
      if costs[cheap] > 0
      else "."
    ),
  ]
  return "\n".join([report.markdown_table(header, body), "", *notes]) + "\n"


if __name__ == "__main__":
  app.run(main)
