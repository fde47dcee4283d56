"""A fault of XLA's compiler for CPUs, kept away from.

jaxlib 0.10.2 hands reductions to a library, YNNPACK, whose fused product of a sum over pixels with a constant matrix is
wrong without a sign of it: it reads other memory. `jit(lambda x: x.sum((2, 3)) @ jnp.ones((16, 10)))` of ones
[256, 16, 8, 8] is one; so is the gradient of summed outputs in a classifier's kernel (BUILD_NOTES.md, decision 39).
"""

import functools
import importlib.metadata
import os

from jaxnas.errors import ConfigError

OPTION = "xla_cpu_experimental_ynn_fusion_type"
FLAG = f"--{OPTION}=-reduce"
FAULTY = ((0, 10, 2), (0, 12))  # versions of jaxlib from the first to before the second; 0.10.1 is right


def protect() -> None:
  """Tells XLA, if it has not started yet, to compile reductions itself; a user's own choice of the option stays.

  Other versions of jaxlib are left alone: XLA ends a program that names an option it does not know.
  """
  try:
    version = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:3])
  except (importlib.metadata.PackageNotFoundError, ValueError):
    return
  flags = os.environ.get("XLA_FLAGS", "")
  if FAULTY[0] <= version < FAULTY[1] and OPTION not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()


def check() -> None:
  """Runs a program of the kind above, once a process.

  Raises:
    ConfigError: it is wrong.
  """
  if not is_sound():
    raise ConfigError(
      f"jaxlib {importlib.metadata.version('jaxlib')} computes wrong sums on this machine: import jaxnas before JAX's "
      f"first computation, or start Python with XLA_FLAGS={FLAG}"
    )


@functools.cache
def is_sound() -> bool:
  """Whether such a program is right on the default device."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  x = np.arange(256 * 16 * 16, dtype=np.int32).reshape(256, 16, 4, 4) % 7  # small integers: sums are exact
  product = jax.jit(lambda x: jnp.matmul(x.sum((2, 3)), jnp.full((16, 10), 0.5, jnp.float32)))
  return np.array_equal(product(x.astype(np.float32))[:, 0], 0.5 * x.sum((1, 2, 3)))
