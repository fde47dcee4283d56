"""The neural tangent kernel of a Flax NNX model, of all its parameters and of one layer's.

python experiments/examples/ntk_nnx.py
"""

import jax
from flax import nnx

from jaxnas import ntk


class MLP(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(32, 128, rngs=rngs)
    self.last = nnx.Linear(128, 10, rngs=rngs)

  def __call__(self, x):
    return self.last(nnx.relu(self.first(x)))


def main() -> None:
  graph, params, rest = nnx.split(MLP(nnx.Rngs(0)), nnx.Param, ...)

  def f(params, x):
    return nnx.merge(graph, params, rest)(x)

  x = jax.random.normal(jax.random.key(0), (20, 32))
  theta = jax.jit(ntk.empirical_ntk_fn(f, vmap_axes=0))(x, None, params)
  last = ntk.empirical_ntk_fn(f, vmap_axes=0, select=lambda path: path.startswith("last"))
  share = ntk.trace_norm(jax.jit(last)(x, None, params)) / ntk.trace_norm(theta)
  print(f"kernel {theta.shape}, of its trace the last layer has {float(share):.3f}")


if __name__ == "__main__":
  main()
