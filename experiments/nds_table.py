"""How proxies rank the eleven Network Design Spaces on ImageNet: one table, beside what parameters alone do.

  python experiments/nds_table.py --tables=FOLDER --data_dir=TFDS_FOLDER --out=OUT

FOLDER has the published tables, FILES below. Runs `python -m jaxnas.main` for each space and job, each in a work
directory below --out, and continues there after a kill; --seconds ends all in time. Then it writes OUT/nds.md from
what these directories hold.

Proxies of one pass see squares of ImageNet of --side pixels instead of 224. Networks of stages are those of the tables,
a compilation each. Those of cells all have --channels and --cells, one compilation a space (0: their own, one for each
width and depth), so there proxies know the genotype and not the size, which the controls do. GenNAS's regression is on
the networks that its code builds, on 32 pixels, with --steps steps instead of 100. XLA
optimises little and emits loops the older way, which shortens compilations several times, but for the regression of
cells, which compiles seldom.

The control rate_decay is minus the learning rate times the weight decay that a network was trained with, in the spaces
where each has its own: what no proxy sees.

Beside a proxy's Spearman stands what it adds to the number of parameters: the difference to their Spearman, and the
partial correlation of ranks with the accuracy, parameters held; both with errors over the same bootstrap samples.
"""

import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
from absl import app, flags
from scipy import stats

from jaxnas import report, spaces
from jaxnas.files import write_atomically
from jaxnas.spaces.nds import CellSpace
from jaxnas.spaces.nds.cells import costs, encoding
from jaxnas.tabular import Benchmark, metrics

FILES = {
  "nds_amoeba": "Amoeba",
  "nds_darts": "DARTS",
  "nds_darts_fix_w_d": "DARTS_fix-w-d",
  "nds_darts_lr_wd": "DARTS_lr-wd",
  "nds_enas": "ENAS",
  "nds_nasnet": "NASNet",
  "nds_pnas": "PNAS",
  "nds_resnext_a": "ResNeXt-A",
  "nds_resnext_b": "ResNeXt-B",
  "nds_resnet_lr_wd": "ResNet_lr-wd",
  "nds_vanilla_lr_wd": "Vanilla_lr-wd",
}
CONTROLS = ("params", "effective_params", "flops", "depth", "width", "rate_decay")
PROXIES = ("naswot", "jacob_cov", "synflow", "log_synflow", "snip", "grad_norm", "mgm")
REGRESSION = "signal_regression"
BESIDE = (REGRESSION, *CONTROLS, "naswot")
RESAMPLES = 2000
# Programs run longer. XLA ends a process that gives it a flag which it does not know.
COMPILES_FAST = "--xla_backend_optimization_level=0" + " --xla_cpu_use_fusion_emitters=false" * (
  importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10."))
)

FLAGS = flags.FLAGS
flags.DEFINE_string("tables", None, "folder of the published tables, NAME.jsonl.gz", required=True)
flags.DEFINE_string("data_dir", None, "TFDS folder with imagenet2012 and cifar10", required=True)
flags.DEFINE_string("out", "out_nds", "folder for the work directories and the table")
flags.DEFINE_list("only", [], f"spaces; default: all: {', '.join(FILES)}")
flags.DEFINE_list("jobs", ["one_pass", "regression"], "what to run; none: tabulate what there is")
flags.DEFINE_integer("archs", 60, "architectures of a space of cells for proxies of one pass", lower_bound=3)
flags.DEFINE_integer("staged", 60, "architectures of a space of stages for proxies of one pass", lower_bound=3)
flags.DEFINE_integer("channels", 16, "of scored networks of cells; 0: their own", lower_bound=0)
flags.DEFINE_integer("cells", 8, "of scored networks of cells; 0: their own", lower_bound=0)
flags.DEFINE_integer("regressed_channels", 0, "of regressed networks of cells; 0: their own", lower_bound=0)
flags.DEFINE_integer("regressed_cells", 0, "of regressed networks of cells; 0: their own", lower_bound=0)
flags.DEFINE_integer("regressed", 20, "architectures of a space for the regression", lower_bound=3)
flags.DEFINE_integer("side", 64, "pixels of a side", lower_bound=32)
flags.DEFINE_integer("steps", 20, "of the regression", lower_bound=1)
flags.DEFINE_float("seconds", math.inf, "wall seconds after which everything stops, to be continued")


