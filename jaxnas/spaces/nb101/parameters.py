"""Parameters of the NAS-Bench-101 network: their tree, first values, and which of them an architecture uses."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.base import NetworkConfig
from jaxnas.nets.parameters import bn_shapes, stacked
from jaxnas.spaces.nb101.encoding import MAX_VERTICES, OP_COLUMNS, RANK_COLUMN

STACKS = ("stack_0", "stack_1", "stack_2")
INNER = tuple(range(1, MAX_VERTICES - 1))  # slots
OUT = MAX_VERTICES - 1
MOST_FEEDING = 4  # five would need ten edges
CONV_NAMES = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}

Cell = Float[Array, "7 11"]  # see `encoding.alphas`


def shapes(config: NetworkConfig) -> PyTree:
  """Shapes of all parameters, as `nets.parameters.draw` takes them; those of a stack's modules are side by side."""
  channels, modules = config.size
  tree: dict[str, Any] = {"stem": {"conv": {"kernel": (3, 3, 3, channels)}, "bn": bn_shapes(channels)}}
  for stack, name in enumerate(STACKS):
    width = channels * 2**stack
    convs = {op: {"kernel": (size, size, width, width)} for op, size in CONV_NAMES.items()}
    projection = {"conv": {"kernel": (1, 1, width, width)}}
    layers = {n: {**(convs if n.startswith("vertex") else projection), "bn": bn_shapes(width)} for n in layer_names()}
    tree[name] = stacked(layers, modules)
  return {**tree, "classifier": {"kernel": (4 * channels, config.classes), "bias": (config.classes,)}}


def layer_names() -> list[str]:
  """The parts of a stack's parameters: one a vertex, one a projection of the module's input."""
  return [f"vertex_{v}" for v in INNER] + [f"projection_{v}" for v in (*INNER, OUT)]


def scaled(config: NetworkConfig, params: PyTree, cell: Cell) -> PyTree:
  """Fresh parameters as initial values of this cell: kernels scaled from the stack's width to their vertex's own."""
  out = {**params}
  for stack, name in enumerate(STACKS):
    full = config.size[0] * 2**stack
    width = slot_channels(cell, full)
    out[name] = {}
    for layer, own in params[name].items():
      factor = jnp.sqrt(full / jnp.maximum(width[int(layer[-1])], 1))
      kernels = {k: {"kernel": v["kernel"] * factor.astype(v["kernel"].dtype)} for k, v in own.items() if k != "bn"}
      out[name][layer] = {**kernels, "bn": own["bn"]}
  return out


def executed(tree: PyTree, cell: Cell) -> PyTree:
  """A tree like the parameters: 1 where they belong to a layer of this cell, [] or [modules] each."""

  def mask(path, leaf):
    names = [p.key for p in path]
    if names[0] not in STACKS:
      return jnp.ones((), jnp.float32)
    kind, slot = names[1].split("_")
    if kind == "projection":
      used = cell[int(slot), 0]
    else:
      hot = dict(zip(CONV_NAMES, cell[int(slot), OP_COLUMNS], strict=False))
      used = sum(hot.values()) if names[2] == "bn" else hot[names[2]]
    return jnp.full(leaf.shape[:1], used, jnp.float32)

  return jax.tree_util.tree_map_with_path(mask, tree)


def used_channels(tree: PyTree, cell: Cell) -> PyTree:
  """A tree like the parameters: how many (channels in, channels out) a cell uses, int32 [2] or [modules, 2].

  A vector has 1 channel in. Those of layers that are not executed mean nothing.
  """

  def pair(path, leaf):
    names = [p.key for p in path]
    if names[0] not in STACKS:
      return jnp.asarray([1, *leaf.shape][-2:], jnp.int32)
    stack, (kind, slot) = STACKS.index(names[0]), names[1].split("_")
    modules, full = leaf.shape[0], leaf.shape[-1]
    own = jnp.full((modules,), slot_channels(cell, full)[int(slot)])
    if names[-1] != "kernel":
      first = jnp.ones_like(own)
    elif kind == "projection":  # the first module of a later stack reads the narrower stack before it
      first = jnp.full_like(own, full).at[0].set(full // 2 if stack else full)
    else:
      first = own
    return jnp.stack([first, own], -1)

  return jax.tree_util.tree_map_with_path(pair, tree)


def cut_to_used(params: PyTree, cell: Cell) -> PyTree:
  """The parameters with zeros in kernels' channels that this cell does not have."""

  def cut(path, leaf, pair):
    if path[0].key not in STACKS or path[-1].key != "kernel":
      return leaf
    first, last = (np.arange(n, dtype=np.int32)[None] < pair[:, i : i + 1] for i, n in enumerate(leaf.shape[-2:]))
    used = first[:, None, None, :, None] & last[:, None, None, None]
    return jnp.where(used, leaf, jnp.zeros((), leaf.dtype))

  return jax.tree_util.tree_map_with_path(cut, params, used_channels(params, cell))


def feeding_of(cell: Cell) -> Int[Array, ""]:
  """How many inner vertices feed the output."""
  return cell[OUT, 1:OUT].astype(jnp.int32).sum(dtype=jnp.int32)


def slot_channels(cell: Cell, full: int) -> Int[Array, " 7"]:
  """Channels of every slot in a cell of `full` channels, int32; those of absent vertices mean nothing."""
  feeding = jnp.maximum(feeding_of(cell), 1)
  rank = cell[:, RANK_COLUMN].astype(jnp.int32)
  inner = full // feeding + (rank < full % feeding).astype(jnp.int32)
  return jnp.where(np.arange(MAX_VERTICES) == OUT, full, inner).astype(jnp.int32)


def sizes(config: NetworkConfig, cell: Cell) -> Iterator[tuple[int, Array, Array]]:
  """(stack, kernel entries, BN entries), int32, of the modules of every stack."""
  channels, modules = config.size
  flags = cell.astype(jnp.int32)
  nines = 9 * flags[:, OP_COLUMNS.start] + flags[:, OP_COLUMNS.start + 1]
  for stack in range(len(STACKS)):
    width = channels * 2**stack
    first = width // 2 if stack else width
    inputs = first + (modules - 1) * width
    own = slot_channels(cell, width)
    convs = modules * (nines * own * own).sum(dtype=jnp.int32)
    projections = inputs * (flags[:, 0] * own).sum(dtype=jnp.int32)
    scales = flags[:, OP_COLUMNS.start] + flags[:, OP_COLUMNS.start + 1] + flags[:, 0]
    norms = 2 * modules * (scales * own).sum(dtype=jnp.int32)
    yield stack, convs + projections, norms
