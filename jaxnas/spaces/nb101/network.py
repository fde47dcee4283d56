"""The NAS-Bench-101 network of one architecture, as pure functions; the architecture is data.

One program serves all cells. The number k of vertices that feed the output chooses a branch (`lax.switch`), in which
every inner vertex has static width ceil(C / k): a cell costs what its own widths cost. Vertices with one channel less
have it masked. In a branch each vertex chooses its operation, the modules of a stack are one `lax.scan`, and the first
of them reads its narrower input padded with zeros.

Parameters exist for every operation of every slot (`encoding.alphas`) at the full width C of the stack; a vertex of
width w uses the first w channels of its kernels.

Source: Ying et al., "NAS-Bench-101", ICML 2019, section 2; the taps: Li et al., "Generic Neural Architecture Search via
Regression", NeurIPS 2021.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import DictKey
from jaxtyping import Array, Float, Float32, Int, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output, Selections
from jaxnas.errors import ConfigError
from jaxnas.nets.choose import choose
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.one_network import OneNetwork, parameter_shapes
from jaxnas.nets.parameters import draw
from jaxnas.nets.passes import (
  Chain,
  Pass,
  Seen,
  begin,
  check_images,
  linear,
  linked,
  together,
  unit_moments,
  with_gates,
)
from jaxnas.spaces.nb101 import encoding, parameters
from jaxnas.spaces.nb101.cell import Convolved, Maps, conv_bn_relu, run_module
from jaxnas.spaces.nb101.encoding import OP_COLUMNS
from jaxnas.spaces.nb101.parameters import INNER, MOST_FEEDING, OUT, STACKS, Cell, feeding_of, layer_names
from jaxnas.spaces.nb101.pooling import max_pool_2x2

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "taps", "observation", "patterns", "correlation")


@dataclasses.dataclass(frozen=True)
class NB101Network(OneNetwork, SampleGrams):
  """Pure functions of parameters, images and cells [7, 11], as `encoding.alphas` has them.

  A `Single`, `CellNetwork`, `GraphNetwork`, `SampleGram` and `TappedNetwork`.

  Attributes:
    config: cells are modules of a stack, of which there are three, of C, 2C and 4C channels; the benchmark has 3 at
      C = 128. The initialisation is that of GenNAS's code whatever `init` says: normal by the fan out.
    feeding: how many vertices feed the output, if that is known: see `variants`.
  """

  config: NetworkConfig
  feeding: int | None = None
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  def __post_init__(self):
    c = self.config
    if c.size[0] < MOST_FEEDING:
      raise ConfigError(f"channels={c.channels} must be at least {MOST_FEEDING}: so many vertices may share them")
    c.plain("nb101")

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Channels of the three stacks."""
    channels, _ = self.config.size
    return channels, 2 * channels, 4 * channels

  def variants(self) -> tuple["NB101Network", ...]:
    """This network for 0, 1, ... feeding vertices, or itself if that is known.

    Choosing among them inside one forward pass costs the backward pass a second forward pass. A long computation, such
    as a training, saves it by one switch around all of it:
    `lax.switch(net.variant(arch), [partial(train, v) for v in net.variants()], arch)`.
    """
    if self.feeding is not None:
      return (self,)
    return tuple(dataclasses.replace(self, feeding=k) for k in range(MOST_FEEDING + 1))

  def variant(self, arch: Float[Array, "7 11"]) -> Int[Array, ""]:
    """Which of `variants` computes this architecture."""
    return feeding_of(_checked(arch)) if self.feeding is None else jnp.int32(0)

  def choices(self, archs: Float32[np.ndarray, "A 7 11"]) -> list[Selections]:
    """As `base.Dispatched`: the vertices' operations, and whether projections are there."""
    hot = archs[:, INNER, OP_COLUMNS]
    operations = np.where(hot.max(-1) > 0, 1 + hot.argmax(-1), 0)
    projections = (archs[:, 1:, 0] > 0).astype(np.int64)
    return [Selections(operations, 1 + len(encoding.INNER_OPS), (0,)), Selections(projections, 2, (0,))]

  def by_program(self, archs: Float32[np.ndarray, "A 7 11"]) -> list[tuple["NB101Network", Int[np.ndarray, " a"]]]:
    """As `base.Dispatched`: by the number of vertices that feed the output, if it is not known."""
    if self.feeding is not None:
      return [(self, np.arange(len(archs)))]
    feeding = archs[:, OUT, INNER].astype(np.int64).sum(1)
    return [(dataclasses.replace(self, feeding=int(k)), np.flatnonzero(feeding == k)) for k in np.unique(feeding)]

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A 28"]) -> Float32[np.ndarray, "A 7 11"]:
    """The pruned cells as the network reads them (`encoding.alphas`)."""
    return encoding.alphas(codes)[..., 0, :, :]

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters: normal, std sqrt(2 / (k k Cout)) by the full Cout; BN scale 1, offset 0."""
    return draw(parameters.shapes(self.config), "kaiming_fan_out", key)

  def start(self, params: PyTree, arch: Float[Array, "7 11"]) -> PyTree:
    """Kernels scaled to their vertex's own Cout, with zeros in channels that the architecture lacks."""
    cell = _checked(arch)
    return parameters.cut_to_used(parameters.scaled(self.config, params, cell), cell)

  def used_channels(self, arch: Float[Array, "7 11"]) -> PyTree:
    """A tree like the parameters: the (channels in, channels out) in use, int32 [2] or [modules, 2]; a vector has 1 in.

    Those of layers that are not executed mean nothing.
    """
    return parameters.used_channels(parameter_shapes(self), _checked(arch))

  def executed(self, arch: Float[Array, "7 11"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to a layer of this architecture, [] or [modules] each.

    A vertex uses only the first channels of its kernels; the others have no gradient.
    """
    return parameters.executed(parameter_shapes(self), _checked(arch))

  def is_stacked(self, path: list[str]) -> bool:
    """Whether parameters of this path have the modules of a stack as their first axis."""
    return path[0] in STACKS

  def sample_gram(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Float[Array, "7 11"],
    outputs: Callable[[Float[Array, "N K"]], Float[Array, " N"]],
    **which: Any,
  ) -> Array:
    """As `base.SampleGram`, chosen among `variants` once for forward and backward pass."""
    if self.feeding is not None:
      return super().sample_gram(params, inputs, arch, outputs, **which)
    runs = [functools.partial(v.sample_gram, outputs=outputs, **which) for v in self.variants()]
    return lax.switch(self.variant(arch), runs, params, inputs, arch)

  def gates(self, samples: int) -> PyTree:
    """Ones: [N, C] for the stem, [modules, N, Cout] for each vertex (one convolution at most) and projection."""
    channels, modules = self.config.size
    ones: dict[str, Any] = {"stem": jnp.ones((samples, channels))}
    for name, width in zip(STACKS, self.tap_channels, strict=True):
      ones[name] = {layer: jnp.ones((modules, samples, width)) for layer in layer_names()}
    return ones

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: mean 0, variance 1, for every BN."""
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    cell = jax.ShapeDtypeStruct((encoding.MAX_VERTICES, encoding.COLUMNS), jnp.float32)
    run = functools.partial(self.apply, collect=("running_stats",))
    return unit_moments(jax.eval_shape(lambda *args: run(*args).stats, parameter_shapes(self), images, cell))

  def costs(self, arch: Float[Array, "7 11"], image_size: int = 32) -> Costs:
    """As `costs` counts them."""
    cell, (channels, _) = _checked(arch), self.config.size
    stem, head = 27 * channels, (4 * channels + 1) * self.classes
    params = jnp.asarray(stem + 2 * channels + head, jnp.int32)
    macs = jnp.asarray(stem * image_size**2 + head, jnp.float32)
    for stack, kernels, scales in parameters.sizes(self.config, cell):
      params = params + kernels + scales
      macs = macs + kernels.astype(jnp.float32) * float((image_size >> stack) ** 2)
    return Costs(params.astype(jnp.float32), macs)

  def effective_costs(self, arch: Float[Array, "7 11"], image_size: int = 32) -> Costs:
    """As `costs`: what is encoded has no vertex off the paths from input to output."""
    return self.costs(arch, image_size)

  def skip_length(self, arch: Float[Array, "7 11"]) -> Float[Array, ""]:
    """As `base.GraphNetwork`, of the edges that pass a vertex over: no edge of this space has an operation."""
    cell = _checked(arch)
    inner = (cell[:, OP_COLUMNS] > 0).any(1)
    vertex = jnp.cumsum(inner.at[OUT].set(True), dtype=jnp.float32)  # the input's is 0
    over = vertex[:, None] - 1 - vertex[None]
    skips = (cell[:, : encoding.MAX_VERTICES] > 0) & (over > 0)
    return jnp.where(skips, over, 0).sum() / jnp.maximum(skips.sum(dtype=jnp.float32), 1)

  # Outputs

  def cell_outputs(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Float[Array, "7 11"],
    mode: Mode = "batch",
    shifts: Sequence[Array] | None = None,
  ) -> tuple[Array, ...]:
    """As `base.CellNetwork`: the stem and the modules of the three stacks, which begin with the max-pool."""
    run = begin(mode, (), None, able=())
    check_images(inputs)
    own = {"params": params, "stats": None, "cell": _checked(arch).astype(inputs.dtype), "shifts": shifts}

    def outputs(feeding, inputs, own):
      chain = Chain(True, own["shifts"])
      self._forward(run, feeding, inputs, own, chain)
      return tuple(chain.outputs)

    if self.feeding is not None:
      return outputs(self.feeding, inputs, own)
    branches = [functools.partial(outputs, feeding) for feeding in range(MOST_FEEDING + 1)]
    return choose(branches, feeding_of(own["cell"]), inputs, own)

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Float[Array, "7 11"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass; an all-zero `arch` is a network whose cells give 0.

    A ReLU follows every BN; channels above a vertex's own width do not count in an observation, and their statistics
    are 0. The taps are the outputs of the three stacks.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    run = begin(mode, collect, stats, able=ABLE, rows=rows)
    check_images(inputs)
    own = {"params": with_gates(params, gates), "stats": stats, "cell": _checked(arch).astype(inputs.dtype)}
    if self.feeding is not None:
      return self._forward(run, self.feeding, inputs, own, Chain())
    bits = 0
    if "patterns" in run.collect:  # widths depend on the number of feeding vertices: a single one is the widest
      bits = jax.eval_shape(lambda x, own: self._forward(run, 1, x, own, Chain()).patterns, inputs, own).shape[1]

    def forward(feeding, inputs, own):
      output = self._forward(run, feeding, inputs, own, Chain())
      return output._replace(patterns=Seen(patterns=output.patterns).padded(bits).patterns)

    branches = [functools.partial(forward, feeding) for feeding in range(MOST_FEEDING + 1)]
    return choose(branches, feeding_of(own["cell"]), inputs, own)

  def _forward(self, run: Pass, feeding: int, images: Array, own: dict[str, PyTree], chain: Chain) -> Output:
    params, stats, cell = own["params"], own["stats"], lax.stop_gradient(own["cell"])
    seen: dict[str, Seen] = {}
    taps = []
    x, seen["stem"] = conv_bn_relu(images, {"params": params["stem"], "stats": stats and stats["stem"]}, run)
    x = chain.link(x)
    for stack, name in enumerate(STACKS):
      if stack:
        x = max_pool_2x2(x)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, x.shape[-1])))
      x, seen[name] = _stack(x, params[name], stats and stats[name], cell, feeding, run, chain)
      taps.append(x)
    all_seen = together(seen)
    return Output(
      logits=linear(x.mean((1, 2)), params["classifier"]),
      stats=all_seen.stats if run.keeps_stats else None,
      taps=tuple(taps) if "taps" in run.collect else None,
      observation=None if all_seen.observed is None else Observation(x, *all_seen.observed),
      patterns=all_seen.patterns,
      correlation=all_seen.correlation,
    )


