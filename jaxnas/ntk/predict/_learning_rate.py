"""The largest learning rate at which gradient descent on a squared loss is stable."""

from jax.typing import ArrayLike

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_integer, checked_not_negative, checked_number
from jaxnas.ntk._spectrum import spectrum
from jaxnas.ntk.predict._layout import as_kernel, square_matrix


def max_learning_rate(
  ntk_train_train: ArrayLike, y_train_size: int | None = None, momentum: float = 0.0, eps: float = 1e-12
) -> float:
  """The learning rate above which gradient descent on `mean((f - y)^2) / 2` diverges.

  `2 (1 + momentum) n / lambda_max`, n the number of outputs and lambda_max the kernel's largest eigenvalue: the step
  `I - (rate / n) T` is a contraction below it. With heavy-ball momentum: Goh, "Why Momentum Really Works", Distill
  2017, "The Dynamics of Momentum". Exact for a network that is linear in its parameters; for others
  it goes with the parameters at which the NTK was taken.

  Args:
    ntk_train_train: NTK of the training set, [N, N] or [N, N, K, K, ...].
    y_train_size: number of training outputs, `y_train.size`, which a kernel that lacks the traced axes does not tell;
      None: that of a kernel with `trace_axes=()`.
    momentum: of heavy-ball momentum, in [0, 1].
    eps: added to the largest eigenvalue: what bounds the rate of the zero kernel.

  Returns:
    The rate, from an eigenvalue in float64 on the host; NaN for a kernel that is not finite.

  Raises:
    ConfigError: the kernel is not square, or a number is out of its range.
  """
  kernel = as_kernel(ntk_train_train, "ntk_train_train")
  if kernel.ndim == 0 or kernel.size == 0:
    raise ConfigError(f"ntk_train_train: expected [N, N] or [N, N, K, K, ...], got shape {kernel.shape}.")
  matrix = square_matrix(kernel, kernel.shape[0::2], "ntk_train_train")
  size = matrix.shape[0] if y_train_size is None else checked_integer(y_train_size, 1, "y_train_size")
  momentum = float(checked_number(momentum, "momentum", lambda value: 0 <= value <= 1, "a number in [0, 1]"))
  eps = float(checked_not_negative(eps, "eps"))
  largest = float(spectrum(matrix).eigenvalues[-1])
  return 2 * (1 + momentum) * size / (largest + eps)
