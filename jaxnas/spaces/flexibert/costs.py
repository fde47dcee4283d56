"""Parameters and multiply-adds of encoders, counted from their layer shapes.

The network is the public PyTorch model of the benchmark, from which it counts parameters and takes its scores. In that
model the feed-forward width is a setting of its own, 1,024, and `feed_forward_dimension` is never read: with it the
counts equal the published ones in every row, without it in one of eight. (Its training code, another program, takes it
for the width of the second and third feed-forward layer.) Here the width is 8 C.

Embeddings of tokens, positions and two segments, normalised; a linear layer to the hidden size where that is not C; the
layers. The benchmark's count has no classifier. Normalisations, softmaxes and activations are free of multiply-adds,
and so are the two transforms, which a fast algorithm makes of few.

Source: Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and Transformers", ACL 2023, the
released code.
"""

import math
from collections.abc import Iterable
from typing import Any

from jaxnas.base import Costs, NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.flexibert import encoding, parameters
from jaxnas.spaces.flexibert.encoding import DEPTHS, HEADS, SDP, WMA

TOKENS = 128  # of the benchmark's pre-training
PUBLISHED = NetworkConfig(128, 1)


def count(code: Any, config: NetworkConfig | None = None, tokens: int | None = None) -> Costs:
  """Parameters and multiply-adds of the network that a config describes.

  Args:
    code: one architecture, [17] or text.
    config: None: the benchmark's network, C = 128 and without a classifier.
    tokens: T, the length of a sequence; None: 128.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a setting that encoders do not have, or a length that is none.
  """
  own = checked((config or PUBLISHED).filled(PUBLISHED))
  hidden, length = encoding.hidden_of(code), TOKENS if tokens is None else tokens
  if not 1 <= length <= parameters.POSITIONS:
    raise ConfigError(f"image_size={length}: of flexibert it is the tokens of a sequence, 1 to 512")
  total = outer(own, hidden, length, classifier=config is not None)
  for op, heads, _, depth in encoding.layers_of(code).tolist():
    parts = operation(own, hidden, op, HEADS[heads], length), feed_forward(own, hidden, DEPTHS[depth], length)
    total = Costs(total.params + sum(p.params for p in parts), total.macs + sum(p.macs for p in parts))
  return total


def params(code: Any, hidden: int | None = None) -> int:
  """Parameters of the benchmark's network; `hidden` takes the place of the architecture's own hidden size.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: another hidden size than 128 and 256.
  """
  if hidden is not None:
    if hidden not in encoding.HIDDEN:
      raise ConfigError(f"hidden={hidden} must be one of {encoding.HIDDEN}")
    code = encoding.pack(encoding.HIDDEN.index(hidden), encoding.layers_of(code))
  return count(code).params


def outer(config: NetworkConfig, hidden: int, tokens: int, classifier: bool = True) -> Costs:
  """Of what comes before and behind the layers."""
  shapes = parameters.outer_shapes(config, hidden)
  if not classifier:
    del shapes["classifier"]
  embedding, width, _ = parameters.sizes(config, hidden)
  macs = (tokens * embedding * width if "project" in shapes else 0) + classifier * width * config.classes
  return Costs(_entries(shapes.values()), macs)


def operation(config: NetworkConfig, hidden: int, op: int, heads: int, tokens: int) -> Costs:
  """Of an operation with what is behind it; `op` is a column, `heads` a number."""
  _, width, feed = parameters.sizes(config, hidden)
  shapes = parameters.layer_shapes(width, feed)
  own = {name: shapes[name] for name in parameters.operation_layers(op, heads)}
  macs = tokens * sum(math.prod(layer["kernel"]) for layer in own.values() if "kernel" in layer)
  if op in (SDP, WMA):
    macs += 2 * tokens**2 * width
  elif op in parameters.SPANS:
    macs += tokens**2 * width + tokens * parameters.SPANS[op] * width // 2
  return Costs(_entries(own.values()), macs)


def feed_forward(config: NetworkConfig, hidden: int, depth: int, tokens: int) -> Costs:
  """Of a feed-forward part."""
  _, width, feed = parameters.sizes(config, hidden)
  shapes = parameters.layer_shapes(width, feed)
  own = [shapes[name] for name in parameters.feed_forward_layers(depth)]
  return Costs(_entries(own), tokens * sum(math.prod(layer["kernel"]) for layer in own if "kernel" in layer))


def checked(config: NetworkConfig) -> NetworkConfig:
  """The config, if encoders can be made of it.

  Raises:
    ConfigError: a stem, an auxiliary head, or cells: an architecture says itself how many layers it has.
  """
  for name, only in (("stem", "cifar"), ("auxiliary", False), ("cells", 1)):
    if getattr(config, name) != only:
      raise ConfigError(f"{name}={getattr(config, name)!r}: encoders of flexibert have no such setting; drop it")
  if config.size[0] % 4:
    raise ConfigError(f"channels={config.channels}: hidden sizes C and 2 C are shared by 4 heads; give a multiple of 4")
  return config


def _entries(layers: Iterable[dict[str, tuple[int, ...]]]) -> int:
  return sum(math.prod(shape) for layer in layers for shape in layer.values())
