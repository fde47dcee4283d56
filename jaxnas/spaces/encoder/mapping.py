"""Where the parameters of `EncoderModule` are in the tree of the fast network, whose layers are side by side."""

from jaxnas.spaces.encoder import encoding
from jaxnas.spaces.encoder.folder import Sizes
from jaxnas.spaces.encoder.module import EncoderModule
from jaxnas.spaces.encoder.parameters import body_shapes
from jaxnas.spaces.mapping import Parts, layer


def parameters(module: EncoderModule, sizes: Sizes) -> Parts:
  """Of the collection `params`."""
  outer, inner = body_shapes(sizes)
  parts: Parts = {}
  for name, leaves in {**outer, "classifier": ("kernel", "bias")}.items():
    parts |= layer((name,), (name,), leaves=leaves)
  for source in sorted(set(encoding.rows_of(module.arch, sizes.layers)[:, 0].tolist())):
    for name, leaves in inner.items():
      parts |= layer((f"layer_{source}", name), ("layers", name), (source,), leaves)
  return parts
