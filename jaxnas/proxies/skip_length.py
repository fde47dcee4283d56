"""Skip length: how many nodes a cell's skip connections pass over, on average. A prior for residual cells, by hand.

    score = mean over skip edges i -> j of (j - 1 - i); 0 without skip edges

Nodes count from 0, the cell's input. On NAS-Bench-201 the skip edges are those with `skip_connect`, one between
neighbours included (it has length 0); on NAS-Bench-101 all edges that pass a vertex over, since none has an operation;
on the DARTS space, for which nobody defined it, those with `skip_connect` of both cells. Paths do not matter: a skip
behind a dead node counts. Higher is better. No forward pass; alone it ranks NAS-Bench-201 at random. Source: Cavagnero,
Robbiano, Caputo, Averta, "FreeREA: Training-Free Evolution-based Architecture Search", WACV 2023, section 3. Their code
for NAS-Bench-101 reads a variable before it is set; the rule above is what it is meant to do.
"""

import dataclasses
from typing import ClassVar, cast

from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, GraphNetwork, Proxy


@registry.register("proxy", "skip_length")
@dataclasses.dataclass(frozen=True)
class SkipLength(Proxy):
  """The proxy; needs neither images nor weights."""

  name: str = "skip_length"
  worst: ClassVar[float] = 0.0
  control: ClassVar[bool] = True
  needs: ClassVar[type] = GraphNetwork

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    return cast(GraphNetwork, evaluation.network).skip_length(evaluation.arch)
