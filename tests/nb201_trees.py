"""Trees of NAS-Bench-201's parameters: random ones, and the reference code's, whose cells are numbered."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def flat(tree):
  """{"stage_0/edge1_0/nor_conv_1x1/bn/scale": leaf}; a (mean, variance) is "0" and "1"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflat(leaves):
  """The tree of `flat`, without tuples."""
  return traverse_util.unflatten_dict(leaves, sep="/")


def shapes_of(network):
  """A network's parameters as shapes."""
  return jax.eval_shape(network.init, jax.random.key(0))


def random_params(network, seed=0, dtype=jnp.float64, kernels=0.3):
  """Parameters with BN scales and biases that are not 1 and 0."""
  rng = np.random.default_rng(seed)
  spread = {"kernel": (0, kernels), "scale": (1, 0.2), "bias": (0, 0.1)}
  drawn = {k: rng.normal(*spread[k.split("/")[-1]], v.shape) for k, v in flat(shapes_of(network)).items()}
  return unflat({k: jnp.asarray(v, dtype) for k, v in drawn.items()})


def place_of(name, cells):
  """(name in our trees, which of the stacked cells or None) of a reference parameter, `cells.3.conv_a.bn.scale`."""
  name = name.replace(".", "/")
  if not name.startswith("cells/"):
    return name, None
  _, number, rest = name.split("/", 2)
  stage, cell = divmod(int(number), cells + 1)
  return (f"reduce_{stage + 1}/{rest}", None) if cell == cells else (f"stage_{stage}/{rest}", cell)


def from_reference(leaves, network, like=None):
  """A tree of a network's parameters from the reference code's {name: array}; `like` (0) where those have nothing."""
  tree = {k: np.zeros(v.shape) for k, v in flat(shapes_of(network)).items()} if like is None else flat(like)
  tree = {k: np.array(v) for k, v in tree.items()}
  for name, value in leaves.items():
    own, cell = place_of(name, network.cells)
    tree[own][... if cell is None else cell] = value
  return unflat({k: jnp.asarray(v) for k, v in tree.items()})
