"""The neural tangent kernel of a Flax linen model, and what it tells of how the model trains.

python experiments/examples/ntk_flax.py
"""

import flax.linen as nn
import jax

from jaxnas import ntk


class ConvNet(nn.Module):
  classes: int = 10

  @nn.compact
  def __call__(self, x):
    for features in (16, 32):
      x = nn.relu(nn.GroupNorm(4)(nn.Conv(features, (3, 3), strides=2)(x)))
    return nn.Dense(self.classes)(x.mean((1, 2)))


def main() -> None:
  model, (weights, data) = ConvNet(), jax.random.split(jax.random.key(0))
  x = jax.random.normal(data, (16, 16, 16, 3))
  params = jax.jit(model.init)(weights, x)
  ntk.check_independence(model.apply, params, x[:4])  # GroupNorm keeps samples apart, BatchNorm would not

  kernel_fn = ntk.empirical_ntk_fn(model.apply, trace_axes=(-1,), vmap_axes=0)
  theta = jax.jit(kernel_fn)(x, None, params)  # [N, N], the mean over classes
  print(f"kernel {theta.shape}, condition number {ntk.condition_number(theta).value:.4g}")

  full = jax.jit(ntk.empirical_ntk_fn(model.apply, trace_axes=(), vmap_axes=0))(x, None, params)  # [N, N, K, K]
  matrix = ntk.flatten(full)
  print(f"all outputs {matrix.shape}, effective rank {ntk.effective_rank(full):.4g}")


if __name__ == "__main__":
  main()
