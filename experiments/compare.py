"""All methods and all proxies on equal terms: NAS-Bench-201, one set of images, one sample of architectures.

  python experiments/compare.py --benchmark=PATH --data_dir=TFDS_FOLDER --out=OUT

Runs `python -m jaxnas.main` once per job, each in its own work directory below --out, and continues there after a kill.
Then it writes, from what these directories hold:
  OUT/proxies.md, .csv   each proxy: Spearman, Kendall, retrieving rate, regret, accuracy of its best, seconds
  OUT/searches.md, .csv  each search: test accuracy of what it found, mean and standard deviation over seeds
  OUT/spearman.png, OUT/scatter.png
Proxies that cost more than a second an architecture score the first --costly architectures of the same sample.
"""

import csv
import io
import json
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

from jaxnas import report, spaces, tabular
from jaxnas.files import write_atomically
from jaxnas.report import comparison
from jaxnas.report.correlation_plots import plot_ranks, plot_scatter

FLAGS = flags.FLAGS
flags.DEFINE_string("benchmark", None, "accuracy table, as of jaxnas.main", required=True)
flags.DEFINE_string("data_dir", None, "TFDS folder")
flags.DEFINE_string("dataset", "cifar10", "images to score and search with")
flags.DEFINE_string("out", "out_compare", "folder for the work directories and the tables")
flags.DEFINE_integer("cheap", 1000, "architectures for proxies of one pass", lower_bound=3)
flags.DEFINE_integer("costly", 300, "architectures for the other proxies", lower_bound=3)
flags.DEFINE_integer("seeds", 10, "seeds of each search", lower_bound=1)
flags.DEFINE_list("only", [], "jobs to run and tabulate; default: all")

ONE_PASS = "mgm,grad_norm,snip,plain,l2_norm,params,flops,jacob_cov,naswot,zen,synflow,fisher"
SEARCHES = {  # job -> its title; the result's key and the title of what half or a quarter of the budget found
  "knas": ("KNAS, k=40", "half_arch", "KNAS, k=20"),
  "nasi": ("NASI(T), FIX, mu=1, soft", "", ""),
  "gennas": ("GenNAS, CONF_NB101, shortened", "", ""),
  "tenas_frozen": ("TE-NAS, batch_frozen", "", ""),
}
NASI = (  # chosen on seeds 0 to 4 (results/nasi.md): the paper's main text has no settings for this benchmark
  "--nasi_steps=100",
  "--nasi_batch=16",
  "--nasi_relaxation=soft",
  "--nasi_mu=1",
  "--nasi_nu_mode=quantile",
)
GENNAS_SHORT = (  # 50 individuals of 20 steps; published: 450 of 100, hours a seed on a CPU core
  "--signal_steps=20",
  "--evolution_population=10",
  "--evolution_tournament=4",
  "--evolution_children=40",
)
CONTROLS = ("params", "flops")
DRAWS = 2000
PUBLISHED = (
  ("KNAS, k=20, published", "93.05", "68.91", "34.11"),
  ("KNAS, k=40, published", "93.43", "71.05", "45.05"),
  ("NASI(T), published", "93.08 ± 0.24", "69.51 ± 0.59", "40.87 ± 0.85"),
  ("NASI(4T), published", "93.55 ± 0.10", "71.20 ± 0.14", "44.84 ± 1.41"),
  ("TE-NAS, published", "93.90 ± 0.47", "71.24 ± 0.56", "42.38 ± 0.46"),
  ("best of the benchmark", "94.37", "73.51", "47.31"),
)


def jobs() -> dict[str, list[str]]:
  """Name of each job and its flags."""
  seeds = "--seeds=" + ",".join(map(str, range(FLAGS.seeds)))
  cheap, costly = (["--algorithm=score", f"--archs=random:{n}"] for n in (FLAGS.cheap, FLAGS.costly))
  return {
    "one_pass": [*cheap, f"--proxies={ONE_PASS}"],
    "regions": [*cheap, "--proxies=linear_regions"],
    "per_sample": [*costly, "--proxies=ntk_condition_number_frozen,trace_norm_per_sample,trace_norm_successor"],
    "second": [*costly, "--proxies=mgm_output,mgm_layer_mean,grasp"],
    "single_images": [*costly, "--proxies=mgm_code,mgm_truncated,mgm_batch1", "--score_batch=50"],
    "condition_number": [*costly, "--proxies=ntk_condition_number"],
    "trace_exact": [*costly, "--proxies=trace_norm_exact"],
    "regression": [*costly, "--proxies=signal_regression"],
    "knas": ["--algorithm=knas", "--knas_shortlist=40", seeds],
    "nasi": ["--algorithm=nasi", *NASI, seeds],
    "gennas": ["--algorithm=gennas", *GENNAS_SHORT, seeds],
    "tenas_frozen": ["--algorithm=tenas", "--batch_norm=batch_frozen", seeds],
  }


