"""What the encodings of all spaces check of architectures given as arrays."""

from typing import Any

import numpy as np
from jaxtyping import Integer

from jaxnas.errors import ArchitectureError


def integers(archs: Any, length: int, form: str) -> Integer[np.ndarray, "*A L"]:
  """Anything of integers [..., length] as an array.

  Args:
    form: what else the caller takes, for the message.

  Raises:
    ArchitectureError: ragged, or another dtype (float and bool too) or shape.
  """
  try:
    array = np.asarray(archs)
  except ValueError as error:
    raise ArchitectureError(f"archs is a ragged sequence; use integers [..., {length}]") from error
  if array.ndim == 0 or array.shape[-1] != length or array.dtype.kind not in "iu":
    what = f"dtype {array.dtype} and shape {list(array.shape)}"
    raise ArchitectureError(f"archs has {what}; use the text form {form} or integers [..., {length}]")
  return array


def one(archs: Integer[np.ndarray, "*A L"]) -> Integer[np.ndarray, " L"]:
  """The architecture, if it is one.

  Raises:
    ArchitectureError: it is a batch.
  """
  if archs.ndim != 1:
    raise ArchitectureError(f"arch has shape {list(archs.shape)}; give one architecture [{archs.shape[-1]}]")
  return archs
