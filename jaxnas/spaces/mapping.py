"""Translates trees of parameters between the readable Flax module of an architecture and the package's fast network.

The fast networks stack the cells of a stage, hold operations that an architecture does not have, and channels that it
does not use; a module has exactly its own. So each leaf of the module is a part of one leaf of the fast tree. A space
says which (`spaces/<name>/mapping.py`: `parameters(module)` and `statistics(module)`), and both directions follow:

    module = NB201Module(text, channels=16, cells=5, classes=10)
    variables = {"params": gather(parameters(module), params), "batch_stats": gather(statistics(module), stats)}
    params = scatter(parameters(module), variables["params"], params)

Gradients and optimiser momenta have the trees of the parameters, and are translated in the same way.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import PyTree

Path = tuple[str | int, ...]
Where = tuple[int | slice, ...]  # an index


class Part(NamedTuple):
  """A part of a leaf of the fast network's tree.

  Attributes:
    path: the leaf's keys, and positions in tuples.
    where: what is taken of it, such as a cell of a stage.
  """

  path: Path
  where: Where = ()


Parts = dict[tuple[str, ...], Part]  # by the path of a leaf in the module's collection


def layer(own: tuple[str, ...], path: Path, where: Where = (), leaves: Iterable[str] = ()) -> Parts:
  """The parts of the leaves of one layer, which have the same names in the module and in the fast network."""
  return {(*own, leaf): Part((*path, leaf), where) for leaf in leaves}


def moments(own: tuple[str, ...], path: Path, where: Where = ()) -> Parts:
  """The parts of the statistics of one BN: `mean` and `var` in the module, a pair in the fast network."""
  return {(*own, leaf): Part((*path, i), where) for i, leaf in enumerate(("mean", "var"))}


def gather(parts: Parts, tree: PyTree) -> dict[str, Any]:
  """The module's collection from the fast network's tree.

  Raises:
    KeyError: the tree is of another network.
  """
  return traverse_util.unflatten_dict({own: _leaf(tree, part.path)[part.where] for own, part in parts.items()})


def scatter(parts: Parts, collection: PyTree, tree: PyTree) -> PyTree:
  """The fast network's tree with the parts of the module's collection in their places; the rest is as in `tree`.

  Raises:
    KeyError: the collection, or the tree, is of another network.
  """
  own = traverse_util.flatten_dict(collection)
  if own.keys() != parts.keys():
    raise KeyError(f"the collection has other leaves than the module: {sorted(own.keys() ^ parts.keys())[:3]}, ...")
  leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
  found = {_path(keys): leaf for keys, leaf in leaves}
  for name, part in parts.items():
    found[part.path] = jnp.asarray(found[part.path]).at[part.where].set(own[name])
  return jax.tree.unflatten(structure, [found[_path(keys)] for keys, _ in leaves])


def _leaf(tree: PyTree, path: Path) -> Any:
  for key in path:
    tree = tree[key]
  return tree


def _path(keys: tuple[Any, ...]) -> Path:
  return tuple(k.idx if isinstance(k, jax.tree_util.SequenceKey) else k.key for k in keys)
