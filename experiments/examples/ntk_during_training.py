"""The kernel while a network trains: it grows towards the labels and its rank falls; a wider network's moves less.

python experiments/examples/ntk_during_training.py --widths=32,512
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from absl import app, flags

from jaxnas import ntk

FLAGS = flags.FLAGS
flags.DEFINE_list("widths", ["32", "512"], "widths of the network")
flags.DEFINE_integer("steps", 400, "steps of gradient descent", lower_bound=1)


def main(argv) -> None:
  del argv
  x = jax.random.normal(jax.random.key(0), (64, 8))
  y = jnp.sign(x[:, :1] * x[:, 1:2])
  for width in map(int, FLAGS.widths):
    model = nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(width), nn.relu, nn.Dense(1)])
    params = model.init(jax.random.key(1), x)
    kernel_fn = jax.jit(ntk.empirical_ntk_fn(model.apply, vmap_axes=0))
    start = kernel_fn(x, None, params)
    # The step of gradient descent on a mean squared loss that its kernel still allows, halved.
    rate = 0.5 * float(ntk.predict.max_learning_rate(start, y_train_size=y.size))
    optimizer = optax.sgd(rate)

    @jax.jit
    def step(params, state, model=model, optimizer=optimizer):
      loss, gradient = jax.value_and_grad(lambda p: jnp.mean((model.apply(p, x) - y) ** 2) / 2)(params)
      updates, state = optimizer.update(gradient, state)
      return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for i in range(FLAGS.steps + 1):
      if i % max(1, FLAGS.steps // 4) == 0:
        theta = kernel_fn(x, None, params)
        moved = float(jnp.linalg.norm(theta - start) / jnp.linalg.norm(start))
        aligned, rank = float(ntk.alignment(theta, y)), ntk.effective_rank(theta)
        print(
          f"width {width}, step {i}: kernel moved by {moved:.3f}, alignment {aligned:.3f}, effective rank {rank:.1f}"
        )
      params, state, loss = step(params, state)
    print(f"width {width}: loss {float(loss):.4f}")


if __name__ == "__main__":
  app.run(main)
