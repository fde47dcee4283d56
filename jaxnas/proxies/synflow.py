"""SynFlow: the total flow through the network's weights, with neither data nor signs. Reported as log10.

    score = log10 sum W * dR / dW,   R = sum of the outputs for one image of ones, every parameter replaced by |.|

over the convolution and linear kernels, without batch normalisation (mode `identity`, scales 1, biases 0; its epsilon
costs 5e-6 of the value a layer). The logarithm keeps the order of the released score, which is the sum itself: with
the depth it passes float32's range (1e38), so zero-cost-nas computes in double precision. Higher is better. A network
that no path crosses scores -inf, status `non_finite`.

Here float32 is enough where activations are ReLUs. Without biases (the classifier's only adds a constant to R) the
outputs are homogeneous in the input, R(s) = s R(1), and so is the score. A first pass, at s = 1 and at a tiny s, finds
the growth R(1); the second scales both the image and R by growth^-1/2, so activations and cotangents stay between
growth^-1/2 and growth^1/2. Enough for growths from 1e-37 to 1e71; beyond that the first pass overflows and the status
is `non_finite`, unless the network divides its maps by constants on the way (`Output.log_scale`): those of Network
Design Spaces do, whose growths pass 1e150. Outputs that are not homogeneous (R(1/2) is not R(1) / 2), those of
recurrent cells with tanh and products, are taken as they are.

Sources: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020, equation 2; as an architecture score Abdelfattah et al., ICLR 2021, section 3.1.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.evaluation import embedded, names_of

TINY = 2.0**-110
CURVED = 1e-3  # difference of log2 R(1/2) + 1 and log2 R(1) that rounding does not make


def _linearised(params: PyTree) -> PyTree:
  def one(path, leaf):
    name = names_of(path)[-1]
    if name == "kernel":
      return jnp.abs(leaf)
    return jnp.ones_like(leaf) if name == "scale" else jnp.zeros_like(leaf)

  return jax.tree_util.tree_map_with_path(one, params)


class Flow(NamedTuple):
  """What a network lets through.

  Attributes:
    params: |W|, scales 1, biases 0.
    gradient: dR / d|W| / 2^log_growth, a tree like the parameters.
    log_growth: [], about log2 of R; -inf where no path crosses the network.
  """

  params: PyTree
  gradient: PyTree
  log_growth: Float[Array, ""]


def flow_of(evaluation: Evaluated) -> Flow:
  """The flow, of which all proxies of a call share one pass."""
  network, arch = evaluation.network, evaluation.arch

  def compute() -> Flow:
    params = _linearised(evaluation.params)
    ones = jnp.ones_like(embedded(evaluation)[:1])

    def flow(params, scale):
      out = network.apply(params, scale * ones, arch, "identity")
      return scale * out.logits.sum(), out.log_scale

    probes = jnp.concatenate([ones, 0.5 * ones, TINY * ones])  # samples do not mix in this mode
    probed = network.apply(params, probes, arch, "identity")
    at_one, at_half, at_tiny = jnp.log2(probed.logits.sum(1))
    log_growth = jnp.where(jnp.isfinite(at_one), at_one, at_tiny - math.log2(TINY))
    curved = jnp.isfinite(at_one) & jnp.isfinite(at_half) & (jnp.abs(at_half + 1 - at_one) > CURVED)
    log_growth = jnp.where(curved, 0, log_growth)
    scale = jnp.where(jnp.isfinite(log_growth), jnp.exp2(-0.5 * log_growth), 1)
    gradient, log_scale = jax.grad(flow, has_aux=True)(params, scale)
    return Flow(params, gradient, log_growth + log_scale)

  return evaluation.once("flow", compute)


@registry.register("proxy", "synflow")
@dataclasses.dataclass(frozen=True)
class SynFlow(Proxy):
  """The proxy; of the batch only an image's shape is used. Shares its passes with `log_synflow`."""

  name: str = "synflow"

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    params, gradient, log_growth = flow_of(evaluation)
    total = evaluation.network.by_layer(lambda w, g: jnp.abs(w * g).sum(), params, gradient).sum()
    return (jnp.log2(total) + log_growth) * math.log10(2)
