"""Where the parameters of a user's model are in the tree that `base.Single` has: layers by depth, leaves by role.

Proxies tell parameters by the names of their leaves, `kernel`, `scale` and `bias`, and layers by their depth,
`stage_000`, `stage_001`, ...: here one for each parameter, in the order in which the model uses them; the last linear
layer is the `classifier`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError

ROLES = {  # what a leaf of this name is
  **dict.fromkeys(("kernel", "w", "weight", "weights"), "kernel"),
  **dict.fromkeys(("scale", "gamma", "g"), "scale"),
  **dict.fromkeys(("bias", "b", "beta"), "bias"),
}
CLASSIFIER = "classifier"


class Leaf(NamedTuple):
  """One parameter of the model.

  Attributes:
    layer: the path of the layer that it belongs to, as the model names it.
    role: kernel, scale, bias, or its own name.
    shape: as the model has it.
  """

  layer: str
  role: str
  shape: tuple[int, ...]


def names_of(path: Sequence[Any]) -> list[str]:
  """A key path as names; the wrappers of NNX's states have none."""
  names = jax.tree_util.keystr(tuple(path), simple=True, separator="/").split("/")
  return names[:-1] if len(names) > 1 and names[-1] in ("value", "raw_value", "") else names


def leaves_of(params: PyTree, roles: Mapping[str, str]) -> list[Leaf]:
  """The parameters in the order of `jax.tree.leaves`.

  Args:
    roles: of leaves whose names say nothing, by name. Leaves without names, as of lists and tuples, are kernels if they
      have two axes or more, and else biases.

  Raises:
    ConfigError: none at all, or one in which no derivative can be taken; a role that is none, or of a name that no
      parameter has.
  """
  for name, role in roles.items():
    if role not in ROLES.values():
      raise ConfigError(f"roles: {name!r} is said to be a {role!r}; say 'kernel', 'scale' or 'bias'")
  found, unused = [], set(roles)
  for path, value in jax.tree_util.tree_leaves_with_path(params):
    *layer, name = names_of(path)
    unused.discard(name)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
      raise ConfigError(
        f"params: {'/'.join([*layer, name])!r} is of type {jnp.result_type(value)}; give floating-point parameters"
      )
    unnamed = "kernel" if np.ndim(value) > 1 else "bias"
    role = roles.get(name) or (unnamed if not name or name.isdigit() else ROLES.get(name.lower(), name))
    found.append(Leaf("/".join(layer), role, np.shape(value)))
  if not found:
    raise ConfigError("model: it has no parameters, so there is nothing to measure at initialisation")
  if unused:
    raise ConfigError(f"roles: no parameter is called {' or '.join(map(repr, sorted(unused)))}; give its own name")
  return found


class ParameterLayout:
  """The two trees of the same parameters.

  Args:
    params: the model's tree.
    leaves: of `leaves_of`.
    order: the numbers of the leaves by depth.
    classifier: the path of the last linear layer; None: there is none that gives the logits.
    wide: how many axes of outputs the kernels of some layers have, by path; as many are put into one, their last.
    stacked: paths of layers whose parameters have an axis of copies first, as `nn.scan` makes them.
  """

  def __init__(
    self,
    params: PyTree,
    leaves: Sequence[Leaf],
    order: Sequence[int],
    classifier: str | None,
    wide: Mapping[str, int],
    stacked: frozenset[str] = frozenset(),
  ):
    self.leaves = tuple(leaves)
    self._tree = jax.tree.structure(params)
    self.paths: list[tuple[str, str]] = [("", "")] * len(leaves)
    self._shapes = []
    for depth, number in enumerate(order):
      leaf = leaves[number]
      name = CLASSIFIER if leaf.layer == classifier and leaf.role in ("kernel", "bias") else f"stage_{depth:03d}"
      self.paths[number] = name, leaf.role
    for leaf in leaves:
      axes = wide.get(leaf.layer, 1) if leaf.role == "kernel" else 1
      self._shapes.append(leaf.shape if axes == 1 else (*leaf.shape[:-axes], -1))
    self.stacked = frozenset(path[0] for path, leaf in zip(self.paths, leaves, strict=True) if leaf.layer in stacked)

  def tree(self, params: PyTree) -> PyTree:
    """The model's parameters, or a tree like them, as proxies see them."""
    found: dict[str, dict[str, Any]] = {}
    for (name, role), shape, leaf in zip(self.paths, self._shapes, jax.tree.leaves(params), strict=True):
      found.setdefault(name, {})[role] = jnp.reshape(leaf, shape)
    return found

  def own(self, tree: PyTree) -> PyTree:
    """The model's tree of what `tree` returned."""
    pairs = zip(self.paths, self.leaves, strict=True)
    return jax.tree.unflatten(self._tree, [tree[name][role].reshape(leaf.shape) for (name, role), leaf in pairs])

  def kernels(self) -> dict[str, str]:
    """The paths of layers by the names that their kernels have in `tree`."""
    pairs = zip(self.paths, self.leaves, strict=True)
    return {name: leaf.layer for (name, role), leaf in pairs if role == "kernel"}

  def biases(self) -> list[int]:
    """The numbers of the leaves that a linear layer adds, next to a kernel of its own."""
    linear = {leaf.layer for leaf in self.leaves if leaf.role == "kernel"}
    return [i for i, leaf in enumerate(self.leaves) if leaf.role == "bias" and leaf.layer in linear]
