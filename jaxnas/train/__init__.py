"""Training of one architecture on one data set: recipes of NAS-Bench-201 and DARTS, fine-tuning of encoders."""

from jaxnas.train.confusion import MOST, confusion, f1_scores, matthews
from jaxnas.train.export import export
from jaxnas.train.network import refuse_source, trained_costs, trained_network
from jaxnas.train.recipe import TrainConfig
from jaxnas.train.trainer import Measured, Result, evaluate, seen_shape, total_steps, train

__all__ = [
  "MOST",
  "Measured",
  "Result",
  "TrainConfig",
  "confusion",
  "evaluate",
  "export",
  "f1_scores",
  "matthews",
  "refuse_source",
  "seen_shape",
  "total_steps",
  "train",
  "trained_costs",
  "trained_network",
]
