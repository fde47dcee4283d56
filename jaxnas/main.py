"""jaxnas: training-free neural architecture search.

python -m jaxnas.main, or jaxnas, [--flagfile=FILE] [--flag=value ...]

Without flags: TE-NAS on NAS-Bench-201 and generated images, some minutes.
  --workdir=out                             scores, plots and report.html there
  --space=darts                             searches the DARTS space instead
  --algorithm=random_search --samples=100   the control
  --algorithm=knas | nasi | gennas          the other searches
  --algorithm=ranked --rank_by=jaxnas       the best of 1,000 by several proxies
  --algorithm=score --archs=6111,9930       scores of architectures
  --algorithm=score --archs=random:1000     how well the proxies rank them
  --algorithm=train --genotype=TEXT         trains an architecture
  --preset=tenas_nb201_cifar10 --data_dir=FOLDER   a published setting
  --plugins=my_proxy.py --proxies=my_proxy  your own proxies, spaces, algorithms
"""

import logging
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, cast, get_args

from jaxnas import stopping

if __name__ == "__main__":
  stopping.watch()  # before the imports, which take seconds

import jax
from absl import app, flags
from absl import logging as absl_logging

from jaxnas import data, hosts, registry, run, tabular, text_flags, usage
from jaxnas.base import Algorithm, Context, Sequences, Space, lacking
from jaxnas.errors import ConfigError, JaxnasError
from jaxnas.files import user_path
from jaxnas.nets.products import Precision
from jaxnas.scoring import Batching
from jaxnas.setting_flags import SettingFlags
from jaxnas.settings import completed, filled, recorded
from jaxnas.terminal import complain, say

FLAGS = flags.FLAGS
SETTINGS = SettingFlags(FLAGS)
_LATER = ("precision", *text_flags.NAMES)  # at their defaults in the runs that began before there were any

flags.DEFINE_string("algorithm", "tenas", "what to run")
flags.DEFINE_string("space", "nb201", "search space")
flags.DEFINE_string(
  "dataset",
  "synthetic",
  "what to search with: 'synthetic' images, 'signals' (sequences, what nlp reads by default) and 'tokens' (flexibert, "
  "encoder) are generated, other images are read through TFDS; text is tokens too, tsv:FILE a file of your own",
)
flags.DEFINE_string(
  "data_dir",
  None,
  "folder that holds the data set: TFDS's (default: TFDS_DATA_DIR, or TFDS's own), or of text the one with RTE/",
)
text_flags.define(FLAGS)
flags.DEFINE_bool("download", False, "let TFDS fetch a data set that is missing")
flags.DEFINE_string(
  "preset", None, "published settings by name, such as tenas_nb201_cifar10; flags given besides have the last word"
)
flags.DEFINE_list(
  "plugins",
  [],
  "your own proxies, spaces and algorithms: Python files or names of modules, comma-separated; what they register is "
  "known to all flags, and their settings are flags too",
)
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
flags.DEFINE_bool(
  "trust_pickle",
  False,
  "open a --benchmark that is made of pickles, as NATS-Bench's files are: opening them runs whatever code they hold",
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
)
flags.DEFINE_enum(
  "batching",
  "auto",
  list(get_args(Batching)),
  "architectures one after the other ('loop'), or many in one program, each operation for those that chose it "
  "('dispatch'); 'auto': 'dispatch' on accelerators, where the space has it",
)
flags.DEFINE_enum(
  "precision",
  "highest",
  list(get_args(Precision)),
  "products of networks: as precise as float32, three of bfloat16 ('high'), or one ('bfloat16'); sums are of float32",
)
flags.DEFINE_bool(
  "distributed",
  False,
  "this process is one of several, a host each, that make one run: start the same command on all; the first one reads "
  "and writes --workdir. A TPU pod, Slurm or MPI says who they are; elsewhere give the three flags below",
)
flags.DEFINE_string("coordinator", None, "with --distributed: HOST:PORT of process 0")
flags.DEFINE_integer("num_processes", None, "with --distributed: how many there are", lower_bound=1, upper_bound=65_536)
flags.DEFINE_integer("process_id", None, "with --distributed: which one this is, from 0", lower_bound=0)
flags.DEFINE_integer(
  "distributed_timeout",
  60,
  "with --distributed: seconds to wait for the other processes",
  lower_bound=1,
  upper_bound=86_400,
)
flags.DEFINE_bool("progress", True, "show progress with rate and time left on standard error")


def presets() -> dict[str, pathlib.Path]:
  """The flagfiles of published settings that are in the package, by name."""
  return {file.stem: file for file in sorted((pathlib.Path(__file__).parent / "presets").glob("*.flags"))}


def preset(name: str) -> pathlib.Path:
  """The flagfile of a preset.

  Raises:
    ConfigError: there is none of that name.
  """
  if name not in presets():
    raise ConfigError(registry.unknown(f"--preset={name!r}", name, presets()))
  return presets()[name]


