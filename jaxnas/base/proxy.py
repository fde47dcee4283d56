"""What a proxy is: a score of a network at initialisation, a traced part on the device and a finish on the host."""

import abc
import dataclasses
import enum
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Num, PyTree

from jaxnas.base.data import Batch, Source
from jaxnas.base.network import Collect, Mode, Observation, Output, Parametrised, Single
from jaxnas.base.space import Space

S = TypeVar("S")  # a settings dataclass


class Status(enum.StrEnum):
  """Whether a score can be trusted, and if not, why."""

  OK = "ok"
  SATURATED = "saturated"  # at the largest value that this sample of inputs can give; ranks as it is
  SINGULAR = "singular"  # a kernel that is singular at its precision
  NEGATIVE = "negative"  # a kernel with a negative eigenvalue
  NON_FINITE = "non_finite"  # overflow, or not a number

  @property
  def degenerate(self) -> bool:
    """Whether such an architecture ranks last, whatever its value."""
    return self not in (Status.OK, Status.SATURATED)


class Reading(NamedTuple):
  """One architecture's score: the proxy's own figure, and whether it can be trusted."""

  value: float
  status: Status


class Inputs(NamedTuple):
  """What a proxy that prepares its own inputs is measured with.

  Attributes:
    network: for all architectures of a call, or what makes one for each of their shapes (`Space.shape`).
    batch: the same for all.
    own_weights: whether each architecture has weights of its own, drawn from its text form, rather than shared ones.
  """

  network: Parametrised | Callable[[Hashable], Parametrised]
  batch: Batch
  own_weights: bool = False


class Evaluated(abc.ABC):
  """One network on one batch, inside a trace; what several proxies need is computed once.

  Not a Protocol: asking an object whether it is one would compute all of it.

  Attributes:
    network: what the proxy `needs`: a `Single` unless it says otherwise.
    params: its parameters; the initial values of this architecture (`Network.start`).
    arch: the architecture, see `Network.encode`.
    inputs: [N, ...], or as `Proxy.prepare` made them.
    problem: `Batch.problem`.
    rows: the most cotangents or samples of a per-sample pass to hold at a time; None: no limit.
  """

  network: Single
  params: PyTree
  arch: Array
  inputs: Array
  problem: PyTree
  rows: int | None

  @property
  @abc.abstractmethod
  def key(self) -> Array:
    """For proxies that draw; the same for all architectures. ConfigError if there is none."""
    ...

  @property
  @abc.abstractmethod
  def labels(self) -> Num[Array, "N ..."]:
    """Classes of the inputs, or targets, see `Batch`. ConfigError if the batch has none."""
    ...

  @abc.abstractmethod
  def once(self, name: Hashable, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, computed once for all proxies that ask under this name."""
    ...

  @abc.abstractmethod
  def shown(self, what: Collect) -> Output:
    """The forward pass in mode `batch` that collects `what`: one for all that the proxies of a call declare."""
    ...

  @property
  @abc.abstractmethod
  def observation(self) -> Observation:
    """What the forward pass in mode `batch` shows."""
    ...

  @property
  @abc.abstractmethod
  def stats(self) -> PyTree:
    """Statistics of this batch at every batch normalisation, as constants."""
    ...

  @abc.abstractmethod
  def logits(self, params: PyTree, mode: Mode) -> Float[Array, "N K"]:
    """The network's outputs for other parameters."""
    ...

  @abc.abstractmethod
  def loss_gradient(self, mode: Mode = "batch") -> PyTree:
    """d mean loss / d params, see `Batch`."""
    ...


@dataclasses.dataclass(frozen=True)
class Proxy(Generic[S]):
  """A score of a network at initialisation. Subclasses are frozen dataclasses, whose fields are their variants.

  A proxy is equal to another of the same class and fields: compiled programs are found by it. It knows no space, no
  files and no flags.

      @registry.register("proxy", "input_norm")
      @dataclasses.dataclass(frozen=True)
      class InputNorm(Proxy):
        name: str = "input_norm"

        def measure(self, evaluation):
          return jnp.abs(evaluation.inputs).mean()

  Attributes:
    name: as in tables and in --proxies.
    higher_is_better: the direction.
    worst: the score that a degenerate network (disconnected, singular, not finite) is given in rankings.
    control: whether it is a simple figure that every score must beat, such as the number of parameters.
    needs: what the network must be.
    needs_labels: whether it cannot do without the classes of the inputs.
    collects: what it asks `Evaluated.shown` for, so that all proxies of a call share that pass.
    Settings: a dataclass of `settings.setting` fields, which become flags, of a proxy that prepares its own inputs;
      None: it is measured on the usual network and batch, together with all others.
  """

  name: str
  higher_is_better: ClassVar[bool] = True
  worst: ClassVar[float] = -float("inf")
  control: ClassVar[bool] = False
  needs: ClassVar[type] = Single
  needs_labels: ClassVar[bool] = False
  collects: ClassVar[tuple[Collect, ...]] = ()
  Settings: ClassVar[type | None] = None

  @property
  def least_inputs(self) -> int:
    """How many inputs the batch must have at least."""
    return 1

  def prepare(self, space: Space, source: Source, settings: S, key: jax.Array) -> Inputs:
    """Network and inputs of a proxy with `Settings`; `settings` is one of these.

    Raises:
      ConfigError: the space lacks what it takes, or settings that do not fit the source.
    """
    raise NotImplementedError(f"proxy {self.name!r} has Settings and must have prepare")

  def measure(self, evaluation: Evaluated) -> PyTree:
    """A tree of arrays for one architecture or supernet on one batch; pure and traceable."""
    raise NotImplementedError(f"proxy {self.name!r} must have measure")

  def finish(self, measured: Any) -> Reading:
    """What `measure` returned, on the host, as a score in float64."""
    value = float(np.asarray(measured))
    return Reading(value, Status.OK if np.isfinite(value) else Status.NON_FINITE)

  def ranking_value(self, reading: Reading) -> float:
    """The figure to rank by: higher is better, degenerate networks last."""
    bad = not np.isfinite(reading.value) or Status(reading.status).degenerate
    value = self.worst if bad else reading.value
    return value if self.higher_is_better else -value
