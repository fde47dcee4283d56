"""Parameters of the NAS-Bench-101 network: their tree, first values, and which of them an architecture uses."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.nets import numerics
from jaxnas.nets.numerics import BatchNormMode
from jaxnas.spaces.nb101.encoding import MAX_VERTICES, OP_COLUMNS, RANK_COLUMN

STACKS = ("stack_0", "stack_1", "stack_2")
INNER = tuple(range(1, MAX_VERTICES - 1))  # slots
OUT = MAX_VERTICES - 1
MOST_FEEDING = 4  # five would need ten edges
CONV_NAMES = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}

Rows = Float[Array, "7 11"]  # `encoding.alphas` of one cell


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """Shape and numerics of the network.

  Attributes:
    channels: C, of the stem and the first stack (doubled before each of the other two). The benchmark trains 128.
    modules: cells per stack (3 in the benchmark).
    classes: outputs of the classifier.
    batch_norm: `batch` (mini-batch statistics, differentiated through), `batch_frozen` (the same, as constants),
      `running` (given statistics) or `identity` (mean 0, variance 1).
  """

  channels: int = 16
  modules: int = 3
  classes: int = 10
  batch_norm: BatchNormMode = "batch"

  def __post_init__(self):
    numerics.check(self, channels=MOST_FEEDING, modules=1, classes=1)


def draw(config: NetworkConfig, key: Array) -> PyTree:
  """Fresh float32 parameters: normal, std sqrt(2 / (k k Cout)) by the full Cout; BN scale 1, offset 0."""
  leaves, tree = jax.tree.flatten(_shapes(config), is_leaf=lambda s: isinstance(s, _Shape))
  total = sum(math.prod(s.shape) for s in leaves if s.deviation)
  values, start, out = jax.random.normal(key, (total,), jnp.float32), 0, []  # one draw: each costs a compilation
  for leaf in leaves:
    if leaf.deviation:
      size = math.prod(leaf.shape)
      out.append(values[start : start + size].reshape(leaf.shape) * leaf.deviation)
      start += size
    else:
      out.append(jnp.full(leaf.shape, leaf.value, jnp.float32))
  return jax.tree.unflatten(tree, out)


def scaled(config: NetworkConfig, params: PyTree, rows: Rows) -> PyTree:
  """`draw` as initial values of this architecture: kernels scaled from the stack's width to their vertex's own."""
  out = {**params}
  for stack, name in enumerate(STACKS):
    full = config.channels * 2**stack
    width = slot_channels(rows, full)
    out[name] = {}
    for layer, own in params[name].items():
      factor = jnp.sqrt(full / jnp.maximum(width[int(layer[-1])], 1))
      kernels = {k: {"kernel": v["kernel"] * factor.astype(v["kernel"].dtype)} for k, v in own.items() if k != "bn"}
      out[name][layer] = {**kernels, "bn": own["bn"]}
  return out


def executed(config: NetworkConfig, rows: Rows) -> PyTree:
  """A tree like the parameters: 1 where they belong to a layer of this architecture, [] or [modules] each."""

  def mask(path, _):
    names = [p.key for p in path]
    if names[0] not in STACKS:
      return jnp.ones((), jnp.float32)
    kind, slot = names[1].split("_")
    if kind == "projection":
      used = rows[int(slot), 0]
    else:
      hot = dict(zip(CONV_NAMES, rows[int(slot), OP_COLUMNS], strict=False))
      used = sum(hot.values()) if names[2] == "bn" else hot[names[2]]
    return jnp.full((config.modules,), used, jnp.float32)

  return jax.tree_util.tree_map_with_path(mask, _shapes(config), is_leaf=lambda s: isinstance(s, _Shape))


def own_channels(config: NetworkConfig, rows: Rows) -> PyTree:
  """A tree like the parameters: how many (channels in, channels out) an architecture uses, int32 [2] or [modules, 2].

  A vector has 1 channel in.
  """

  def pair(path, shape):
    names = [p.key for p in path]
    if names[0] not in STACKS:
      return jnp.asarray([1, *shape.shape][-2:], jnp.int32)
    stack, (kind, slot) = STACKS.index(names[0]), names[1].split("_")
    full = config.channels * 2**stack
    own = jnp.full((config.modules,), slot_channels(rows, full)[int(slot)])
    if names[-1] != "kernel":
      first = jnp.ones_like(own)
    elif kind == "projection":  # the first module of a later stack reads the narrower stack before it
      first = jnp.full_like(own, full).at[0].set(full // 2 if stack else full)
    else:
      first = own
    return jnp.stack([first, own], -1)

  return jax.tree_util.tree_map_with_path(pair, _shapes(config), is_leaf=lambda s: isinstance(s, _Shape))


def cut_to_own(config: NetworkConfig, params: PyTree, rows: Rows) -> PyTree:
  """The parameters with zeros in kernels' channels that this architecture does not have."""

  def cut(path, leaf, pair):
    if path[0].key not in STACKS or path[-1].key != "kernel":
      return leaf
    first, last = (np.arange(n)[None] < pair[:, i : i + 1] for i, n in enumerate(leaf.shape[-2:]))
    used = first[:, None, None, :, None] & last[:, None, None, None]
    return jnp.where(used, leaf, jnp.zeros((), leaf.dtype))

  return jax.tree_util.tree_map_with_path(cut, params, own_channels(config, rows))


