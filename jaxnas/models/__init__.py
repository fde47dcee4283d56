"""Models of users as networks, so that every proxy can be measured on them: `jaxnas.measure`."""

from jaxnas.models.adapt import as_network as as_network
from jaxnas.models.scores import Measurement as Measurement
from jaxnas.models.scores import measure as measure

__all__ = ["Measurement", "as_network", "measure"]
