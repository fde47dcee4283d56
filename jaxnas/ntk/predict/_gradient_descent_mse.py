"""Gradient flow on a squared loss in function space, in closed form."""

import functools
from collections.abc import Callable, Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_not_negative, checked_on_host
from jaxnas.ntk._jacobian import matmul_precision
from jaxnas.ntk.predict._layout import as_kernel, layout_of, square_matrix
from jaxnas.ntk.predict._solve import Eigen, Inverse, eigen, factorise, once, regularise


def gradient_descent_mse(
  k_train_train: ArrayLike,
  y_train: ArrayLike,
  learning_rate: float | Array = 1.0,
  diag_reg: float | Array = 0.0,
  diag_reg_absolute_scale: bool = False,
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
) -> Callable[..., Array | tuple[Array, Array]]:
  """Predicts the outputs of a network, linear in its parameters, under gradient flow on a squared loss.

  With L = mean((f - y)^2) / 2 and the NTK T of the training set, n = y.size and s = learning_rate * t,

      f_train(t) = y + exp(-T s / n) (f_train(0) - y)
      f_test(t) = f_test(0) + T_test,train T^-1 (1 - exp(-T s / n)) (y - f_train(0))

  (Jacot et al., arXiv 1806.07572; Lee et al., NeurIPS 2019, arXiv 1902.06720, equations 10 and 11).

  Args:
    k_train_train: kernel of the training set, [N, N] or, with fewer `trace_axes`, [N, N, K, K, ...].
    y_train: targets [N, ...], as the outputs.
    learning_rate: the unit of time; a step of gradient descent.
    diag_reg: added to the kernel's diagonal, in units of its mean.
    diag_reg_absolute_scale: `diag_reg` is in the kernel's own units.
    trace_axes: output axes that the kernel lacks; the default goes with `empirical_ntk_fn`'s.

  Returns:
    `predict_fn(t=None, fx_train_0=0.0, fx_test_0=None, k_test_train=None)`: the training outputs at time `t`, or
    (training, test) outputs where `fx_test_0` is given, or the test outputs alone where `fx_train_0` is None (which
    then counts as 0). Outputs have the leading axes of `t`; `t=None` is infinity, without the eigendecomposition that
    finite times need. `fx_test_0` may be a number; test outputs need `k_test_train` [M, N, ...].

  Raises:
    ConfigError: shapes or axes that contradict one another, a negative `diag_reg` or `learning_rate`, complex kernels;
      and from `predict_fn`, times below 0, nothing to predict, or test outputs without `k_test_train`.

  Example:
    >>> kernel_fn = ntk.empirical_ntk_fn(f, vmap_axes=0)
    >>> predict_fn = ntk.predict.gradient_descent_mse(kernel_fn(x_train, None, params), y_train, learning_rate=0.1)
    >>> train, test = predict_fn(100, f(params, x_train), f(params, x_test), kernel_fn(x_test, x_train, params))
  """
  checked_not_negative(diag_reg, "diag_reg")
  checked_not_negative(learning_rate, "learning_rate")
  kernel = as_kernel(k_train_train, "k_train_train")
  y_train = checked_array(y_train, "y_train").astype(kernel.dtype)
  layout = layout_of(y_train, trace_axes)
  matrix = regularise(square_matrix(kernel, layout.sizes, "k_train_train"), diag_reg, diag_reg_absolute_scale)
  y = layout.rows(y_train)

  spectrum = once(lambda: eigen(matrix))
  inverse = once(lambda: factorise(matrix))

  def predict_fn(
    t: ArrayLike | None = None,
    fx_train_0: ArrayLike | None = 0.0,
    fx_test_0: ArrayLike | None = None,
    k_test_train: ArrayLike | None = None,
  ) -> Array | tuple[Array, Array]:
    check_requested(fx_train_0, fx_test_0, k_test_train)
    check_times(t)
    start = layout.rows(broadcast(0.0 if fx_train_0 is None else fx_train_0, layout.shape, kernel.dtype, "fx_train_0"))
    with matmul_precision(jax.lax.Precision.HIGHEST):
      if t is None:
        shape, times = (), None
        train = _train_at_rest(inverse(), y, start)
      else:
        t = jnp.asarray(t, kernel.dtype)
        shape, times = t.shape, flow_times(t, jnp.asarray(learning_rate, kernel.dtype), y.size)
        train = _train_at(spectrum(), times, y, start)
      train = layout.outputs(train, layout.sizes, shape)
      if fx_test_0 is None:
        return train

      k_test = as_kernel(k_test_train, "k_test_train").astype(kernel.dtype)
      cross, sizes = layout.matrix(k_test, "k_test_train"), k_test.shape[0::2]
      test_0 = layout.rows(broadcast(fx_test_0, layout.output_shape(sizes), kernel.dtype, "fx_test_0"))
      if times is None:
        test = _test_at_rest(inverse(), y, start, cross, test_0)
      else:
        test = _test_at(spectrum(), times, y, start, cross, test_0)
      test = layout.outputs(test, sizes, shape)
    return test if fx_train_0 is None else (train, test)

  return predict_fn


