"""What the readable Flax module of every space must share with the fast network, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from helpers import draw

from jaxnas.spaces import mapping

LABELS = np.array([0, 2, 1])
SPREAD = {"kernel": (0, 0.3), "scale": (1, 0.2), "bias": (0, 0.1)}


class Shown(NamedTuple):
  """What one network shows: gradients of the loss and statistics are trees of its own."""

  batch: jax.Array  # logits by the mini-batch, or [2, N, K] with those of an auxiliary head
  running: jax.Array  # logits by running statistics
  gradient: dict
  statistics: dict  # of the mini-batch, or the running ones after it


def loss_of(outputs):
  """(loss, logits), with an auxiliary head's loss times 0.4."""
  logits = jnp.stack(outputs) if isinstance(outputs, tuple) else outputs
  hot = jnp.broadcast_to(jax.nn.one_hot(LABELS, logits.shape[-1], dtype=logits.dtype), logits.shape)
  losses = -(jax.nn.log_softmax(logits) * hot).sum(-1).mean(-1)
  return losses[0] + 0.4 * losses[1] if losses.ndim else losses, logits


def random_params(network, seed=0):
  """Of a fast network, BN scales and biases not 1 and 0."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(lambda p, s: jnp.asarray(rng.normal(*SPREAD[p[-1].key], s.shape)), shapes)


def random_stats(network, params, images, arch):
  """Of a fast network: running statistics that no batch has."""
  rng = np.random.default_rng(1)

  def stats(arch):
    return network.apply(params, images, arch, "batch", collect=("stats",)).stats

  shapes = jax.eval_shape(lambda: stats(arch)) if isinstance(arch, tuple) else jax.eval_shape(stats, arch)
  draws = (lambda shape: rng.normal(0, 0.3, shape), lambda shape: rng.uniform(0.5, 1.5, shape))  # means, variances
  return jax.tree_util.tree_map_with_path(lambda path, s: jnp.asarray(draws[path[-1].idx](s.shape)), shapes)


@functools.cache
def _fast_program(network, auxiliary, static=None):
  """(params, images, running statistics, arch) -> Shown.

  With the auxiliary head, variances of the statistics are of n - 1.
  """

  def batch(params, images, arch):
    if auxiliary:
      return network.train(params, images, arch, 0.0, None)
    return network.apply(params, images, arch, "batch", collect=("stats",))

  def run(params, images, stats, arch=static):
    def loss(params):
      output = batch(params, images, arch)
      loss, logits = loss_of((output.logits, output.auxiliary) if auxiliary else output.logits)
      return loss, (logits, output.stats)

    gradient, (logits, seen) = jax.grad(loss, has_aux=True)(params)
    return Shown(logits, network.apply(params, images, arch, "running", stats=stats).logits, gradient, seen)

  return jax.jit(run)


def _module_program(module):
  def run(variables, images):
    stats = variables["batch_stats"]

    def loss(params):
      own = {"params": params, "batch_stats": stats}
      outputs, updates = module.apply(own, images, train=True, mutable=["batch_stats"])
      loss, logits = loss_of(outputs)
      return loss, (logits, updates["batch_stats"])

    gradient, (logits, moved) = jax.grad(loss, has_aux=True)(variables["params"])
    return Shown(logits, module.apply(variables, images), gradient, moved)

  return jax.jit(run)


def flat(tree):
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_trees(found, wanted, tolerance=1e-9):
  """Leaf by leaf, relative to the largest entry of all."""
  found, wanted = flat(found), flat(wanted)
  assert found.keys() == wanted.keys()
  scale = max(np.abs(leaf).max() for leaf in wanted.values())
  for name, leaf in wanted.items():
    assert found[name].dtype == leaf.dtype
    np.testing.assert_allclose(found[name], leaf, rtol=0, atol=tolerance * scale, err_msg=name)


def check_module_is_network(space, code, config, parts, network=None, size=8, meaningless=(), static=False):
  """Logits in both modes, gradients and statistics agree, and parameters go there and back unchanged.

  Args:
    parts: (parameters, statistics) of the space's mapping, both functions of a module.
    network: one that is made for this architecture; default: that of all.
    static: whether the architecture is part of the fast network's program.
    meaningless: beginnings of the module's paths whose statistics the fast network does not compute.
  """
  module = space.module(code, config)
  network = network or space.network(config)
  parameters, statistics = (part(module) for part in parts)
  arch = tuple(code.tolist()) if static else jnp.asarray(network.encode(code[None])[0])
  images, params = draw(1, 3, size, size, 3), random_params(network)
  stats = random_stats(network, params, images, arch)
  program = _fast_program(network, config.auxiliary, arch if static else None)
  fast = program(params, images, stats) if static else program(params, images, stats, arch)
  variables = {"params": mapping.gather(parameters, params), "batch_stats": mapping.gather(statistics, stats)}
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, _initial(module, size))

  with jax.numpy_dtype_promotion("standard"):  # Flax's BN asks for the wider of float64 and float32
    shown = _module_program(module)(variables, images)
  main = np.asarray(shown.batch).reshape(-1, *shown.running.shape)[0]  # without an auxiliary head's
  if np.ptp(main, 0).max() > 0:  # else no path leads from the images to the output
    assert np.abs(main - shown.running).max() > 1e-3 * np.abs(main).max()
  np.testing.assert_allclose(shown.batch, fast.batch, rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(shown.running, fast.running, rtol=1e-9, atol=1e-9)
  empty = jax.tree.map(jnp.zeros_like, params)
  assert_trees(mapping.scatter(parameters, shown.gradient, empty), fast.gradient)
  seen = mapping.gather(statistics, fast.statistics)
  moved = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, variables["batch_stats"], seen)
  found, wanted = (traverse_util.flatten_dict(tree) for tree in (shown.statistics, moved))
  left_out = {path for path in found if path[:2] in meaningless or (config.auxiliary and path[-1] == "var")}
  assert_trees(*({path: tree[path] for path in found.keys() - left_out} for tree in (found, wanted)))
  _check_there_and_back(parameters, variables["params"], params)
  _check_there_and_back(statistics, variables["batch_stats"], stats)


def _check_there_and_back(parts, collection, tree):
  assert_trees(mapping.scatter(parts, collection, tree), tree, 0)
  other = jax.tree.map(lambda leaf: draw(3, *leaf.shape), collection)
  assert_trees(mapping.gather(parts, mapping.scatter(parts, other, tree)), other, 0)
  # A leaf of the tree has no entry twice.
  count = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), tree)
  whole = mapping.scatter(parts, jax.tree.map(jnp.ones_like, collection), count)
  assert sum(leaf.sum() for leaf in jax.tree.leaves(whole)) == sum(leaf.size for leaf in jax.tree.leaves(collection))


def number_of_params(module, size=8):
  """Trainable parameters of the module."""
  return sum(leaf.size for leaf in jax.tree.leaves(_initial(module, size)["params"]))


def _initial(module, size):
  """Shapes of fresh variables."""
  with jax.numpy_dtype_promotion("standard"):  # nn.avg_pool counts pixels in the widest type that is on
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.float32))
