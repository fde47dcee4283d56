"""Zen-score: how far a small change of the input carries through a Gaussian network, scales of BN put back.

    score = log E_x[ sum | f(x) - f(x + gamma e) | ] + sum_l log sqrt(mean_c var_lc),   gamma = 0.01

x and e are standard Gaussian images, f the feature map that enters global average pooling (on NAS-Bench-201 after the
last BN and ReLU), and var_lc the batch variance of channel c at the executed BN layer l. All kernels are redrawn from
N(0, 1), BN scales are 1 and all biases 0; neither data nor the given weights matter. Batch normalisation in `batch`
mode. Higher is better. A network that ignores its input scores -inf, status `non_finite`.

As in the code, the distance is a sum of absolute values (the paper: a Frobenius norm). The code reads BN's running
variances, which after a few passes still hold part of their initial 1; we take those of the clean batch. It averages
32 draws; here repeats are the caller's, by other keys. Source: Lin et al., "Zen-NAS", ICCV 2021, algorithm 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas import registry
from jaxnas.base import Evaluated, Proxy
from jaxnas.proxies.evaluation import embedded, names_of, observe

GAMMA = 0.01


def gaussian_params(key: Array, params: PyTree) -> PyTree:
  """A tree like `params`: kernels from N(0, 1), scales 1, biases 0, in the leaves' dtypes."""
  flat, treedef = jax.tree_util.tree_flatten_with_path(params)
  names = [names_of(path)[-1] for path, _ in flat]
  total = sum(leaf.size for name, (_, leaf) in zip(names, flat, strict=True) if name == "kernel")
  draw = jax.random.normal(key, (total,), flat[0][1].dtype)  # one draw, cut up: XLA compiles one, not a hundred
  leaves, start = [], 0
  for name, (_, leaf) in zip(names, flat, strict=True):
    if name == "kernel":
      leaves.append(draw[start : start + leaf.size].reshape(leaf.shape))
      start += leaf.size
    else:
      leaves.append(jnp.ones_like(leaf) if name == "scale" else jnp.zeros_like(leaf))
  return jax.tree.unflatten(treedef, leaves)


@registry.register("proxy", "zen")
@dataclasses.dataclass(frozen=True)
class Zen(Proxy):
  """The proxy; of the batch only the shape is used, of the evaluation the key."""

  name: str = "zen"

  def measure(self, evaluation: Evaluated) -> Float[Array, ""]:
    network, x = evaluation.network, embedded(evaluation)
    weights, inputs, noise = jax.random.split(jax.random.fold_in(evaluation.key, 1), 3)
    images = jax.random.normal(inputs, x.shape, x.dtype)
    change = GAMMA * jax.random.normal(noise, images.shape, images.dtype)
    params = gaussian_params(weights, evaluation.params)
    clean = observe(network, params, images, evaluation.arch)
    moved = observe(network, params, images + change, evaluation.arch)
    distance = jnp.abs(clean.features - moved.features).sum((1, 2, 3)).mean()
    return jnp.log(distance) + clean.log_deviation
