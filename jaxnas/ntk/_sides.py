"""One of the two inputs of a kernel: f there, of the parameters alone, whole or by samples."""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import check_structure, leaf_axes, outputs_of, split_vmap_axes
from jaxnas.ntk._chunking import chunked_vmap
from jaxnas.ntk._jacobian import Selection


class Side:
  """f at one input.

  Attributes:
    sliced: whether f is taken by samples.
    shapes: of f's output leaves, the whole batch's.
    treedef: of f's output.
    sample_axes: for each output leaf the axis along which f is taken by samples; None where it is taken whole.
    in_axes: of the leaves of x, and behind them of mapped keyword arguments, by number: along which they are sliced.
    samples: how many there are; 1 where f is taken whole.
    slices: what `at` takes beside the parameters, stacked along a leading axis; a tree without leaves where f is whole.
  """

  def __init__(
    self, f: Callable[..., PyTree], parameters: Selection, x: PyTree, kwargs: dict[str, Any], vmap_axes: Any
  ):
    self._f, self._parameters, self._kwargs = f, parameters, kwargs

    def whole(leaves: list[Array]) -> PyTree:
      return outputs_of(f(parameters.rebuild(leaves), x, **kwargs))

    self.sliced = vmap_axes is not None
    self.samples, self.slices = 1, ()
    self.in_axes: dict[int, int] = {}
    x_axes, out_axes, kwarg_axes = split_vmap_axes(vmap_axes)
    if self.sliced:  # before f is called, whose own errors would not tell that numbers of samples differ
      self._slice(x, x_axes, kwarg_axes, vmap_axes)
    shapes = jax.eval_shape(whole, parameters.leaves)
    outputs, self.treedef = jax.tree.flatten(shapes)
    self.shapes = [output.shape for output in outputs]
    self.sample_axes: list[int | None] = [None] * len(self.shapes)
    self._whole = whole
    if self.sliced:
      self.sample_axes = leaf_axes(out_axes, shapes, "vmap_axes")
      if None in self.sample_axes:
        raise ConfigError(f"vmap_axes={vmap_axes!r}: every output must have one mapped axis.")

  def _slice(self, x: PyTree, x_axes: Any, kwarg_axes: Any, vmap_axes: Any) -> None:
    if isinstance(kwarg_axes, int):
      kwarg_axes = dict.fromkeys(self._kwargs, kwarg_axes)
    mapped = {name: self._kwargs[name] for name in kwarg_axes if name in self._kwargs}
    self._leaves, self._treedef = jax.tree.flatten((x, mapped))
    axes = leaf_axes(x_axes, x, "vmap_axes")
    for name in sorted(mapped):  # the order in which a dict is flattened
      axes += leaf_axes(kwarg_axes[name], mapped[name], f"vmap_axes[2][{name!r}]")
    self.in_axes = {i: axis for i, axis in enumerate(axes) if axis is not None}
    self.slices = {i: jnp.moveaxis(self._leaves[i], axis, 0) for i, axis in self.in_axes.items()}
    sizes = sorted({array.shape[0] for array in self.slices.values()})
    if len(sizes) != 1:
      others = f" and {', '.join(sorted(mapped))} (a pair for x1 and x2)" if mapped else ""
      raise ConfigError(
        f"vmap_axes={vmap_axes!r}: the inputs{others} must share one mapped axis, of one size, got sizes {sizes}; use "
        "vmap_axes=None for a network without a batch axis."
      )
    self.samples, self._vmap_axes = sizes[0], vmap_axes

  def block(self, slices: Any) -> "Side":
    """f at other samples: some of the `slices`."""
    other = copy.copy(self)
    other.slices, other.samples = slices, jax.tree.leaves(slices)[0].shape[0]
    other.shapes = [
      tuple(other.samples if i == axis else side for i, side in enumerate(shape))
      for shape, axis in zip(self.shapes, self.sample_axes, strict=True)
    ]
    return other

  def slice_shapes(self) -> PyTree:
    """Shape and dtype of one of the `slices`."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.slices)

  def only(self, position: int) -> "Side":
    """f with one of its output leaves."""
    other = copy.copy(self)
    other.shapes, other.sample_axes = [self.shapes[position]], [self.sample_axes[position]]
    other.at = lambda leaves, one=(): [self.at(leaves, one)[position]]
    return other

  def element(self, index: Array) -> "Side":
    """f with one element of its only output leaf, by its number, of every sample."""
    other = copy.copy(self)
    other.shapes = [(self.samples,)]
    other.sample_axes = [0]
    other.at = lambda leaves, one=(): [self.at(leaves, one)[0].reshape(-1)[index]]
    return other

  def at(self, leaves: list[Array], one: Any = ()) -> list[Array]:
    """f's output leaves, without the axis of samples: whole, or at one of the `slices`."""
    if not self.sliced:
      return jax.tree.leaves(self._whole(leaves))
    filled = [
      jnp.expand_dims(one[i], self.in_axes[i]) if i in self.in_axes else leaf for i, leaf in enumerate(self._leaves)
    ]
    x, kwargs = jax.tree.unflatten(self._treedef, filled)
    try:
      found = self._f(self._parameters.rebuild(leaves), x, **(self._kwargs | kwargs))
    except (TypeError, ValueError) as error:  # the whole batch was taken without any
      raise ConfigError(f"vmap_axes={self._vmap_axes!r}: f does not take one slice of x: {error}") from error
    out, treedef = jax.tree.flatten(outputs_of(found))
    check_structure(self.treedef, treedef, "at one slice of it")
    for value, axis in zip(out, self.sample_axes, strict=True):
      assert axis is not None  # f is taken by samples
      if value.shape[axis : axis + 1] != (1,):
        raise ConfigError(
          f"vmap_axes={self._vmap_axes!r}: one slice of x gives an output of shape {value.shape}, "
          f"expected size 1 on axis {axis}."
        )
    return [jnp.squeeze(value, axis) for value, axis in zip(out, self.sample_axes, strict=True)]

  def map(self, fn: Callable[[Any], PyTree], chunk_size: int | None) -> PyTree:
    """`fn` of every slice, stacked along a leading axis; `fn(())` where f is whole."""
    return chunked_vmap(fn, self.slices, chunk_size) if self.sliced else fn(())
