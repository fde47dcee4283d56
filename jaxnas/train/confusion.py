"""Which classes a trained network takes for which, and what follows from it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int64

from jaxnas.base import Code, Source, TrainableNetwork
from jaxnas.train.steps import predictor
from jaxnas.train.trainer import Colours, Result, colours_of, encoded

MOST = 20  # classes of which a matrix says something to a reader

Matrix = Int64[np.ndarray, "K K"]


def confusion(
  network: TrainableNetwork, code: Code, result: Result, source: Source, batch: int = 500, image_size: int = 0
) -> Matrix:
  """How many examples of each class (row) are taken for each (column), with running statistics.

  Raises:
    ArchitectureError: as `trainer.train`.
    DatasetError: an example cannot be read.
  """
  trained = result.params, result.batch_stats, encoded(network, code)
  run, size = _predict(network, *colours_of(source), image_size), min(batch, len(source))
  matrix = np.zeros((network.classes, network.classes), np.int64)
  for start in range(0, len(source), size):
    indices = np.arange(start, start + size)
    images, labels = source.examples(np.minimum(indices, len(source) - 1))  # the last batch is filled up
    own = indices < len(source)
    np.add.at(matrix, (labels[own], np.asarray(run(*trained, images))[own]), 1)
  return matrix


@functools.lru_cache(maxsize=4)
def _predict(network: TrainableNetwork, mean: Colours, std: Colours, image_size: int) -> Any:
  logits = predictor(network, jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32), image_size)
  return jax.jit(lambda *args: logits(*args).argmax(-1))


def f1_scores(matrix: Matrix) -> Float64[np.ndarray, " K"]:
  """Of each class, the harmonic mean of precision and recall; 0 for one that is neither there nor answered."""
  right, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
  return 2 * right / np.maximum(total, 1)


def matthews(matrix: Matrix) -> float:
  """Matthews' correlation between classes and answers (Gorodkin, 2004, for more than two); 0 where one is constant."""
  n, right = matrix.sum(), np.trace(matrix)
  truth, answers = matrix.sum(1).astype(np.float64), matrix.sum(0).astype(np.float64)
  spread = (n**2 - (truth**2).sum()) * (n**2 - (answers**2).sum())
  return float((n * right - (truth * answers).sum()) / np.sqrt(spread)) if spread > 0 else 0.0
