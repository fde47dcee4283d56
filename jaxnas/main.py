"""jaxnas: training-free neural architecture search. `python -m jaxnas.main [--flagfile=FILE] [--flag=value ...]`.

Without flags: a TE-NAS search of NAS-Bench-201 on generated images, about a minute on two cores.
  --workdir=out                               keeps scores, plots and report.html there; a killed run continues in it
  --benchmark=nb201.csv.gz                    adds the accuracies and ranks of what is found
  --algorithm=random_search --samples=100     the control
  --algorithm=knas | nasi | gennas            the other searches
  --algorithm=gennas_task                     a search for GenNAS's proxy task, with --benchmark
  --algorithm=train --genotype=TEXT           trains the architecture that you name
  --space=darts                               searches the DARTS space instead
  --algorithm=score --archs=6111,9930         scores of architectures that you name
  --algorithm=score --archs=random:1000       how well the proxies rank them, with --benchmark
  --flagfile=experiments/tenas_nb201_cifar10.flags --data_dir=FOLDER     the published setting
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from absl import app, flags
from absl import logging as absl_logging

from jaxnas import algorithms, data, hosts, run, spaces, tabular
from jaxnas.algorithms import indicators
from jaxnas.algorithms.knas import KNASConfig
from jaxnas.algorithms.nasi import NASIConfig
from jaxnas.algorithms.random_search import RandomSearchConfig
from jaxnas.algorithms.score import ScoreConfig
from jaxnas.algorithms.tenas import TENASConfig
from jaxnas.algorithms.train import TrainingConfig
from jaxnas.errors import ConfigError, JaxnasError
from jaxnas.gennas.search import GenNASConfig
from jaxnas.gennas.task_search import GenNASTaskConfig
from jaxnas.settings import recorded

FLAGS = flags.FLAGS
CONFIGS: dict[str, Any] = {
  "tenas": TENASConfig,
  "knas": KNASConfig,
  "nasi": NASIConfig,
  "gennas": GenNASConfig,
  "gennas_task": GenNASTaskConfig,
  "random_search": RandomSearchConfig,
  "score": ScoreConfig,
  "train": TrainingConfig,
}

flags.DEFINE_enum("algorithm", "tenas", algorithms.NAMES, "what to run")
flags.DEFINE_enum("space", "nb201", spaces.names(), "search space")
flags.DEFINE_enum(
  "dataset",
  "synthetic",
  data.NAMES,
  "images to search with; 'synthetic' is generated, the others are read through TFDS",
)
flags.DEFINE_string("data_dir", None, "TFDS folder that holds the data set (default: TFDS_DATA_DIR, or TFDS's own)")
flags.DEFINE_bool("download", False, "let TFDS fetch a data set that is missing")
flags.DEFINE_list("seeds", ["0"], "seeds, comma-separated: one search each", short_name=None)
flags.DEFINE_alias("seed", "seeds")
flags.DEFINE_string(
  "workdir",
  None,
  "folder for config, scores, result, log, plots and report.html; a killed run continues in it",
)
flags.DEFINE_string(
  "benchmark",
  os.environ.get("JAXNAS_BENCHMARK") or None,
  "accuracies to look the result up in: a file or folder that the space reads (nb201: a NATS-Bench folder or file, or "
  "a .csv(.gz) made by `python -m jaxnas.tabular`), a registered name, or none (default: the environment variable "
  "JAXNAS_BENCHMARK, or else the space's table in the package)",
)
flags.DEFINE_string(
  "compilation_cache",
  "default",
  "folder that keeps compiled programs between runs; 'default' is in the user's cache, 'off' none",
)
flags.DEFINE_float(
  "memory_gb",
  None,
  "memory in GiB that scoring may take for intermediates (default: 4 on a CPU, most of the device elsewhere)",
  lower_bound=0.01,
)
flags.DEFINE_bool(
  "distributed",
  False,
  "this process is one of several, a host each, that make one run: start the same command on all; the first one reads "
  "and writes --workdir. A TPU pod, Slurm or MPI says who they are; elsewhere give the three flags below",
)
flags.DEFINE_string("coordinator", None, "with --distributed: HOST:PORT of process 0")
flags.DEFINE_integer("num_processes", None, "with --distributed: how many there are", lower_bound=1)
flags.DEFINE_integer("process_id", None, "with --distributed: which one this is, from 0", lower_bound=0)
flags.DEFINE_bool("progress", True, "show progress with rate and time left on standard error")


def _define_settings(config: type) -> None:
  """One flag per field of `config` that has a help text; a field shared by several configs is one flag."""
  for field in dataclasses.fields(config):
    if field.name in FLAGS or "help" not in field.metadata:
      continue
    text = field.metadata["help"]
    default: Any = field.default
    kind = next(t for t in (get_args(field.type) or (field.type,)) if t is not None)
    if get_origin(field.type) is tuple:
      flags.DEFINE_list(field.name, list(default), text)
    elif field.type is bool:
      flags.DEFINE_bool(field.name, default, text)
    elif kind is int:
      flags.DEFINE_integer(field.name, default, text)
    elif kind is float:
      flags.DEFINE_float(field.name, default, text)
    elif field.type is str:
      flags.DEFINE_string(field.name, default, text)
    else:
      flags.DEFINE_enum(field.name, default, get_args(field.type), text)


def _inner(config: type) -> dict[str, type]:
  """The configs inside, by field name."""
  return {
    f.name: f.type for f in dataclasses.fields(config) if isinstance(f.type, type) and dataclasses.is_dataclass(f.type)
  }


def _parts(config: type) -> list[type]:
  """The config and those inside it."""
  return [config, *(part for inner in _inner(config).values() for part in _parts(inner))]


for _config in CONFIGS.values():
  for _part in _parts(_config):
    _define_settings(_part)


def _settings(config: type) -> Any:
  values: dict[str, Any] = {name: _settings(inner) for name, inner in _inner(config).items()}
  for field in dataclasses.fields(config):
    if "help" in field.metadata:
      value = FLAGS[field.name].value
      values[field.name] = _whole(value) if isinstance(value, list) else value
  return config(**values)


def _whole(pieces: list[str]) -> tuple[str, ...]:
  """A list's entries, out of its text split at every comma: those in brackets belong to the entry, a genotype."""
  entries: list[str] = []
  depth = 0
  for piece in pieces:
    if depth > 0:
      entries[-1] += f", {piece}"
    else:
      entries.append(piece)
    depth += sum((c in "([") - (c in ")]") for c in piece)
  return tuple(entries)