def command(space: str, job: str, count: int) -> list[str]:
  """Of a job, without its work directory. The task is the one that GenNAS's code has for this kind of networks."""
  cells = isinstance(spaces.get(space), CellSpace)
  own = {
    "one_pass": [
      f"--proxies={','.join(PROXIES)}",
      "--dataset=imagenet2012",
      f"--score_side={FLAGS.side}",
      "--score_batch=16",
    ],
    "regression": [
      f"--proxies={REGRESSION}",
      "--dataset=cifar10",
      f"--signal_task=CONF_{'DARTS' if cells else 'RESNET'}",
      f"--signal_steps={FLAGS.steps}",
      f"--signal_interval={FLAGS.steps}",
    ],
  }[job]
  for name in ("channels", "cells") if cells else ():
    flag, size = (f"score_{name}", name) if job == "one_pass" else (f"signal_{name}", f"regressed_{name}")
    own += [f"--{flag}={FLAGS[size].value}"] if FLAGS[size].value else []
  common = [sys.executable, "-m", "jaxnas.main", "--algorithm=score", f"--space={space}", f"--benchmark={table(space)}"]
  return [*common, f"--archs=benchmark:{count}", f"--data_dir={FLAGS.data_dir}", "--noprogress", *own]


def environment(space: str, job: str) -> dict[str, str]:
  """Of a job: XLA optimises little where compilations take nearly all the time, unless $XLA_FLAGS says otherwise."""
  steps = job == "regression" and isinstance(spaces.get(space), CellSpace)
  return {**({} if steps else {"XLA_FLAGS": COMPILES_FAST}), **os.environ}


def table(space: str) -> pathlib.Path:
  """The file of a space."""
  return pathlib.Path(FLAGS.tables) / f"{FILES[space]}.jsonl.gz"


def opened(space: str) -> Benchmark:
  """The accuracies of a space."""
  return spaces.get(space).read_benchmark(table(space))


def run(todo: list[str], out: pathlib.Path, end: float) -> None:
  """Runs or continues all jobs, until the time is over; a failure stops the script."""
  for job in FLAGS.jobs:
    for space in todo:
      left = end - time.monotonic()
      if left < 5:
        return
      most = len(opened(space).archs)
      usual = FLAGS.archs if isinstance(spaces.get(space), CellSpace) else FLAGS.staged
      count = min(most, usual if job == "one_pass" else FLAGS.regressed)
      folder = out / f"{space}_{job}"
      if len(next(iter(scores(folder).values()), ())) >= count:
        continue
      print(f"== {space}, {job}", flush=True)
      begin = os.times()
      process = subprocess.Popen([*command(space, job, count), f"--workdir={folder}"], env=environment(space, job))
      try:
        code = process.wait(None if math.isinf(left) else left)
      except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        code = None
      now = os.times()
      spent = now.children_user + now.children_system - begin.children_user - begin.children_system
      with (out / "cpu.jsonl").open("a") as file:
        file.write(json.dumps({"space": space, "job": job, "cpu_seconds": spent}) + "\n")
      if code:
        sys.exit(f"{space}, {job}: exit code {code}")


def depth_and_width(space: Any, code: np.ndarray) -> tuple[float, float]:
  """Cells, or blocks of all stages; channels of the first cell, or the mean over stages."""
  if isinstance(space, CellSpace):
    own = encoding.genotype(space.table, code)
    return own.depth, own.width
  stages = space.table.stages
  return float(code[1 : 1 + stages].sum()), float(code[1 + stages : 1 + 2 * stages].mean())


