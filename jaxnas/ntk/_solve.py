"""Linear systems with a kernel, regularised, on the host in float64, with named failures."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_not_negative, checked_on_host
from jaxnas.ntk._spectrum import KernelStatus, host, spectrum


@dataclasses.dataclass(frozen=True)
class Solution:
  """What `solve` found.

  Attributes:
    value: float64, the shape of y; NaN where the regularised kernel has no Cholesky factor.
    status: that of the regularised kernel. SINGULAR with finite values: its reciprocal condition
      number is below the rounding of theta's dtype, so that the value is mostly rounding.
    ridge: what was added to every entry of the diagonal.
    rcond: the reciprocal condition number in the 1-norm, as LAPACK estimates it; 0 without a factor.
  """

  value: np.ndarray
  status: KernelStatus
  ridge: float
  rcond: float


def solve(theta: Real[Any, "..."], y: Real[Any, "..."], *, ridge: float = 0.0) -> Solution:
  """The solution of `(K + ridge * mean(diag K) I) x = y` by Cholesky, in float64 on the host.

  Args:
    theta: one symmetric positive semidefinite kernel, [N, N] or [N, N, K, K]; only the upper triangle
      of its matrix is read.
    y: for [N, N]: [N] or [N, ...], any further axes being right-hand sides of their own; for
      [N, N, K, K]: [N, K] or [N, K, ...].
    ridge: at least 0, relative to the mean of the kernel's diagonal, so that it does not depend on the
      network's scale. Kernels in float32 are positive to about 1e-7 of lambda_max only: 1e-6 is a
      usual choice for many samples.

  Returns:
    Solution; never fails on the values of `theta`: its status names what is wrong, and for SINGULAR
    and NEGATIVE a greater ridge helps.

  Raises:
    ConfigError: theta is not one kernel; y does not fit it, or is complex or not finite; ridge is not a number of at
      least 0, or not finite.
  """
  kernels, tolerance = host(theta, None)
  shape = np.shape(theta)
  values = checked_on_host(y, "y")
  if kernels.ndim != 2:
    raise ConfigError(f"theta: expected one kernel [N, N] or [N, N, K, K], got shape {shape}.")
  if values.shape[: len(shape) // 2] != shape[::2]:
    raise ConfigError(f"y: expected shape {[*shape[::2]]} or with axes after it, got {values.shape}.")
  if np.iscomplexobj(values) or not np.isfinite(values.astype(np.float64)).all():
    raise ConfigError("y: expected real and finite numbers.")
  added = float(float(checked_not_negative(ridge, "ridge")) * np.diagonal(kernels).mean())
  np.einsum("ii->i", kernels)[...] += added
  right = values.astype(np.float64).reshape(len(kernels), -1)
  solved, rcond = _cholesky(kernels, right)
  if solved is None:
    status = max(spectrum(kernels, rtol=tolerance).status, KernelStatus.SINGULAR)
    solved = np.full_like(right, np.nan)
  else:
    status = KernelStatus.OK if rcond > tolerance else KernelStatus.SINGULAR
  return Solution(solved.reshape(values.shape), status, added, rcond)


def _cholesky(kernel: np.ndarray, right: Float[np.ndarray, "M R"]) -> tuple[np.ndarray | None, float]:
  """The solution and the reciprocal condition number, or (None, 0) without a factor."""
  from scipy.linalg import get_lapack_funcs

  if not np.isfinite(kernel).all():
    return None, 0.0
  potrf, pocon, potrs = get_lapack_funcs(("potrf", "pocon", "potrs"), dtype=np.float64)
  factor, info = potrf(kernel, lower=False)
  if info > 0:
    return None, 0.0
  upper = np.triu(kernel, 1)
  norm = np.abs(upper + upper.T + np.diag(np.diagonal(kernel))).sum(0).max()
  rcond, _ = pocon(factor, norm)
  solved, _ = potrs(factor, right, lower=False)
  return solved, float(rcond)
