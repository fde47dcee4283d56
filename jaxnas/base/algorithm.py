"""What an algorithm is: a page of a paper, with its settings, what it requires, its amount of work, and its outcome."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxnas.base.data import Accuracies, Records, Source
from jaxnas.base.proxy import Proxy
from jaxnas.base.space import Space

S = TypeVar("S")  # a settings dataclass


class Column(NamedTuple):
  """A column of the result's table.

  Attributes:
    key: the field of a row.
    title: as printed.
    status: the field with the status of that value, shown beside it unless it is "ok"; "" if there is none.
  """

  key: str
  title: str
  status: str = ""


@dataclasses.dataclass(frozen=True)
class Artefact:
  """Something beside the table that a run leaves: a picture (.png), or a file.

  Attributes:
    file: its name in the work directory.
    caption: one sentence for the report.
    draw: writes it at the path given.
  """

  file: str
  caption: str
  draw: Callable[[pathlib.Path], object] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one seed of an algorithm gives.

  Attributes:
    rows: of the table, one at least, of text, numbers or None (shown as -); a row's "arch" is an architecture in text
      form, which is then looked up in the benchmark. Where the trained network is another than the space's usual one,
      "params" and "macs" are its own.
    columns: which further fields of a row the table shows.
    artefacts: pictures and files.
    groups: fields that tell a seed's rows apart, such as the rule that found them; with several seeds the table has the
      mean of each group in the place of the rows.
    scores: lines of `scoring.score` as dicts, from which the comparison with the benchmark is made.
    record: what result.json keeps of this seed beside the rows, JSON-able.
    found: the algorithm's own full result, for users of the library.
  """

  rows: Sequence[Mapping[str, Any]]
  columns: Sequence[Column] = ()
  artefacts: Sequence[Artefact] = ()
  groups: Sequence[str] = ()
  scores: Sequence[Mapping[str, Any]] = ()
  record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  found: Any = None


class Work(NamedTuple):
  """How much one seed of a search has to do, in which unit: what it tells `Context.advance` adds up to `amount`."""

  amount: int
  unit: str


@runtime_checkable
class Advance(Protocol):
  """Progress: n units more are done; `earlier` if they were found in the records of an interrupted run."""

  def __call__(self, n: int, *, earlier: bool = False) -> object: ...


@runtime_checkable
class Note(Protocol):
  """A short text beside the progress bar, "" takes it away; level 1 is a detail of what level 0 says."""

  def __call__(self, text: str, *, level: int = 0) -> object: ...


def _nothing(*args: Any, **kwargs: Any) -> None:
  """The default of all callbacks."""


@dataclasses.dataclass(frozen=True)
class Context(Generic[S]):
  """What a search runs in. Of a library call all but space, source and settings can be left out.

  Attributes:
    space, source, settings: where, on which images, and how; `settings` is an instance of the algorithm's `Settings`.
    benchmark: accuracies to choose by or to compare with.
    engine: a `scoring.Engine`, whose compiled programs several searches share; None: a new one.
    proxy_settings: for proxies that prepare their own inputs, by class of their settings; a missing one: the defaults.
    records: what an interrupted run of the same search passed to `keep`; it is not computed again.
    keep: called with new records, one argument each, JSON-able.
    advance, note: progress.
    folder: where the search may keep files of its own, such as checkpoints; None: nowhere.
    open_split: opens another split of the same data set by name.
  """

  space: Space
  source: Source
  settings: S
  benchmark: Accuracies | None = None
  engine: Any = None
  proxy_settings: Mapping[type, Any] = dataclasses.field(default_factory=dict)
  records: Records = ()
  keep: Callable[..., object] = _nothing
  advance: Advance = _nothing
  note: Note = _nothing
  folder: pathlib.Path | None = None
  open_split: Callable[[str], Source] | None = None

  def settings_of(self, proxy: Proxy) -> Any:
    """The settings with which `proxy` prepares its inputs; None for one that does not."""
    kind = proxy.Settings
    return None if kind is None else self.proxy_settings.get(kind) or kind()


class Algorithm(Generic[S]):
  """A search, a comparison or a training. Subclasses register themselves and say what is theirs.

  Attributes:
    name: as in --algorithm.
    summary: one line for --help.
    Settings: a frozen dataclass of `settings.setting` fields, which become flags; its __post_init__ checks them.
    requires: capabilities that the space must have (`Prunable`, `Differentiable`, `Tapped`, `Trainable`).
    extends: flags of which a run may be continued with other values, because its records do not depend on them: with
      more seeds or architectures, what there is is kept and the rest computed.
  """

  name: ClassVar[str]
  summary: ClassVar[str]
  Settings: ClassVar[type]
  requires: ClassVar[tuple[type, ...]] = ()
  extends: ClassVar[tuple[str, ...]] = ("seeds",)

  def proxies(self, settings: S, space: Space) -> tuple[Proxy, ...]:
    """The proxies that a search with these settings measures in this space."""
    return ()

  def image_size(self, settings: S) -> int:
    """Side of the images that it wants of a data set whose images have many sizes; 0: the data set's own choice."""
    return 0

  def work(self, context: Context[S]) -> Work:
    """How much one seed has to do; refuses what would fail only later.

    Raises:
      JaxnasError: settings, space, benchmark and images that do not go together.
    """
    raise NotImplementedError

  def search(self, context: Context[S], seed: int) -> Outcome:
    """Runs one seed; the same seed gives the same outcome, also after an interruption.

    Raises:
      JaxnasError: as `work`, or where nothing was found.
    """
    raise NotImplementedError
