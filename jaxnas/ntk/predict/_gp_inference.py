"""The posterior of a Gaussian process whose covariance is a kernel of a network."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_not_negative
from jaxnas.ntk._jacobian import matmul_precision
from jaxnas.ntk._requests import named, requested
from jaxnas.ntk.predict._layout import as_kernel, layout_of, square_matrix, unflatten_kernel
from jaxnas.ntk.predict._solve import Inverse, factorise, once, regularise


class Gaussian(NamedTuple):
  """A Gaussian over outputs.

  Attributes:
    mean: [..., *outputs], like the outputs of the network.
    covariance: [..., *kernel], like a kernel of these outputs with themselves.
  """

  mean: Array
  covariance: Array


def gp_inference(
  k_train_train: Any,
  y_train: ArrayLike,
  diag_reg: float | Array = 0.0,
  diag_reg_absolute_scale: bool = False,
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
) -> Callable[..., Any]:
  """The posterior of the outputs on a test set, given the outputs on the training set, with mean 0 before.

  With K the NNGP kernel and T the NTK, X the training and Z the test set, and `diag_reg` in what is inverted:

  | get | mean | covariance |
  |---|---|---|
  | "nngp" | K_ZX K^-1 y | K_ZZ - K_ZX K^-1 K_XZ |
  | "ntk" | T_ZX T^-1 y | K_ZZ + T_ZX T^-1 K T^-1 T_XZ - (T_ZX T^-1 K_XZ + its transpose) |
  | "ntkgp" | T_ZX T^-1 y | T_ZZ - T_ZX T^-1 T_XZ |

  "nngp" is the posterior of the infinitely wide Bayesian network; "ntk" the distribution over initialisations of such
  networks trained to the end (Lee et al., arXiv 1902.06720, equation 16); "ntkgp" that of deep ensembles in He et al.,
  "Bayesian Deep Ensembles via the Neural Tangent Kernel", arXiv 2007.05864.

  Args:
    k_train_train: kernel of the training set, an array, or anything with the attributes `nngp` and `ntk` that are
      asked for (what `empirical_kernel_fn` returns). An array is taken for whatever kernel is asked for.
    y_train: targets [N, ...].
    diag_reg: added to the diagonal of the kernel that is inverted, in units of its mean: the observation noise.
    diag_reg_absolute_scale: `diag_reg` is in the kernel's own units.
    trace_axes: output axes that all kernels lack.

  Returns:
    `predict_fn(get=None, k_test_train=None, k_test_test=None)`: for a string `get` the mean, or a `Gaussian` where
    `k_test_test` is given; for a tuple of them (None: "nngp" and "ntk") a named tuple `Gaussians` of those. Kernels as
    `k_train_train`; the covariance of "ntk" needs both. Without `k_test_train` it is the training set's own posterior
    without noise: the targets, and covariance 0.

  Raises:
    ConfigError: shapes or axes that contradict one another, an unknown `get`, a kernel that is missing.
  """
  checked_not_negative(diag_reg, "diag_reg")
  y_train = checked_array(y_train, "y_train")
  layout = layout_of(y_train, trace_axes)

  def train_matrix(name: str) -> Array:
    return square_matrix(kernel_named(k_train_train, name, "k_train_train"), layout.sizes, "k_train_train")

  @once
  def inverse(name: str):
    with matmul_precision(jax.lax.Precision.HIGHEST):
      return factorise(regularise(train_matrix(name), diag_reg, diag_reg_absolute_scale))

  def posterior(get: str, k_test_train: Any, k_test_test: Any) -> Array | Gaussian:
    inverted, prior = ("nngp" if get == "nngp" else "ntk"), ("ntk" if get == "ntkgp" else "nngp")
    train = kernel_named(k_train_train, inverted, "k_train_train")
    targets = y_train.astype(train.dtype)
    if k_test_train is None:
      return targets if k_test_test is None else Gaussian(targets, jnp.zeros_like(train))

    k_test = kernel_named(k_test_train, inverted, "k_test_train").astype(train.dtype)
    cross, sizes = layout.matrix(k_test, "k_test_train"), k_test.shape[0::2]
    mean = layout.outputs(_mean(inverse(inverted), cross, layout.rows(targets)), sizes)
    if k_test_test is None:
      return mean

    test = square_matrix(kernel_named(k_test_test, prior, "k_test_test").astype(train.dtype), sizes, "k_test_test")
    if prior == inverted:
      covariance = _conditioned(inverse(inverted), cross, test)
    else:
      if isinstance(k_train_train, jax.Array | np.ndarray) or isinstance(k_test_train, jax.Array | np.ndarray):
        raise ConfigError(
          "get='ntk' with k_test_test: the covariance needs k_train_train and k_test_train with both kernels, `nngp` "
          "and `ntk`; got a single array."
        )
      initial = layout.matrix(kernel_named(k_test_train, prior, "k_test_train").astype(train.dtype), "k_test_train")
      covariance = _trained(inverse(inverted), cross, test, initial, train_matrix(prior).astype(train.dtype))
    return Gaussian(mean, unflatten_kernel(covariance, sizes))

  def predict_fn(get: str | Sequence[str] | None = None, k_test_train: Any = None, k_test_test: Any = None) -> Any:
    names = requested(get, ("nngp", "ntk", "ntkgp"))
    with matmul_precision(jax.lax.Precision.HIGHEST):
      return named("Gaussians", get, {name: posterior(name, k_test_train, k_test_test) for name in names})

  return predict_fn


@jax.jit
def _mean(inverse: Inverse, cross: Float[Array, "m n"], y: Float[Array, "n c"]) -> Float[Array, "m c"]:
  return cross @ inverse.solve(y)


@jax.jit
def _conditioned(inverse: Inverse, cross: Float[Array, "m n"], test: Float[Array, "m m"]) -> Float[Array, "m m"]:
  """The posterior's covariance where what is inverted is the prior's."""
  return test - cross @ inverse.solve(cross.T)


@jax.jit
def _trained(
  inverse: Inverse,
  cross: Float[Array, "m n"],
  test: Float[Array, "m m"],
  initial: Float[Array, "m n"],
  train: Float[Array, "n n"],
) -> Float[Array, "m m"]:
  """The covariance of trained networks: `initial`, `train` and `test` are the prior's, `cross` and `inverse` not."""
  weights = inverse.solve(cross.T)
  both = initial @ weights
  return test + weights.T @ (train @ weights) - both - both.T


def kernel_named(kernels: Any, name: str, argument: str) -> Array:
  """The kernel `name` of an array (which is any) or of an object with that attribute."""
  if not isinstance(kernels, jax.Array | np.ndarray):
    try:
      kernels = getattr(kernels, name)
    except AttributeError as error:
      raise ConfigError(f"{argument}: expected an array or an object with the attribute {name!r}.") from error
    if kernels is None:
      raise ConfigError(f"{argument}: its {name!r} is None, and get asks for it.")
  return as_kernel(kernels, argument)
