"""The result of a run as a table on the terminal and as one HTML page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxnas.algorithms.tenas_plots import plot_pruning_history, plot_spectrum
from jaxnas.algorithms.training_plots import plot_training
from jaxnas.errors import ArchitectureError
from jaxnas.gennas.plots import plot_evolution, plot_loss_curves, plot_targets
from jaxnas.report import comparison as comparing
from jaxnas.report.correlation_plots import plot_ranks, plot_scatter
from jaxnas.report.html import Image, Section, write_report
from jaxnas.report.progress import format_duration
from jaxnas.report.tables import mean_std, text_table
from jaxnas.workdir import Workdir

_FEW = 30  # architectures that are listed one by one
_LONG = 100  # characters of an architecture that no longer stands in the terminal's table
_TITLES = {
  "best_by": "best by",
  "score": "score",
  "ntk_condition_number": "NTK cond.",
  "linear_regions": "regions",
  "supernet_condition_number": "supernet NTK cond.",
  "supernet_regions": "supernet regions",
  "valid_12ep": "valid 12 ep. %",
  "validation": "valid %",
  "nasi_status": "status",
  "signal_regression": "regression loss",
  "evaluated": "evaluated",
  "epochs": "epochs",
  "valid_accuracy": "top-1 %",
  "valid_top5": "top-5 %",
  "evaluated_on": "evaluated on",
}
_SLOW_LOOKUP = 1000  # unread rows of a NATS folder beyond which a rank would take minutes


def look_up(space: Any, benchmark: Any | None, row: Mapping[str, Any]) -> dict[str, Any]:
  """`row` with the size of its network and, from the benchmark, its index, accuracies and ranks.

  The network is the space's usual one, unless `row` has another one's `network_params` and `network_macs`.
  """
  if "arch" not in row:
    return dict(row)
  arch = row["arch"]
  usual = space.costs(space.parse(arch))._asdict()
  sizes = {name: int(row.get(f"network_{name}") or usual[name]) for name in ("params", "macs")}
  out = {**row, **sizes}
  if benchmark is None:
    return out
  try:
    out["index"] = int(benchmark.index(arch))
  except ArchitectureError:  # a table of a part of its space
    return out | {f"{dataset}_{benchmark.split}": math.nan for dataset in benchmark.datasets}
  for dataset in benchmark.datasets:
    out[f"{dataset}_{benchmark.split}"] = float(benchmark.accuracy(arch, dataset))
    if len(benchmark.unread) < _SLOW_LOOKUP:
      rank, known = benchmark.rank(arch, dataset)
      out[f"{dataset}_rank"], out[f"{dataset}_known"] = rank, known
  return out


def shown(lines: Sequence[Any]) -> list[dict[str, Any]]:
  """Rows of a scoring (`scoring.Score` lines of one seed): every architecture of few, else the best by each proxy."""
  archs = list(dict.fromkeys(line.arch for line in lines))
  first = [line for line in lines if line.repeat == 0]
  if len(archs) <= _FEW:
    rows: dict[str, dict[str, Any]] = {arch: {"arch": arch} for arch in archs}
    for line in first:
      rows[line.arch] |= {line.proxy: line.value, f"{line.proxy}_status": line.status}
    return list(rows.values())
  best: dict[str, Any] = {}
  for line in first:
    if line.proxy not in best or line.rank_by > best[line.proxy].rank_by:
      best[line.proxy] = line
  return [{"best_by": name, "arch": line.arch, "score": line.value} for name, line in best.items()]


def comparison(scores: Sequence[Mapping[str, Any]], benchmark: Any | None) -> list[dict[str, Any]]:
  """How each proxy ranks the architectures of the benchmark; empty without a benchmark or with few architectures."""
  if benchmark is None:
    return []
  known = {arch for arch in {s["arch"] for s in scores} if _is_in(benchmark, arch)}
  if len(known) <= _FEW:
    return []
  return comparing.compare([s for s in scores if s["arch"] in known], benchmark)


def _is_in(benchmark: Any, arch: str) -> bool:
  """False for an architecture that a table of a part of its space does not have."""
  try:
    benchmark.index(arch)
  except ArchitectureError:
    return False
  return True


def text(result: Mapping[str, Any], benchmark: Any | None) -> str:
  """The final table, and where the time went."""
  rows: Sequence[Mapping[str, Any]] = result["results"]
  header, body = table(rows, benchmark)
  body, notes = _noted(header, body)
  lines = ["", text_table(header, body), *notes]
  if result.get("comparison"):
    lines += ["", comparing.to_markdown(result["comparison"])]
  if benchmark is None and "valid_accuracy" not in rows[0]:
    lines.append("no accuracies: give --benchmark (or JAXNAS_BENCHMARK) to look the result up")
  elif benchmark is not None and len(benchmark.unread) >= _SLOW_LOOKUP:
    lines.append("no ranks: they need every row; convert once with `python -m jaxnas.tabular SOURCE OUT.csv.gz`")
  lines.append(times(result["seconds"]))
  return "\n".join(lines)


def _noted(header: list[str], body: list[list[Any]]) -> tuple[list[list[Any]], list[str]]:
  """Rows of the terminal's table with numbers in the place of long texts, and a line for each number."""
  if "architecture" not in header:
    return body, []
  column = header.index("architecture")
  long = dict.fromkeys(row[column] for row in body if len(row[column]) > _LONG)
  numbers = {text: f"[{i}]" for i, text in enumerate(long, start=1)}
  rows = [[numbers.get(cell, cell) if i == column else cell for i, cell in enumerate(row)] for row in body]
  return rows, [f"{number} {text}" for text, number in numbers.items()]


