"""A choice among operations that is data: of one architecture, or of many in one program.

`choose` is `lax.switch` where one architecture chooses. Under `jax.vmap` over architectures `lax.switch` would compute
every operation for all of them; `choose` gathers, for each operation, the architectures that chose it, computes it for
them, and puts the results back in order. How many may choose an operation has to be known when the program is made:
see `capacities`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int, PyTree

Slots = Mapping[int, Sequence[int]]

_SLOTS: contextvars.ContextVar[Slots | None] = contextvars.ContextVar("slots", default=None)


@contextlib.contextmanager
def capacities(slots: Slots) -> Iterator[None]:
  """Inside, `jax.vmap` over architectures may choose each operation so many times.

  Args:
    slots: by the number of operations among which is chosen, those of each; 0 for one that shows the same numbers
      whatever it is given. Where more architectures choose an operation, all results are NaN. Choices among another
      number of operations have as many slots for each as there are architectures.
  """
  token = _SLOTS.set(slots)
  try:
    yield
  finally:
    _SLOTS.reset(token)


def choose(branches: Sequence[Callable], which: Int[Array, ""], *args: PyTree, so_far: Array | None = None) -> Any:
  """What the chosen of the branches gives, which all give one form.

  Its pull-back computes the branch again, to any order of derivatives: the automatic one of `lax.switch` keeps what
  every branch might need.

  Args:
    args: of the branch, floating point.
    so_far: added to the branch's first result, inside the branch where it is one architecture's: a result of zeros then
      costs no sum.
  """
  branches, adds = tuple(branches), so_far is not None

  @custom_vmap
  def compute(which, args, so_far):
    return lax.switch(which, [_adding(branch) for branch in branches], args, so_far)

  @compute.def_vmap
  def batched(size, is_mapped, which, args, so_far):
    if so_far is not None and not is_mapped[2]:
      so_far = jnp.broadcast_to(so_far[None], (size, *so_far.shape))
    if is_mapped[0]:
      found = _dispatched(size, branches, which, args, is_mapped[1])
      found = found if so_far is None else (so_far + found[0], *found[1:])
    else:  # samples, or cotangents: a batch in every branch
      own = [_mapped(branch, is_mapped[1], size) for branch in branches]
      found = choose(own, which, *args, so_far=so_far)
    return found, jax.tree.map(lambda _: True, found)

  @jax.custom_vjp
  def run(which, args, so_far):
    return compute(which, args, so_far)

  def pull(saved, cotangent):
    which, args = saved
    pulls = [_pulling(branch) for branch in branches]
    return None, choose(pulls, which, args, cotangent), cotangent[0] if adds else None

  run.defvjp(lambda which, args, so_far: (run(which, args, so_far), (which, args)), pull)
  return run(which, args, so_far)


def _adding(branch: Callable) -> Callable:
  def add(args: tuple, so_far: Array | None) -> Any:
    found = branch(*args)
    return found if so_far is None else (so_far + found[0], *found[1:])

  return add


def _pulling(branch: Callable) -> Callable:
  def pull(args: tuple, cotangent: PyTree) -> tuple:
    return jax.vjp(branch, *args)[1](cotangent)

  return pull


def _mapped(branch: Callable, is_mapped: tuple, size: int) -> Callable:
  """`jax.vmap` of a branch over those leaves of its arguments that have the axis."""
  return jax.vmap(branch, in_axes=jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped), axis_size=size)


def _dispatched(size: int, branches: Sequence[Callable], which: Int[Array, " A"], args: tuple, is_mapped: tuple) -> Any:
  """For each of the architectures what the branch gives that it chose, [A, ...]."""
  slots = (_SLOTS.get() or {}).get(len(branches), (size,) * len(branches))
  counts = jnp.bincount(which, length=len(branches)).astype(np.int32)
  order = jnp.argsort(which, stable=True)  # operation by operation
  starts = jnp.cumsum(counts) - counts
  rows, found = [], []
  for branch, count, start in zip(branches, slots, starts, strict=True):
    index = order[jnp.minimum(start + np.arange(max(1, count), dtype=np.int32), size - 1)]
    own = jax.tree.map(lambda leaf, mapped, index=index: leaf[index] if mapped else leaf, args, is_mapped)
    found.append(_mapped(branch, is_mapped, len(index))(*own))
    rows.append(len(index))
  firsts = np.cumsum([0, *rows[:-1]]).astype(np.int32)
  rank = jnp.zeros_like(which).at[order].set(np.arange(size, dtype=np.int32)) - starts[which]
  place = jnp.asarray(firsts)[which] + jnp.where(jnp.array(slots, jnp.int32)[which] > 0, rank, 0)
  fits = jnp.all(counts <= np.where(np.array(slots) > 0, slots, size).astype(np.int32))

  def in_order(*leaves):
    joined = jnp.concatenate(leaves)[place]
    return jnp.where(fits, joined, jnp.nan) if jnp.issubdtype(joined.dtype, jnp.floating) else joined

  return jax.tree.map(in_order, *found)
