"""Names of proxies, spaces, algorithms, benchmarks and data sets, those of the package and of users' own files.

Each is one file that registers itself when it is imported:

    @registry.register("proxy", "my_proxy")

The files of the package are listed in `BUILT_IN` and imported when a name is first asked for. A user's own are known
after `load_plugins` (the flag --plugins), or without it when their distribution has an entry point in the group
`jaxnas`, whose value is the module to import.
"""

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, get_args, overload

from jaxnas.errors import ConfigError, JaxnasError
from jaxnas.files import user_path

Made = TypeVar("Made", bound=Callable[..., Any])
Kind = Literal["proxy", "space", "algorithm", "benchmark", "dataset"]
KINDS: tuple[str, ...] = get_args(Kind)
GROUP = "jaxnas"  # of entry points

BUILT_IN: dict[str, tuple[str, ...]] = {
  "proxy": (
    "jaxnas.proxies.ntk_condition_number",
    "jaxnas.proxies.infinite_ntk_condition_number",
    "jaxnas.proxies.linear_regions",
    "jaxnas.gennas.proxy",
    "jaxnas.proxies.mgm",
    "jaxnas.proxies.trace_norm",
    "jaxnas.proxies.grad_norm",
    "jaxnas.proxies.snip",
    "jaxnas.proxies.grasp",
    "jaxnas.proxies.fisher",
    "jaxnas.proxies.synflow",
    "jaxnas.proxies.jacob_cov",
    "jaxnas.proxies.naswot",
    "jaxnas.proxies.zen",
    "jaxnas.proxies.log_synflow",
    "jaxnas.proxies.az_expressivity",
    "jaxnas.proxies.az_progressivity",
    "jaxnas.proxies.az_trainability",
    "jaxnas.proxies.zico",
    "jaxnas.proxies.gradsign",
    "jaxnas.proxies.swap",
    "jaxnas.proxies.meco",
    "jaxnas.proxies.plain",
    "jaxnas.proxies.l2_norm",
    "jaxnas.proxies.params",
    "jaxnas.proxies.flops",
    "jaxnas.proxies.effective_params",
    "jaxnas.proxies.skip_length",
  ),
  "space": (
    "jaxnas.spaces.nb201",
    "jaxnas.spaces.nb101",
    "jaxnas.spaces.darts",
    "jaxnas.spaces.nds",
    "jaxnas.spaces.nlp",
    "jaxnas.spaces.flexibert",
    "jaxnas.spaces.encoder",
  ),
  "algorithm": (
    "jaxnas.algorithms.tenas",
    "jaxnas.algorithms.knas",
    "jaxnas.algorithms.nasi",
    "jaxnas.gennas.search",
    "jaxnas.gennas.task_search",
    "jaxnas.algorithms.random_search",
    "jaxnas.algorithms.ranked",
    "jaxnas.algorithms.score",
    "jaxnas.algorithms.train",
    "jaxnas.report.runs",
  ),
  "benchmark": ("jaxnas.spaces.nb201.benchmark",),
  "dataset": (
    "jaxnas.data.synthetic",
    "jaxnas.data.tfds_source",
    "jaxnas.data.random_tokens",
    "jaxnas.data.text",
    "jaxnas.gennas.sequence_source",
  ),
}

_made: dict[str, dict[str, Callable[..., Any]]] = {kind: {} for kind in KINDS}
_opening: list[str] = []  # kinds whose built-in modules are being imported
_opened: set[str] = set()  # kinds whose built-in modules are imported, and `GROUP` once its modules are


@overload
def register(kind: Kind, name: str) -> Callable[[Made], Made]: ...
@overload
def register(kind: Kind, name: str, make: Made) -> Made: ...
def register(kind: Kind, name: str, make: Callable[..., Any] | None = None) -> Any:
  """Makes a name known; as a decorator, or with `make` at once.

  Args:
    kind: what it is.
    name: as in flags; letters, digits and underscores.
    make: gives the thing when it is asked for. Of a proxy, a space or an algorithm it takes no arguments, so a class
      will do; of a benchmark neither, and gives its `Accuracies`; of a data set it is
      (split, data_dir, download, side) -> `Source`, see `jaxnas.data.load`; one of text takes `tokens` by name, and
      `file` if it is one of `NAME:FILE`.

  Raises:
    ConfigError: an unknown kind, a malformed name, or one that is taken by something else.
  """
  if kind not in _made:
    raise ConfigError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
  if not name.isidentifier():
    raise ConfigError(f"{kind} {name!r}: a name has letters, digits and underscores, and begins with no digit")
  if make is None:
    return lambda thing: register(kind, name, thing)
  known = _made[kind].get(name)
  if known is not None and _origin(known) != _origin(make):
    raise ConfigError(f"{kind} {name!r} is registered already, by {_origin(known)}; choose another name")
  _made[kind][name] = make
  return make


def names(kind: Kind) -> tuple[str, ...]:
  """All names of a kind: those of the package in its own order, then those of plugins."""
  _open(kind)
  order = BUILT_IN[kind]  # a test or a user may have imported them in another

  def place(name: str) -> int:
    module = _function(_made[kind][name]).__module__
    return order.index(module) if module in order else len(order)

  return tuple(sorted(_made[kind], key=place))


