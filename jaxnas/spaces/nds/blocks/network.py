"""The network of one choice of stages, as pure functions; nothing of the architecture is data.

A stage's first block stands alone, the others are one `lax.scan`. Blocks pass on what the last ReLU of each would read,
and begin with it: GenNAS's taps are in front of it.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and its code; the variant
`code` and the taps: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, and its code.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32, PyTree

from jaxnas.base import Collect, Costs, Mode, NetworkConfig, Observation, Output
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.nets import grams, layers, parameters, plain_layers
from jaxnas.nets.grams import SampleGrams
from jaxnas.nets.one_network import OneNetwork, parameter_shapes
from jaxnas.nets.passes import Pass, Seen, begin, check_images, gated, linear, together, unit_moments, with_gates
from jaxnas.spaces.nds.blocks import costs, encoding, layout
from jaxnas.spaces.nds.blocks.costs import Convolution, Stage, Staged
from jaxnas.spaces.nds.blocks.grouped import convolve_in_groups
from jaxnas.spaces.nds.blocks.layout import FIRST, OTHERS
from jaxnas.spaces.nds.pooling import max_along
from jaxnas.spaces.nds.tables import PLAIN, BlockTable

ABLE: tuple[Collect, ...] = ("stats", "running_stats", "taps", "observation")
Maps = Float[Array, "N H W C"]
Convolved = Float[Array, "N H2 W2 D"]
_SIDE = 64  # what shapes of parameters are traced with


@dataclasses.dataclass(frozen=True)
class NDSBlockNetwork(OneNetwork, SampleGrams):
  """Pure functions of parameters, images and a code that is not read.

  A `Single`, `SampleGram` and `TappedNetwork`.

  Attributes:
    config: only its classes and initialisation are read.
    table: the space.
    code: the one architecture, as integers.
    net: its stages.
  """

  config: NetworkConfig
  table: BlockTable
  code: tuple[int, ...]
  net: Staged
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  def __post_init__(self):
    if self.config.auxiliary:
      raise ConfigError(f"auxiliary=True: networks of {self.table.name} have no auxiliary head; drop it")
    parameters.check_init(self.config.init)

  @property
  def classes(self) -> int:
    """K."""
    return self.config.classes

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Of the last three stages."""
    one, two, three = (stage.channels for stage in self.net.stages[-3:])
    return one, two, three

  # Parameters

  def encode(self, codes: Int[np.ndarray, "A L"]) -> Int32[np.ndarray, "A L"]:
    """The codes.

    Raises:
      ArchitectureError: one that is not this network's.
    """
    codes = np.asarray(encoding.as_codes(self.table, codes), np.int32)
    for code in codes:
      if tuple(code.tolist()) != self.code:
        own = encoding.format(self.table, self.code)
        raise ArchitectureError(f"arch {encoding.format(self.table, code)}: this network is of {own}; make another")
    return codes

  def init(self, key: Array) -> PyTree:
    """Fresh float32 parameters (`parameters.draw`); those of a stage's later blocks are stacked, see `layout`."""
    return parameters.draw(layout.shapes(self.net, self.classes), self.config.init, key)

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: means 0, variances 1."""
    images = jax.ShapeDtypeStruct((2, _SIDE, _SIDE, 3), jnp.float32)
    arch = jax.ShapeDtypeStruct((len(self.code),), jnp.int32)
    run = functools.partial(self.apply, collect=("running_stats",))
    return unit_moments(jax.eval_shape(lambda *args: run(*args).stats, parameter_shapes(self), images, arch))

  def executed(self, arch: Int[Array, " L"]) -> PyTree:
    """A tree like the parameters, of ones, [] or [blocks - 1] each."""
    del arch

    def ones(path, leaf):
      stacked = layout.is_stacked([p.key for p in path])
      return jnp.ones(leaf.shape[:1] if stacked else (), jnp.float32)

    return jax.tree_util.tree_map_with_path(ones, parameter_shapes(self))

  def is_stacked(self, path: list[str]) -> bool:
    """See `layout.is_stacked`."""
    return layout.is_stacked(path)

  def costs(self, arch: Int[Array, " L"], image_size: int = 32) -> Costs:
    """As `costs` counts them."""
    del arch
    params, macs, _ = costs.count(self.net, self.classes, image_size)
    return Costs(jnp.float32(params), jnp.float32(macs))

  # Outputs

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W 3"],
    arch: Int[Array, " L"],
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """One pass. The taps are the outputs of the last three stages, before their last ReLU.

    Raises:
      ConfigError, DatasetError: as `base.Network.apply`.
    """
    run = begin(mode, collect, stats, able=ABLE, rows=rows)
    check_images(inputs)
    if arch.shape != (len(self.code),):
      raise ConfigError(f"arch of shape {arch.shape}: expected ({len(self.code)},), a row of what encode() returned")
    return self._forward(with_gates(params, gates), inputs, run, stats)

  def _forward(self, params: PyTree, images: Array, run: Pass, stats: PyTree | None) -> Output:
    seen: dict[str, Seen] = {}
    x, seen["stem"] = self._stem(images, params["stem"], stats and stats["stem"], run)
    taps, fresh = [], self.net.stem != "quarter"  # whether the ReLU that comes next has not been counted
    for number, stage in enumerate(self.net.stages):
      name = f"stage_{number}"
      x, seen[name] = self._stage(stage, x, params[name], stats and stats[name], fresh, run)
      fresh = True
      taps.append(x)
    features = jax.nn.relu(x)
    seen["last"] = run.of_relu(x)
    observed = together(seen)
    shown = {name: own.stats for name, own in seen.items() if name != "last"}
    return Output(
      logits=linear(features.mean((1, 2)), params["classifier"]),
      log_scale=0.0 if observed.log_scale is None else observed.log_scale,
      stats=shown if run.keeps_stats else None,
      taps=tuple(taps[-3:]) if "taps" in run.collect else None,
      observation=None if observed.observed is None else Observation(features, *observed.observed),
    )

  def _stem(self, x: Maps, params: PyTree, stats: PyTree | None, run: Pass) -> tuple[Convolved, Seen]:
    """What the last ReLU of the stem reads; of one with a pooling what that gives."""
    found: dict[str, Seen] = {}
    before: list[Seen] = []
    for name, one in costs.stem_convolutions(self.net, _SIDE).items():
      if found:
        before.append(run.of_relu(x))
        x = jax.nn.relu(x)
      x, found[name] = _conv_bn(x, one, params[name], stats and stats[name], run)
    if self.net.stem == "quarter":
      before.append(run.of_relu(x))
      x = jax.nn.relu(x)
      x = max_along(max_along(x, 2, 3, 2), 1, 3, 2)
    return x, together(found).plus(*before)

  def _stage(
    self, stage: Stage, x: Maps, params: PyTree, stats: PyTree | None, fresh: bool, run: Pass
  ) -> tuple[Convolved, Seen]:
    seen: dict[str, Seen] = {}
    run_block = functools.partial(_block, self.net.block, stage, run=run)
    x, seen[FIRST] = run_block(x, (params[FIRST], stats and stats[FIRST]), first=True, fresh=fresh)
    if stage.blocks > 1:
      run_other = functools.partial(run_block, first=False, fresh=True)
      x, found = lax.scan(run_other, x, (params[OTHERS], stats and stats[OTHERS]))
      seen[OTHERS] = found.over_layers()
    return x, together(seen)


def _block(
  block: str, stage: Stage, x: Maps, own: tuple[PyTree, PyTree | None], *, first: bool, fresh: bool, run: Pass
) -> tuple[Convolved, Seen]:
  """One block, from what the ReLU before it reads to what that behind it does; `fresh`: whether the former counts."""
  params, stats = own
  found: dict[str, Seen] = {}
  before = [run.of_relu(x)] if fresh else []
  entered = x = jax.nn.relu(x)
  layers_of = costs.block_convolutions(block, x.shape[-1], stage, first, x.shape[1])
  shortcut = layers_of.pop("shortcut", None)
  for name, one in layers_of.items():
    if found:
      before.append(run.of_relu(x))
      x = jax.nn.relu(x)
    x, found[name] = _conv_bn(x, one, params[name], stats and stats[name], run)
  if shortcut is not None:
    name = "shortcut"
    entered, found[name] = _conv_bn(entered, shortcut, params[name], stats and stats[name], run)
  (y,), scale = run.rescaled(x if block == PLAIN else x + entered)
  return y, together(found).plus(*before, scale)


def _conv_bn(x: Maps, one: Convolution, own: PyTree, stats: Any, run: Pass) -> tuple[Convolved, Seen]:
  z = gated(_convolve(x, one, own["conv"], run), own["conv"])
  return run.normalise(z, own["bn"], lax.stop_gradient(stats))


def _convolve(x: Maps, one: Convolution, layer: PyTree, run: Pass) -> Convolved:
  if one.groups > 1:
    return grams.layer(lambda x, own: convolve_in_groups(x, own["kernel"], one.groups, one.stride), x, layer)
  return grams.convolve(x, layer, one.stride, fn=layers.conv if run.rows else plain_layers.convolve)
