"""Training of one architecture on one data set, by the published recipes of NAS-Bench-201 and DARTS."""

from jaxnas.train.export import export
from jaxnas.train.network import trained_costs, trained_network
from jaxnas.train.recipe import TrainConfig
from jaxnas.train.trainer import Measured, Result, evaluate, seen_shape, total_steps, train

__all__ = [
  "Measured",
  "Result",
  "TrainConfig",
  "evaluate",
  "export",
  "seen_shape",
  "total_steps",
  "train",
  "trained_costs",
  "trained_network",
]