def times(seconds: Mapping[str, float]) -> str:
  """Wall time and its parts."""
  parts = ", ".join(f"{name} {seconds[name]:.1f} s" for name in ("compile", "score", "other"))
  return f"wall time {format_duration(seconds['wall'])}: {parts}"


def table(rows: Sequence[Mapping[str, Any]], benchmark: Any | None) -> tuple[list[str], list[list[Any]]]:
  """Header and one row per architecture; several seeds end with mean ± standard deviation."""
  if "arch" not in rows[0]:
    return list(rows[0]), [[f"{v:.5g}" if isinstance(v, float) else v for v in row.values()] for row in rows]
  scores = [(key, title) for key, title in _TITLES.items() if key in rows[0]]
  scores += [(key, key) for key in rows[0] if f"{key}_status" in rows[0] and key not in _TITLES]
  datasets = benchmark.datasets if benchmark is not None else ()
  header = ["seed", "architecture", *(t for _, t in scores), "params M", "MACs M"]
  split = "" if benchmark is None else benchmark.split
  header += [f"{d} {split} % (rank)" for d in datasets]
  body: list[list[Any]] = []
  for row in rows:
    line = [row["seed"], row["arch"]]
    line += [_with_status(row, key) for key, _ in scores]
    line += [f"{row['params'] / 1e6:.3f}", f"{row['macs'] / 1e6:.1f}"]
    body.append(line + [_accuracy(row, d, split) for d in datasets])
  if len({row["seed"] for row in rows}) > 1 and datasets:
    means = [mean_std([r[f"{d}_{split}"] for r in rows], digits=2) for d in datasets]
    body.append(["all", "mean ± std", *("" for _ in scores), "", "", *means])
  return header, body


def _with_status(row: Mapping[str, Any], key: str) -> str:
  status = row.get(f"{key}_status", "ok")
  if isinstance(row[key], (str, int)):
    return str(row[key])
  return f"{row[key]:.5g}" + ("" if status == "ok" else f" ({status})")


def _accuracy(row: Mapping[str, Any], dataset: str, split: str) -> str:
  value = row[f"{dataset}_{split}"]
  if math.isnan(value):
    return "not in this benchmark"
  rank = row.get(f"{dataset}_rank")
  return f"{value:.2f}" + (f" ({rank} of {row[f'{dataset}_known']})" if rank else "")


