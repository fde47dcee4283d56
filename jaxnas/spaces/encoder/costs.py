"""Parameters and multiply-adds of variants, counted from their layer shapes.

The embeddings and their normalisation, the layers, the pooler and the classifier. Weights that layers share count once.
Normalisations, softmaxes, activations and looking embeddings up are free of multiply-adds.
"""

from typing import Any

from jaxnas.base import Costs
from jaxnas.errors import ConfigError
from jaxnas.spaces.encoder import encoding, parameters
from jaxnas.spaces.encoder.folder import Sizes

TOKENS = 128  # of a sequence, unless someone says otherwise


def of_variant(code: Any, sizes: Sizes, classes: int, tokens: int | None = None) -> Costs:
  """Parameters and multiply-adds of one variant on a sequence of `tokens` (None: 128).

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a length that is none.
  """
  length = min(TOKENS, sizes.positions) if tokens is None else tokens
  if not 1 <= length <= sizes.positions:
    raise ConfigError(f"image_size={length}: of encoder it is the tokens of a sequence, 1 to {sizes.positions}")
  rows = encoding.rows_of(code, sizes.layers)
  first, each = outer(sizes, classes), layer(sizes, length)
  return Costs(first.params + len(set(rows[:, 0].tolist())) * each.params, first.macs + len(rows) * each.macs)


def outer(sizes: Sizes, classes: int) -> Costs:
  """Of what comes before and behind the layers."""
  head = sizes.hidden * classes
  shapes, _ = parameters.body_shapes(sizes)
  return Costs(parameters.count(shapes) + head + classes, sizes.hidden**2 + head)


def layer(sizes: Sizes, tokens: int) -> Costs:
  """Of one layer."""
  _, shapes = parameters.body_shapes(sizes)
  products = 4 * sizes.hidden**2 + 2 * sizes.hidden * sizes.feed
  return Costs(parameters.count(shapes), tokens * products + 2 * tokens**2 * sizes.hidden)
