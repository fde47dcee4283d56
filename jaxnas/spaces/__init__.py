"""Search spaces: encodings (numpy) and networks (Flax)."""

from jaxnas.errors import ConfigError
from jaxnas.spaces.nb201 import NB201, NetworkConfig
from jaxnas.spaces.supernet import active_weights, mixing_weights

__all__ = ["NAMES", "NB201", "NetworkConfig", "active_weights", "get", "mixing_weights", "nb201"]

NAMES = ("nb201",)


def nb201() -> NB201:
  """The NAS-Bench-201 topology space."""
  return NB201()


def get(name: str) -> NB201:
  """The space called `name`; ConfigError lists the names."""
  if name not in NAMES:
    raise ConfigError(f"--space={name!r} is not known; choose one of {', '.join(NAMES)}")
  return NB201()
