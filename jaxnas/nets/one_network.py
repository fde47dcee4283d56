"""Members that networks have in common: one that serves all architectures, with parameters as drawn, used whole."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PyTree

from jaxnas.nets import parameters


@runtime_checkable
class _Drawn(Protocol):
  def init(self, key: Array) -> PyTree: ...


@runtime_checkable
class _Layered(_Drawn, Protocol):
  def is_stacked(self, path: list[str]) -> bool: ...


class OneNetwork:
  """The members of `base.Single` and `base.TappedNetwork` that are the same for most networks.

  A network that says something else of them overrides them; `init` and `is_stacked` are its own (see
  `nets.parameters.draw` and `by_layer`).
  """

  def start(self, params: PyTree, arch: Any) -> PyTree:
    """As drawn."""
    del arch
    return params

  def embed(self, params: PyTree, inputs: Array) -> Array:
    """The inputs, which are numbers already."""
    del params
    return inputs

  def used_channels(self, arch: Any) -> PyTree | None:
    """Always all."""
    del arch

  def used_taps(self, arch: Any) -> Int[Array, "3"] | None:
    """Always all."""
    del arch

  def by_layer(self: _Layered, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " layers"]:
    """See `nets.parameters.by_layer`."""
    return parameters.by_layer(fn, trees, self.is_stacked)

  def gates(self: _Layered, samples: int) -> PyTree:
    """Ones for each convolution, [N, Cout] or [layers, N, Cout]: the parameters' tree down to what holds a kernel."""
    return parameters.gates(parameter_shapes(self), samples, self.is_stacked)

  def by_program(self, archs: Num[np.ndarray, "A ..."]) -> list[tuple[Any, Int[np.ndarray, " A"]]]:
    """As `base.Dispatched`, of a network that has `choices`: one program serves all."""
    return [(self, np.arange(len(archs)))]

  def variants(self) -> tuple[Any, ...]:
    """Itself."""
    return (self,)

  def variant(self, arch: Any) -> Int[Array, ""]:
    """Its place in `variants()`."""
    del arch
    return jnp.int32(0)


def parameter_shapes(network: _Drawn) -> PyTree:
  """The parameters' tree of shapes and dtypes, without drawing any."""
  return jax.eval_shape(network.init, jax.random.key(0))
