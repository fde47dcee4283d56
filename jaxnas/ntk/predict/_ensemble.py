"""Mean and covariance, over initialisations, of networks under gradient flow on a squared loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_not_negative
from jaxnas.ntk._jacobian import matmul_precision
from jaxnas.ntk._requests import named, requested
from jaxnas.ntk.predict._gp_inference import Gaussian, gp_inference, kernel_named
from jaxnas.ntk.predict._gradient_descent_mse import check_times, flow_times
from jaxnas.ntk.predict._layout import as_kernel, layout_of, square_matrix, unflatten_kernel
from jaxnas.ntk.predict._solve import Eigen, eigen, once, regularise


class _Kernels(NamedTuple):
  """What was asked of a kernel function; None where it was not."""

  nngp: Array | None = None
  ntk: Array | None = None


def gradient_descent_mse_ensemble(
  kernel_fn: Callable[..., Any],
  x_train: PyTree,
  y_train: ArrayLike,
  learning_rate: float | Array = 1.0,
  diag_reg: float | Array = 0.0,
  diag_reg_absolute_scale: bool = False,
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
  **kernel_fn_train_train_kwargs: Any,
) -> Callable[..., Any]:
  """Predicts the Gaussian of outputs, over initialisations, after gradient flow on a squared loss.

  Outputs are Gaussian with mean 0 and covariance K (NNGP) at time 0 and follow `gradient_descent_mse` with the kernel T
  from there: T = NTK trains all parameters ("ntk"), T = K the last layer alone ("nngp"). With X the training and Z
  the test set, s = learning_rate * t, E = exp(-T s / n) and A = T^-1 (1 - E) (Lee et al., arXiv 1902.06720,
  equations 14 and 15),

      mean: T_ZX A y
      covariance: K_ZZ + T_ZX A K A T_XZ - (T_ZX A K_XZ + its transpose)

  It describes the infinitely wide network where `kernel_fn` is its kernel or an estimate of that.

  Args:
    kernel_fn: `kernel_fn(x1, x2, get, **kwargs)` with a named tuple of the kernels in `get`: `empirical_kernel_fn`'s,
      `monte_carlo_kernel_fn`'s or an infinite-width network's.
    x_train: training inputs [N, ...], or a tree of them.
    y_train: targets [N, ...].
    learning_rate: the unit of time; a step of gradient descent.
    diag_reg: added to the diagonal of T, in units of its mean; for "nngp" K is T, and has it too.
    diag_reg_absolute_scale: `diag_reg` is in the kernel's own units.
    trace_axes: output axes that the kernels lack.
    **kernel_fn_train_train_kwargs: keyword arguments of `kernel_fn`, such as `params`. They are also those of the
      other kernels, but where `predict_fn` is given others.

  Returns:
    `predict_fn(t=None, x_test=None, get=None, compute_cov=False, **kernel_fn_test_test_kwargs)`: the mean on `x_test`
    (None: on `x_train`, without `diag_reg` at infinite time), or a `Gaussian` with `compute_cov`, with the leading
    axes of `t` (None: infinity); for a tuple `get` (None: "nngp" and "ntk") a named tuple `Gaussians` of those. A
    keyword argument that is a tuple of two for train-train and for test-test gives the test-train kernel (test-test's
    first, train-train's first); arrays of test-test stand for test-train too; anything else must be equal in both.

  Raises:
    ConfigError: shapes or axes that contradict one another, an unknown `get`, keyword arguments that differ.
  """
  checked_not_negative(diag_reg, "diag_reg")
  checked_not_negative(learning_rate, "learning_rate")
  y_train = checked_array(y_train, "y_train")
  layout = layout_of(y_train, trace_axes)

  @once
  def train_kernel(name: str) -> Array:
    kernels = kernel_fn(x_train, None, (name,), **kernel_fn_train_train_kwargs)
    return kernel_named(kernels, name, "kernel_fn(x_train, None, get)")

  def train_matrix(name: str) -> Array:
    return square_matrix(train_kernel(name), layout.sizes, "kernel_fn(x_train, None, get)")

  def regularised(name: str) -> Array:
    return regularise(train_matrix(name), diag_reg, diag_reg_absolute_scale)

  @once
  def spectrum(name: str) -> Eigen:
    return eigen(regularised(name))

  @once
  def posterior(names: tuple[str, ...]) -> Callable[..., Any]:
    kernels = _Kernels(**{name: train_kernel(name) for name in names})
    return gp_inference(kernels, y_train, diag_reg, diag_reg_absolute_scale, trace_axes)

  def predict_fn(
    t: ArrayLike | None = None,
    x_test: PyTree = None,
    get: str | Sequence[str] | None = None,
    compute_cov: bool = False,
    **kernel_fn_test_test_kwargs: Any,
  ) -> Any:
    names = requested(get, ("nngp", "ntk"))
    check_times(t)
    needed = tuple(name for name in ("nngp", "ntk") if name in names or (name == "nngp" and compute_cov))
    # Without test inputs `gp_inference` wants to know only whether a covariance is asked for.
    test_train, test_test = None, (True if compute_cov else None)
    if jax.tree.leaves(x_test):
      crossed, own = _test_kwargs(kernel_fn_train_train_kwargs, kernel_fn_test_test_kwargs)
      test_train = kernel_fn(x_test, x_train, needed, **crossed)
      test_test = kernel_fn(x_test, None, "nngp", **own) if compute_cov else None
    if t is None:
      return posterior(needed)(get, test_train, test_test)

    dtype = train_kernel(needed[-1]).dtype
    t = jnp.asarray(t, dtype)
    times = flow_times(t, jnp.asarray(learning_rate, dtype), y_train.size)

    def at_times(name: str) -> Array | Gaussian:
      y = layout.rows(y_train.astype(dtype))
      prior = None
      if compute_cov:
        # Training the last layer is inference under noise, which the prior then has too (`gp_inference` at infinity).
        prior = regularised("nngp") if name == "nngp" else train_matrix("nngp")
      if test_train is None:
        sizes = layout.sizes
        mean, covariance = _on_train(spectrum(name), times, y, prior)
      else:
        argument = "kernel_fn(x_test, x_train, get)"
        kernel = kernel_named(test_train, name, argument)
        sizes, initial, test = kernel.shape[0::2], None, None
        if compute_cov:
          initial = layout.matrix(kernel_named(test_train, "nngp", argument), argument)
          test = square_matrix(
            as_kernel(test_test, "kernel_fn(x_test, None, get)"), sizes, "kernel_fn(x_test, None, get)"
          )
        mean, covariance = _on_test(spectrum(name), times, y, layout.matrix(kernel, argument), prior, initial, test)
      mean = layout.outputs(mean, sizes, t.shape)
      if covariance is None:
        return mean
      return Gaussian(mean, unflatten_kernel(covariance, sizes, t.shape))

    with matmul_precision(jax.lax.Precision.HIGHEST):
      return named("Gaussians", get, {name: at_times(name) for name in names})

  return predict_fn


@jax.jit
def _on_train(
  spectrum: Eigen, times: Float[Array, " T"], y: Float[Array, "n c"], prior: Float[Array, "n n"] | None
) -> tuple[Float[Array, "T n c"], Float[Array, "T n n"] | None]:
  vectors = spectrum.vectors
  mean = vectors @ (spectrum.learned(times)[:, :, None] * (vectors.T @ y)[None])
  if prior is None:
    return mean, None
  return mean, _sandwich(vectors, spectrum.decay(times), vectors.T @ prior @ vectors)


@jax.jit
def _on_test(
  spectrum: Eigen,
  times: Float[Array, " T"],
  y: Float[Array, "n c"],
  cross: Float[Array, "m n"],
  prior: Float[Array, "n n"] | None,
  initial: Float[Array, "m n"] | None,
  test: Float[Array, "m m"] | None,
) -> tuple[Float[Array, "T m c"], Float[Array, "T m m"] | None]:
  """`cross` is of the kernel that trains; `prior`, `initial` and `test` are the covariance at time 0, or None."""
  vectors, response = spectrum.vectors, spectrum.response(times)
  along = cross @ vectors
  mean = along @ (response[:, :, None] * (vectors.T @ y)[None])
  if prior is None or initial is None or test is None:
    return mean, None
  both = (along[None] * response[:, None, :]) @ (initial @ vectors).T
  grown = _sandwich(along, response, vectors.T @ prior @ vectors)
  return mean, test[None] + grown - both - both.swapaxes(1, 2)


def _sandwich(
  cross: Float[Array, "m n"], weights: Float[Array, "T n"], middle: Float[Array, "n n"]
) -> Float[Array, "T m m"]:
  """`C W M W C^T` for each diagonal W: time enters by the diagonal alone."""
  weighted = cross[None] * weights[:, None, :]
  return weighted @ middle @ weighted.swapaxes(1, 2)


def _test_kwargs(train: dict[str, Any], test: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Keyword arguments of the test-train and the test-test kernel."""
  crossed, own = dict(train), dict(train)
  for name, value in test.items():
    if name not in train:
      raise ConfigError(f"{name}: given to predict_fn, but not to gradient_descent_mse_ensemble; give it to both.")
    other = train[name]
    if isinstance(value, tuple) and isinstance(other, tuple) and len(value) == len(other) == 2:
      crossed[name] = (value[0], other[0])
    elif all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(value)) or value == other:
      crossed[name] = value
    else:
      raise ConfigError(f"{name}={value!r}: the train-train kernel has {other!r}; expected the same in both.")
    own[name] = value
  return crossed, own
