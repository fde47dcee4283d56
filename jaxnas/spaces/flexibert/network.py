"""The encoder of one architecture with a classifier, as pure functions; the architecture is data.

One program serves all encoders of a hidden size and number of layers, which are their `shape`. The layers are one
`lax.scan`; in it each chooses its operation with its heads, and its number of feed-forward layers (`nets.choose`).
Parameters exist for every choice of every layer.

Inputs are tokens, int32 [N, T, 3]: the number of each in the vocabulary, its segment, and 1, or 0 where it is padding.
`embed` makes of them what enters the layers, [N, T, C], zeros where there is padding; a position is taken for padding
by these zeros, so that what other proxies put in the place of inputs (noise, ones) has none.

There is no batch normalisation, so samples never see each other and the modes do not differ, but for `identity`: there
layers are not normalised, and GELU is ReLU, which it tends to.

Source: see `encoding`; the released PyTorch model. The classifier reads the first position, as ELECTRA's.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output, Selections
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.nets.choose import choose
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.one_network import OneNetwork, parameter_shapes
from jaxnas.nets.passes import begin, linear, with_gates
from jaxnas.spaces import transformer
from jaxnas.spaces.flexibert import costs, encoding, operations, parameters
from jaxnas.spaces.flexibert.encoding import DEPTHS, HEADS
from jaxnas.spaces.flexibert.parameters import OPERATIONS

ABLE: tuple[Collect, ...] = ("stats", "observation")
Arch = Int[Array, "layers 2"]


@dataclasses.dataclass(frozen=True)
class FlexiBERTNetwork(OneNetwork, SampleGrams):
  """Pure functions of parameters, tokens and rows [layers, 2] of (operation with heads, depth).

  A `Single`, `SampleGram` and `Dispatched`.

  Attributes:
    config: C = `channels` is the width of the embeddings and the smaller hidden size (the benchmark's is 128), `shape`
      the hidden size and number of layers of the architectures. The initialisation is the benchmark's whatever `init`
      says: normal, deviation 0.02.
  """

  config: NetworkConfig
  rows_on_cpu: ClassVar[int] = 8

  def __post_init__(self):
    costs.checked(self.config)
    shape = self.config.shape
    if shape not in [(hidden, layers) for hidden in encoding.HIDDEN for layers in encoding.LAYERS]:
      raise ConfigError(f"shape={shape!r}: give the hidden size and number of layers, as flexibert's shape(code) does")

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  @property
  def _shape(self) -> tuple[int, int]:
    """Hidden size of `encoding.HIDDEN`, and layers."""
    hidden, layers = self.config.shape  # type: ignore[misc]  # checked
    return hidden, layers

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A 17"]) -> Int32[np.ndarray, "A layers 2"]:
    """The choices of each layer: which of `parameters.OPERATIONS`, which of `encoding.DEPTHS`.

    Raises:
      ArchitectureError: a malformed one, or one of another shape.
    """
    codes, (hidden, count) = encoding.as_codes(codes), self._shape
    layers = codes[:, 1:].reshape(len(codes), -1, encoding.SETTINGS).astype(np.int32)
    other = (codes[:, 0] != encoding.HIDDEN.index(hidden)) | ((layers[..., 0] >= 0).sum(1) != count)
    if other.any():
      raise ArchitectureError(
        f"{encoding.format(codes[other][0])} is not of the shape {self._shape}, as this network is"
      )
    op, heads, _, depth = np.moveaxis(layers[:, :count], -1, 0)
    return np.stack([op * len(HEADS) + heads, depth], -1).astype(np.int32)

  def choices(self, archs: Int[np.ndarray, "A layers 2"]) -> Sequence[Selections]:
    """See `base.Dispatched`."""
    return Selections(archs[..., 0], len(OPERATIONS)), Selections(archs[..., 1], len(DEPTHS))

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters, see `parameters.draw`."""
    return parameters.draw(parameters.shapes(self.config, *self._shape), key)

  def executed(self, arch: Arch) -> PyTree:
    """A tree like the parameters: 1 where they belong to a layer of this architecture, [] or [layers] each."""
    return parameters.executed(parameter_shapes(self), self._checked(arch))

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path have the layers as their first axis."""
    return path[0] == "layers"

  def costs(self, arch: Arch, image_size: int = costs.TOKENS) -> Costs:
    """As `costs` counts them; `image_size` is the length of a sequence."""
    arch, hidden = self._checked(arch), self._shape[0]
    of_operation = [costs.operation(self.config, hidden, op, heads, image_size) for op, heads in OPERATIONS]
    of_depth = [costs.feed_forward(self.config, hidden, depth, image_size) for depth in DEPTHS]
    outer = costs.outer(self.config, hidden, image_size)

    def total(first: int, *tables: list[int]) -> Float[Array, ""]:
      chosen = [jnp.asarray(table, jnp.float32)[arch[:, i]].sum() for i, table in enumerate(tables)]
      return sum(chosen, jnp.float32(first))

    return Costs(*(total(outer[i], [c[i] for c in of_operation], [c[i] for c in of_depth]) for i in range(2)))

  # Outputs

  def embed(self, params: PyTree, inputs: Int32[Array, "N T 3"]) -> Float[Array, "N T C"]:
    """See `transformer.embed`."""
    return transformer.embed(params, inputs, "flexibert")

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N T C"],
    arch: Arch,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass over what `embed` returned.

    The statistics are an empty tree. An observation has the states that leave the last layer as maps [N, T, 1, H], and
    the agreement of the units of all executed feed-forward layers, at positions where both samples have tokens.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    run = begin(mode, collect, stats, able=ABLE, rows=rows)
    arch = self._checked(arch)
    channels, _ = self.config.size
    mask, own = transformer.tokens_of(inputs, channels), with_gates(params, gates)
    x = transformer.normalise(inputs, own["embedding_norm"], mode)
    x = transformer.dense(x, own["project"]) if "project" in own else x

    def layer(x, layer):
      params, chosen = layer
      before = [operations.operation(op, heads, mode) for op, heads in OPERATIONS]
      after = [
        functools.partial(operations.feed_forward, depth=depth, mode=mode, observes=run.observes) for depth in DEPTHS
      ]
      feeding = {name for depth in DEPTHS for name in parameters.feed_forward_layers(depth)}
      first = {name: part for name, part in params.items() if name not in feeding}
      x = choose(before, chosen[0], x, mask, first)
      return choose(after, chosen[1], x, mask, {name: params[name] for name in feeding})

    x, agreements = lax.scan(layer, x, (own["layers"], arch))
    features = (x * mask[..., None])[:, :, None]
    seen = Observation(features, agreements.sum(0), jnp.zeros((), x.dtype)) if run.observes else None
    return Output(linear(x[:, 0], own["classifier"]), stats={} if run.keeps_stats else None, observation=seen)

  def _checked(self, arch: Array) -> Array:
    if arch.shape != (self._shape[1], 2):
      raise ConfigError(f"arch of shape {arch.shape}: expected {(self._shape[1], 2)}, a row of what encode() returned")
    return arch