def _stack(
  x: Maps, params: PyTree, stats: PyTree, cell: Cell, feeding: int, run: Pass, chain: Chain
) -> tuple[Convolved, Seen]:
  """The modules of one stack, and what they show; statistics are [modules, C] of every layer."""
  full = x.shape[-1]
  width = -(-full // feeding) if feeding else 0
  own = {n: _cut({"params": params[n], "stats": stats and stats[n]}, n, width) for n in layer_names()}

  def body(x, given):
    y, seen = run_module(x, given[0], cell=cell, feeding=feeding, run=run)
    return linked(y, given[1]), (seen, y if chain.keeps else None)

  x, (seen, outputs) = lax.scan(body, x, (own, chain.shift))
  chain.keep(outputs)
  seen = seen.over_layers()
  if not run.keeps_stats:
    return x, seen
  modules = jax.tree.leaves(params)[0].shape[0]
  zeros = jnp.zeros((modules, full), x.dtype)
  whole = dict.fromkeys(layer_names(), (zeros, zeros))
  whole |= jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, full - leaf.shape[-1]))), seen.stats)
  return x, seen._replace(stats=whole)


def _cut(tree: PyTree, layer: str, width: int) -> PyTree:
  """The parameters, statistics and gates of a layer that a vertex of this width can use."""

  def cut(path, leaf):
    if layer == f"projection_{OUT}" or DictKey("gram") in path:
      return leaf
    if leaf.ndim < 5 or layer.startswith("projection"):  # kernels are [modules, k, k, Cin, Cout]
      return leaf[..., :width]
    return leaf[..., :width, :width]

  return jax.tree_util.tree_map_with_path(cut, tree)


def _checked(arch: Array) -> Cell:
  shape = (encoding.MAX_VERTICES, encoding.COLUMNS)
  if arch.shape != shape:
    raise ConfigError(f"arch of shape {arch.shape}: expected {shape}, a row of what encode() returned")
  return arch