def _refuse_contradictions(config: Any) -> None:
  """A flag that the chosen algorithm does not read is a mistake, not a setting."""
  used = {f.name for part in _parts(type(config)) for f in dataclasses.fields(part)}
  for owner, other in CONFIGS.items():
    for field in [f for part in _parts(other) for f in dataclasses.fields(part)]:
      if "help" in field.metadata and field.name not in used and FLAGS[field.name].present:
        raise ConfigError(
          f"--{field.name} is a setting of --algorithm={owner}, not of --algorithm={FLAGS.algorithm}; drop one of them"
        )
  if FLAGS.dataset == "synthetic" and (FLAGS.download or FLAGS["data_dir"].present):
    flag = "download" if FLAGS.download else "data_dir"
    raise ConfigError(
      f"--{flag} has no meaning with --dataset=synthetic, which is generated; name a --dataset or drop it"
    )


def _seeds() -> tuple[int, ...]:
  try:
    seeds = tuple(int(s) for s in FLAGS.seeds)
  except ValueError:
    seeds = ()
  if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= s < 2**31 for s in seeds):
    raise ConfigError(
      f"--seeds={','.join(FLAGS.seeds)!r} must be distinct integers from 0 to 2147483647, comma-separated"
    )
  return seeds


def _join_hosts() -> None:
  names = ("coordinator", "num_processes", "process_id")
  if FLAGS.distributed:
    hosts.join(*(FLAGS[name].value for name in names))
  for name in names:
    if FLAGS[name].value is not None and not FLAGS.distributed:
      raise ConfigError(f"--{name}={FLAGS[name].value} has no meaning without --distributed; give both or none")


