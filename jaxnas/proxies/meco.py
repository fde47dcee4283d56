"""MeCo: how far the channels of each layer are from being linearly dependent, for one image of noise.

    score = sum_l lambda_min(P_l),   P_l [C, C] the Pearson correlations of the channels of layer l over its pixels

Layers are the executed convolutions with batch normalisation behind them (it does not change a correlation), and the
last normalisation where a network ends with one. The image is standard Gaussian, 64 x 64 whatever the batch's size is;
batch normalisation in `batch` mode. A constant channel has correlations of 0, as in the code. Where channels outnumber
pixels lambda_min is 0, so wide layers of small maps say nothing. The data, and the scale of the weights, do not matter.
Higher is better. A network that is not finite has that status; one without a path keeps the layers outside its cells.

The code hooks every PyTorch module, containers, ReLUs and pools too: one ReLU-conv-BN block counts its convolution four
times. Source: Jiang, Wang, Bie, "MeCo: Zero-Shot NAS with One Data and Single Forward Pass via Minimum Eigenvalue of
Correlation", NeurIPS 2023.
"""

import dataclasses

import jax
from jaxtyping import Array, Float

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.evaluation import embedded


@registry.register("proxy", "meco")
@dataclasses.dataclass(frozen=True)
class MeCo(Proxy):
  """The proxy; of the batch only the number of colours is used, of the evaluation the key.

  Attributes:
    side: of the image in pixels.
  """

  name: str = "meco"
  side: int = 64

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    e, x = evaluation, embedded(evaluation)
    key = jax.random.fold_in(e.key, 2)
    image = jax.random.normal(key, (1, self.side, self.side, x.shape[-1]), x.dtype)
    found = e.network.apply(e.params, image, e.arch, "batch", collect=("correlation",)).correlation
    assert found is not None
    return found
