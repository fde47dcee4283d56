"""The kernel of a trained network: how far training has turned it to the task, and what it predicts.

python experiments/examples/ntk_trained.py --steps=500
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from jaxnas import ntk

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 300, "steps of Adam", lower_bound=1)


class MLP(nn.Module):
  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = nn.tanh(nn.Dense(64)(x))
    return nn.Dense(1)(x)


def main(argv) -> None:
  del argv
  weights, data = jax.random.split(jax.random.key(0))
  x = jax.random.normal(data, (96, 8))
  y = jnp.sign(x[:, :1] * x[:, 1:2])  # the sign of a product, which no linear function tells
  (x, x_test), (y, y_test) = jnp.split(x, [64]), jnp.split(y, [64])
  model, optimizer = MLP(), optax.adam(3e-3)
  params = start = model.init(weights, x)

  @jax.jit
  def step(params, state):
    gradient = jax.grad(lambda p: jnp.mean((model.apply(p, x) - y) ** 2))(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(FLAGS.steps):
    params, state = step(params, state)

  kernel_fn = jax.jit(ntk.empirical_ntk_fn(model.apply, vmap_axes=0))
  for name, own in (("initial", start), ("trained", params)):
    theta, cross = kernel_fn(x, None, own), np.asarray(kernel_fn(x_test, x, own))
    predicted = cross @ ntk.solve(theta, y, ridge=1e-3).value  # kernel regression
    right = 100 * np.mean(np.sign(predicted) == np.asarray(y_test))
    print(f"{name}: alignment {float(ntk.alignment(theta, y)):.3f}, kernel regression {right:.1f} % right")
  right = 100 * float(jnp.mean(jnp.sign(model.apply(params, x_test)) == y_test))
  print(f"the network itself {right:.1f} % right")


if __name__ == "__main__":
  app.run(main)
