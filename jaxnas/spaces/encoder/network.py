"""A pre-trained encoder's variants with a fresh classifier, as pure functions; the variant is data.

One program serves all variants that execute equally many layers, which number is their `shape`. These layers are one
`lax.scan`, over the weights that each takes. `init` gives the folder's weights and draws the classifier alone.

Inputs are tokens, int32 [N, T, 3], see `spaces.transformer`. `embed` makes of them what enters the layers, [N, T, H],
zeros where there is padding; a position is taken for padding by these zeros, so that what other proxies put in the
place of inputs (noise, ones) has none. The classifier reads the pooler: a tanh layer on the first position's state.

There is no batch normalisation and no dropout, so samples never see each other and the modes do not differ, but for
`identity`: there states are not normalised, GELU is ReLU, which it tends to, and the pooler has no tanh.

Source: Devlin et al., "BERT", NAACL 2019; the variants are ours, see `encoding`.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, PyTree

from jaxnas.base import Collect, Costs, Mode, Observation, Output
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.nets.one_network import OneNetwork, parameter_shapes
from jaxnas.nets.passes import begin, linear, with_gates
from jaxnas.spaces import transformer
from jaxnas.spaces.encoder import costs, encoding, parameters, weights
from jaxnas.spaces.encoder.folder import Sizes
from jaxnas.spaces.transformer import dense, normalise

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "observation")
Arch = Int[Array, "n 3"]


@dataclasses.dataclass(frozen=True)
class EncoderNetwork(OneNetwork):
  """Pure functions of parameters, tokens and rows [n, 3] of `encoding.rows_of`. A `Single` and `TrainableNetwork`.

  Attributes:
    folder: where the weights are.
    sizes: of the encoder there.
    classes: K.
    count: n, how many layers the variants execute.
  """

  folder: pathlib.Path
  sizes: Sizes
  classes: int
  count: int
  auxiliary: ClassVar[bool] = False
  rows_on_cpu: ClassVar[int] = 4

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A L"]) -> Int32[np.ndarray, "A n 3"]:
    """The layers that each variant executes, see `encoding.rows_of`.

    Raises:
      ArchitectureError: a malformed one, or one that executes another number of layers.
    """
    layers = self.sizes.layers
    rows = [encoding.rows_of(code, layers) for code in encoding.as_codes(codes, layers)]
    for code, own in zip(codes, rows, strict=True):
      if len(own) != self.count:
        text = encoding.format(code, layers)
        raise ArchitectureError(f"{text} executes {len(own)} layers, not {self.count} as this network's variants")
    return np.stack(rows)

  def init(self, key: Array) -> PyTree:
    """The pre-trained parameters, and a classifier that is drawn.

    Raises:
      JaxnasError: as `weights.read`.
    """
    body = jax.tree.map(jnp.array, weights.read(self.folder, self.sizes))  # copies: a training gives its own away
    return {**body, "classifier": parameters.head(self.sizes, self.classes, key)}

  def init_stats(self) -> PyTree:
    """There are none."""
    return {}

  def executed(self, arch: Arch) -> PyTree:
    """A tree like the parameters: 1 where this variant uses them, [] or, of the layers, [L] each."""
    return parameters.executed(parameter_shapes(self), self._checked(arch), self.sizes.layers)

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path have the layers as their first axis."""
    return path[0] == "layers"

  def costs(self, arch: Arch, image_size: int = costs.TOKENS) -> Costs:
    """As `costs` counts them; `image_size` is the length of a sequence."""
    used = jnp.zeros((self.sizes.layers,), jnp.float32).at[self._checked(arch)[:, 0]].set(1).sum()
    outer, layer = costs.outer(self.sizes, self.classes), costs.layer(self.sizes, image_size)
    return Costs(outer.params + used * layer.params, jnp.float32(outer.macs + self.count * layer.macs))

  # Outputs

  def embed(self, params: PyTree, inputs: Int32[Array, "N T 3"]) -> Float[Array, "N T H"]:
    """See `transformer.embed`."""
    return transformer.embed(params, inputs, "this encoder")

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N T H"],
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
    the agreement of the units of all executed feed-forward parts, at positions where both samples have tokens.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    run = begin(mode, collect, stats, able=ABLE, rows=rows)
    own = with_gates(params, gates)
    x, mask, agreements = self._states(own, inputs, arch, mode, run.observes)
    pooled = linear(x[:, 0], own["pooler"])
    pooled = pooled * own["pooler"]["gate"] if gates is not None and "gate" in own["pooler"] else pooled
    pooled = pooled if mode == "identity" else jnp.tanh(pooled)
    seen = None
    if agreements is not None:
      seen = Observation((x * mask[..., None])[:, :, None], agreements.sum(0), jnp.zeros((), x.dtype))
    return Output(linear(pooled, own["classifier"]), stats={} if run.keeps_stats else None, observation=seen)

  def train(
    self, params: PyTree, inputs: Array, arch: Arch, drop_path: Float[Array, ""] | float, key: Array | None
  ) -> Output:
    """See `base.TrainableNetwork`.

    Raises:
      ConfigError: drop path, which encoders have not.
    """
    del drop_path
    if key is not None:
      raise ConfigError("encoders have no drop path; drop it")
    return self.apply(params, inputs, arch, "batch", collect=("running_stats",))

  def states(self, params: PyTree, tokens: Int32[Array, "N T 3"], arch: Arch) -> Float[Array, "N T H"]:
    """What leaves the last layer."""
    return self._states(params, self.embed(params, tokens), arch, "batch", False)[0]

  def _states(self, own: PyTree, inputs: Array, arch: Arch, mode: Mode, observes: bool):
    """(states, mask, agreements [n, N, N] or None)."""
    arch, mask = self._checked(arch), transformer.tokens_of(inputs, self.sizes.hidden)
    taken = jax.tree.map(lambda leaf: jnp.take(leaf, arch[:, 0], axis=0), own["layers"])
    x = normalise(inputs, own["embedding_norm"], mode, self.sizes.epsilon)

    def step(states, layer):
      (x, before), (params, row) = states, layer
      skip = jnp.where(row[2] > 0, before, x)
      y, agreed = self._layer(x, skip, mask, params, row[1] > 0, mode, observes)
      return (y, x), agreed

    (x, _), agreements = lax.scan(step, (x, x), (taken, arch))
    return x, mask, agreements

  def _layer(self, x, skip, mask, own, parallel, mode, observes):
    """A layer's state, and the agreement of its units if it `observes`."""
    epsilon = self.sizes.epsilon
    query, key, value = (dense(x, own[name]) for name in ("query", "key", "value"))
    attended = transformer.joined(transformer.attention(query, key, value, mask, self.sizes.heads))
    h = normalise(dense(attended, own["output"]) + skip, own["attention_norm"], mode, epsilon)
    z = dense(jnp.where(parallel, x, h), own["feed_in"])
    fed = dense(transformer.activate(z, mode), own["feed_out"])
    return normalise(fed + h, own["feed_norm"], mode, epsilon), transformer.agreement(z, mask) if observes else None

  def _checked(self, arch: Array) -> Array:
    if arch.shape != (self.count, 3):
      raise ConfigError(f"arch of shape {arch.shape}: expected {(self.count, 3)}, a row of what encode() returned")
    return arch
