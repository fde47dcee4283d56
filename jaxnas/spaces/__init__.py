"""Search spaces: encodings (numpy) and networks (Flax)."""

from jaxnas.errors import ConfigError
from jaxnas.spaces.nb101 import NB101
from jaxnas.spaces.nb201 import NB201, NetworkConfig
from jaxnas.spaces.supernet import active_weights, mixing_weights

__all__ = ["NAMES", "NB101", "NB201", "NetworkConfig", "active_weights", "get", "mixing_weights", "nb101", "nb201"]

NAMES = ("nb201", "nb101")


def nb201() -> NB201:
  """The NAS-Bench-201 topology space."""
  return NB201()


def nb101() -> NB101:
  """The NAS-Bench-101 space."""
  return NB101()


def get(name: str) -> NB201 | NB101:
  """The space called `name`; ConfigError lists the names."""
  if name not in NAMES:
    raise ConfigError(f"--space={name!r} is not known; choose one of {', '.join(NAMES)}")
  return NB201() if name == "nb201" else NB101()
