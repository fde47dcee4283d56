"""Where the parameters of `FlexiBERTModule` are in the tree of the fast network.

There the layers are side by side ([layers, ...]) and have the parameters of every operation and depth.
"""

from jaxnas.base import NetworkConfig
from jaxnas.spaces.flexibert import encoding
from jaxnas.spaces.flexibert.encoding import DEPTHS, HEADS
from jaxnas.spaces.flexibert.module import FlexiBERTModule
from jaxnas.spaces.flexibert.parameters import (
  feed_forward_layers,
  layer_shapes,
  operation_layers,
  outer_shapes,
  sizes,
)
from jaxnas.spaces.mapping import Parts, layer


def parameters(module: FlexiBERTModule) -> Parts:
  """Of the collection `params`."""
  config, hidden = NetworkConfig(module.channels, 1, module.classes), encoding.hidden_of(module.arch)
  parts: Parts = {}
  for name, leaves in outer_shapes(config, hidden).items():
    parts |= layer((name,), (name,), leaves=leaves)
  shapes = layer_shapes(*sizes(config, hidden)[1:])
  for i, (op, heads, _, depth) in enumerate(encoding.layers_of(module.arch).tolist()):
    for name in (*operation_layers(op, HEADS[heads]), *feed_forward_layers(DEPTHS[depth])):
      parts |= layer((f"layer_{i}", name), ("layers", name), (i,), shapes[name])
  return parts
