"""The cells of the network of one genotype, few bodies of code for many of them.

The normal cells between two reductions are one `lax.scan`. To be alike, all of them read inputs of 4 C channels: the
stem's, which are narrower, are padded with zeros, and their 1x1 kernels too. After a reduction cell, the input of twice
the side is replaced by its two halves, channels side by side (`operations.halved`): a factorised reduction of the
former is a 1x1 convolution of the latter with a block-diagonal kernel, and these have 4 C channels again.

If the architecture is data, the eight slots of a cell are a `lax.scan` too, whose body chooses source and operation.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.nets.choose import choose
from jaxnas.nets.node import take
from jaxnas.nets.passes import Pass, Seen, linked, together
from jaxnas.spaces.darts import blocks, operations
from jaxnas.spaces.darts.encoding import FIRST_NODE, NUM_NODES, NUM_OPS, OPS
from jaxnas.spaces.darts.layout import INPUTS, SLOTS, TARGETS, CellGroup, groups, stride_of
from jaxnas.spaces.darts.operations import Convolved, Maps

_SKIP = OPS.index("skip_connect")


class Chosen(NamedTuple):
  """The operations of a cell: columns and sources of its eight slots, int32 [8] each, or ints if they are static."""

  ops: Any
  sources: Any


class Given(NamedTuple):
  """What a part of the network computes with; each None where there is none.

  Attributes:
    params: its parameters, gates among them (`passes.with_gates`).
    stats: given moments of its BN.
    drop: factors of each cell, slot and sample (drop path), [cells, 8, N].
    shift: added to the outputs of cells that others read, as constants (`base.CellNetwork`), [cells, C, N, H, W].
  """

  params: PyTree
  stats: PyTree | None
  drop: Float[Array, "cells 8 N"] | None
  shift: Float[Array, "cells C N H W"] | None = None


def stage(
  part: CellGroup, given: Given, inputs: tuple[Array, Array], chosen: Chosen, run: Pass, keeps: bool
) -> tuple[tuple, Seen, Array | None]:
  """The normal cells of a stage: (the last two outputs, what they show with statistics [cells, ...], all outputs)."""
  width, count = NUM_NODES * part.shapes[0].channels, len(part.shapes)
  alike = tuple(as_alike(x, part.shapes[0].halve_0 and i == 0, width) for i, x in enumerate(inputs))
  names = [[name for name, _ in groups(part, place)] for place in range(len(INPUTS))]
  joined = {name: joined_entries(own, given.params[name], width) for name, own in zip(INPUTS, names, strict=True)}
  static = isinstance(chosen.ops, tuple)
  slots = {name: given.params[name] for name in SLOTS}
  params = {**joined, **(slots if static else {"slots": _stack(slots, 1)})}

  def body(carry, own):
    y, seen = _cell(carry, own, (blocks.relu_conv_bn, blocks.relu_conv_bn), chosen, 0, run)
    return (carry[1], linked(y, own.shift)), (seen, y if keeps else None)

  (before, last), (seen, outputs) = lax.scan(body, alike, given._replace(params=params))
  seen = seen.over_layers()
  if run.shows:
    readers = (1, min(2, count))  # cells that read each of the inputs
    seen = seen.plus(*(_unlike(x, y, n, run) for x, y, n in zip(inputs, alike, readers, strict=True)))
  return (before if count > 1 else inputs[1], last), seen, outputs


def reduction(
  part: CellGroup, given: Given, inputs: tuple[Array, Array], chosen: Chosen, run: Pass, keeps: bool
) -> tuple[tuple, Seen, Array | None]:
  """A reduction cell: (its second input and its output, what it shows, [1, ...] of its output)."""
  static = isinstance(chosen.ops, tuple)
  slots = {name: given.params[name] for name in SLOTS}
  params = {**{name: given.params[name] for name in INPUTS}, **(slots if static else {"slots": _stack(slots, 0)})}
  drop, shift = (None if own is None else own[0] for own in (given.drop, given.shift))
  own = Given(params, given.stats, drop, shift)
  first = blocks.factorised_reduction if part.shapes[0].halve_0 else blocks.relu_conv_bn
  y, seen = _cell(inputs, own, (first, blocks.relu_conv_bn), chosen, 1, run)
  return (inputs[1], linked(y, shift)), seen, y[None] if keeps else None


def _cell(inputs, own: Given, entries, chosen: Chosen, cell_type: int, run: Pass) -> tuple[Maps, Seen]:
  """(output, what is shown) of one cell; `entries` bring the inputs to its channels."""
  seen, states = {}, []
  if own.shift is not None:  # derivatives in the shift of the cell before the last are those of the last cell alone
    inputs = lax.stop_gradient(inputs[0]), inputs[1]
  for name, x, entry in zip(INPUTS, inputs, entries, strict=True):
    norm, found = blocks.collecting(run, own.stats and lax.stop_gradient(own.stats[name]))
    states.append(entry(x, own.params[name], norm))
    seen[name] = blocks.seen_of(run, found, x, (x,))
  slots = _static_slots if isinstance(chosen.ops, tuple) else _chosen_slots
  nodes, found = slots(states, own, chosen, cell_type, run)
  return jnp.concatenate(nodes), together({**seen, **found})


def _static_slots(
  states: list[Array], own: Given, chosen: Chosen, cell_type: int, run: Pass
) -> tuple[list[Array], dict[str, Seen]]:
  states, seen = list(states), {}
  for slot, (name, op, source) in enumerate(zip(SLOTS, *chosen, strict=True)):
    stride = stride_of(cell_type, source)
    params, stats = own.params[name].get(OPS[op], {}), own.stats and own.stats[name]
    y, seen[name] = _operation(OPS[op], states[source], params, stats, stride, run)
    if own.drop is not None and not (op == _SKIP and stride == 1):
      y = y * own.drop[slot][None, :, None, None]
    if slot % 2:
      states[-1] = states[-1] + y
    else:
      states.append(y)
  return states[FIRST_NODE:], seen


def _chosen_slots(
  states: list[Array], own: Given, chosen: Chosen, cell_type: int, run: Pass
) -> tuple[list[Array], dict[str, Seen]]:
  """A loop over the slots. Strides depend on the source: reduction cells have each operation at both."""
  inputs = jnp.stack(states)
  shape = inputs.shape[1:-2] + tuple(-(-n // (1 + cell_type)) for n in inputs.shape[-2:])
  nodes = jnp.zeros((NUM_NODES, *shape), inputs.dtype)
  identity = chosen.ops == _SKIP
  if cell_type:
    identity &= chosen.sources >= FIRST_NODE
  drop = None if own.drop is None else jnp.where(identity[:, None], jnp.ones((), own.drop.dtype), own.drop)

  def body(nodes, slot):
    op, source, target, params, stats, factor = slot
    from_input = take(inputs, jnp.minimum(source, FIRST_NODE - 1))
    from_node = take(nodes, jnp.maximum(source - FIRST_NODE, 0))
    own = {"params": params, "stats": stats, "input": from_input if cell_type else None}
    if cell_type:
      branches = [functools.partial(_branch, op, stride, run) for stride in (1, 2) for op in OPS]
      number = op + NUM_OPS * (source < FIRST_NODE).astype(op.dtype)
      y, seen = choose(branches, number, from_node, own)
    else:
      branches = [functools.partial(_branch, op, 1, run) for op in OPS]
      y, seen = choose(branches, op, jnp.where(source < FIRST_NODE, from_input, from_node), own)
    if factor is not None:
      y = y * factor[None, :, None, None]
    return lax.dynamic_update_index_in_dim(nodes, take(nodes, target) + y, target, 0), seen

  targets = np.array(TARGETS, np.int32) - FIRST_NODE
  stats = own.stats and own.stats["slots"]
  nodes, seen = lax.scan(body, nodes, (*chosen, targets, own.params["slots"], stats, drop))
  return list(nodes), {"slots": seen.over_layers()}


def _branch(op: str, stride: int, run: Pass, x: Maps, own: PyTree) -> tuple[Convolved, Seen]:
  """The operation on x, or at stride 2 on the cell's input in `own`; what it shows has one form for all operations."""
  x = own["input"] if stride == 2 else x
  y, seen = _operation(op, x, own["params"].get(op, {}), own["stats"], stride, run)
  nothing = (jnp.zeros((len(x),), x.dtype), jnp.zeros((len(x),), x.dtype)) if run.keeps_stats else None
  reads = (y, y if own["input"] is None else own["input"])  # what two ReLUs read at most
  bits = sum(read.size // read.shape[1] for read in reads)
  return y, seen._replace(stats={"a": nothing, "b": nothing, **seen.stats}).padded(bits)


def _operation(
  op: str, x: Maps, params: PyTree, stats: PyTree | None, stride: int, run: Pass
) -> tuple[Convolved, Seen]:
  norm, found = blocks.collecting(run, lax.stop_gradient(stats))
  y, reads = blocks.apply(op, x, params, norm, stride)
  return y, blocks.seen_of(run, found, x, reads)


def _stack(slots: dict[str, PyTree], axis: int) -> PyTree:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *slots.values())


