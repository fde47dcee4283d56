"""The ends of a kernel's spectrum from products with vectors, without the kernel."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree, Real

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_integer, checked_number
from jaxnas.ntk._spectrum import KernelStatus, classify, eigenvalues_of, host, relative_zero

_BASIS = 100  # Lanczos vectors that are kept: up to twice as many columns cost no more products than both ends do
_COLUMNS = 4096  # up to this size all columns may be taken


@dataclasses.dataclass(frozen=True)
class ExtremeEigenvalues:
  """Both ends of the spectrum of one kernel.

  Attributes:
    smallest: [count] float64, ascending, so that the first is lambda_min; NaN for a non-finite kernel.
    largest: [count] float64, ascending, so that the last is lambda_max; NaN for a non-finite kernel.
    status: as that of `spectrum`.
    products: how many products with a vector it took.
  """

  smallest: Float[np.ndarray, " count"]
  largest: Float[np.ndarray, " count"]
  status: KernelStatus
  products: int


class _NonFinite(Exception):
  """Leaves ARPACK's loop."""


class _Exhausted(Exception):
  """Leaves ARPACK's loop."""


def extreme_eigenvalues(
  kernel: Real[Any, "..."] | Callable[[Any], PyTree],
  like: PyTree = None,
  *,
  count: int = 1,
  tol: float | None = None,
  rtol: float | None = None,
  max_products: int | None = None,
) -> ExtremeEigenvalues:
  """The largest and the smallest eigenvalues of a symmetric kernel by Lanczos' method.

  ARPACK's implicitly restarted iteration (`scipy.sparse.linalg.eigsh`), in float64 on the host from
  a fixed starting vector. The smallest are sought as the largest of 2 lambda_max I - K: both ends are
  then exact to `tol * lambda_max`, which is what a product that rounds can give, and a singular kernel converges.

  Args:
    kernel: one symmetric kernel [N, N] or [N, N, K, K], or the function v -> K v of one, which gets
      and returns trees like `like` (from `empirical_ntk_vp_fn`; jit it).
    like: tree of arrays, numbers or `jax.ShapeDtypeStruct`s with the shapes and dtypes of v; for a function only.
    count: how many eigenvalues of either end.
    tol: of the residual norm |K v - lambda v|, relative to lambda_max; None: the size times the machine
      epsilon of the kernel's dtype, or of v's, at least float32's. Eigenvalues that stand apart are more exact by far.
    rtol: below which, relative to lambda_max, lambda_min counts as zero in the status; None: as in `spectrum`.
    max_products: after which it gives up; None: the size of the kernel, after which the columns of one up to
      4,096 are taken instead, one product each (eigenvalues that are close together at the low end take
      Lanczos longer than that).

  Returns:
    ExtremeEigenvalues; the condition number is `largest[-1] / smallest[0]` where the status is OK.

  Raises:
    ConfigError: not one kernel; `like` absent with a function or given with an array; no convergence
      within `max_products`; a count that is not in 1 to the size; rtol or tol not a number in [0, 1); a
      `max_products` below 1.

  Example:
    product = jax.jit(ntk.empirical_ntk_vp_fn(f, x, None, params))
    ends = ntk.extreme_eigenvalues(product, like=jax.eval_shape(f, params, x))
  """
  if callable(kernel):
    multiply, size, dtype = _on_vectors(kernel, like)
  elif like is not None:
    raise ConfigError("like: given with an array; it describes the argument of a function.")
  else:
    matrix, _ = host(kernel, None)
    if matrix.ndim != 2:
      raise ConfigError(f"kernel: expected one of shape [N, N] or [N, N, K, K], got {np.shape(kernel)}.")
    multiply, size, dtype = matrix.__matmul__, len(matrix), np.asarray(kernel).dtype
  if checked_integer(count, 1, "count") > size:
    raise ConfigError(f"count={count!r}: expected 1 to {size}, the size of the kernel.")
  if tol is None:
    tol = relative_zero(size, dtype, None)
  tol = float(checked_number(tol, "tol", lambda value: 0 <= value < 1, "a number in [0, 1)"))
  zero = relative_zero(size, dtype, rtol)
  budget, products = size if max_products is None else checked_integer(max_products, 1, "max_products"), 0

  def product(v):
    nonlocal products
    products += 1
    with np.errstate(invalid="ignore", over="ignore"):
      result = multiply(v)
    if not np.isfinite(result).all():
      raise _NonFinite
    return result

  def counted(v):
    if products >= budget:
      raise _Exhausted
    return product(v)

  try:
    if size <= 2 * max(_BASIS, count):
      smallest, largest = _by_columns(product, size, count)
    else:
      try:
        smallest, largest = _by_lanczos(counted, size, count, tol, budget)
      except _Exhausted as error:
        if max_products is not None or size > _COLUMNS:
          raise ConfigError(f"max_products={budget}: Lanczos did not converge to tol={tol!r}; raise either.") from error
        smallest, largest = _by_columns(product, size, count)
  except _NonFinite:
    smallest = largest = np.full(count, np.nan)
  status = classify(np.concatenate([smallest[:1], largest[-1:]]), zero)
  return ExtremeEigenvalues(smallest, largest, KernelStatus(int(status)), products)