def controls(space: Any, archs: list[str]) -> dict[str, np.ndarray]:
  """What is known of the architectures and of their training without a network."""
  codes = [space.parse(arch) for arch in archs]
  counted = [space.published_costs(code) for code in codes]
  sizes = np.array([depth_and_width(space, code) for code in codes], np.float64).T
  found = {"params": np.array([c.params for c in counted]), "flops": np.array([c.macs for c in counted])}
  found["effective_params"] = found["params"]
  if isinstance(space, CellSpace):
    genotypes = [encoding.genotype(space.table, code) for code in codes]
    effective = [costs.effective_params(g, space.ops, costs.CellSize(g.width, g.depth, 1000)) for g in genotypes]
    found["effective_params"] = np.array(effective)
  if space.table.learning_rate is None:
    trained = opened(space.name)
    rows = [trained.index(arch) for arch in archs]
    found["rate_decay"] = -trained.columns["base_lr"][rows] * trained.columns["weight_decay"][rows]
  return found | {"depth": sizes[0], "width": sizes[1]}


def scores(folder: pathlib.Path) -> dict[str, dict[str, float]]:
  """`rank_by` by proxy and architecture."""
  found: dict[str, dict[str, float]] = {}
  path = folder / "scores.jsonl"
  for line in path.read_text().splitlines() if path.exists() else ():
    record = json.loads(line)
    if record.get("kind") == "score":
      value = record["rank_by"]
      found.setdefault(record["proxy"], {})[record["arch"]] = -math.inf if value is None else float(value)
  return found


def adds(values: np.ndarray, params: np.ndarray, accuracy: np.ndarray) -> tuple[float, float, float, float]:
  """(difference to the Spearman of params, its error, partial correlation of ranks, its error), by bootstrap."""

  def once(rows: np.ndarray) -> tuple[float, float]:
    x, p, y = (stats.rankdata(column[rows]) for column in (values, params, accuracy))
    if min(np.ptp(x), np.ptp(p), np.ptp(y)) == 0:
      return math.nan, math.nan
    xy, py, xp = (np.corrcoef(*pair)[0, 1] for pair in ((x, y), (p, y), (x, p)))
    rest = (1 - xp**2) * (1 - py**2)
    return xy - py, (xy - xp * py) / math.sqrt(rest) if rest > 1e-9 else math.nan

  generator, n = np.random.default_rng(0), len(values)
  with np.errstate(invalid="ignore"):
    drawn = np.array([once(generator.integers(0, n, n)) for _ in range(RESAMPLES)])
  errors = [
    column[np.isfinite(column)].std(ddof=1) if np.isfinite(column).sum() > 1 else math.nan for column in drawn.T
  ]
  difference, partial = once(np.arange(n))
  return difference, errors[0], partial, errors[1]


def line_of(space: str, name: str, archs: list[str], values: np.ndarray) -> dict[str, Any]:
  """A row of a table: how these values of architectures agree with the accuracies."""
  benchmark = opened(space)
  accuracy = np.array([benchmark.accuracy(arch, "imagenet2012") for arch in archs])
  values = np.where(np.isfinite(values), values, -np.inf).astype(np.float64)
  added = adds(values, controls(spaces.get(space), archs)["params"], accuracy) if name != "params" else None
  return {"proxy": name, **vars(metrics.agreement(values, accuracy, resamples=RESAMPLES)), "adds": added}


