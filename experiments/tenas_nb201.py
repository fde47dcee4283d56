"""Remakes the paper's table for TE-NAS on NAS-Bench-201: seeds x data sets x settings, with random controls.

  python experiments/tenas_nb201.py --benchmark=PATH --data_dir=TFDS_FOLDER --out=OUT

Every search keeps its own work directory below --out and continues there after a kill. The table is printed and
written to OUT/table.md and OUT/table.csv: mean and standard deviation over seeds of the test accuracy (NAS-Bench-201's
own, 200 epochs, mean over its seeds) of the architectures found, on all three data sets, whatever was searched on.
"""

import csv
import dataclasses
import io
import os
import pathlib

from absl import app, flags, logging

from jaxnas import data, main, report, run, spaces, tabular
from jaxnas.algorithms.random_search import RandomSearch, RandomSearchConfig
from jaxnas.algorithms.tenas import TENAS, TENASConfig
from jaxnas.base import Accuracies, Context, Space
from jaxnas.errors import ConfigError
from jaxnas.files import write_atomically
from jaxnas.proxies.indicators import IndicatorConfig
from jaxnas.settings import recorded

PUBLISHED = (
  ("TE-NAS, published", "93.90 ± 0.47", "71.24 ± 0.56", "42.38 ± 0.46"),
  ("NASWOT, published", "91.78", "67.05", "37.07"),
  ("RSPS, published", "87.66", "58.33", "31.14"),
  ("best of the benchmark", "94.37", "73.51", "47.31"),
)
CONTROL_REPEATS = 500

_OUT = flags.DEFINE_string("out", "out_tenas_nb201", "folder for the work directories and the table")
_DATASETS = flags.DEFINE_list("datasets", ["cifar10"], "data sets to search on")
_SETTINGS = flags.DEFINE_multi_string(
  "settings",
  ["batch_norm=batch", "batch_norm=batch_frozen"],
  "what to change from the defaults, one row of the table each: name=value[,name=value...]; repeat the flag",
)


def configure(text: str) -> tuple[TENASConfig, IndicatorConfig]:
  """Settings of a search and of its indicators from 'name=value,...'; ConfigError for an unknown name."""
  fields = {f.name: f for c in (IndicatorConfig, TENASConfig) for f in dataclasses.fields(c) if "help" in f.metadata}
  inner, outer = {}, {}
  for item in filter(None, text.split(",")):
    name, _, value = item.partition("=")
    if name not in fields:
      raise ConfigError(f"--settings={text!r}: {name!r} is no setting; choose from {', '.join(fields)}")
    typed = int(value) if value.isdigit() else value
    (inner if name in {f.name for f in dataclasses.fields(IndicatorConfig)} else outer)[name] = typed
  return TENASConfig(**outer), IndicatorConfig(**inner)


def searched(
  space: Space, benchmark: Accuracies, dataset: str, text: str, seeds: tuple[int, ...], out: pathlib.Path
) -> list[str]:
  """One row: the accuracies that TE-NAS finds with these settings."""
  settings, indicators = configure(text)
  source = data.load(dataset, data_dir=flags.FLAGS.data_dir, download=flags.FLAGS.download)
  finished = run.run(
    TENAS(),
    Context(space, source, settings, benchmark=benchmark, proxy_settings={IndicatorConfig: indicators}),
    seeds=seeds,
    workdir=str(out / f"{dataset}_{text.replace('=', '-').replace(',', '_')}"),
    config={
      "algorithm": "tenas",
      "space": "nb201",
      "dataset": dataset,
      "seeds": list(seeds),
      **recorded(indicators),
      **recorded(settings),
    },
    progress=flags.FLAGS.progress,
  )
  name = f"TE-NAS, {dataset}, {text.replace(',', ', ')} ({len(seeds)} seeds)"
  return [
    name,
    *(report.mean_std([r[f"{d}_test"] for r in finished.rows], digits=2) for d in benchmark.datasets),
  ]


def control(space: Space, benchmark: Accuracies, name: str, config: RandomSearchConfig) -> list[str]:
  """One row: random search, repeated with seeds 0, 1, 2, ... since it costs look-ups only."""
  context = Context(space, data.load("synthetic"), config, benchmark=benchmark)  # no image is read
  found = [RandomSearch().search(context, seed).rows[0]["arch"] for seed in range(CONTROL_REPEATS)]
  rows = [benchmark.index(arch) for arch in found]
  return [
    name,
    *(report.mean_std(benchmark.accuracies(d)[rows], digits=2) for d in benchmark.datasets),
  ]


def make_table(argv) -> None:
  """Runs the searches and writes the table."""
  del argv
  logging.set_verbosity(logging.WARNING)
  if not flags.FLAGS.benchmark:
    raise app.UsageError("--benchmark is needed: the table is made of its accuracies")
  main.cache_compilations(flags.FLAGS.compilation_cache)
  space, out = spaces.get("nb201"), pathlib.Path(_OUT.value)
  benchmark = tabular.open_benchmark(flags.FLAGS.benchmark, spaces.get("nb201"))
  seeds = tuple(int(s) for s in flags.FLAGS.seeds)
  rows = [
    searched(space, benchmark, dataset, text, seeds, out) for dataset in _DATASETS.value for text in _SETTINGS.value
  ]
  rows.append(control(space, benchmark, "random architecture", RandomSearchConfig(samples=1, criterion="first")))
  rows.append(
    control(
      space,
      benchmark,
      "best of 20 random by 12-epoch validation",
      RandomSearchConfig(samples=20, criterion="valid_12ep"),
    )
  )
  rows += [list(r) for r in PUBLISHED]
  header = ["method", *(f"{d} test %" for d in benchmark.datasets)]
  table = report.markdown_table(header, rows)
  print(f"\n{table}")
  text = io.StringIO()
  csv.writer(text).writerows([header, *rows])
  os.makedirs(out, exist_ok=True)
  write_atomically(out / "table.md", (table + "\n").encode())
  write_atomically(out / "table.csv", text.getvalue().encode())


if __name__ == "__main__":
  app.run(make_table)
