"""Functions of a positive semi-definite matrix that may be singular: its flow and its pseudo-inverse."""

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.scipy import linalg
from jaxtyping import Array, Bool, Float

P = ParamSpec("P")
R = TypeVar("R")


def once(fn: Callable[P, R]) -> Callable[P, R]:
  """`fn`, evaluated once for each arguments, and outside any trace under way, so that a jitted caller may keep it."""

  @functools.cache
  def cached(*args, **kwargs):
    with jax.ensure_compile_time_eval():
      return fn(*args, **kwargs)

  return cached  # pyright: ignore[reportReturnType]  # functools.cache has no signature


@functools.partial(jax.jit, static_argnames="absolute")
def regularise(matrix: Float[Array, "n n"], diag_reg: float | Array, absolute: bool) -> Float[Array, "n n"]:
  """`matrix + diag_reg * I`, in units of the mean of its diagonal unless `absolute`."""
  size = matrix.shape[0]
  scale = 1 if absolute else jnp.trace(matrix) / size
  return matrix + jnp.asarray(diag_reg, matrix.dtype) * scale * jnp.eye(size, dtype=matrix.dtype)


class Eigen(NamedTuple):
  """Eigenvalues, ascending and 0 where they are rounding or negative, and the eigenvectors in columns."""

  values: Float[Array, " n"]
  vectors: Float[Array, "n n"]

  def decay(self, t: Float[Array, " T"]) -> Float[Array, "T n"]:
    """exp(-value t), 1 for the directions that are not trained, at t = inf too."""
    return jnp.where(self.trained[None, :], jnp.exp(-self._exponent(t)), 1)

  def learned(self, t: Float[Array, " T"]) -> Float[Array, "T n"]:
    """1 - exp(-value t), without cancellation; 0 for the directions that are not trained."""
    return jnp.where(self.trained[None, :], -jnp.expm1(-self._exponent(t)), 0)

  def response(self, t: Float[Array, " T"]) -> Float[Array, "T n"]:
    """(1 - exp(-value t)) / value, 0 for the directions that are not trained."""
    return self.learned(t) / self._safe()[None, :]

  @property
  def trained(self) -> Bool[Array, " n"]:
    """Which directions the flow moves."""
    return self.values > 0

  def _safe(self) -> Float[Array, " n"]:
    return jnp.where(self.trained, self.values, 1)

  def _exponent(self, t: Float[Array, " T"]) -> Float[Array, "T n"]:
    return self._safe()[None, :] * t[:, None]


@jax.jit
def eigen(matrix: Float[Array, "n n"]) -> Eigen:
  """The eigenvalues and vectors of a symmetric matrix, what is not above rounding set to 0."""
  values, vectors = jnp.linalg.eigh(matrix)
  return Eigen(jnp.where(values > _rounding(matrix.dtype) * values[-1], values, 0), vectors)


class Inverse(NamedTuple):
  """A factorisation to solve by: Cholesky's where that is sound, else eigenvectors.

  Attributes:
    definite: whether `factor` is the lower Cholesky factor, and not the eigenvectors.
    factor: the factor.
    values: eigenvalues as in `Eigen`, where not `definite`.
  """

  definite: Bool[Array, ""]
  factor: Float[Array, "n n"]
  values: Float[Array, " n"]

  def solve(self, rhs: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """The pseudo-inverse times `rhs`."""

    def by_cholesky(rhs):
      return linalg.cho_solve((self.factor, True), rhs)

    def by_eigenvectors(rhs):
      inverse = jnp.where(self.values > 0, 1 / jnp.where(self.values > 0, self.values, 1), 0)
      return self.factor @ (inverse[:, None] * (self.factor.T @ rhs))

    return jax.lax.cond(self.definite, by_cholesky, by_eigenvectors, rhs)

  def outside(self, rhs: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """The part of `rhs` in the null space: what training never reaches."""

    def null_part(rhs):
      untrained = jnp.where(self.values > 0, 0, 1).astype(rhs.dtype)
      return self.factor @ (untrained[:, None] * (self.factor.T @ rhs))

    return jax.lax.cond(self.definite, jnp.zeros_like, null_part, rhs)


@jax.jit
def factorise(matrix: Float[Array, "n n"]) -> Inverse:
  """The factorisation of a symmetric matrix by which to solve."""
  lower = jnp.linalg.cholesky(matrix)
  # The largest sum of a row bounds the largest eigenvalue; a NaN pivot compares as unsound.
  bound = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
  definite = jnp.min(jnp.diagonal(lower)) ** 2 > _rounding(matrix.dtype) * bound

  def by_eigenvectors():
    values, vectors = eigen(matrix)
    return vectors, values

  factor, values = jax.lax.cond(definite, lambda: (lower, jnp.ones_like(lower[0])), by_eigenvectors)
  return Inverse(definite, factor, values)


def _rounding(dtype: jnp.dtype) -> float:
  """The share of the largest eigenvalue below which an eigenvalue is not told from 0."""
  return 10 * float(jnp.finfo(dtype).eps)
