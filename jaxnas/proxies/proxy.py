"""What a proxy is."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from jaxnas.proxies.evaluation import Evaluation


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

  `measure(evaluation)` is pure and traceable: one architecture or supernet on one batch, a tree of arrays.
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

  def ranking_value(self, reading: Reading) -> float:
    """The figure to rank by: higher is better, degenerate networks last."""
    bad = not np.isfinite(reading.value) or reading.status in DEGENERATE
    value = self.worst if bad else reading.value
    return value if self.higher_is_better else -value


DEGENERATE = ("singular", "negative", "non_finite")