def parse(argv: Sequence[str]) -> list[str]:
  """Imports the plugins that `argv` and its flagfiles name, defines all settings as flags, and parses them.

  Returns:
    What is no flag, the program's name first.

  Raises:
    ConfigError: a plugin that cannot be imported, or settings of one name.
    absl.flags.Error: a flag that does not exist, or a value that it does not take.
  """
  early = flags.FlagValues()
  early.set_gnu_getopt(True)  # a value may stand apart from its flag
  flags.DEFINE_list("plugins", [], "", flag_values=early)
  for name in ("preset", "algorithm"):
    flags.DEFINE_string(name, None, "", flag_values=early)
  early(list(argv), known_only=True)
  registry.load_plugins(early["plugins"].value or ())
  if early["preset"].value is not None:
    argv = [*argv[:1], f"--flagfile={preset(early['preset'].value)}", *argv[1:]]  # what is given besides comes later
  kinds: tuple[registry.Kind, ...] = ("algorithm", "space", "dataset")
  for kind in kinds:
    FLAGS[kind].help = f"{FLAGS[kind].help.partition(':')[0]}: {', '.join(registry.names(kind))}"
  for name in registry.names("algorithm"):
    SETTINGS.define(registry.make("algorithm", name).Settings, f"--algorithm={name}")
  for name in registry.names("proxy"):
    settings = registry.make("proxy", name).Settings
    if settings is not None:
      SETTINGS.define(settings, f"the proxy {name}")
  if any(word in usage.ASKED for word in argv[1:]):
    chosen = early["algorithm"].value
    say(usage.page(__doc__ or "") if chosen is None else usage.of_algorithm(chosen, FLAGS))
    sys.exit(0)
  return FLAGS(list(argv))


def _settings(algorithm: Algorithm, space: Space) -> tuple[Any, dict[type, Any]]:
  """The algorithm's settings, and those of the proxies that it measures with these, by class.

  None in both is what was published for the space.
  """

  def read(config: type) -> Any:
    return filled(SETTINGS.read(config), space.published(algorithm.name, FLAGS.dataset))

  settings = read(algorithm.Settings)
  kinds = {proxy.Settings for proxy in algorithm.proxies(settings, space) if proxy.Settings is not None}
  SETTINGS.refuse_unread({algorithm.Settings, *kinds}, algorithm.name, space)
  return settings, {kind: read(kind) for kind in sorted(kinds, key=lambda kind: kind.__qualname__)}


def _refuse_contradictions() -> None:
  if FLAGS.dataset in ("synthetic", "signals", "tokens") and (FLAGS.download or FLAGS["data_dir"].present):
    flag = "download" if FLAGS.download else "data_dir"
    raise ConfigError(
      f"--{flag} has no meaning with --dataset={FLAGS.dataset}, which is generated; name a --dataset or drop it"
    )


def _seeds() -> tuple[int, ...]:
  digits = all(re.fullmatch("[0-9]{1,10}", s.strip()) for s in FLAGS.seeds)
  seeds = tuple(int(s) for s in FLAGS.seeds) if digits else ()
  if not seeds or len(set(seeds)) < len(seeds) or max(seeds) >= 2**31:
    raise ConfigError(
      f"--seeds={','.join(FLAGS.seeds)!r} must be distinct integers from 0 to 2147483647, comma-separated"
    )
  return seeds


def _memory() -> int | None:
  """--memory_gb in bytes."""
  if FLAGS.memory_gb is None:
    return None
  if not 0.01 <= FLAGS.memory_gb <= 1e6:  # refuses nan too
    raise ConfigError(f"--memory_gb={FLAGS.memory_gb} must be a number of GiB from 0.01 up")
  return int(FLAGS.memory_gb * 2**30)


def _join_hosts() -> None:
  names = ("coordinator", "num_processes", "process_id")
  if FLAGS.distributed:
    hosts.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id, FLAGS.distributed_timeout)
  for name in names:
    if FLAGS[name].value is not None and not FLAGS.distributed:
      raise ConfigError(f"--{name}={FLAGS[name].value} has no meaning without --distributed; give both or none")


def _find_devices() -> None:
  try:
    jax.devices()
  except Exception as error:  # a RuntimeError; of some plugins anything
    asked = os.environ.get("JAX_PLATFORMS")
    fix = f"JAX_PLATFORMS={asked}: set it to cpu or to what is installed, or unset it" if asked else "see JAX's message"
    why = (str(error).splitlines() or [type(error).__name__])[0]
    raise ConfigError(f"JAX finds no device ({why}); {fix}") from error


def cache_compilations(folder: str) -> None:
  """Has JAX keep compiled programs in a folder, "default" in the user's cache, or not at all with "off".

  Raises:
    ConfigError: the folder cannot be written.
  """
  if folder == "off":
    return
  try:
    path = _cache_home() / "jaxnas" / "xla" if folder == "default" else user_path(folder, "--compilation_cache")
    path.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError) as error:
    if folder != "default":
      raise ConfigError(f"--compilation_cache={folder!r} cannot be written ({error}); give another, or off") from error
    return  # no home, or one that is read-only, costs time and not the run
  _refuse_shared(path)
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _refuse_shared(path: pathlib.Path) -> None:
  """What lies in the folder is executed, so it must not be what anybody may write."""
  mode = path.stat().st_mode
  if os.name == "posix" and mode & 0o002:
    raise ConfigError(
      f"--compilation_cache={path}: everybody may write there, and what lies there is executed; give a folder of your "
      "own (chmod o-w), or off"
    )
  if os.name == "posix" and mode & 0o020:
    logging.getLogger("jaxnas").warning("your group may write to --compilation_cache=%s, and it is executed", path)


