"""All methods, proxies and combinations of a space on equal terms: one set of images, one sample of architectures.

  python experiments/compare.py --benchmark=nb201 --data_dir=TFDS_FOLDER --out=OUT
  python experiments/compare.py --space=darts --benchmark=FILE --data_dir=TFDS_FOLDER --out=OUT_DARTS
  python experiments/compare.py --benchmark=nb201 --out=OUT --norun        the tables again, from what OUT holds
  python experiments/compare.py --benchmark=nb201 --dataset=synthetic --out=OUT --toy --candidates=60 --cheap=40 \
    --costly=5 --seeds=2 --pass_seeds=2                                    every job at toy size, to see it through

Runs `python -m jaxnas.main` once per job, each in its own work directory below --out, and continues there after a kill.
Then it writes, from what the directories of the jobs hold that were run so far:
  OUT/proxies.md, .csv   proxies and combinations: Spearman (error by architectures, and by seeds of weights and
                         batches), Kendall, retrieving rate, regret, accuracy of its best, seconds
  OUT/searches.md, .csv  each search: test accuracy of what it found, mean and standard deviation over seeds
  OUT/readme.md          both as Markdown: README's tables are rows of these, of this and other spaces
  OUT/spearman.png, scatter.png, correlations.png, cost.png
The leading combination is measured with --seeds seeds, other proxies of one pass with --pass_seeds, those that cost
more than a second an architecture with one, on the first --costly architectures of the same sample. Published figures
are in published.json. Combinations are chosen by choose_combination.py, on one half of the architectures.
"""

import csv
import io
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from jaxnas import data, registry, report, spaces, tabular
from jaxnas.algorithms.combining import RankBy, combined
from jaxnas.algorithms.measuring import UsualInputs, unable
from jaxnas.base import Accuracies, Context, Rankable, Status, lacking
from jaxnas.files import write_atomically
from jaxnas.report import comparison, comparison_tables
from jaxnas.report.correlation_plots import plot_ranks, plot_scatter
from jaxnas.report.proxy_pictures import plot_correlations, plot_cost
from jaxnas.scoring import Score

FLAGS = flags.FLAGS
flags.DEFINE_string("space", "nb201", "nb201, or a space whose --benchmark says which architectures to score")
flags.DEFINE_string("benchmark", None, "accuracy table, as of jaxnas.main", required=True)
flags.DEFINE_string("data_dir", None, "TFDS folder")
flags.DEFINE_string("dataset", "cifar10", "images to score and search with")
flags.DEFINE_string("out", "out_compare", "folder for the work directories and the tables")
flags.DEFINE_integer("cheap", 1000, "architectures for proxies of one pass", lower_bound=3)
flags.DEFINE_integer("costly", 300, "architectures for the other proxies", lower_bound=3)
flags.DEFINE_integer("seeds", 10, "seeds of each search and of the leading combination", lower_bound=1)
flags.DEFINE_integer("pass_seeds", 3, "seeds of the other proxies of one pass", lower_bound=1)
flags.DEFINE_string(
  "costs", None, "table that proxy_costs.py wrote: cost.png then has its CPU seconds, not wall seconds"
)
flags.DEFINE_integer(
  "candidates", 1000, "candidates of each search by a ranking, the prior's of all apart", lower_bound=51
)
flags.DEFINE_bool(
  "toy", False, "tiny networks and searches: sees the command through in minutes, its figures say nothing"
)
flags.DEFINE_list("only", [], "jobs to run; default: all")
flags.DEFINE_bool("run", True, "run the jobs, or (--norun) only make the tables")