@functools.partial(jax.jit, static_argnums=2)
def flow_times(t: Array, learning_rate: Array, size: int) -> Float[Array, " T"]:
  """By what an eigenvalue of the kernel is multiplied in the flow, for targets of `size` elements."""
  return t.reshape(-1) * learning_rate / size


@jax.jit
def _train_at_rest(inverse: Inverse, y: Float[Array, "n c"], start: Float[Array, "n c"]) -> Float[Array, "n c"]:
  return y + inverse.outside(start - y)


@jax.jit
def _train_at(
  spectrum: Eigen, times: Float[Array, " T"], y: Float[Array, "n c"], start: Float[Array, "n c"]
) -> Float[Array, "T n c"]:
  modes = spectrum.vectors.T @ (y - start)
  return start[None] + spectrum.vectors @ (spectrum.learned(times)[:, :, None] * modes[None])


@jax.jit
def _test_at_rest(
  inverse: Inverse,
  y: Float[Array, "n c"],
  start: Float[Array, "n c"],
  cross: Float[Array, "m n"],
  test_0: Float[Array, "m c"],
) -> Float[Array, "m c"]:
  return test_0 + cross @ inverse.solve(y - start)


@jax.jit
def _test_at(
  spectrum: Eigen,
  times: Float[Array, " T"],
  y: Float[Array, "n c"],
  start: Float[Array, "n c"],
  cross: Float[Array, "m n"],
  test_0: Float[Array, "m c"],
) -> Float[Array, "T m c"]:
  # The cross kernel meets the eigenvectors first: no product of it with [T, n, c].
  modes = spectrum.vectors.T @ (y - start)
  return test_0[None] + (cross @ spectrum.vectors) @ (spectrum.response(times)[:, :, None] * modes[None])


def broadcast(value: ArrayLike, shape: tuple[int, ...], dtype: jnp.dtype, name: str) -> Array:
  """A number, or an array of `shape`, as an array of `shape`."""
  array = checked_array(value, name).astype(dtype)
  if array.shape not in ((), shape):
    raise ConfigError(f"{name}: expected a number or the shape {shape}, got {array.shape}.")
  return jnp.broadcast_to(array, shape)


def check_times(t: ArrayLike | None) -> np.ndarray | None:
  """The times where they are known, and not traced or None, which is infinity; ConfigError for negative ones or NaN."""
  if t is None:
    return None
  try:
    times = checked_on_host(t, "t")
  except jax.errors.TracerArrayConversionError:
    return None
  if jnp.iscomplexobj(times) or not (times >= 0).all():
    raise ConfigError(f"t={t!r}: expected times of at least 0, or None for infinity.")
  return times


def check_requested(fx_train_0: object, fx_test_0: object, k_test_train: object) -> None:
  """Raises ConfigError where no prediction is asked for, or one on the test set without its kernel."""
  if fx_train_0 is None and fx_test_0 is None:
    raise ConfigError("fx_train_0=None and fx_test_0=None: nothing to predict; give one of them.")
  if fx_test_0 is not None and k_test_train is None:
    raise ConfigError("k_test_train=None: predictions on the test set (fx_test_0) need the test-train kernel.")
