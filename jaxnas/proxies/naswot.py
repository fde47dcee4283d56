"""NASWOT: how differently a network's ReLUs see the samples of a batch.

    score = log |det K|,   K_ij = number of ReLU units in the same state for samples i and j

summed over the executed ReLU modules: one in front of each convolution, as in the ReLU-Conv-BN blocks of the PyTorch
networks (so two edges from one node count its units twice), and the last one. Batch normalisation in `batch` mode.
Higher is better. Two samples with one code make K singular: the score is then -inf, status `non_finite`, which a
network that is not finite has too. The authors' code leaves out ReLUs that the output does not depend on, NASLib's copy
keeps them, and so do we. Source: Mellor, Turner, Storkey, Crowley, "Neural Architecture Search without Training", ICML
2021, section 3 (the third version of the preprint; the first is `jacob_cov`).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Collect, Evaluated, Proxy, Reading


@registry.register("proxy", "naswot")
@dataclasses.dataclass(frozen=True)
class NASWOT(Proxy):
  """The proxy. The determinant is taken on the host in float64."""

  name: str = "naswot"
  collects: ClassVar[tuple[Collect, ...]] = ("observation",)

  def measure(self, evaluation: Evaluated) -> Float[Array, "N N"]:
    shown = evaluation.shown("observation")
    assert shown.observation is not None
    return jnp.where(jnp.isfinite(shown.logits).all(), shown.observation.agreement, jnp.nan)

  def finish(self, measured: np.ndarray) -> Reading:
    with np.errstate(invalid="ignore"):  # of a network that is not finite
      return super().finish(np.linalg.slogdet(np.asarray(measured, np.float64)).logabsdet)
