"""What a proxy is."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation

# Who makes a network that has this; the others: `single_network`.
_MAKERS = {
  "patterns": "space.region_supernet(...), a supernet",
  "start": "spaces.signal_heads.SignalNetwork of space.backbone(...)",
}


class Reading(NamedTuple):
  """One architecture's score.

  Attributes:
    value: the proxy's own figure; `status` says whether it can be trusted.
    status: "ok", or the proxy's name for what is wrong ("singular", "saturated", ...).
  """

  value: float
  status: str


@dataclasses.dataclass(frozen=True)
class _Measure:
  """A proxy's `measure`, which names what it misses; equal for equal proxies, so that programs are found again."""

  proxy: str
  function: Callable[[Evaluation], PyTree]

  def __call__(self, evaluation: Evaluation) -> PyTree:
    try:
      return self.function(evaluation)
    except AttributeError as error:
      network = getattr(evaluation, "network", None)
      if network is None or type(error.obj) is not type(network):
        raise
      kind = f"{type(network).__module__}.{type(network).__qualname__}"
      fix = _MAKERS.get(error.name or "", "space.single_network(...)")
      raise ConfigError(
        f"proxy {self.proxy!r} needs {error.name!r}, which the network {kind} lacks: give it {fix}, or leave it out"
      ) from error


@dataclasses.dataclass(frozen=True)
class Proxy:
  """A score of a network at initialisation: a traced part on the device and a finish on the host.

  `measure(evaluation)` is pure and traceable: one architecture or supernet on one batch, a tree of arrays.
  It raises a ConfigError for a network that lacks a method which the proxy calls.
  `finish` turns what it returned, on the host in float64, into a `Reading`.

  Attributes:
    name: as in tables.
    higher_is_better: the direction.
    worst: the score that a degenerate network (disconnected, singular, not finite) is given in rankings.
    batch_norm: the mode in which the network is evaluated.
    measure, finish: see above.
    needs_labels: whether it cannot do without the classes of the images.
  """

  name: str
  higher_is_better: bool
  worst: float
  batch_norm: str
  measure: Callable[[Evaluation], PyTree] = dataclasses.field(repr=False)
  finish: Callable[..., Reading] = dataclasses.field(repr=False)
  needs_labels: bool = False

  def __post_init__(self):
    measure = self.measure.function if isinstance(self.measure, _Measure) else self.measure
    object.__setattr__(self, "measure", _Measure(self.name, measure))

  def ranking_value(self, reading: Reading) -> float:
    """The figure to rank by: higher is better, degenerate networks last."""
    bad = not np.isfinite(reading.value) or reading.status in DEGENERATE
    value = self.worst if bad else reading.value
    return value if self.higher_is_better else -value


DEGENERATE = ("singular", "negative", "non_finite")