def feeding_of(rows: Rows) -> Int[Array, ""]:
  """How many inner vertices feed the output."""
  return rows[OUT, 1:OUT].astype(jnp.int32).sum(dtype=jnp.int32)


def slot_channels(rows, full: int) -> Int[Array, " 7"]:
  """Channels of every slot in a cell of `full` channels, int32; those of absent vertices mean nothing."""
  feeding = jnp.maximum(feeding_of(rows), 1)
  rank = rows[:, RANK_COLUMN].astype(jnp.int32)
  inner = full // feeding + (rank < full % feeding).astype(jnp.int32)
  return jnp.where(np.arange(MAX_VERTICES) == OUT, full, inner).astype(jnp.int32)


def sizes(config: NetworkConfig, rows: Rows) -> Iterator[tuple[int, Array, Array]]:
  """(stack, kernel entries, BN entries), int32, of the modules of every stack."""
  rows = rows.astype(jnp.int32)
  nines = 9 * rows[:, OP_COLUMNS.start] + rows[:, OP_COLUMNS.start + 1]
  for stack in range(len(STACKS)):
    width = config.channels * 2**stack
    first = width // 2 if stack else width
    inputs = first + (config.modules - 1) * width
    own = slot_channels(rows, width)
    convs = config.modules * (nines * own * own).sum(dtype=jnp.int32)
    projections = inputs * (rows[:, 0] * own).sum(dtype=jnp.int32)
    scaled = rows[:, OP_COLUMNS.start] + rows[:, OP_COLUMNS.start + 1] + rows[:, 0]
    norms = 2 * config.modules * (scaled * own).sum(dtype=jnp.int32)
    yield stack, convs + projections, norms


def layer_names() -> list[str]:
  """The parts of a stack's parameters: one a vertex, one a projection of the module's input."""
  return [f"vertex_{v}" for v in INNER] + [f"projection_{v}" for v in (*INNER, OUT)]


@dataclasses.dataclass(frozen=True)
class _Shape:
  """A parameter: drawn with this deviation, or else of this value."""

  shape: tuple[int, ...]
  deviation: float = 0.0
  value: float = 0.0


def _kernel(size, c_in, c_out, modules=None):
  shape = (size, size, c_in, c_out) if modules is None else (modules, size, size, c_in, c_out)
  return {"kernel": _Shape(shape, math.sqrt(2 / (size * size * c_out)))}


def _bn(shape):
  return {"scale": _Shape(shape, value=1.0), "bias": _Shape(shape)}


def _shapes(config: NetworkConfig):
  """The tree of parameters, with how each is drawn."""
  c = config
  tree: dict[str, Any] = {"stem": {"conv": _kernel(3, 3, c.channels), "bn": _bn((c.channels,))}}
  for stack, name in enumerate(STACKS):
    width = c.channels * 2**stack
    bn = _bn((c.modules, width))
    convs = {op: _kernel(size, width, width, c.modules) for op, size in CONV_NAMES.items()}
    projection = {"conv": _kernel(1, width, width, c.modules)}
    tree[name] = {n: {**(convs if n.startswith("vertex") else projection), "bn": bn} for n in layer_names()}
  head = _Shape((4 * c.channels, c.classes), math.sqrt(2 / c.classes))
  tree["classifier"] = {"kernel": head, "bias": _Shape((c.classes,))}
  return tree
