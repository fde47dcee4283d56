"""Networks as Flax modules: the collections are the trees of the plain functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from jaxnas.spaces.darts import encoding
from jaxnas.spaces.darts.plain import NetworkConfig, PlainNetwork
from jaxnas.spaces.flax_module import FlaxNetwork

ARCH = encoding.sample(jax.random.key(0), 1)[0]
STATIC = PlainNetwork(NetworkConfig(channels=2, cells=1, classes=3, genotype=tuple(ARCH.tolist())))
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
NETWORKS = {
  "darts": (STATIC, jnp.asarray(encoding.alphas(ARCH))),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_module_is_the_plain_functions(name):
  network, alphas = NETWORKS[name]
  module = FlaxNetwork(network)
  variables = jax.jit(module.init)(jax.random.key(1), IMAGES, alphas)
  params, stats = variables["params"], variables["batch_stats"]
  shapes = jax.eval_shape(network.init_params, jax.random.key(0))
  assert jax.tree.structure(params) == jax.tree.structure(shapes)

  @jax.jit
  def run(params, stats):
    logits, updates = module.apply(
      {"params": params, "batch_stats": stats}, IMAGES, alphas, train=True, mutable=["batch_stats"]
    )
    moved = updates["batch_stats"]
    after = module.apply({"params": params, "batch_stats": moved}, IMAGES, alphas)
    plain = network.logits(params, IMAGES, alphas), network.moments(params, IMAGES, alphas)
    running = network.with_batch_norm("running").logits(params, IMAGES, alphas, stats=moved)
    return logits, moved, after, *plain, running

  logits, moved, after, wanted, moments, running = run(params, stats)
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(after, running, rtol=1e-5, atol=1e-6)
  assert np.abs(after - logits).max() > 1e-3
  mean, variance = moments["stem"]["a"] if name == "darts" else moments["stem"]["bn"].values()
  moved_mean, moved_variance = moved["stem"]["a"] if name == "darts" else moved["stem"]["bn"].values()
  count = 4 * 8 * 8
  np.testing.assert_allclose(moved_mean, 0.1 * mean, rtol=1e-5, atol=1e-7)
  unbiased = variance * count / (count - 1) if name == "darts" else variance
  np.testing.assert_allclose(moved_variance, 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_module_trains_in_a_train_state():
  alphas, labels = NETWORKS["darts"][1], jnp.asarray([0, 1, 2, 0])
  module = FlaxNetwork(STATIC)
  variables = jax.jit(module.init)(jax.random.key(1), IMAGES, alphas)
  state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=optax.sgd(0.05))

  @jax.jit
  def step(state, stats, key):
    def loss(params):
      collections = {"params": params, "batch_stats": stats}
      logits, updates = state.apply_fn(
        collections, IMAGES, alphas, train=True, mutable=["batch_stats"], drop_path=0.0, key=key
      )
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates["batch_stats"]

    (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient), moved, value

  stats, losses = variables["batch_stats"], []
  for i in range(10):
    state, stats, value = step(state, stats, jax.random.key(i))
    losses.append(float(value))
  assert losses[-1] < 0.7 * losses[0]


def test_module_of_another_mode_is_the_same_module():
  """Whatever mode the network is in: `train` decides."""
  alphas = NETWORKS["darts"][1]
  frozen = FlaxNetwork(dataclasses.replace(STATIC, config=dataclasses.replace(STATIC.config, batch_norm="identity")))
  variables = jax.eval_shape(FlaxNetwork(STATIC).init, jax.random.key(1), IMAGES, alphas)
  assert jax.eval_shape(frozen.init, jax.random.key(1), IMAGES, alphas) == variables
