"""The engine: any proxies over any set of architectures, one compilation."""

from jaxnas.base import Batch
from jaxnas.scoring.engine import Batching, Engine, Seconds
from jaxnas.scoring.score import Score, Summary, as_architectures, by_shape, score, summarise

__all__ = [
  "Batch",
  "Batching",
  "Engine",
  "Score",
  "Seconds",
  "Summary",
  "as_architectures",
  "by_shape",
  "score",
  "summarise",
]
