"""Eigenvalues and condition numbers of kernels, on the host in float64, with named failures."""

import dataclasses
import enum
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from jaxnas.errors import ConfigError


class KernelStatus(enum.IntEnum):
  """What a kernel's eigenvalues are like, from good to bad; the numbers fill batched arrays."""

  OK = 0
  SINGULAR = 1  # lambda_min is zero within rounding; also the zero matrix
  NEGATIVE = 2  # lambda_min is below zero by more than rounding
  NON_FINITE = 3  # an entry or an eigenvalue is NaN or infinite


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """Eigenvalues of one kernel or of a batch.

  Attributes:
    eigenvalues: [..., N] float64, ascending; NaN for a non-finite kernel.
    status: a `KernelStatus`; int8 array [...] of its values for a batch.
  """

  eigenvalues: np.ndarray
  status: Any


@dataclasses.dataclass(frozen=True)
class ConditionNumber:
  """lambda_max / lambda_min of one kernel (float64 scalars) or of a batch (float64 arrays [...]).

  Attributes:
    value: at least 1 where the status is OK; else inf, the worst (see `negative`).
    status: a `KernelStatus`; int8 array [...] of its values for a batch.
    lambda_min: smallest eigenvalue; NaN for a non-finite kernel.
    lambda_max: largest eigenvalue; NaN for a non-finite kernel.
    ratio: lambda_max / lambda_min by IEEE rules, whatever the status: it may be negative, infinite,
      or NaN (zero matrix, non-finite kernel).
  """

  value: Any
  status: Any
  lambda_min: Any
  lambda_max: Any
  ratio: Any


def spectrum(theta: Real[Any, "*A N N"], *, rtol: float | None = None) -> Spectrum:
  """Eigenvalues of symmetric kernels, in float64 on the host.

  Args:
    theta: [..., N, N], any real dtype; only the upper triangle enters the eigenvalues.
    rtol: an eigenvalue within `rtol * lambda_max` of zero counts as zero; None: N times the machine
      epsilon of theta's dtype, the bound of `numpy.linalg.matrix_rank`.

  Returns:
    Spectrum; never fails on the values of `theta`.

  Raises:
    ConfigError: theta is not [..., N, N] with N >= 1, or is complex; rtol is not in [0, 1).
  """
  kernels, tolerance = _host(theta, rtol)
  eigenvalues = _eigenvalues(kernels)
  return Spectrum(eigenvalues, _scalar_status(_classify(eigenvalues, tolerance)))


def condition_number(
  theta: Real[Any, "*A N N"],
  *,
  negative: Literal["worst", "keep"] = "worst",
  rtol: float | None = None,
) -> ConditionNumber:
  """lambda_max / lambda_min of symmetric kernels, in float64 on the host; lower is better.

  Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021, section 3.1.

  Args:
    theta: [..., N, N], any real dtype; only the upper triangle enters the eigenvalues.
    negative: value where lambda_min < 0: "worst" is inf, "keep" the negative ratio, which TE-NAS's
      official code ranks as it is.
    rtol: see `spectrum`; a kernel whose lambda_min counts as zero is SINGULAR.

  Returns:
    ConditionNumber; never fails on the values of `theta`.

  Raises:
    ConfigError: as `spectrum`; unknown `negative`.
  """
  if negative not in ("worst", "keep"):
    raise ConfigError(f"negative={negative!r}: expected 'worst' or 'keep'.")
  kernels, tolerance = _host(theta, rtol)
  eigenvalues = _eigenvalues(kernels)
  status = _classify(eigenvalues, tolerance)
  lowest, highest = eigenvalues[..., 0], eigenvalues[..., -1]
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    ratio = np.float64(1) * highest / lowest
  trusted = status == KernelStatus.OK
  if negative == "keep":
    trusted |= (lowest < 0) & (status != KernelStatus.NON_FINITE)
  value = np.where(trusted, ratio, np.inf)[()]
  return ConditionNumber(value, _scalar_status(status), lowest, highest, ratio)


def _host(theta: Any, rtol: float | None) -> tuple[np.ndarray, float]:
  """`theta` as float64 and the relative size below which an eigenvalue counts as zero."""
  array = np.asarray(theta)
  if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.shape[-1] == 0:
    raise ConfigError(f"theta: expected shape [..., N, N] with N >= 1, got {array.shape}.")
  if np.iscomplexobj(array):
    raise ConfigError(f"theta: expected a real dtype, got {array.dtype}.")
  if rtol is None:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    epsilon = jnp.finfo(array.dtype if floating else np.float64).eps
    return array.astype(np.float64), array.shape[-1] * float(epsilon)
  if not 0 <= rtol < 1:
    raise ConfigError(f"rtol={rtol!r}: expected a number in [0, 1).")
  return array.astype(np.float64), rtol


def _eigenvalues(kernels: np.ndarray) -> np.ndarray:
  """[..., N] ascending; NaN for kernels that have none."""
  size = kernels.shape[-1]
  result = np.full((*kernels.shape[:-2], size), np.nan)
  for index in np.ndindex(kernels.shape[:-2]):
    if not np.isfinite(kernels[index]).all():
      continue
    try:
      result[index] = np.linalg.eigvalsh(kernels[index], UPLO="U")
    except np.linalg.LinAlgError:  # no convergence: stays NaN
      continue
  return result


def _classify(eigenvalues: np.ndarray, tolerance: float) -> np.ndarray:
  """`KernelStatus` values, int8 [...]."""
  lowest, highest = eigenvalues[..., 0], eigenvalues[..., -1]
  finite = np.isfinite(eigenvalues).all(-1)
  largest = np.maximum(np.abs(lowest), np.abs(highest))
  status = np.where(lowest > tolerance * largest, KernelStatus.OK, KernelStatus.SINGULAR)
  status = np.where(lowest < -tolerance * largest, KernelStatus.NEGATIVE, status)
  return np.where(finite, status, KernelStatus.NON_FINITE).astype(np.int8)


def _scalar_status(status: np.ndarray) -> Any:
  return KernelStatus(int(status)) if status.ndim == 0 else status