def run_job(name: str, settings: list[str], out: pathlib.Path) -> None:
  """Runs or continues one job; a failure stops the script."""
  command = [sys.executable, "-m", "jaxnas.main", *settings, f"--dataset={FLAGS.dataset}", f"--workdir={out / name}"]
  command += [f"--benchmark={FLAGS.benchmark}"] + ([f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else [])
  print(f"\n== {name}", flush=True)
  subprocess.run(command, check=True)


def scores_of(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The score lines that a run kept."""
  lines = (folder / "scores.jsonl").read_text().splitlines()
  return [record for record in map(json.loads, lines) if record.get("kind") == "score"]


def searches(out: pathlib.Path, names: list[str], benchmark) -> list[list[str]]:
  """Rows of the table of searches, controls included."""
  space, rows = spaces.get("nb201"), []

  def row(title: str, archs: list[str]) -> list[str]:
    found = [[benchmark.accuracy(a, d) for a in archs] for d in benchmark.datasets]
    return [f"{title} ({len(archs)} seeds)", *(report.mean_std(values, digits=2) for values in found)]

  for name in names:
    if name not in SEARCHES:
      continue
    results = json.loads((out / name / "result.json").read_text())["results"]
    title, part, part_title = SEARCHES[name]
    if part:
      rows.append(row(part_title, [r[part] for r in results]))
    rows.append(row(title, [r["arch"] for r in results]))
  everything = [benchmark.accuracies(d) for d in benchmark.datasets]
  valid = benchmark.accuracies("cifar10", "valid_12ep")
  for count in (1, 20, 40, 300):
    rows.append([f"best of {count} random by 12-epoch validation", *_control(everything, valid, count, len(space))])
  return rows + [list(r) for r in PUBLISHED]


def _control(everything, valid, count: int, size: int) -> list[str]:
  import numpy as np

  generator = np.random.default_rng(0)
  drawn = [generator.choice(size, count, replace=False) for _ in range(DRAWS)]
  best = np.array([d[np.argmax(valid[d])] for d in drawn])
  return [report.mean_std(accuracy[best], digits=2) for accuracy in everything]


def main(argv) -> None:
  """Runs the jobs and writes the tables."""
  del argv
  out, todo = pathlib.Path(FLAGS.out), jobs()
  unknown = set(FLAGS.only) - set(todo)
  if unknown:
    raise app.UsageError(f"--only={','.join(sorted(unknown))}: choose from {', '.join(todo)}")
  names = FLAGS.only or list(todo)
  for name in names:
    run_job(name, todo[name], out)
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get("nb201"))
  scores = [line for name in names if "--algorithm=score" in todo[name] for line in scores_of(out / name)]
  if scores:
    lines = comparison.compare(scores, benchmark)
    print("\n" + comparison.to_markdown(lines))
    comparison.write_markdown(lines, out / "proxies.md")
    comparison.write_csv(lines, out / "proxies.csv")
    plot_ranks(comparison.spearman_by_dataset(lines), out / "spearman.png", controls=CONTROLS)
    plot_scatter(comparison.panels(scores, lines, benchmark), out / "scatter.png", dataset=benchmark.datasets[0])
  if set(SEARCHES) & set(names):
    header = ["method", *(f"{d} test %" for d in benchmark.datasets)]
    rows = searches(out, names, benchmark)
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    print("\n" + report.markdown_table(header, rows))
    write_atomically(out / "searches.md", (report.markdown_table(header, rows) + "\n").encode())
    write_atomically(out / "searches.csv", text.getvalue().encode())


if __name__ == "__main__":
  app.run(main)