def _cache_home() -> pathlib.Path:
  """The user's folder for caches; RuntimeError of a user without a home."""
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")


def _config_record(settings: Sequence[Any], seeds: Sequence[int]) -> dict[str, Any]:
  """Every setting, for config.json; `run.MAY_DIFFER` are those that do not make it another run."""
  found = {name: FLAGS[name].value for name in ("algorithm", "space", "dataset", *run.MAY_DIFFER, *_LATER)}
  found["seeds"] = list(seeds)
  for part in settings:
    found |= {name: list(value) if isinstance(value, tuple) else value for name, value in recorded(part).items()}
  return found


def _completed(record: dict[str, Any], settings: Sequence[Any]) -> dict[str, Any]:
  """The settings of an older run, with those that came later at their defaults."""
  record = {name: FLAGS[name].default for name in _LATER} | record
  for part in settings:
    record = completed(record, type(part))
  return record


def main(argv: Sequence[str]) -> int:
  """Runs what the flags say; returns the exit code."""
  if len(argv) > 1:
    raise ConfigError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value")
  _join_hosts()
  _find_devices()
  algorithm: Algorithm = registry.make("algorithm", FLAGS.algorithm, "--algorithm")
  space: Space = registry.make("space", FLAGS.space, "--space")
  run.refuse_space(algorithm, space)
  space = text_flags.opened(FLAGS, space)
  if not lacking(space, Sequences) and not FLAGS["dataset"].present:
    FLAGS.dataset = cast(Sequences, space).dataset
  settings, proxy_settings = _settings(algorithm, space)
  _refuse_contradictions()
  seeds = _seeds()
  cache_compilations(FLAGS.compilation_cache)
  side, tokens = algorithm.image_size(settings), text_flags.tokens(FLAGS, space)

  def load(split: str = "train", download: bool = False):
    return data.load(FLAGS.dataset, split=split, data_dir=FLAGS.data_dir, download=download, side=side, tokens=tokens)

  context = Context(
    space,
    load(download=FLAGS.download),
    settings,
    benchmark=tabular.open_benchmark(FLAGS.benchmark, space, trust_pickle=FLAGS.trust_pickle),
    proxy_settings=proxy_settings,
    open_split=load,
  )
  every = (*proxy_settings.values(), settings)
  with jax.default_matmul_precision(FLAGS.precision):
    run.run(
      algorithm,
      context,
      seeds=seeds,
      workdir=FLAGS.workdir,
      config=_config_record(every, seeds),
      complete=lambda record: _completed(record, every),
      progress=FLAGS.progress,
      memory=_memory(),
      batching=FLAGS.batching,
    )
  return 0


def _parse(argv: list[str]) -> list[str]:
  try:
    return parse(argv)
  except UnicodeDecodeError as error:
    sys.exit(_fail(f"--flagfile: not a text in UTF-8 ({error}); save it as one"))
  except (flags.Error, JaxnasError) as error:
    sys.exit(_fail(_plain(str(error))))


def _plain(message: str) -> str:
  """A message of absl's as ours are."""
  message = message.replace("flag --", "--", 1).replace("ERROR:: Unable to open flagfile:", "--flagfile:", 1)
  return re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "say true or false", message)


def _fail(message: str, code: int = 2) -> int:
  complain(f"jaxnas: error: {' '.join(message.split())}")
  return code


def _guarded(argv: list[str]) -> int:
  absl_logging.set_verbosity(absl_logging.WARNING)  # JAX tells of every backend that it does not find
  try:
    code = main(argv)
  except JaxnasError as error:
    code = _fail(str(error))
  except Exception as error:
    hosts.hear()
    code = _fail(_unexpected(error), 1)
  hosts.leave(code)
  return code


def _unexpected(error: Exception) -> str:
  """What is said of an error that is no refusal."""
  of_jax = isinstance(error, jax.errors.JaxRuntimeError)
  if isinstance(error, MemoryError) or (of_jax and "RESOURCE_EXHAUSTED" in str(error)):
    return "out of memory; give smaller batches, fewer channels or cells, or less --memory_gb"
  if of_jax:
    why = str(error).partition("\n")[0][:200]
    if FLAGS.distributed:
      return f"probably another process of this run ended ({why}); start all again: it continues in --workdir"
    return f"the device failed ({why}); the same command continues in --workdir, where one was given"
  what = f"{type(error).__name__}: {error}"
  return f"{what[:300]} (a bug of jaxnas or of a plugin; the log in --workdir has the traceback)"


def run_app() -> None:
  """Entry point of `jaxnas` and of `python -m jaxnas.main`."""
  app.run(_guarded, flags_parser=_parse)


if __name__ == "__main__":
  run_app()