def cache_compilations(folder: str) -> None:
  import jax

  if folder == "off":
    return
  base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxnas" / "xla"
  path = base if folder == "default" else pathlib.Path(folder).expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    if folder != "default":
      raise ConfigError(
        f"--compilation_cache={folder!r} cannot be written ({error.strerror}); give another, or off"
      ) from error
    return  # a read-only home costs time, not the run
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _config_record(settings: Any, seeds: Sequence[int]) -> dict[str, Any]:
  """Every setting, for config.json; `run.MAY_DIFFER` are those that do not make it another run."""
  names = ("algorithm", "space", "dataset", *run.MAY_DIFFER)
  return {
    **{name: FLAGS[name].value for name in names},
    "seeds": list(seeds),
    **{k: list(v) if isinstance(v, tuple) else v for k, v in _flat(settings)},
  }


def _flat(settings: Any) -> list[tuple[str, Any]]:
  """(name, value) of all settings, those of the configs inside first."""
  inside = _inner(type(settings))
  own = [(name, value) for name, value in recorded(settings).items() if name not in inside]
  inner = [_flat(getattr(settings, name)) for name in inside]
  return [item for part in inner for item in part] + own


def _side(settings: Any) -> int:
  """Side of the images of ImageNet to train on: an eighth more than the network sees, to crop from; else 0."""
  if isinstance(settings, TrainingConfig) and FLAGS.dataset == "imagenet2012":
    return -(-settings.training.image_size * 8 // 7)
  return 0


def main(argv: Sequence[str]) -> int:
  """Runs what the flags say; returns the exit code."""
  if len(argv) > 1:
    raise ConfigError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value")
  _join_hosts()
  space = spaces.get(FLAGS.space)
  settings = indicators.resolve(_settings(CONFIGS[FLAGS.algorithm]), space)
  settings = settings.on(space) if isinstance(settings, NASIConfig) else settings
  _refuse_contradictions(settings)
  seeds = _seeds()
  cache_compilations(FLAGS.compilation_cache)
  benchmark = tabular.open_benchmark(FLAGS.benchmark, space)

  def load(split: str = "train", download: bool = False):
    return data.load(FLAGS.dataset, split=split, data_dir=FLAGS.data_dir, download=download, side=_side(settings))

  source = load(download=FLAGS.download)
  run.run(
    space=space,
    source=source,
    settings=settings,
    seeds=seeds,
    benchmark=benchmark,
    workdir=FLAGS.workdir,
    config=_config_record(settings, seeds),
    progress=FLAGS.progress,
    memory=None if FLAGS.memory_gb is None else int(FLAGS.memory_gb * 2**30),
    open_split=load,
  )
  return 0


def _parse(argv: list[str]) -> list[str]:
  try:
    return FLAGS(argv)
  except flags.Error as error:
    sys.exit(_fail(str(error).replace("flag --", "--", 1)))


def _fail(message: str) -> int:
  print(f"jaxnas: error: {' '.join(message.split())}", file=sys.stderr)
  return 2


def _guarded(argv: list[str]) -> int:
  absl_logging.set_verbosity(absl_logging.WARNING)  # JAX tells of every backend that it does not find
  try:
    return main(argv)
  except JaxnasError as error:
    return _fail(str(error))
  except KeyboardInterrupt:
    print(
      "jaxnas: interrupted; the same command continues in --workdir where there is one",
      file=sys.stderr,
    )
    return 130


def run_app() -> None:
  """Entry point of `jaxnas` and of `python -m jaxnas.main`."""
  app.run(_guarded, flags_parser=_parse)


if __name__ == "__main__":
  run_app()
