"""How a kernel is divided so that the derivatives stay within a number of bytes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxnas.ntk._blocks import Blocks, is_empty
from jaxnas.ntk._sides import Side
from jaxnas.ntk._structured import plan


class Estimate(NamedTuple):
  """Bytes of derivatives and of what they are made from.

  Attributes:
    sample: of one sample of either input.
    pair: of one pair of samples, beside the kernel itself.
  """

  sample: float
  pair: float

  def of(self, first: int, second: int, pairs: int) -> float:
    """Of so many samples of two inputs, `second` being 0 where they are the same."""
    return self.sample * (first + second) + self.pair * pairs


def fitting(
  memory: int, sides: Sequence[Side], axes: Sequence[tuple], leaves: Sequence[Array], method: int
) -> list[Blocks]:
  """For every output the largest blocks that are estimated at `memory` bytes or less; at least one sample.

  Args:
    sides: one or two inputs, both by samples.
    axes: for every output its traced and its diagonal axes.
    method: an `NtkImplementation`.
  """
  found = []
  for position, (traced, diagonal) in enumerate(axes):
    own = [side.only(position) for side in sides]
    empty = is_empty(sides, position)
    found.append(Blocks(None) if empty else _one(memory, own, traced, diagonal, leaves, method))
  return found


def _one(memory: int, sides: list[Side], traced, diagonal, leaves: Sequence[Array], method: int) -> Blocks:
  first, second = sides[0].samples, sides[-1].samples
  estimate = _estimate(sides, traced, diagonal, leaves, method)
  other = second if len(sides) > 1 else 0
  sample = sides[0].sample_axes[0]
  if sample in (*traced, *diagonal):
    return _largest(min(first, int(memory // max(estimate.of(1, min(other, 1), 1), 1))), first)
  if estimate.of(first, other, first * second) <= memory:
    return Blocks(None)
  if len(traced) == len(sides[0].shapes[0]) - 1:
    elements = [side.element(jnp.zeros((), int)) for side in sides]
    by_outputs = _estimate(elements, (), (), leaves, method)
    if by_outputs.of(first, other, first * second) <= memory:
      return Blocks(None, by_outputs=True)
  # The root of pair * size^2 + 2 sample * size = memory, in the form that bears pair = 0.
  size = memory / (estimate.sample + math.sqrt(estimate.sample**2 + estimate.pair * memory))
  return _largest(int(size), max(first, second))


def _largest(size: int, samples: int) -> Blocks:
  return Blocks(None) if size >= samples else Blocks(max(1, size))


def _estimate(sides: list[Side], traced, diagonal, leaves: Sequence[Array], method: int) -> Estimate:
  """Of an only output."""
  plans = plan(sides, list(leaves), [(traced, diagonal)], 3 if method == 3 else 0)
  assert plans is not None
  shape, sample = sides[0].shapes[0], sides[0].sample_axes[0]
  outputs = math.prod(side for axis, side in enumerate(shape) if axis != sample)
  kept = math.prod(
    side if axis in diagonal else side**2 for axis, side in enumerate(shape) if axis not in (*traced, sample)
  )
  width = max(leaf.dtype.itemsize for leaf in leaves)
  inside = max(own.program.elements() for own in plans)
  if method == 2:
    return Estimate(0.0, 3.0 * width * inside * outputs)
  held, pair = float(inside * (1 + outputs)), 0.0
  for choice in plans[0].choices[0]:
    layer = choice.layer if method != 1 else None
    if layer is not None and choice.form != "autodiff":
      held += (
        layer.groups * layer.positions * ((layer.inputs if layer.kind != "embedding" else 1) + outputs * layer.outputs)
      )
    if layer is None or choice.form != "factors":
      held += outputs * leaves[choice.leaf].size
    elif layer.positions > 1:
      pair = max(pair, layer.groups * layer.positions**2 * (1.0 + kept))
  return Estimate(width * held, width * pair)