def _by_columns(product: Callable, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The `count` smallest and largest eigenvalues, each ascending, from the whole kernel."""
  columns = np.stack([product(unit) for unit in np.eye(size)], -1)
  eigenvalues = eigenvalues_of(columns / 2 + columns.T / 2)
  return eigenvalues[:count], eigenvalues[-count:]


def _by_lanczos(product: Callable, size: int, count: int, tol: float, most: int) -> tuple[np.ndarray, np.ndarray]:
  """The `count` smallest and largest eigenvalues, each ascending."""
  from scipy.sparse import linalg

  start = np.random.default_rng(0).normal(size=size)
  start /= np.linalg.norm(start)  # no product is larger than lambda_max
  scale = np.abs(product(start)).max()  # ARPACK's thresholds are absolute near zero
  if scale == 0:
    return np.zeros(count), np.zeros(count)
  basis = min(size, max(4 * count, _BASIS))

  def largest(shift: float, sign: int) -> np.ndarray:
    """Of `shift I + sign K / scale`; the shift keeps it from being zero, which ARPACK refuses."""

    def multiply(v):
      return shift * v.ravel() + sign * product(v.ravel()) / scale

    operator = linalg.LinearOperator((size, size), matvec=multiply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    options: dict[str, Any] = dict(v0=start, ncv=basis, tol=tol / 2, maxiter=most, return_eigenvectors=False)
    return np.sort(linalg.eigsh(operator, count, which="LA", **options))

  high = largest(0.0, 1)
  shift = 2 * abs(high[-1])
  return scale * (shift - largest(shift, -1)[::-1]), scale * high


def _on_vectors(function: Callable, like: PyTree) -> tuple[Callable[[np.ndarray], np.ndarray], int, Any]:
  """`function` of flat float64 vectors, their size, and the coarsest dtype of `like`'s leaves."""
  given, treedef = jax.tree.flatten(like)
  if not given:
    raise ConfigError("like: a function needs a tree with the shapes and dtypes of its argument.")
  leaves = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else checked_array(leaf, "like") for leaf in given]
  if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
    raise ConfigError(f"like: expected real floating-point leaves, got {[str(leaf.dtype) for leaf in leaves]}.")
  sizes = [math.prod(leaf.shape) for leaf in leaves]

  def multiply(vector):
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    v = [jnp.asarray(part.reshape(leaf.shape), leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    out = jax.tree.leaves(function(jax.tree.unflatten(treedef, v)))
    result = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in out])
    if result.shape != vector.shape:
      raise ConfigError(f"kernel: the function returned {result.size} numbers for {vector.size}.")
    return result

  return multiply, sum(sizes), max((leaf.dtype for leaf in leaves), key=lambda dtype: float(jnp.finfo(dtype).eps))
