"""What a search space is: a table of operations, architectures as integer arrays, and networks of them."""

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxnas.base.data import Accuracies, Source
from jaxnas.base.network import Costs, Init, Single
from jaxnas.errors import ConfigError

if TYPE_CHECKING:
  import flax.linen as nn

Code = Int[np.ndarray, " L"]
"""An architecture as data. What its L integers mean is its space's own business; a batch of them is [A, L]."""

Weights = Float[np.ndarray, "*A cells E O"]
"""Mixing weights of the operations of every edge of every cell type: a (pruned) supernet or a soft architecture."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The size of a network, in every space; what a space cannot have it refuses.

  Attributes:
    channels: C of the first stage; None: as published for the space (`Space.default_config`).
    cells: per stage (nb201, nb101) or in all (darts); None: as published for the space.
    classes: K, outputs of the classifier; of recurrent networks the numbers D of a step.
    init: how parameters are drawn, where the space has a choice (NAS-Bench-101 and GenNAS's backbones have none).
    stem: "cifar" (images keep their size) or "imagenet" (an eighth of it enters the cells).
    auxiliary: whether there is an auxiliary head, which only training uses.
    shape: what of the architectures cannot be data, see `Space.shape`.
  """

  channels: int | None = None
  cells: int | None = None
  classes: int = 10
  init: Init = "torch_default"
  stem: Literal["cifar", "imagenet"] = "cifar"
  auxiliary: bool = False
  shape: Hashable = None

  def __post_init__(self):
    for name, value in (("channels", self.channels), ("cells", self.cells), ("classes", self.classes)):
      if value is not None and value < 1:
        raise ConfigError(f"{name}={value} must be at least 1")

  @property
  def size(self) -> tuple[int, int]:
    """(channels, cells).

    Raises:
      ConfigError: one of them is open.
    """
    if self.channels is None or self.cells is None:
      raise ConfigError(f"channels={self.channels}, cells={self.cells}: give both, or take `filled`")
    return self.channels, self.cells

  def filled(self, default: "NetworkConfig") -> "NetworkConfig":
    """These settings with the channels and cells of `default` where they are None."""
    channels = default.channels if self.channels is None else self.channels
    cells = default.cells if self.cells is None else self.cells
    return dataclasses.replace(self, channels=channels, cells=cells)

  def plain(self, space: str) -> "NetworkConfig":
    """These settings, for a space whose networks have no stem, auxiliary head or shape to choose.

    Raises:
      ConfigError: one of them is chosen.
    """
    for name, only in (("stem", "cifar"), ("auxiliary", False), ("shape", None)):
      if getattr(self, name) != only:
        raise ConfigError(f"{name}={getattr(self, name)!r}: networks of {space} have no such setting; drop it")
    return self


class Picture(NamedTuple):
  """A PNG file in a folder, and what it shows."""

  file: str
  caption: str


@runtime_checkable
class Space(Protocol):
  """A search space. Spaces are immutable, hashable and equal to others of their name."""

  @property
  def name(self) -> str:
    """As in --space."""
    ...

  @property
  def ops(self) -> tuple[str, ...]:
    """Names of the operations; an operation's column is its place."""
    ...

  @property
  def default_config(self) -> NetworkConfig:
    """Channels and cells that architectures are scored with unless someone says otherwise."""
    ...

  def __len__(self) -> int:
    """How many architectures there are."""
    ...

  def parse(self, text: str) -> Code:
    """The architecture of a text form, also as people paste it; the inverse of `format`.

    Raises:
      ArchitectureError: the text is none; the message shows where.
    """
    ...

  def format(self, code: Code) -> str:
    """The canonical text form of one architecture."""
    ...

  def as_codes(self, codes: Any) -> Int[np.ndarray, "*A L"]:
    """Anything of integers [..., L] (or one text form), checked, in the space's own integer type.

    Raises:
      ArchitectureError: another shape or type, or no architecture of the space.
    """
    ...

  def sample(self, key: jax.Array, n: int, unique: bool = True) -> Int[np.ndarray, "n L"]:
    """n random architectures; with `unique` a larger draw with the same key begins with a smaller one."""
    ...

  def mutate(self, key: jax.Array, code: Code) -> Code:
    """A random neighbour, which differs from `code`."""
    ...

  def neighbours(self, code: Code) -> Int[np.ndarray, "n L"]:
    """All architectures that are one change away."""
    ...

  def is_connected(self, code: Code) -> bool:
    """Whether some path leads from input to output."""
    ...

  def canonical(self, code: Code) -> Hashable:
    """Equal for architectures whose cells compute the same."""
    ...

  def shape(self, code: Code) -> Hashable:
    """What of an architecture cannot be data: those of equal shape share programs and parameters; None if all do."""
    ...

  def costs(self, code: Code, config: NetworkConfig | None = None, image_size: int | None = None) -> Costs:
    """Exact integers for the network that a config describes, equal to what `module` has.

    Args:
      config: default: the network that the space's benchmark or paper trains.
      image_size: side of the images; default: of the data set that the config's stem is for (32 or 224).
    """
    ...

  def costs_on(self, code: Code, source: Source) -> Costs:
    """What tables say of an architecture in a run on a data set: costs of the network that would be trained on it.

    Raises:
      ConfigError: the network does not take images of that side.
    """
    ...

  def network(self, config: NetworkConfig) -> Single:
    """The network that scores single architectures, the architecture being data."""
    ...

  def module(self, code: Code, config: NetworkConfig) -> "nn.Module":
    """The network of one architecture in plain Flax: the same function, under parameters that map both ways."""
    ...

  def published(self, method: str, dataset: str) -> Mapping[str, Any]:
    """The settings, by field name, that a method's paper used in this space on this data set; empty if none."""
    ...

  def draw(self, code: Code, folder: pathlib.Path) -> tuple[Picture, ...]:
    """Draws the cells of an architecture as PNG files into `folder`."""
    ...

  def read_benchmark(self, path: pathlib.Path, *, trust_pickle: bool = False) -> Accuracies:
    """Opens a file or folder of accuracies of this space.

    Args:
      trust_pickle: whether pickles may be opened, which runs whatever code they hold.

    Raises:
      BenchmarkError: it is damaged, of another space, or a pickle that is not trusted; says what the space takes.
    """
    ...
