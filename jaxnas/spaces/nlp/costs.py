"""Parameters and multiply-adds of NAS-Bench-NLP networks, counted from their recipes.

A `linear` node of a layer has H numbers of bias and a matrix an input, of H times the layer's input for x and H times H
else; nodes that the output does not depend on count too. Around the layers stand, in the benchmark, a tied word
embedding and the bias of its decoder (V 400 + V), in GenNAS's network encoder and decoder with biases.

Source: Klyuchnikov et al., "NAS-Bench-NLP", 2020; the formula gives the released counts of all its trainings.
"""

from typing import Any, Final

from jaxnas.base import Costs, NetworkConfig
from jaxnas.spaces.nlp import encoding
from jaxnas.spaces.nlp.encoding import LINEAR, X
from jaxnas.spaces.nlp.network import LENGTH, layer_sizes

VOCABULARIES: Final = {"ptb": 10_000, "wikitext2": 33_278}  # words
CHANNELS, CELLS = 600, 3  # of the benchmark


def count(code: Any, config: NetworkConfig | None = None, length: int | None = None) -> Costs:
  """Parameters and multiply-adds of one sequence.

  Args:
    code: one architecture, [99] or text.
    config: of GenNAS's network, with its channels, cells and classes; None: the benchmark's on Penn Treebank.
    length: steps of a sequence; None: 8, or one word of the benchmark's.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a config with open sizes.
  """
  if config is None:
    layers, embedding = layers_of(code, CHANNELS, CELLS), layer_sizes(CHANNELS, CELLS)[0][0]
    words = VOCABULARIES["ptb"]
    return Costs(words * embedding + words + layers.params, (length or 1) * (layers.macs + words * embedding))
  channels, cells = config.size
  layers, embedding = layers_of(code, channels, cells), layer_sizes(channels, cells)[0][0]
  ends = 2 * embedding * config.classes
  return Costs(ends + embedding + config.classes + layers.params, (length or LENGTH) * (ends + layers.macs))


def layers_of(code: Any, channels: int, cells: int) -> Costs:
  """Of the recurrent layers alone, multiply-adds of one step."""
  recipe = encoding.unpack(code)
  linears = [node.sources for node in recipe.nodes if node.op == LINEAR]
  projections = sum(X in sources for sources in linears)
  matrices = sum(map(len, linears)) - projections
  sizes = layer_sizes(channels, cells)
  kernels = sum(hidden * (hidden * matrices + inputs * projections) for inputs, hidden in sizes)
  return Costs(kernels + len(linears) * sum(hidden for _, hidden in sizes), kernels)
