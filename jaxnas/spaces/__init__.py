"""Search spaces, each a package that registers itself: encoding, costs and networks; see `jaxnas.base.Space`."""

from jaxnas import registry
from jaxnas.base import Space
from jaxnas.nets.supernet import active_weights, mixing_weights

__all__ = ["active_weights", "get", "mixing_weights", "names"]


def get(name: str) -> Space:
  """The space of this name.

  Raises:
    ConfigError: there is none; the message has the names that there are.
  """
  return registry.make("space", name, "--space")


def names() -> tuple[str, ...]:
  """The names of all spaces, those of plugins last."""
  return registry.names("space")
