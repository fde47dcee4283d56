"""What a proxy is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, PyTree


class Reading(NamedTuple):
  """One architecture's score.

  Attributes:
    value: the proxy's own figure; `status` says whether it can be trusted.
    status: "ok", or the proxy's name for what is wrong ("singular", "saturated", ...).
  """

  value: float
  status: str


@dataclasses.dataclass(frozen=True)
class Proxy:
  """A score of a network at initialisation: a traced part on the device and a finish on the host.

  `measure(network, params, alphas, batch)` is pure and traceable: one architecture or supernet (`alphas`
  [cell types, E, O]) on one batch. The network is a Flax module with `apply(variables, batch, alphas)` and
  `with_batch_norm(mode)`, and the collections `moments` and `patterns`; a proxy knows nothing else of its space.
  `finish` turns what it returned, on the host in float64, into a `Reading`.

  Attributes:
    name: as in tables.
    higher_is_better: the direction.
    worst: the score that a degenerate network (disconnected, singular, not finite) is given in rankings.
    batch_norm: the mode in which the network is evaluated.
    measure, finish: see above.
  """

  name: str
  higher_is_better: bool
  worst: float
  batch_norm: str
  measure: Callable[[Any, PyTree, Array, Array], Array] = dataclasses.field(repr=False)
  finish: Callable[[np.ndarray], Reading] = dataclasses.field(repr=False)

  def ranking_value(self, reading: Reading) -> float:
    """The figure to rank by: higher is better, degenerate networks last."""
    bad = not np.isfinite(reading.value) or reading.status in DEGENERATE
    value = self.worst if bad else reading.value
    return value if self.higher_is_better else -value


DEGENERATE = ("singular", "negative", "non_finite")
