"""Scores of a network at initialisation, one file each."""

from jaxnas.errors import ConfigError
from jaxnas.proxies.linear_regions import linear_regions
from jaxnas.proxies.ntk_condition_number import ntk_condition_number
from jaxnas.proxies.proxy import Proxy, Reading

__all__ = ["NAMES", "Proxy", "Reading", "get", "linear_regions", "ntk_condition_number"]

NAMES = ("ntk_condition_number", "linear_regions")


def get(name: str, batch_norm: str = "batch") -> Proxy:
  """The proxy called `name`; `batch_norm` applies where a proxy has several modes."""
  if name == "ntk_condition_number":
    return ntk_condition_number(batch_norm)  # type: ignore[arg-type]
  if name == "linear_regions":
    return linear_regions()
  raise ConfigError(f"proxy {name!r} is not known; choose one of {', '.join(NAMES)}")
