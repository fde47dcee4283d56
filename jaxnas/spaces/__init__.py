"""Search spaces: encodings (numpy) and networks (Flax)."""

from jaxnas.errors import ConfigError
from jaxnas.nets.supernet import active_weights, mixing_weights
from jaxnas.spaces.darts import DARTS
from jaxnas.spaces.nb101 import NB101
from jaxnas.spaces.nb201 import NB201, NetworkConfig

__all__ = [
  "DARTS",
  "NAMES",
  "NB101",
  "NB201",
  "NetworkConfig",
  "Space",
  "active_weights",
  "darts",
  "get",
  "mixing_weights",
  "nb101",
  "nb201",
]

NAMES = ("nb201", "nb101", "darts")
Space = NB201 | NB101 | DARTS


def nb201() -> NB201:
  """The NAS-Bench-201 topology space."""
  return NB201()


def nb101() -> NB101:
  """The NAS-Bench-101 space."""
  return NB101()


def darts() -> DARTS:
  """The DARTS space: a normal and a reduction cell."""
  return DARTS()


def get(name: str) -> Space:
  """The space called `name`; ConfigError lists the names."""
  makers = {"nb201": NB201, "nb101": NB101, "darts": DARTS}
  if name not in makers:
    raise ConfigError(f"--space={name!r} is not known; choose one of {', '.join(NAMES)}")
  return makers[name]()