FREE = "params,flops,effective_params,skip_length"  # the controls
ONE_PASS = "mgm,grad_norm,snip,plain,l2_norm,jacob_cov,naswot,zen,synflow,fisher"
LATER = "log_synflow,az_expressivity,az_progressivity,az_trainability,swap,meco"
COMBINATIONS = (
  ("az_nas",), ("freerea",), ("jacob_cov", "effective_params"), ("jacob_cov", "synflow"),
  ("jacob_cov", "synflow", "effective_params"), ("naswot", "effective_params"), ("naswot", "synflow"),
  ("naswot", "synflow", "effective_params", "skip_length"), ("naswot", "log_synflow", "effective_params"),
  ("naswot", "params"), ("grasp", "naswot", "params"), ("flops", "synflow"), ("jacob_cov", "flops"),
  ("signal_regression", "effective_params"), ("signal_regression", "jacob_cov", "effective_params"),
  ("params", "skip_length"), ("naswot", "meco"),
)  # fmt: skip
SEARCHES = {  # job -> its title ({}: --candidates); the result's key and the title of what a part of the budget found
  "knas": ("KNAS, k=40", "half_arch", "KNAS, k=20"),
  "nasi": ("NASI(T), FIX, mu=1, soft", "", ""),
  "gennas": ("GenNAS, CONF_NB101, shortened", "", ""),
  "tenas_frozen": ("TE-NAS, batch_frozen", "", ""),
  "tenas": ("TE-NAS, batch", "", ""),
  "ranked": ("of {:,} random", "", ""),
  "ranked_evolved": ("of {:,} evolved", "", ""),
  "ranked_skips": ("of {:,} random", "", ""),
  "ranked_freerea": ("of {:,} random", "", ""),
  "ranked_az_nas": ("of {:,} random", "", ""),
  "prior_drawn": ("of {:,} random", "", ""),
  "prior": ("of all", "", ""),
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
TOY_NETWORK = ("--score_channels=4", "--score_cells=1")
TOY_REGRESSION = ("--signal_steps=2", "--signal_interval=1", "--signal_cells=1")
TOY_TENAS = ("--repeats=1", "--ntk_batch=4", "--region_batches=1", "--region_samples=50")
TOY = {  # job -> flags that --toy adds to TOY_NETWORK, or has in its place
  "regions": ("--region_batches=1", "--region_samples=50"),
  "regression": TOY_REGRESSION,
  "knas": ("--knas_candidates=45", "--knas_batch=8", "--knas_channels=4", "--knas_cells=1"),
  "nasi": ("--nasi_steps=4", "--nasi_batch=4", "--nasi_channels=4", "--nasi_cells=1"),
  "gennas": (*TOY_REGRESSION, "--evolution_population=3", "--evolution_tournament=2", "--evolution_children=2"),
  "tenas": TOY_TENAS,
  "tenas_frozen": TOY_TENAS,
}
DRAWS = 2000
_PUBLISHED = pathlib.Path(__file__).with_name("published.json")


def _seeds(count: int) -> str:
  return "--seeds=" + ",".join(map(str, range(count)))


def jobs() -> dict[str, list[str]]:
  """Name of each job and its flags; proxies that cannot be measured in the space are left out."""
  drawn = "random" if FLAGS.space == "nb201" else "benchmark"
  cheap, costly = ([f"--archs={drawn}:{n}"] for n in (FLAGS.cheap, FLAGS.costly))
  seeds, pass_seeds = _seeds(FLAGS.seeds), _seeds(FLAGS.pass_seeds)
  space = spaces.get(FLAGS.space)
  leading = () if lacking(space, Rankable) else space.ranked_by
  lead = ",".join(dict.fromkeys([*leading, "params"]))
  scored = {
    "lead": (lead, [*cheap, seeds]),
    "controls": (FREE, [*cheap, pass_seeds]),  # as many seeds as what they are combined with
    "one_pass": (ONE_PASS, [*cheap, pass_seeds]),
    "later": (LATER, [*cheap, pass_seeds]),
    "batches": ("zico,gradsign", [*cheap, pass_seeds]),
    "regions": ("linear_regions", cheap),
    "per_sample": ("ntk_condition_number_frozen,trace_norm_per_sample,trace_norm_successor", costly),
    "second": ("mgm_output,mgm_layer_mean,grasp", costly),
    "single_images": ("mgm_code,mgm_truncated,mgm_batch1", [*costly, "--score_batch=50"]),
    "condition_number": ("ntk_condition_number", costly),
    "trace_exact": ("trace_norm_exact", costly),
    "regression": ("signal_regression", costly),
  }
  context = Context(space, data.load(FLAGS.dataset, data_dir=FLAGS.data_dir), None)
  found = {}
  for job, (names, flags_of_job) in scored.items():
    refused = {name: unable(context, registry.make("proxy", name), UsualInputs(50)) for name in names.split(",")}
    if able := ",".join(name for name, why in refused.items() if not why):
      found[job] = ["--algorithm=score", f"--proxies={able}", *flags_of_job]
  if FLAGS.space != "nb201":
    return found
  ranked = ["--algorithm=ranked", f"--ranked_candidates=random:{FLAGS.candidates}", seeds]
  return found | {
    "ranked": ranked,
    "ranked_evolved": ["--algorithm=ranked", f"--ranked_candidates=evolved:{FLAGS.candidates}", seeds],
    "ranked_skips": [*ranked, f"--rank_by={','.join(leading)},skip_length"],
    "ranked_freerea": [*ranked, "--rank_by=freerea"],
    "ranked_az_nas": [*ranked, "--rank_by=az_nas"],
    "prior": ["--algorithm=ranked", "--ranked_candidates=all", "--rank_by=params,skip_length"],
    "prior_drawn": [*ranked, "--rank_by=params,skip_length"],
    "knas": ["--algorithm=knas", "--knas_shortlist=40", "--knas_controls=params,random", seeds],
    "nasi": ["--algorithm=nasi", *NASI, seeds],
    "gennas": ["--algorithm=gennas", *GENNAS_SHORT, seeds],
    "tenas_frozen": ["--algorithm=tenas", "--batch_norm=batch_frozen", seeds],
    "tenas": ["--algorithm=tenas", "--batch_norm=batch", seeds],
  }


def run_job(name: str, settings: list[str], out: pathlib.Path) -> None:
  """Runs or continues one job; a failure stops the script."""
  if FLAGS.toy:
    usual = settings[0] in ("--algorithm=score", "--algorithm=ranked")
    settings = [*settings, *(TOY_NETWORK if usual else ()), *TOY.get(name, ())]
  command = [sys.executable, "-m", "jaxnas.main", *settings, f"--space={FLAGS.space}", f"--dataset={FLAGS.dataset}"]
  command += [f"--workdir={out / name}", f"--benchmark={FLAGS.benchmark}"]
  command += [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []
  print(f"\n== {name}", flush=True)
  if code := subprocess.run(command, check=False).returncode:
    sys.exit(f"{name}: exit code {code}")


def scores_of(folder: pathlib.Path) -> list[Score]:
  """The score lines that a run kept."""
  records = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
  lines = [Score(**{f: one[f] for f in Score._fields}) for one in records if one.get("kind") == "score"]
  return [line._replace(status=Status(line.status)) for line in lines]


def all_scores(out: pathlib.Path, names: Sequence[str]) -> list[Score]:
  """What the jobs scored, of a score that several have the first, and the combinations of it."""
  found: dict[tuple[Any, ...], Score] = {}
  for name in names:
    for line in scores_of(out / name):
      found.setdefault((line.proxy, line.arch, line.seed, line.repeat), line)
  lines = list(found.values())
  known = {line.proxy for line in lines}
  asked = [one for names in COMBINATIONS for one in RankBy(names).combinations(spaces.get(FLAGS.space))]
  return lines + combined(lines, [one for one in asked if set(one.proxies) <= known])


def searches(out: pathlib.Path, names: Sequence[str], benchmark: Accuracies) -> list[list[str]]:
  """Rows of the table of searches, each beside its controls."""
  rows = []

  def row(title: str, archs: list[str]) -> list[str]:
    found = [[benchmark.accuracy(a, d) for a in archs] for d in benchmark.datasets]
    return [f"{title} ({len(archs)} seeds)", *(report.mean_std(values, digits=2) for values in found)]

  for name in names:
    if name not in SEARCHES:
      continue
    results = json.loads((out / name / "result.json").read_text())["results"]
    title, part, part_title = SEARCHES[name]
    title = title.format(FLAGS.candidates)
    for rule, k in dict.fromkeys((r.get("rule"), r.get("k")) for r in results):
      own = [r for r in results if (r.get("rule"), r.get("k")) == (rule, k)]
      before = f"{rule}, " if rule and (k is not None or rule.startswith("control: ")) else ""
      after = "" if k is None else f", {k} queries"
      rows.append(row(f"{before}{title}{after}", [r["arch"] for r in own]))
      if part:
        rows.append(row(f"{before}{part_title}", [r[part] for r in own]))
  everything = [benchmark.accuracies(d) for d in benchmark.datasets]
  valid = benchmark.accuracies("cifar10", "valid_12ep")
  for count in (1, 20, 40, 300):
    title = f"control: best of {count} random by 12-epoch validation ({DRAWS} draws)"
    rows.append([title, *_control(everything, valid, count)])
  return rows


def _control(everything: Sequence[np.ndarray], valid: np.ndarray, count: int) -> list[str]:
  generator = np.random.default_rng(0)
  drawn = [generator.choice(len(valid), count, replace=False) for _ in range(DRAWS)]
  best = np.array([d[np.argmax(valid[d])] for d in drawn])
  return [report.mean_std(accuracy[best], digits=2) for accuracy in everything]


def write_scores(scores: list[Score], benchmark: Accuracies, published: list[list[str]], out: pathlib.Path) -> str:
  """Tables and pictures of proxies and combinations; returns the README's table."""
  rows = [line._asdict() for line in scores]
  lines = comparison.compare(rows, benchmark)
  print("\n" + comparison_tables.to_text(lines, shutil.get_terminal_size().columns))
  comparison_tables.write_markdown(lines, out / "proxies.md")
  comparison_tables.write_csv(lines, out / "proxies.csv")
  known, names = registry.names("proxy"), [line["proxy"] for line in lines]
  counts = {name for name in known if registry.make("proxy", name).control}
  controls = [name for name in names if counts.issuperset(name.split(" + "))]
  plot_ranks(comparison.spearman_by_dataset(lines), out / "spearman.png", controls=controls)
  plot_scatter(comparison.panels(rows, lines, benchmark), out / "scatter.png", dataset=benchmark.datasets[0])
  plot_correlations(*comparison.correlations(rows, lines, benchmark), out / "correlations.png")
  first = benchmark.datasets[0]
  seconds = cpu_seconds() if FLAGS.costs else {line["proxy"]: line["seconds"] for line in lines if line["seconds"]}
  fields = (f"{first}_spearman", f"{first}_spearman_se")
  points = {
    line["proxy"]: (seconds[line["proxy"]], *(line[field] for field in fields))
    for line in lines
    if line["proxy"] in seconds
  }
  together = [name for name in points if name not in (*known, *controls)]
  which = {"seconds": "CPU, each proxy alone"} if FLAGS.costs else {}
  plot_cost(points, out / "cost.png", dataset=first, controls=controls, combinations=together, **which)
  header = ["proxy", "architectures", "Spearman", "Kendall", "seeds", "standard deviation over seeds"]
  body = [_readme_row(line, benchmark.datasets, controls) for line in lines if line["passes"]]
  body += [[name, "", rho, kendall, "", ""] for name, rho, kendall in published]
  return report.markdown_table(header, body)


def cpu_seconds() -> dict[str, float]:
  """CPU seconds an architecture of the proxies in --costs, and of the combinations of these their sum."""
  cells = [line.strip("| \n").split("|") for line in pathlib.Path(FLAGS.costs).read_text().splitlines()]
  rows = {row[0].strip(): row[1] for row in cells if len(row) == 2}
  alone = {name: float(value) for name, value in rows.items() if name in registry.names("proxy")}
  asked = [one for names in COMBINATIONS for one in RankBy(names).combinations(spaces.get(FLAGS.space))]
  return alone | {one.name: sum(alone[p] for p in one.proxies) for one in asked if set(one.proxies) <= alone.keys()}


def _readme_row(line: comparison.Line, datasets: Sequence[str], controls: Sequence[str]) -> list[str]:
  def joined(key: str) -> str:
    return " / ".join(f"{line[f'{d}_{key}']:.3f}" for d in datasets)

  several = line["passes"] > 1
  rho = joined("pass_spearman") if several else joined("spearman")
  name = f"control: {line['proxy']}" if line["proxy"] in controls else line["proxy"]
  error = f" (± {max(line[f'{d}_spearman_se'] for d in datasets):.3f})"
  tau = joined("pass_kendall") if several else joined("kendall")
  return [name, str(line["n"]), rho + error, tau, str(line["passes"]), joined("pass_spearman_sd") if several else ""]


def main(argv: Sequence[str]) -> None:
  """Runs the jobs and writes the tables."""
  del argv
  out, todo = pathlib.Path(FLAGS.out), jobs()
  unknown = set(FLAGS.only) - set(todo)
  if unknown:
    raise app.UsageError(f"--only={','.join(sorted(unknown))}: choose from {', '.join(todo)}")
  for name in (FLAGS.only or list(todo)) if FLAGS.run else ():
    run_job(name, todo[name], out)
  names = [name for name in todo if (out / name / "result.json").exists()]
  if not names:
    raise app.UsageError(f"--out={out} holds no finished job; let one run")
  benchmark = tabular.open_benchmark(FLAGS.benchmark, spaces.get(FLAGS.space))
  published = json.loads(_PUBLISHED.read_text()).get(FLAGS.space, {})
  scores = all_scores(out, [name for name in names if "--algorithm=score" in todo[name]])
  tables = [write_scores(scores, benchmark, published.get("proxies", []), out)] if scores else []
  if set(SEARCHES) & set(names):
    header = ["method", *(f"{d} test %" for d in benchmark.datasets)]
    rows = [*searches(out, names, benchmark), *published.get("searches", [])]
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    tables.insert(0, report.markdown_table(header, rows))
    print("\n" + tables[0])
    write_atomically(out / "searches.md", (tables[0] + "\n").encode())
    write_atomically(out / "searches.csv", text.getvalue().encode())
  write_atomically(out / "readme.md", "\n".join(tables).encode())


if __name__ == "__main__":
  app.run(main)
