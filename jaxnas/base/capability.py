"""What a space may have beside the members of `Space`: a Protocol a capability, and which members one lacks."""

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from jaxnas.base.network import Network, RecurrentNetwork, TappedNetwork, TrainableNetwork
from jaxnas.base.space import Code, NetworkConfig, Space, Weights

if TYPE_CHECKING:
  import flax.linen as nn


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