def lines_of(space: str, out: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of one space; where nothing is scored yet, the controls on all of its table."""
  found = scores(out / f"{space}_one_pass") | scores(out / f"{space}_regression")
  usual = next((list(of) for name, of in found.items() if name != REGRESSION), list(opened(space).archs))
  rows = [line_of(space, name, usual, values) for name, values in controls(spaces.get(space), usual).items()]
  return rows + [line_of(space, name, list(of), np.array(list(of.values()))) for name, of in found.items()]


def beside_the_regression(space: str, out: pathlib.Path) -> list[str]:
  """A row: the regression's agreement, and on the same architectures that of the controls and of one proxy."""
  values = scores(out / f"{space}_regression").get(REGRESSION, {})
  if not values:
    return []
  archs, other = list(values), scores(out / f"{space}_one_pass").get("naswot", {})
  columns = {REGRESSION: np.array(list(values.values())), **controls(spaces.get(space), archs)}
  if set(archs) <= set(other):
    columns["naswot"] = np.array([other[arch] for arch in archs])
  lines = {name: line_of(space, name, archs, own) for name, own in columns.items()}
  shown = [number(lines[n]["spearman"], lines[n]["spearman_se"]) if n in lines else "" for n in BESIDE]
  rates = [retrieved(lines[name]) for name in (REGRESSION, "params")]
  return [space, str(len(archs)), *shown, *rates]


def number(value: float, error: float | None = None) -> str:
  """With two digits, and its error."""
  if not math.isfinite(value):
    return ""
  return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def retrieved(line: dict[str, Any]) -> str:
  """The retrieving rate; none of a constant, whose first are any."""
  return f"{line['retrieving_rate']:.0%}" if math.isfinite(line["spearman"]) else ""


def written(todo: list[str], out: pathlib.Path) -> str:
  """The tables: one of all Spearmans, and one a space."""
  found = {space: lines_of(space, out) for space in todo}
  names = (*CONTROLS, *PROXIES, REGRESSION)
  head = ["space", *names]
  body, rates = [], []
  for space, lines in found.items():
    by = {line["proxy"]: line for line in lines}
    body.append([space, *(number(by[n]["spearman"]) if n in by else "" for n in names)])
    rates.append([space, *(retrieved(by[n]) if n in by else "" for n in names)])
  columns = [[float(row[i].rstrip("%")) for row in rates if row[i]] for i in range(1, len(head))]
  rates.append(["mean", *(f"{sum(own) / len(own):.0f}%" if own else "" for own in columns)])
  text = ["## Spearman\n", report.markdown_table(head, body)]
  text += ["\n## Retrieving rate at the top 10 %\n", report.markdown_table(head, rates)]
  regressed = [row for space in todo if (row := beside_the_regression(space, out))]
  if regressed:
    head = ["space", "n", *BESIDE, f"top 10 % retrieved by {REGRESSION}", "by params"]
    text += [f"\n## {REGRESSION}, and Spearman of others there\n", report.markdown_table(head, regressed)]
  for space, lines in found.items():
    rows = []
    for line in sorted(lines, key=lambda line: -np.nan_to_num(line["spearman"], nan=-2)):
      more = line["adds"] or (math.nan,) * 4
      name = f"{line['proxy']} (control)" if line["proxy"] in CONTROLS else line["proxy"]
      row = [name, line["n"], line["degenerate"], number(line["spearman"], line["spearman_se"])]
      row += [number(line["kendall"]), retrieved(line), number(*more[:2]), number(*more[2:])]
      rows.append(row)
    head = [
      "proxy",
      "n",
      "degenerate",
      "Spearman",
      "Kendall τ-b",
      "top 10 % retrieved",
      "less that of params",
      "partial",
    ]
    text += [f"\n## {space}\n", report.markdown_table(head, rows)]
  return "\n".join(text) + "\n"


def main(argv: list[str]) -> None:
  """Runs the jobs and writes the tables."""
  del argv
  todo, out = FLAGS.only or list(FILES), pathlib.Path(FLAGS.out)
  unknown = set(todo) - set(FILES)
  if unknown:
    raise app.UsageError(f"--only={','.join(sorted(unknown))}: choose from {', '.join(FILES)}")
  out.mkdir(parents=True, exist_ok=True)
  run(todo, out, time.monotonic() + FLAGS.seconds)
  text = written(todo, out)
  write_atomically(out / "nds.md", text.encode())
  print(text)


if __name__ == "__main__":
  app.run(main)
