"""Scores of a network at initialisation, one file each; see `jaxnas.base.Proxy`."""

from jaxnas import registry
from jaxnas.base import Proxy

__all__ = ["get", "names"]


def get(name: str) -> Proxy:
  """The proxy called `name`, with its defaults.

  Raises:
    ConfigError: there is none of that name; the message has the nearest ones.
  """
  return registry.make("proxy", name)


def names() -> tuple[str, ...]:
  """The names of all proxies, those of plugins last."""
  return registry.names("proxy")
