"""Eigenvalues, condition numbers and effective ranks of kernels, on the host in float64, with named failures."""

import dataclasses
import enum
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_number, checked_on_host
from jaxnas.ntk._layout import square


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
    eigenvalues: [M] or [A, M] float64, ascending; NaN for a non-finite kernel.
    status: a `KernelStatus`; int8 array [A] of its values for a batch.
  """

  eigenvalues: np.ndarray
  status: Any


@dataclasses.dataclass(frozen=True)
class ConditionNumber:
  """lambda_max / lambda_min of one kernel or of a batch.

  Numbers are float64, of one kernel `np.float64` or arrays of shape (), of a batch arrays [A].

  Attributes:
    value: at least 1 where the status is OK; else inf, the worst (see `negative`).
    status: a `KernelStatus`; int8 array [A] of its values for a batch.
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


def spectrum(theta: Real[Any, "..."], *, rtol: float | None = None) -> Spectrum:
  """Eigenvalues of symmetric kernels, in float64 on the host.

  Args:
    theta: one kernel, [N, N] (M = N eigenvalues) or [N, N, K, K] (M = N K), or one axis more in front for A of them,
      as `flatten` reads them; an array of any real dtype, or lists. Only the upper triangle of the matrix enters the
      eigenvalues.
    rtol: an eigenvalue within `rtol * lambda_max` of zero counts as zero; None: M times the machine epsilon of theta's
      dtype, the bound of `numpy.linalg.matrix_rank`. Numbers in half precision count as exact float32, since M times
      their own epsilon is soon above 1.

  Returns:
    Spectrum; never fails on the values of `theta`.

  Raises:
    ConfigError: theta's axes are not such pairs of equal size, or theta is empty, complex or no array of numbers; rtol
      is not a number in [0, 1).
  """
  kernels, tolerance = host(theta, rtol)
  eigenvalues = eigenvalues_of(kernels)
  return Spectrum(eigenvalues, _scalar_status(classify(eigenvalues, tolerance)))


def condition_number(
  theta: Real[Any, "..."],
  *,
  negative: Literal["worst", "keep"] = "worst",
  rtol: float | None = None,
) -> ConditionNumber:
  """lambda_max / lambda_min of symmetric kernels, in float64 on the host; lower is better.

  Chen et al., "Neural Architecture Search on ImageNet in Four GPU Hours", ICLR 2021, section 3.1.

  Args:
    theta: as in `spectrum`.
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
  kernels, tolerance = host(theta, rtol)
  eigenvalues = eigenvalues_of(kernels)
  status = classify(eigenvalues, tolerance)
  lowest, highest = eigenvalues[..., 0], eigenvalues[..., -1]
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    ratio = np.float64(1) * highest / lowest
  trusted = status == KernelStatus.OK
  if negative == "keep":
    trusted |= (lowest < 0) & (status != KernelStatus.NON_FINITE)
  value = np.where(trusted, ratio, np.inf)[()]
  return ConditionNumber(value, _scalar_status(status), lowest, highest, ratio)


def effective_rank(
  theta: Real[Any, "..."], *, kind: Literal["entropy", "participation"] = "entropy"
) -> np.float64 | Float[np.ndarray, " A"]:
  """How many eigenvalues carry a kernel, in float64 on the host: from 1 to the rank, whatever the kernel's scale.

  With singular values s_i (the absolute eigenvalues) and p_i = s_i / sum_j s_j:

  - "entropy": exp(-sum_i p_i log p_i) (Roy and Vetterli, "The effective rank", EUSIPCO 2007).
  - "participation": 1 / sum_i p_i^2, the participation ratio, which is at most the former.

  Args:
    theta: as in `spectrum`.
    kind: the definition.

  Returns:
    A float64 scalar, or [A] for a batch; 0 for a zero kernel, NaN for a non-finite one.

  Raises:
    ConfigError: as `spectrum`; unknown `kind`.
  """
  if kind not in ("entropy", "participation"):
    raise ConfigError(f"kind={kind!r}: expected 'entropy' or 'participation'.")
  kernels, _ = host(theta, None)
  values = np.abs(eigenvalues_of(kernels))
  highest = values.max(-1, keepdims=True)
  values = values / np.where(highest == 0, 1, highest)  # before sums and squares, which may underflow
  shares = values / np.where(highest == 0, 1, values.sum(-1, keepdims=True))
  if kind == "participation":
    rank = 1 / np.where(highest[..., 0] == 0, np.inf, np.square(shares).sum(-1))
  else:
    logarithms = np.log(np.where(shares == 0, 1, shares))
    rank = np.where(highest[..., 0] == 0, 0, np.exp(-(shares * logarithms).sum(-1)))
  return np.float64(rank) if rank.ndim == 0 else rank


def host(theta: Any, rtol: float | None) -> tuple[np.ndarray, float]:
  """The matrices of `theta` as float64 and the relative size below which an eigenvalue counts as zero."""
  array = square(checked_on_host(theta, "theta"))
  return array.astype(np.float64), relative_zero(array.shape[-1], array.dtype, rtol)


def relative_zero(size: int, dtype: Any, rtol: float | None) -> float:
  """`rtol`, or by default `size` times the rounding of `dtype` (float64's for integers, float32's for half precision).

  Raises:
    ConfigError: rtol is not a number in [0, 1).
  """
  if rtol is None:
    eps = jnp.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else np.float64).eps
    return size * min(float(eps), float(np.finfo(np.float32).eps))
  return float(checked_number(rtol, "rtol", lambda value: 0 <= value < 1, "a number in [0, 1)"))


def eigenvalues_of(kernels: np.ndarray) -> np.ndarray:
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


def classify(eigenvalues: np.ndarray, tolerance: float) -> np.ndarray:
  """`KernelStatus` values, int8 [...]."""
  lowest, highest = eigenvalues[..., 0], eigenvalues[..., -1]
  finite = np.isfinite(eigenvalues).all(-1)
  largest = np.maximum(np.abs(lowest), np.abs(highest))
  status = np.where(lowest > tolerance * largest, KernelStatus.OK, KernelStatus.SINGULAR)
  status = np.where(lowest < -tolerance * largest, KernelStatus.NEGATIVE, status)
  return np.where(finite, status, KernelStatus.NON_FINITE).astype(np.int8)


def _scalar_status(status: np.ndarray) -> Any:
  return KernelStatus(int(status)) if status.ndim == 0 else status
