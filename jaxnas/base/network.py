"""What a network is: pure functions of parameters, inputs and one architecture as data."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

Mode = Literal["batch", "batch_frozen", "running", "identity"]
"""Statistics of batch normalisation: `batch` (of the mini-batch, differentiated through), `batch_frozen` (the same, as
constants, so that samples decouple), `running` (the `stats` given) or `identity` (mean 0, variance 1)."""

Init = Literal["torch_default", "kaiming_fan_out", "kaiming_fan_in"]
"""Initialisation: uniform within 1 / sqrt(fan in), or normal of gain sqrt 2 by fan out or fan in."""

Collect = Literal["stats", "running_stats", "taps", "observation", "patterns", "correlation"]
"""What `Network.apply` returns beside the logits; see `Output`."""


class Observation(NamedTuple):
  """What the forward pass of one batch shows, for proxies without gradients.

  Attributes:
    features: the input of the global average pooling, [N, H, W, C].
    agreement: [N, N], how many ReLU units two samples agree in (both active or both not), summed over the ReLUs of all
      executed convolutions and the last one.
    log_deviation: [], the sum over executed BN layers of log sqrt(mean over channels of the batch's variance); a layer
      whose input is constant (a convolution behind a dead node) adds 0.
  """

  features: Float[Array, "N H W C"]
  agreement: Float[Array, "N N"]
  log_deviation: Float[Array, ""]


class Output(NamedTuple):
  """What one pass gives; all but the logits is None where it was not asked for.

  Attributes:
    logits: [N, K]; of a network without a classifier the features that one would read.
    stats: for "stats", (mean, biased variance) of this batch at every batch normalisation, which a pass in mode
      `running` takes; for "running_stats" the variance is of n - 1 and both are constants, as running statistics need
      them. Operations that are not executed have arbitrary finite numbers there.
    taps: outputs of the network's stages, each [N, H, W, C].
    observation: see `Observation`.
    patterns: signs of the outputs of all executed ReLUs; those that are not executed show 0. What several operations
      read may be there once or several times.
    correlation: for "correlation", the sum over executed batch normalisations of the smallest eigenvalue of the Pearson
      correlations between channels, over samples and pixels; a channel that is constant is correlated with none, itself
      included.
    auxiliary: logits [N, K] of the auxiliary head, of a network that has one in a pass with "running_stats".
    log_scale: log2 of what the logits were divided by. In mode `identity` a network whose outputs are proportional to
      its inputs (if its biases are 0) may divide its maps by constants, so that no number leaves float32's range.
  """

  logits: Float[Array, "N K"]
  stats: PyTree | None = None
  taps: tuple[Array, ...] | None = None
  observation: Observation | None = None
  patterns: Bool[Array, "N bits"] | None = None
  correlation: Float[Array, ""] | None = None
  auxiliary: Float[Array, "N K"] | None = None
  log_scale: Float[Array, ""] | float = 0.0


class Costs(NamedTuple):
  """Trainable parameters (no auxiliary head) and multiply-adds of one input."""

  params: Any
  macs: Any


@runtime_checkable
class Parametrised(Protocol):
  """What the engine asks of whatever proxies measure: architectures as data, and weights.

  Such objects are immutable and hashable, and equal if they compute the same: compiled programs are found by them. All
  methods but `encode` can be traced.
  """

  def encode(self, codes: Int[np.ndarray, "A L"]) -> np.ndarray:
    """What of these architectures enters a program, [A, ...]; computed on the host."""
    ...

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters, one tree for all architectures."""
    ...

  def start(self, params: PyTree, arch: Array) -> PyTree:
    """Of what `init` drew, the initial values of this architecture, zero in channels that it lacks; often `params`."""
    ...


@runtime_checkable
class Network(Parametrised, Protocol):
  """One network for every architecture (or supernet) of a shape, which is data.

  `arch` is one row of what `encode` returned, or mixing weights of operations [cells, E, O] for a network that mixes
  them. Parameters do not depend on batch normalisation's mode, an argument.
  """

  @property
  def classes(self) -> int:
    """K; a field of a frozen dataclass will do."""
    ...

  @property
  def rows_on_cpu(self) -> int:
    """How many cotangents of a backward pass are best pulled back together on a CPU; a class's constant will do."""
    ...

  def embed(self, params: PyTree, inputs: Array) -> Array:
    """The inputs as numbers in which derivatives can be taken; images are returned as they are."""
    ...

  def apply(
    self,
    params: PyTree,
    inputs: Array,
    arch: Array,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass.

    Args:
      inputs: what `embed` returned; images are normalised, [N, H, W, 3].
      stats: what a pass with "stats" returned; needed in mode `running`.
      gates: factors on the output of every convolution, see `Single.gates`.
      collect: what to return beside the logits.
      rows: a hint that many cotangents will be pulled back through this pass at once (gradients of single samples).

    Raises:
      ConfigError: `stats` missing in mode `running`, or something to collect that this network does not have.
      DatasetError: inputs of another shape.
    """
    ...


@runtime_checkable
class Single(Network, Protocol):
  """A network of single architectures, each of which executes its own operations only."""

  def executed(self, arch: Array) -> PyTree:
    """A tree like the parameters: 1 where they belong to an operation of this architecture, [] or [stacked layers]."""
    ...

  def used_channels(self, arch: Array) -> PyTree | None:
    """A tree like the parameters: (channels in, channels out) in use, int32 [2] or [layers, 2]; None: always all."""
    ...

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " layers"]:
    """`fn` of the kernels (one from each of `trees`) of every convolution and of the classifier, side by side."""
    ...

  def gates(self, samples: int) -> PyTree:
    """Ones, [samples, Cout] or [stacked layers, samples, Cout], one leaf for each convolution, for `apply`."""
    ...

  def costs(self, arch: Array, image_size: int = 32) -> Costs:
    """As `Space.costs`, of this network, as float32 scalars (rounded above 2^24)."""
    ...


@runtime_checkable
class CellNetwork(Single, Protocol):
  """A network of single architectures that is a chain of cells, each of which reads the one before it."""

  def cell_outputs(
    self, params: PyTree, inputs: Array, arch: Array, mode: Mode = "batch", shifts: Sequence[Array] | None = None
  ) -> tuple[Float[Array, "cells N H W C"], ...]:
    """Outputs of the stem and of all cells and reductions in their order, neighbours of one shape side by side.

    Args:
      shifts: arrays like those returned. With them a cell reads, instead of the outputs of cells before it, constants
        of the same numbers, and of the last one its shift in addition. So derivatives in a shift are those of the next
        cell alone, and one backward pass has those of all cells. The last shift is read by no cell.
    """
    ...


@runtime_checkable
class GraphNetwork(Single, Protocol):
  """A network of single architectures whose cells are graphs of operations; its methods need no pass."""

  def effective_costs(self, arch: Array, image_size: int = 32) -> Costs:
    """As `costs`, of operations on a path from input to output only; zeros where there is no path."""
    ...

  def skip_length(self, arch: Array) -> Float[Array, ""]:
    """The mean over a cell's edges from i to j without an operation of j - 1 - i, the nodes passed over.

    Nodes count from 0, the input, in the order of the space. 0 where there are no such edges.
    """
    ...


class Selections(NamedTuple):
  """What architectures choose, each time among the same number of operations.

  Attributes:
    which: the numbers of the operations, at each place where one is chosen.
    operations: how many there are.
    free: those whose results are the same numbers whatever they are given.
  """

  which: Int[np.ndarray, "A places"]
  operations: int
  free: tuple[int, ...] = ()


@runtime_checkable
class Dispatched(Parametrised, Protocol):
  """A network that computes many architectures in one program, each operation for those that chose it.

  Its operations are chosen by `nets.choose.choose`, which `jax.vmap` over architectures batches so.
  """

  def choices(self, archs: Num[np.ndarray, "A ..."]) -> Sequence[Selections]:
    """All choices that a pass makes, of rows of what `encode` returned; no two of one number of operations."""
    ...

  def by_program(self, archs: Num[np.ndarray, "A ..."]) -> Sequence[tuple["Dispatched", Int[np.ndarray, " a"]]]:
    """The networks that take these architectures, each some of them in one program, and which: itself, or by width."""
    ...


@runtime_checkable
class SampleGram(Network, Protocol):
  """A network that compares its samples' gradients in one backward pass, with constant statistics of the batch."""

  def sample_gram(
    self,
    params: PyTree,
    inputs: Array,
    arch: Array,
    outputs: Callable[[Float[Array, "N K"]], Float[Array, " N"]],
    *,
    include: tuple[str, ...] = ("kernel", "scale"),
    diagonal: bool = False,
  ) -> Array:
    """The Gram matrix [N, N], or its diagonal [N], of the derivatives of each sample's output, in mode `batch_frozen`.

    Args:
      inputs: as of `apply`.
      outputs: one number a sample, of its own logits.
      include: by which parameters: "kernel", "scale", "bias".
    """
    ...


@runtime_checkable
class TappedNetwork(Network, Protocol):
  """A network of single architectures with three taps and running statistics, which GenNAS trains on signals."""

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Channels of the three taps."""
    ...

  def used_taps(self, arch: Array) -> Int[Array, "3"] | None:
    """How many channels of each tap this architecture has, the first ones, with zeros behind; None: always all."""
    ...

  def init_stats(self) -> PyTree:
    """Running statistics before the first step, as a pass with "running_stats" returns them: mean 0, variance 1."""
    ...

  def variants(self) -> tuple["TappedNetwork", ...]:
    """Networks that are faster for some architectures each, or only this one; `variant` says which one to take."""
    ...

  def variant(self, arch: Array) -> Int[Array, ""]:
    """The place in `variants()` of this architecture's network, int32."""
    ...

  def costs(self, arch: Array, image_size: int = 32) -> Costs:
    """As `Single.costs`."""
    ...


@runtime_checkable
class RecurrentNetwork(Network, Protocol):
  """A network that turns sequences of numbers into others, which GenNAS trains on signals; K = T D."""

  def train(self, params: PyTree, inputs: Float[Array, "N T D"], arch: Array, key: Array) -> Float[Array, "N K"]:
    """The outputs of a pass with the network's dropout."""
    ...

  def is_recurrent(self, path: Sequence[str]) -> bool:
    """Whether the parameter of this path is a matrix of something else than a layer's input."""
    ...


@runtime_checkable
class TrainableNetwork(Network, Protocol):
  """A network that can be trained for real: with running statistics, drop path and perhaps an auxiliary head."""

  @property
  def auxiliary(self) -> bool:
    """Whether passes with "running_stats" have the logits of an auxiliary head."""
    ...

  def executed(self, arch: Array) -> PyTree:
    """As `Single.executed`."""
    ...

  def init_stats(self) -> PyTree:
    """As `TappedNetwork.init_stats`."""
    ...

  def train(
    self, params: PyTree, inputs: Array, arch: Array, drop_path: Float[Array, ""] | float, key: Array | None
  ) -> Output:
    """A pass in mode `batch` with "running_stats" in which operations are left out with probability `drop_path`.

    Each operation but the identity is left out for each sample on its own and the others are divided by
    1 - drop_path. A `key` of None leaves nothing out.

    Raises:
      ConfigError: drop path of a network that has none.
    """
    ...
