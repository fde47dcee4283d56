"""How the axes of a kernel are read, and the matrix that they stand for."""

import math
from typing import Any

import numpy as np
from jaxtyping import Real, Shaped

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_on_host


def flatten(theta: Shaped[Any, "..."]) -> Shaped[Any, "..."]:
  """The matrix of a kernel whose axes are interleaved, as `empirical_ntk_fn` returns them.

  An even number of axes is one kernel, in pairs: [N, M] is returned as it is, [N, M, K, L] becomes
  [N K, M L], and [N, M, H, I, W, J] becomes [N H W, M I J]; the rows are in the order in which
  `f(params, x).reshape(-1)` has the outputs. With an odd number the first axis counts kernels
  ([A, N, M], or [N, K, K] from `diagonal_axes=(0,)`) and stays. All functions here that take a
  kernel read its axes so; a batch with more than one leading axis has to be reshaped to one.

  Args:
    theta: a NumPy or JAX array of at least two axes, or what `jnp.asarray` makes one; any dtype of numbers.

  Returns:
    [N K, M L], or [A, N K, M L]; of theta's kind and dtype.

  Raises:
    ConfigError: fewer than two axes, or no array of numbers.

  Example:
    theta = ntk.empirical_ntk_fn(f, trace_axes=())(x, None, params)  # [N, N, K, K]
    np.linalg.eigvalsh(ntk.flatten(theta))  # [N K]
  """
  theta = _array(theta)
  if theta.ndim < 2:
    raise ConfigError(f"theta: expected a kernel of at least two axes, got shape {theta.shape}.")
  lead, pairs = theta.ndim % 2, theta.ndim // 2
  if pairs == 1:
    return theta
  rows, columns = (range(lead + first, theta.ndim, 2) for first in (0, 1))
  shape = (*theta.shape[:lead], *(math.prod(theta.shape[i] for i in axes) for axes in (rows, columns)))
  return theta.transpose(*range(lead), *rows, *columns).reshape(shape)


def square(theta: Real[Any, "..."]) -> Real[Any, "... M M"]:
  """`flatten(theta)` of a kernel whose rows and columns are the same outputs.

  Raises:
    ConfigError: the axes are not pairs of equal size (after one that counts kernels), or the matrix
      is empty, or complex.
  """
  theta = _array(theta)
  lead = theta.ndim % 2
  sizes = theta.shape[lead:]
  if theta.ndim < 2 or sizes[::2] != sizes[1::2] or 0 in sizes:
    raise ConfigError(
      f"theta: expected shape [N, N] or [N, N, K, K] with N, K >= 1, or one axis more in front that counts kernels, "
      f"got {theta.shape}."
    )
  if np.issubdtype(theta.dtype, np.complexfloating):
    raise ConfigError(f"theta: expected a real dtype, got {theta.dtype}.")
  return flatten(theta)


def _array(theta: Any) -> Any:
  return (checked_on_host if isinstance(theta, np.ndarray) else checked_array)(theta, "theta")
