"""The recorded network of one NAS-Bench-NLP recipe, in the trees of the fast network."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.spaces import mapping
from jaxnas.spaces.nlp.mapping import parameters

SPACE = spaces.get("nlp")


class Recorded:
  """Arrays and figures of `g5_nlp_forward`; H = 10, E = 6, D = 5, three layers."""

  def __init__(self, fixtures):
    with np.load(fixtures / "gennas" / "g5_nlp_forward.npz") as arrays:
      self.arrays = dict(arrays)
    self.figures = json.loads((fixtures / "gennas" / "g5_nlp_forward.json").read_text())
    self.code = SPACE.from_recipe(self.figures["recipe"])
    self.config = NetworkConfig(channels=10, cells=3, classes=5, shape=SPACE.shape(self.code))
    self.network = SPACE.network(self.config)
    self.arch = jnp.asarray(self.network.encode(self.code[None])[0])
    self.parts = parameters(SPACE.module(self.code, self.config))

  def samples_first(self, name):
    """A recorded [T, N, D] (or [k, T, N, D]) as [N, T, D]."""
    return jnp.asarray(self.arrays[name].swapaxes(-3, -2))

  def collection(self, prefix):
    """The recorded parameters as the module's tree."""
    names = evaluation_order(self.figures["recipe"])
    found = {}
    for key, value in self.arrays.items():
      if key.startswith(f"{prefix}/"):
        top, *rest = key.removeprefix(f"{prefix}/").split("/")
        own = found.setdefault(top.replace("layer", "layer_"), {})
        if len(rest) == 2:
          own = own.setdefault(f"node_{names.index(rest[0])}", {})
        own[rest[-1].partition("_from_")[0]] = jnp.asarray(value)
    return found

  def params(self, prefix):
    """The recorded parameters as the fast network's tree; zeros for what the recipe lacks."""
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(self.network.init, jax.random.key(0)))
    return mapping.scatter(self.parts, self.collection(prefix), zeros)


def evaluation_order(recipe):
  """Names of a recipe's nodes, each the first whose inputs stand before it."""
  order = []
  while len(order) < len(recipe):
    waiting = [name for name in recipe if name not in order]
    order.append(next(n for n in waiting if not set(recipe[n]["input"]) & set(waiting)))
  return order
