"""The engine: one proxy, many architectures, one compilation."""

from jaxnas.scoring.engine import Engine, Seconds

__all__ = ["Engine", "Seconds"]