def write_html(
  folder: Workdir,
  space: Any,
  result: Mapping[str, Any],
  extra: Mapping[str, Any],
  benchmark: Any | None,
) -> Any:
  """Draws the plots and writes report.html; returns its path. Plots are of the first seed."""
  rows, images = result["results"], []
  found = rows[0].get("arch", rows[0].get("task", ""))
  if "arch" in rows[0]:
    images += _draw_architecture(folder, space, found)
  if extra.get("history"):
    names = [f"{target}←{source}" for target, source in space.edges]
    path = folder.path / "pruning_history.png"
    plot_pruning_history(
      extra["history"],
      path,
      edge_names=names,
      op_names=space.ops,
      cell_names=getattr(space, "cell_names", None),
      title="Pruning history",
    )
    images.append(Image("pruning_history.png", "Which operation of which edge was pruned in which round."))
  if extra.get("eigenvalues"):
    plot_spectrum(extra["eigenvalues"], folder.path / "ntk_spectrum.png", title="NTK spectrum")
    images.append(Image("ntk_spectrum.png", "Eigenvalues of the neural tangent kernel on one batch."))
  images += _draw_regression(folder, extra)
  if training := extra.get("training"):
    plot_training(training, folder.path / "training.png", title="Training")
    images.append(Image("training.png", f"Loss and accuracy of every epoch, held out: {rows[0]['evaluated_on']}."))
  if result.get("comparison"):
    images += _draw_comparison(folder, result["comparison"], extra["scores"], benchmark)
  config = result["config"]
  header, body = table(rows, benchmark)
  return write_report(
    folder,
    title=f"jaxnas: {config['algorithm']} on {config['space']}",
    summary=[
      ("found", found),
      ("data set", config["dataset"]),
      ("time", times(result["seconds"])),
    ],
    sections=[
      Section("Result", header, body),
      Section("Settings", ("flag", "value"), [[f"--{k}", str(v)] for k, v in config.items()]),
    ],
    images=images,
  )


def _draw_architecture(folder: Workdir, space: Any, text: str) -> list[Image]:
  return [Image(*picture) for picture in space.draw(space.parse(text), folder.path)]


def _draw_regression(folder: Workdir, extra: Mapping[str, Any]) -> list[Image]:
  """GenNAS's plots: the course of the evolution, loss curves and targets."""
  images = []
  if evolution := extra.get("evolution"):
    path = folder.path / "evolution.png"
    plot_evolution(
      evolution["values"],
      evolution["population"],
      path,
      title="Evolution",
      ylabel=evolution["ylabel"],
      maximise=evolution["maximise"],
    )
    images.append(Image("evolution.png", f"{evolution['ylabel']} of everyone that lived, in order of birth."))
  if losses := extra.get("losses"):
    path = folder.path / "loss_curves.png"
    plot_loss_curves(losses["curves"], losses["interval"], path, title="Regression loss")
    images.append(
      Image("loss_curves.png", "Evaluation loss: the result, and the best and the worst of the first population.")
    )
  if targets := extra.get("targets"):
    plot_targets(targets[0], targets[1], folder.path / "targets.png", title="Regression targets")
    images.append(Image("targets.png", "What the three stages regress on: some channels, for the first image."))
  return images


def _draw_comparison(folder: Workdir, lines, scores, benchmark) -> list[Image]:
  """Writes comparison.md and .csv, and the scatter and rank plots; returns the plots."""
  comparing.write_markdown(lines, folder.path / "comparison.md")
  comparing.write_csv(lines, folder.path / "comparison.csv")
  plot_ranks(comparing.spearman_by_dataset(lines), folder.path / "spearman.png", controls=("params", "flops"))
  images = [Image("spearman.png", "Spearman's rank correlation of each proxy with accuracy, and its standard error.")]
  dataset = benchmark.datasets[0]
  panels = comparing.panels(scores, lines, benchmark)
  plot_scatter(panels, folder.path / "scatter.png", dataset=dataset, title="Score against accuracy")
  return [
    *images,
    Image("scatter.png", f"Score of each architecture against its accuracy on {dataset}, first seed."),
  ]
