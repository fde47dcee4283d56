"""What a search space is: a table of operations, architectures as integer arrays, and networks of them."""

import dataclasses
import pathlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from jaxnas.base.data import Accuracies, Source
from jaxnas.base.network import Costs, Init, Network, RecurrentNetwork, Single, TappedNetwork, TrainableNetwork
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


@runtime_checkable
class Indexed(Space, Protocol):
  """A space whose benchmark numbers its architectures 0, 1, ..."""

  def from_index(self, index: int) -> Code:
    """The architecture of a number; ArchitectureError where it is out of range."""
    ...

  def index_of(self, code: Code) -> int:
    """The number of an architecture."""
    ...

  def enumerate_all(self) -> Int[np.ndarray, "A L"]:
    """All architectures in the order of their numbers."""
    ...


@runtime_checkable
class Mixed(Space, Protocol):
  """What spaces with weighted edges have in common."""

  @property
  def edges(self) -> tuple[tuple[int, int], ...]:
    """(target, source) of every edge of a cell."""
    ...

  @property
  def cell_types(self) -> int:
    """How many different cells an architecture has."""
    ...

  @property
  def cell_names(self) -> tuple[str, ...]:
    """The name of each."""
    ...

  @property
  def none_op(self) -> int:
    """Column of the operation `none`."""
    ...

  @property
  def edge_groups(self) -> tuple[tuple[int, ...], ...]:
    """Groups of edges that compete (DARTS: those into one node); empty where every edge is kept."""
    ...

  @property
  def edges_kept(self) -> int:
    """How many of each group an architecture keeps."""
    ...

  def from_weights(self, weights: Weights) -> Int[np.ndarray, "*A L"]:
    """The architectures of the heaviest operations, by the space's rule where edges compete."""
    ...


@runtime_checkable
class Prunable(Mixed, Protocol):
  """A space whose supernet can be pruned operation by operation (TE-NAS)."""

  @property
  def op_order(self) -> tuple[int, ...]:
    """Columns in the order of the published code, which decides its ties."""
    ...

  def supernet(self, config: NetworkConfig) -> Network:
    """The network with every operation on every edge, mixed by weights, made for the kernel of many samples."""
    ...

  def region_network(self, config: NetworkConfig) -> Network:
    """The small supernet on one-channel crops that linear regions are counted on; it collects "patterns".

    Of the config only `classes` and `init` are read.
    """
    ...


@runtime_checkable
class Differentiable(Mixed, Protocol):
  """A space whose supernet is differentiable in its weights, to second order (NASI)."""

  def mixture(self, config: NetworkConfig) -> Network:
    """The network with every operation on every edge; no custom pull-backs, so that it can be differentiated twice."""
    ...

  def choices(self, reduced: bool = False) -> Bool[np.ndarray, "cells E O"]:
    """Which operations a search samples; `reduced`: in the reduced form of the space.

    Raises:
      ConfigError: `reduced` of a space without such a form.
    """
    ...

  def derive(self, alphas: Weights, reduced: bool = False) -> Int[np.ndarray, "*A L"]:
    """The architectures of NASI's architecture parameters, by the space's rule."""
    ...


@runtime_checkable
class Tapped(Space, Protocol):
  """A space that GenNAS searches."""

  def backbone(self, config: NetworkConfig) -> TappedNetwork | RecurrentNetwork:
    """The network that is trained on signals; a recurrent one of a space of `Sequences`."""
    ...

  def resample(self, key: jax.Array, code: Code, changes: float) -> Code:
    """GenNAS's mutation, of `changes` expected changes; the result may be the parent."""
    ...


@runtime_checkable
class Tabulated(Tapped, Protocol):
  """A space that GenNAS searches among the architectures of a benchmark."""

  def nearest(self, key: jax.Array, code: Code, among: Int[np.ndarray, "A L"]) -> Code:
    """Another one of these architectures, near to this one."""
    ...


@runtime_checkable
class Sequences(Space, Protocol):
  """A space whose networks read sequences, not images."""

  @property
  def dataset(self) -> str:
    """The data set that they read unless someone says otherwise, as in --dataset."""
    ...


@runtime_checkable
class Pretrained(Space, Protocol):
  """A space around a pre-trained encoder, whose files are in a user's folder."""

  def opened(self, folder: str) -> "Pretrained":
    """The space around the encoder in this folder, as of --encoder.

    Raises:
      DatasetError: a file is missing, damaged, or of another encoder than the others.
    """
    ...

  def tokenizer_file(self) -> str:
    """The path of the tokenizer.json that the encoder was trained with.

    Raises:
      DatasetError: as `opened`, of the encoder that is there where none is given.
    """
    ...

  def export(self, folder: pathlib.Path, code: Code, params: PyTree, class_names: Sequence[str]) -> None:
    """Writes a fine-tuned variant into a folder, which is made, in the form of those that `opened` takes.

    Raises:
      WorkdirError: a file cannot be written.
    """
    ...


@runtime_checkable
class Trainable(Space, Protocol):
  """A space whose architectures can be trained for real."""

  def trained_network(self, config: NetworkConfig, code: Code | None = None) -> TrainableNetwork:
    """The network to train, made for the one architecture that it will be trained for if it is given.

    Raises:
      ConfigError: a setting of the config that networks of this space do not have.
    """
    ...

  def module_variables(self, module: "nn.Module", params: PyTree, stats: PyTree) -> PyTree:
    """The collections of what `module` returned, from parameters and statistics of `trained_network` for its code."""
    ...


@runtime_checkable
class InfiniteWidth(Space, Protocol):
  """A space whose networks have a kernel in closed form as their channels go to infinity."""

  def infinite_width(self, code: Code | jax.Array) -> Callable[..., Float[jax.Array, "N1 N2"]]:
    """`kernel_fn(x1, x2=None)`: the neural tangent kernel of every output, for normalised images [N, H, W, 3].

    Args:
      code: one architecture; a JAX array may be traced and is not checked.

    Raises:
      ArchitectureError: no architecture.
      ConfigError: images that the kernel function does not take, or too many of them.
      ImportError: a package that this takes is missing; says how to install it.
    """
    ...


@runtime_checkable
class Rankable(Space, Protocol):
  """A space for which it was measured which proxies rank it well together."""

  @property
  def ranked_by(self) -> tuple[str, ...]:
    """The proxies whose log-rank sum is the default combination; the space says by which measurement."""
    ...


def lacking(space: Space, capability: type) -> list[str]:
  """What a space would need beside the members of `Space` to have a capability; empty if it has it.

  Args:
    capability: `Prunable`, `Differentiable`, `Tapped`, `Tabulated`, `Sequences`, `Pretrained`, `Trainable`,
      `InfiniteWidth`, `Rankable` or `Indexed`.
  """
  known: type = Space
  kinds = [kind for kind in capability.__mro__ if kind not in known.__mro__]
  own = {name for kind in kinds for name in (*vars(kind), *vars(kind).get("__annotations__", ()))}
  return sorted(name for name in own - set(dir(space)) if not name.startswith("_"))
