"""Training of one architecture on one data set, by the published recipe of NAS-Bench-201."""

from jaxnas.train.recipe import TrainConfig, trained_network
from jaxnas.train.trainer import Result, evaluate, total_steps, train

__all__ = ["Result", "TrainConfig", "evaluate", "total_steps", "train", "trained_network"]
