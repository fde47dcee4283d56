"""Kernel-target alignment: how well a kernel's similarities are those of the targets."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array
from jaxnas.ntk._layout import square


def alignment(
  theta: Real[Any, "..."], targets: Real[Any, "..."], *, centered: bool = False
) -> Float[Array, ""] | Float[Array, " A"]:
  """The cosine of the angle between a kernel and the kernel of the targets, T = Y Y^T; higher is better.

  <K, T> / (|K| |T|) with Frobenius products and norms (Cristianini et al., "On kernel-target
  alignment", NIPS 2001). Traceable and differentiable; the targets' kernel is not formed.

  Args:
    theta: symmetric, [N, N] or [N, N, K, K], or one axis more in front for A kernels; of x with itself.
    targets: Y. For [N, N]: [N] (say +1 and -1) or [N, C] (say one-hot rows). For [N, N, K, K]: [N, K],
      one number an output: T is the outer product of the flattened targets.
    centered: subtracts, in feature space, the mean over samples from both kernels (Cortes et al.,
      "Algorithms for learning kernels based on centered alignment", JMLR 2012); for [N, N, K, K] each
      output's own mean. Then 1 means equal up to scale, and constant targets have none.

  Returns:
    A scalar in [-1, 1], in [0, 1] for positive semidefinite kernels; [A] for a batch. NaN where
    either kernel (centered, if asked for) is zero or not finite. float32, or float64 where theta is.

  Raises:
    ConfigError: theta's axes are not pairs of equal size; targets that do not fit them; class labels
      (integers [N]) in place of one-hot rows.
  """
  theta, targets = checked_array(theta, "theta"), checked_array(targets, "targets")
  square(theta)
  outputs = theta.shape[theta.ndim % 2 :: 2]
  wanted = targets.ndim in (1, 2) and targets.shape[0] == outputs[0] if len(outputs) == 1 else targets.shape == outputs
  if not wanted:
    expected = f"[{outputs[0]}] or [{outputs[0]}, C]" if len(outputs) == 1 else f"{list(outputs)}"
    raise ConfigError(f"targets: expected shape {expected} for theta of shape {theta.shape}, got {targets.shape}.")
  if targets.ndim == 1 and not jnp.issubdtype(targets.dtype, jnp.floating):
    raise ConfigError(
      f"targets: {targets.dtype} [N] looks like class labels; pass jax.nn.one_hot(labels, classes), or floats."
    )
  with jax.numpy_dtype_promotion("standard"):
    dtype = jnp.result_type(jnp.float32, theta.dtype)
  y = targets.astype(dtype)
  if centered:
    y = y - y.mean(0, keepdims=True)
  y = y.reshape(-1, 1) if len(outputs) > 1 else y.reshape(len(y), -1)

  def one(kernel):
    kernel = kernel.astype(dtype)
    if centered:
      kernel = kernel - kernel.mean(0, keepdims=True)
      kernel = kernel - kernel.mean(1, keepdims=True)
    matrix = square(kernel)
    highest = jax.lax.Precision.HIGHEST
    product = jnp.sum(y * jnp.matmul(matrix, y, precision=highest))
    return product / (jnp.linalg.norm(matrix) * jnp.linalg.norm(jnp.matmul(y.T, y, precision=highest)))

  return jax.vmap(one)(theta) if theta.ndim % 2 else one(theta)