def get(kind: Kind, name: str, flag: str = "") -> Callable[..., Any]:
  """What was registered under a name.

  Args:
    flag: what the message calls it, such as "--proxies"; default: the kind.

  Raises:
    ConfigError: nothing has that name; the message has the nearest ones.
  """
  _open(kind)
  if name not in _made[kind]:
    raise ConfigError(unknown(f"{flag}={name!r}" if flag else f"{kind} {name!r}", name, names(kind)))
  return _made[kind][name]


def make(kind: Kind, name: str, flag: str = "") -> Any:
  """The proxy, space or algorithm of a name, checked as far as a file of a user's own may be wrong.

  Args:
    flag: as of `get`.

  Raises:
    ConfigError: as `get`; it cannot be made, is called otherwise than it is registered, or lacks what its kind must
      have.
  """
  known = get(kind, name, flag)
  what = f"{kind} {name!r} ({_origin(known)})"
  try:
    thing = known()
  except JaxnasError:
    raise
  except Exception as error:
    raise ConfigError(f"{what} cannot be made: {type(error).__name__}: {error}; see jaxnas.base") from error
  if missing := _missing(kind, thing):
    raise ConfigError(f"{what} lacks {', '.join(missing)}; see jaxnas.base")
  if thing.name != name:
    raise ConfigError(f"{what} calls itself {thing.name!r}; give its `name` the name under which it is registered")
  return thing


def _missing(kind: str, thing: Any) -> list[str]:
  """What a user's own thing does not define of what every one of its kind must have."""
  from jaxnas.base import Algorithm, Proxy, Space  # here: names of benchmarks are looked up without JAX

  if kind == "space":
    return [name for name in dir(Space) if not name.startswith("_") and not _defines(type(thing), name, Space)]
  if kind == "algorithm":
    needed = [name for name in ("work", "search") if not _defines(type(thing), name, Algorithm)]
    return needed + [name for name in ("Settings", "name", "summary") if name not in dir(thing)]
  return [] if _defines(type(thing), "measure", Proxy) else ["measure"]


def _defines(kind: type, name: str, contract: type) -> bool:
  return name in dir(kind) and getattr(kind, name) is not getattr(contract, name, None)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
  """The message for a name that is not among those known, with what was probably meant."""
  known = tuple(known)
  folded = {one.lower(): one for one in reversed(known)}
  near = [folded[one] for one in difflib.get_close_matches(str(name).lower(), folded, 3, 0.6)]
  hint = f"did you mean {' or '.join(near)}? " if near else ""
  return f"{what} is not known; {hint}choose among {', '.join(known)}"


def load_plugins(plugins: Iterable[str]) -> None:
  """Imports users' own files: each a path that ends in .py, or the name of a module.

  Raises:
    ConfigError: there is none, or importing it fails; says which and why.
  """
  for plugin in plugins:
    _load(plugin, f"--plugins={plugin}")


def _load(plugin: str, called: str) -> None:
  """Imports a file or module; `called` is what messages call it."""
  path = user_path(plugin, "--plugins")
  try:
    if plugin.endswith(".py"):
      _import_file(path)
    else:
      importlib.import_module(plugin)
  except FileNotFoundError as error:
    raise ConfigError(f"{called}: there is no such file; give the path of a Python file") from error
  except ConfigError as error:
    raise ConfigError(f"{called}: {error}") from error
  except (Exception, SystemExit) as error:  # a user's code may raise anything
    hint = "" if plugin.endswith(".py") else "; a file's path ends in .py"
    raise ConfigError(f"{called}: importing it raises {type(error).__name__}: {error}{hint}") from error


def _import_file(path: pathlib.Path) -> None:
  """Imports a file under its own name, once."""
  name = path.stem
  known = sys.modules.get(name)
  if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
    return
  if known is not None or not name.isidentifier():
    raise ConfigError(f"{name!r} is the name of another module, or of none; rename the file")
  spec = importlib.util.spec_from_file_location(name, path.resolve())
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise


def _open(kind: str) -> None:
  """Imports what the package has of a kind, and, once the package's own imports are over, installed plugins."""
  if kind not in _made:
    raise ConfigError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
  if kind not in _opened and kind not in _opening:
    _opening.append(kind)
    try:
      for module in BUILT_IN[kind]:
        importlib.import_module(module)
    finally:
      _opening.remove(kind)
    _opened.add(kind)
  if not _opening and GROUP not in _opened:
    _opened.add(GROUP)  # once, whatever kinds the modules of this one open
    for point in importlib.metadata.entry_points(group=GROUP):
      _load(point.value, f"the installed plugin {point.name} ({point.dist.name if point.dist else point.value})")


def _origin(make: Any) -> str:
  """Where something was defined: importing its file twice is no conflict."""
  function = _function(make)
  return f"{function.__module__}.{getattr(function, '__qualname__', repr(make))}"


def _function(make: Any) -> Any:
  return make.func if isinstance(make, functools.partial) else make
