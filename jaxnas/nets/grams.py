"""Layers whose pull-back gives the Gram matrix of the samples' gradients, as the cotangent of an [N, N] array of zeros.

Where samples are independent and each has one output, the backward pass of the sum of all outputs has at every layer
the cotangents of all samples. From them each layer computes the rows g_n of its own parameters and adds g_n . g_m to
the cotangent of its zeros; autodiff adds the layers up, and no gradient of the whole network ever exists. The
parameters themselves get no derivative here.

A layer is asked for it by the zeros beside its parameters, `gram`, one array a kind of parameter that enters. A
network whose layers with parameters all go through `layer` is a `base.SampleGram` by `SampleGrams`.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxnas.base import Mode, Output
from jaxnas.nets import layers, plain_layers
from jaxnas.nets.products import einsum, matmul

Function = Callable[[Any, PyTree], Array]
"""(x, a layer's parameters) -> y, of which each sample depends on its own x only."""

Rows = Callable[[Array, PyTree, Array], dict[str, Array]]
"""(x, the layer's parameters, dy) -> by kind in their `gram` each sample's gradient, [N, ...]."""


Stacked = Callable[[list[str]], bool]
"""Whether the parameter of this path has layers as its first axis."""


@runtime_checkable
class _Stacking(Protocol):
  def is_stacked(self, path: list[str]) -> bool: ...

  def apply(self, params: PyTree, inputs: Array, arch: Any, mode: Mode) -> Output: ...


class SampleGrams:
  """The capability, of a network with `is_stacked`, see `Stacked`."""

  def sample_gram(
    self: _Stacking,
    params: PyTree,
    inputs: Array,
    arch: Any,
    outputs: Callable[[Float[Array, "N K"]], Float[Array, " N"]],
    *,
    include: tuple[str, ...] = ("kernel", "scale"),
    diagonal: bool = False,
  ) -> Array:
    """As `base.SampleGram`."""
    zeros = jnp.zeros((len(inputs),) if diagonal else (len(inputs), len(inputs)), inputs.dtype)

    def total(zeros: Array) -> Array:
      own = _with_zeros(params, zeros, include, self.is_stacked, [])
      return outputs(self.apply(own, inputs, arch, "batch_frozen").logits).sum()

    return jax.grad(total)(zeros)


def _with_zeros(params: PyTree, zeros: Array, include: tuple[str, ...], is_stacked: Stacked, path: list[str]) -> PyTree:
  """The parameters with `zeros` beside every layer's own, behind the axis of stacked layers."""
  out, own = {}, {}
  for name, value in params.items():
    if isinstance(value, dict):
      out[name] = _with_zeros(value, zeros, include, is_stacked, [*path, name])
    else:
      stacked = is_stacked([*path, name])
      out[name], own[name] = value, jnp.broadcast_to(zeros, (len(value), *zeros.shape)) if stacked else zeros
  return {**out, "gram": {kind: own[kind] for kind in own if kind in include}} if own else out


def layer(fn: Function, x: Array, params: PyTree, samples: int = 0, rows: Rows | None = None) -> Any:
  """fn(x, params); with zeros among the parameters its pull-back is for Gram matrices.

  Args:
    samples: the axis of the samples in x and y.
    rows: each sample's gradient, where it is faster than the pull-back of `fn` under `vmap` over samples.
  """
  if "gram" not in params:
    return fn(x, params)
  return _layer(x, params, fn, rows or functools.partial(_mapped, fn, samples))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _layer(x: Array, params: PyTree, fn: Function, rows: Rows) -> Array:
  del rows
  return fn(x, params)


def _layer_bwd(fn, rows, saved, dy):
  x, params = saved
  dx = jax.vjp(lambda x: fn(x, params), x)[1](dy)[0]
  zeros = jax.tree.map(jnp.zeros_like, params)
  found = {kind: zeros["gram"][kind] + _gram(own, zeros["gram"][kind]) for kind, own in rows(x, params, dy).items()}
  return dx, {**zeros, "gram": found}


_layer.defvjp(lambda x, params, fn, rows: (fn(x, params), (x, params)), _layer_bwd)


def _gram(rows: Float[Array, "N ..."], like: Array) -> Array:
  """The Gram matrix of rows, or its diagonal if `like` is one."""
  flat = rows.reshape(len(rows), -1)
  return jnp.square(flat).sum(1) if like.ndim == 1 else matmul(flat, flat.T)


def _mapped(fn: Function, samples: int, x: Array, params: PyTree, dy: Array) -> dict[str, Array]:
  """The rows by the pull-back of `fn`, mapped over the samples."""
  own = {kind: params[kind] for kind in params["gram"]}

  def one(x, dy):
    run = functools.partial(fn, jnp.expand_dims(x, samples))
    return jax.vjp(lambda own: run({**params, **own}), own)[1](jnp.expand_dims(dy, samples))[0]

  return jax.vmap(one, samples)(x, dy)


def convolve(
  x: Float[Array, "N H W Cin"], params: PyTree, stride: int = 1, *, fn: Callable[..., Any] = plain_layers.convolve
) -> Float[Array, "N H2 W2 Cout"]:
  """`layer` for `fn`(x, kernel, stride), a convolution padded symmetrically."""
  rows = functools.partial(_rows_of_convolution, stride)
  return layer(lambda x, own: fn(x, own["kernel"], stride), x, params, rows=rows)


def _rows_of_convolution(stride: int, x: Array, params: PyTree, dy: Array) -> dict[str, Array]:
  if not params["gram"]:
    return {}
  size = params["kernel"].shape[0]
  if stride == 1 and size == 3:  # on a CPU 2 to 5 times as fast; entries are in an order of their own
    return {"kernel": _products(*plain_layers.moved(x, dy, ((1, 1), (1, 1))))}
  return {"kernel": _products(layers.patches(x, size, stride), dy)}


def _products(x: Float[Array, "N H W I"], dy: Float[Array, "N H W J"]) -> Float[Array, "N I J"]:
  n, inputs, outputs = len(x), x.shape[-1], dy.shape[-1]
  return einsum("npi,npj->nij", x.reshape(n, -1, inputs), dy.reshape(n, -1, outputs))
