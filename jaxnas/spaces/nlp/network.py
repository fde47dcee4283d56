"""The NAS-Bench-NLP network of one recipe, as pure functions; the recipe is data.

Stacked recurrent layers of one recipe between a linear encoder and a linear decoder, as GenNAS builds them: of H hidden
units and an embedding of E = 2 H / 3 numbers, layers read E, H, H, ... and have H, ..., H, E units (400, 600, 600 and
600, 600, 400 in the benchmark). A sequence of 8 steps gives 8 steps of outputs; states start at zero. The benchmark's
own network has a tied word embedding instead of encoder and decoder, see `costs`.

One program serves all recipes of a size (`program.Size`, the space's `shape`). There is no normalisation: its modes
differ in nothing. There are no convolutions either, so `gates` is empty and `fisher` sees the decoder alone.

Source: Klyuchnikov et al., "NAS-Bench-NLP", 2020; the network for signals and its initial values: Li et al., "Generic
Neural Architecture Search via Regression", NeurIPS 2021, released code.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets.one_network import OneNetwork
from jaxnas.nets.passes import begin
from jaxnas.nets.products import einsum, matmul
from jaxnas.spaces.nlp import program
from jaxnas.spaces.nlp.encoding import LEAKY_RELU, SIGM, TANH
from jaxnas.spaces.nlp.interpreter import Weights, run
from jaxnas.spaces.nlp.parameters import Uniform, draw
from jaxnas.spaces.nlp.program import RecipeProgram, Size

LENGTH: Final = 8  # steps of a sequence
DROPOUT: Final = {"hidden": 0.25, "output": 0.1, "matrices": 0.1}  # in training; the input has none
ABLE: Final[tuple[Collect, ...]] = ("stats", "observation")
_ENCODER_BOUND: Final = 0.1

Sequences = Float[Array, "N T D"]


def layer_sizes(channels: int, cells: int) -> list[tuple[int, int]]:
  """(input, hidden units) of every layer, of H channels; the first reads, and the last has, the embedding's size."""
  embedding = max(1, 2 * channels // 3)
  edges = [embedding, *[channels] * (cells - 1), embedding]
  return [(edges[i], edges[i + 1]) for i in range(cells)]


@dataclasses.dataclass(frozen=True)
class NLPNetwork(OneNetwork):
  """Pure functions of parameters, sequences and programs (rows of `program.table`). A `SequenceNetwork`.

  Parameters are named as in all networks: `stem` is the encoder, `classifier` the decoder. A layer has `matrices` of
  what is not x, [M, H, H], `projections` of x, [P, in, H], and biases, [L, H], in the order in which the recipe uses
  them; those that a recipe lacks are zero.

  Attributes:
    config: channels are the hidden units H, cells the layers, classes the numbers D of a step; its shape is the `Size`
      of the programs.
  """

  config: NetworkConfig
  rows_on_cpu: ClassVar[int] = 16

  def __post_init__(self):
    c = dataclasses.replace(self.config, shape=None).plain("nlp")
    if min(c.size) < 1:
      raise ConfigError(f"channels={c.channels}, cells={c.cells} must be at least 1")
    if not isinstance(self.config.shape, Size):
      raise ConfigError(f"shape={self.config.shape!r}: give the space's shape(code) of the architectures to measure")

  @property
  def size(self) -> Size:
    """What the programs have room for."""
    assert isinstance(self.config.shape, Size)
    return self.config.shape

  @property
  def classes(self) -> int:
    """K = T D, outputs of a sequence."""
    return LENGTH * self.config.classes

  @property
  def layers(self) -> list[tuple[int, int]]:
    """(input, hidden units) of every layer."""
    return layer_sizes(*self.config.size)

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A L"]) -> Int32[np.ndarray, "A n"]:
    """The recipes as programs."""
    return program.table(codes, self.size)

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters, all uniform.

    Those of a layer lie within 1 / sqrt(H), biases too, kernels of encoder and decoder within 0.1, the encoder's bias
    within 1 / sqrt(D); the decoder's is 0.
    """
    dimension, (embedding, _) = self.config.classes, self.layers[0]
    shapes: dict[str, Any] = {
      "stem": {
        "kernel": Uniform((dimension, embedding), _ENCODER_BOUND),
        "bias": Uniform((embedding,), dimension**-0.5),
      },
      "classifier": {"kernel": Uniform((embedding, dimension), _ENCODER_BOUND), "bias": Uniform((dimension,), 0.0)},
    }
    for i, (inputs, hidden) in enumerate(self.layers):
      bound = hidden**-0.5
      shapes[f"layer_{i}"] = {
        "matrices": {"kernel": Uniform((self.size.matrices, hidden, hidden), bound)},
        "projections": {"kernel": Uniform((self.size.projections, inputs, hidden), bound)},
        "linears": {"bias": Uniform((self.size.linears, hidden), bound)},
      }
    return draw(shapes, key)

  def start(self, params: PyTree, arch: Int[Array, " n"]) -> PyTree:
    """The parameters with zeros for what the recipe lacks."""

    def kept(leaf, mask):
      return leaf * mask.astype(leaf.dtype).reshape(mask.shape + (1,) * (leaf.ndim - mask.ndim))

    return jax.tree.map(kept, params, self.executed(arch))

  def executed(self, arch: Int[Array, " n"]) -> PyTree:
    """A tree like the parameters: 1 where the recipe has them, [] or [M], [P], [L]."""
    on, one = program.used(program.read(arch, self.size)), jnp.ones((), jnp.float32)
    ends = {name: {"kernel": one, "bias": one} for name in ("stem", "classifier")}
    layer = {
      "matrices": {"kernel": jnp.asarray(on.sources)},
      "projections": {"kernel": jnp.asarray(on.projections)},
      "linears": {"bias": jnp.asarray(on.linears)},
    }
    return ends | {f"layer_{i}": layer for i in range(len(self.layers))}

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path are stacked."""
    return path[0].startswith("layer_")

  def is_recurrent(self, path: Sequence[str]) -> bool:
    """Whether the parameter of this path is a matrix of what is not x, which weight drop re-wraps."""
    return "matrices" in path

  def gates(self, samples: int) -> PyTree:
    """Empty: there are no convolutions."""
    del samples
    return {}

  def costs(self, arch: Int[Array, " n"], image_size: int = LENGTH) -> Costs:
    """As `costs.count` of a config; the length of a sequence is `image_size`."""
    own, (embedding, _) = program.used(program.read(arch, self.size)), self.layers[0]
    matrices, projections, linears = own.sources.sum(), own.projections.sum(), own.linears.sum()
    ends = float(2 * embedding * self.config.classes)
    params, products = jnp.float32(ends + embedding + self.config.classes), jnp.float32(ends)
    for inputs, hidden in self.layers:
      kernels = hidden * (hidden * matrices + inputs * projections)
      params, products = params + kernels + hidden * linears, products + kernels
    return Costs(params, image_size * products)

  # Outputs

  def apply(
    self,
    params: PyTree,
    inputs: Sequences,
    arch: Int[Array, " n"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass; the logits are the outputs of all steps side by side, [N, T D].

    Observed are the signs in front of activations, and of layers' outputs; the features are what the decoder reads.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    del gates
    own = begin(mode, collect, stats, able=ABLE, rows=rows)
    logits, features, seen = self._forward(params, inputs, arch, {})
    agreement: Any = None
    if own.observes:
      agreement = sum(_agreement(values, program.read(arch, self.size)) for values in seen)
    return Output(
      logits,
      stats={} if own.keeps_stats else None,
      observation=None
      if agreement is None
      else Observation(features[:, :, None], agreement, jnp.zeros((), features.dtype)),
    )

  def train(self, params: PyTree, inputs: Sequences, arch: Int[Array, " n"], key: Array) -> Float[Array, "N K"]:
    """The outputs of a pass with dropout: `DROPOUT` of the matrices, and of layers' outputs, alike at all steps."""
    masks: dict[str, Array] = {}
    samples, last = len(inputs), len(self.layers) - 1
    for i, (_, hidden) in enumerate(self.layers):
      one, other = jax.random.split(jax.random.fold_in(key, i))
      shape = params[f"layer_{i}"]["matrices"]["kernel"].shape
      masks[f"matrices_{i}"] = _mask(one, DROPOUT["matrices"], shape, inputs.dtype)
      rate = DROPOUT["output" if i == last else "hidden"]
      masks[f"output_{i}"] = _mask(other, rate, (1, samples, hidden), inputs.dtype)
    return self._forward(params, inputs, arch, masks)[0]

  def _forward(self, params: PyTree, inputs: Sequences, arch: Array, masks: dict[str, Array]):
    """(logits, what the decoder reads [N, T, E], values of every layer [T, S, N, H])."""
    self._check(inputs)
    own = program.read(arch, self.size)
    x, seen = _affine(inputs.swapaxes(0, 1), params["stem"]), []
    for i in range(len(self.layers)):
      layer = params[f"layer_{i}"]
      kernels = layer["matrices"]["kernel"] * masks.get(f"matrices_{i}", 1)
      projected = einsum("tni,pih->tpnh", x, layer["projections"]["kernel"])
      seen.append(run(Weights(kernels, layer["linears"]["bias"], projected), own))
      x = seen[-1][:, own.states[0]] * masks.get(f"output_{i}", 1)
    logits = _affine(x, params["classifier"]).swapaxes(0, 1).reshape(len(inputs), -1)
    return logits, x.swapaxes(0, 1), seen

  def _check(self, inputs: Array) -> None:
    wanted = (LENGTH, self.config.classes)
    if inputs.ndim != 3 or inputs.shape[1:] != wanted or not len(inputs):
      raise DatasetError(
        f"inputs of shape {inputs.shape}: expected (N, {wanted[0]}, {wanted[1]}), sequences as of --dataset=signals"
      )
    if inputs.dtype not in (jnp.float32, jnp.float64):
      raise DatasetError(f"inputs of type {inputs.dtype}: expected float32, the numbers of sequences")


def _affine(x: Float[Array, "T N I"], layer: PyTree) -> Float[Array, "T N J"]:
  return matmul(x, layer["kernel"]) + layer["bias"][None, None]


def _mask(key: Array, rate: float, shape: tuple[int, ...], dtype: Any) -> Array:
  """1 / (1 - rate) where something is kept, else 0."""
  return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


def _agreement(values: Float[Array, "T S N H"], own: RecipeProgram) -> Float[Array, "N N"]:
  """In how many units of activations, and of the layer's output, two samples have the same sign, over all steps.

  Of an activation the sign of what it reads: a sigmoid's output is compared with 1/2.
  """
  operations, written = own.instructions[:, 0], own.instructions[:, 1]
  slots = values.shape[1]
  acts = jnp.isin(operations, np.array([TANH, SIGM, LEAKY_RELU], np.int32)).astype(jnp.float32)
  half = jnp.where(operations == SIGM, 0.5, 0.0).astype(jnp.float32)
  counts = jnp.zeros(slots, jnp.float32).at[written].max(acts).at[own.states[0]].set(1.0)
  middle = jnp.zeros(slots, jnp.float32).at[written].max(half)
  code = jnp.where(values > middle.astype(values.dtype)[None, :, None, None], 1.0, -1.0).astype(jnp.float32)
  products = jnp.einsum("tsnh,tsmh,s->nm", code, code, counts)
  return 0.5 * (counts.sum() * (values.shape[0] * values.shape[3]) + products)
