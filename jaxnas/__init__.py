"""Training-free neural architecture search in JAX.

The rooms (`jaxnas.ntk`, `jaxnas.spaces`, `jaxnas.proxies`, ...) are imported on first use, so
`import jaxnas` alone costs nothing. `jaxnas.measure` scores a model of one's own.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from jaxnas import (
    algorithms,
    base,
    data,
    errors,
    gennas,
    models,
    nets,
    ntk,
    proxies,
    registry,
    report,
    scoring,
    spaces,
    tabular,
    train,
  )
  from jaxnas.models import measure

__version__ = "0.1.0"

__all__ = [
  "__version__", "algorithms", "base", "data", "errors", "gennas", "measure", "models", "nets", "ntk", "proxies",
  "registry", "report", "scoring", "spaces", "tabular", "train",
]  # fmt: skip


def __getattr__(name: str):
  if name == "measure":
    return importlib.import_module("jaxnas.models").measure
  if name in __all__:
    return importlib.import_module(f"jaxnas.{name}")
  raise AttributeError(f"module 'jaxnas' has no attribute {name!r}")


def __dir__():
  return sorted(__all__)
