"""Typed exceptions. `main` turns each into one line on stderr and exit code 2."""

import contextlib
import re
from collections.abc import Iterator


class JaxnasError(Exception):
  """Base of every error that jaxnas raises on purpose.

  The message names the argument or flag, the value got, and what would be right.
  """


class ArchitectureError(JaxnasError, ValueError):
  """An architecture string, encoding or index that is not in the space."""


class ConfigError(JaxnasError, ValueError):
  """Settings that are out of range or contradict one another."""


class DatasetError(JaxnasError):
  """A data set that is missing, incomplete, or of the wrong shape or range."""


class BenchmarkError(JaxnasError):
  """A benchmark table that is missing, truncated, or of another space."""


class WorkdirError(JaxnasError):
  """A work directory that cannot be written, is in use, or holds another run."""


@contextlib.contextmanager
def naming(flags: str) -> Iterator[None]:
  """Refusals of a network's size name the flag that it came from: of `flags` "signal", cells=2 is --signal_cells=2."""
  try:
    yield
  except ConfigError as error:
    raise ConfigError(re.sub(r"(?<![\w-])(channels|cells)=", rf"--{flags}_\1=", str(error))) from error


def quoted(text: str, limit: int = 100) -> str:
  """A user's text as a message shows it: escaped, and cut where it is long."""
  return repr(text if len(text) <= limit else text[:limit] + "...")
