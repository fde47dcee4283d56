"""The published searches, one paper a file, and the training of what they find; see `jaxnas.base.Algorithm`."""

from jaxnas import registry
from jaxnas.base import Algorithm

__all__ = ["get", "names"]


def get(name: str) -> Algorithm:
  """The algorithm of this name.

  Raises:
    ConfigError: there is none; the message has the nearest ones.
  """
  return registry.make("algorithm", name, "--algorithm")


def names() -> tuple[str, ...]:
  """The names of all algorithms, those of plugins last."""
  return registry.names("algorithm")