def as_alike(x: Maps, halve: bool, width: int) -> Convolved:
  """An input of a stage in the form that all of its cells read."""
  x = jnp.concatenate(operations.halved(x)) if halve else x
  return jnp.pad(x, ((0, width - len(x)), (0, 0), (0, 0), (0, 0)))


def _unlike(x: Maps, alike: Convolved, readers: int, run: Pass) -> Seen:
  """What has to be added because ReLUs read `alike` instead of x, the pixels that it lacks and its padding."""
  if x.shape == alike.shape:
    return Seen()
  seen = run.of_relu(x)
  if not run.observes:
    return seen
  return seen._replace(observed=(readers * (run.agreement(x) - run.agreement(alike)), jnp.zeros((), x.dtype)))


def joined_entries(names: list[str], params: PyTree, width: int) -> PyTree:
  """The parameters of an input of all cells of a stage, as those of ReLU-conv-BN on `width` channels, stacked.

  `names`: of the groups of cells whose kernels have one shape.
  """
  found = []
  for name in names:
    own = params[name]
    layers = [own["conv0"], own["conv1"]] if "conv0" in own else [own["conv"]]
    kernels = [layer["kernel"] for layer in layers]
    conv = {"kernel": _diagonal(kernels, width)}
    if "gate" in layers[0]:
      conv["gate"] = jnp.concatenate([layer["gate"] for layer in layers], -1)
    if "gram" in layers[0]:
      conv |= {"gram": layers[0]["gram"], "mask": _diagonal([jnp.ones_like(kernel) for kernel in kernels], width)}
    found.append(conv)
  return {"conv": jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found), "bn": params["bn"]}


def _diagonal(kernels: list[Float[Array, "cells 1 1 C D"]], width: int) -> Float[Array, "cells 1 1 width D2"]:
  """A block-diagonal kernel, zeros for the channels up to `width`."""
  rows, before, total_out = [], 0, sum(k.shape[-1] for k in kernels)
  for kernel in kernels:
    after = total_out - before - kernel.shape[-1]
    rows.append(jnp.pad(kernel, ((0, 0),) * 4 + ((before, after),)))
    before += kernel.shape[-1]
  joined = jnp.concatenate(rows, -2)
  return jnp.pad(joined, ((0, 0),) * 3 + ((0, width - joined.shape[-2]), (0, 0)))
