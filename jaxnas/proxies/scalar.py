"""What several proxies share: finishing a score that is one number, and leaves by name."""

import math

import jax
import numpy as np

from jaxnas.proxies.proxy import Reading


def finite_reading(raw: np.ndarray | float) -> Reading:
  """The number as it is; `non_finite` when it overflowed or is no number."""
  value = float(raw)
  return Reading(value, "ok" if math.isfinite(value) else "non_finite")


def names_of(path: tuple) -> list[str]:
  """A leaf's key path as names, ["last", "bn", "scale"]."""
  return jax.tree_util.keystr(path, simple=True, separator="/").split("/")
