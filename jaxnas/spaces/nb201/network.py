"""The NAS-Bench-201 network: stem, three stages of cells with reduction blocks between them, BN-ReLU, classifier.

It is written once, over the cell's operations; what an architecture is decides the way in which its edges choose:

    (3, 1, 0, 4, 2, 2)  ints        static: this one architecture and no other is in the program
    int32 [6]           data        switch: an architecture costs what its own operations cost
    float [1, 6, 5]     weights     mix: every edge computes all operations (a pruned supernet, a soft mixture)

`roles.py` has the networks that the methods take: their sizes, and what they show.

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020, section 2.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxnas.base import Collect, Init, Mode, Observation, Output, Selections
from jaxnas.errors import ConfigError
from jaxnas.nets import layers, parameters, passes
from jaxnas.nets.node import Choices
from jaxnas.nets.one_network import OneNetwork
from jaxnas.nets.passes import Chain, Pass, Seen, together
from jaxnas.spaces.nb201 import encoding
from jaxnas.spaces.nb201.cell import cell
from jaxnas.spaces.nb201.encoding import EDGES, NUM_EDGES, NUM_NODES, NUM_OPS
from jaxnas.spaces.nb201.operations import NONE, Form, Maps, Operations, Read
from jaxnas.spaces.nb201.parameters import STAGES, draw

Arch = tuple[int, ...] | Int[Array, "6"] | Float[Array, "1 6 5"]


@dataclasses.dataclass(frozen=True)
class NB201Network(OneNetwork):
  """What all roles of the network share: pure functions of parameters (`parameters.py`), images and an architecture.

  Attributes:
    channels: C of the first stage, doubled by each of the two reductions.
    cells: N, cells per stage.
  """

  channels: int = 16
  cells: int = 5

  able: ClassVar[tuple[Collect, ...]] = ("stats", "running_stats", "taps", "observation", "patterns", "correlation")
  unrolls: ClassVar[bool] = False  # the cells of a stage on a CPU; a loop compiles once for all of them

  def __post_init__(self):
    if min(self.channels, self.cells) < 1:
      raise ConfigError(f"channels={self.channels}, cells={self.cells} must both be at least 1")

  @property
  def form(self) -> Form:
    """See `operations.py`."""
    return "single"

  def encode(self, codes: Int[np.ndarray, "A 6"]) -> np.ndarray:
    """As `base.Network`: int32 [A, 6]."""
    return encoding.as_codes(codes).astype(np.int32)

  def choices(self, archs: Int[np.ndarray, "A 6"]) -> list[Selections]:
    """As `base.Dispatched`; edges that reach no output may choose `none` instead, which is free."""
    return [Selections(archs, NUM_OPS, (NONE,))]

  def apply(
    self,
    params: PyTree,
    inputs: Float[Array, "N H W C"],
    arch: Arch,
    mode: Mode = "batch",
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
    collect: Sequence[Collect] = (),
    rows: bool = False,
  ) -> Output:
    """As `base.Network`. Edges that reach no output are computed only where something is shown of them."""
    run = passes.begin(mode, collect, stats, able=self.able, rows=rows)
    of_batch = run.keeps_stats or run.observes or "correlation" in collect
    if of_batch and mode not in ("batch", "batch_frozen"):
      raise ConfigError(
        f"mode={mode!r} with collect={tuple(collect)}: only passes that use the batch show its statistics"
      )
    self._check(inputs)
    operations, params, given = Operations(run, self.form), passes.with_gates(params, gates), stats or {}
    x, taps, seen = self._stages(operations, params, inputs, self._choices(arch, run), given, Chain())
    logits, features, seen["last"] = self._head(operations, params, x, given)
    shown = together({"last": seen.pop("last"), **seen})
    own_stats = {name: tree for name, tree in shown.stats.items() if jax.tree.leaves(tree)}
    return Output(
      logits,
      stats=own_stats if run.keeps_stats else None,
      taps=tuple(taps) if "taps" in collect else None,
      observation=Observation(features, *shown.observed) if shown.observed else None,
      patterns=shown.patterns,
      correlation=shown.correlation,
    )

  def _stages(self, operations: Operations, params: PyTree, x: Maps, choices: Choices, given: PyTree, chain: Chain):
    """(maps, outputs of the stages, what the parts show); of the parts that `params` has."""
    seen: dict[str, Seen] = {}
    taps = []
    if "stem" in params:
      x, seen["stem"] = operations.conv_bn(x, params["stem"], given.get("stem"))
      x = chain.link(x)
    for stage, name in enumerate(name for name in STAGES if name in params):
      if stage:
        reduce = f"reduce_{stage}"
        x, seen[reduce] = reduction(operations, x, params[reduce], given.get(reduce, {}))
        x = chain.link(x)

      def body(x, own):
        y, shown = cell(operations, choices, x, own[0])
        return passes.linked(y, own[1]), (shown, y if chain.keeps else None)

      x, (shown, outputs) = self._loop(body, x, ({"params": params[name], "stats": given.get(name)}, chain.shift))
      seen[name] = shown.over_layers()
      chain.keep(outputs)
      taps.append(x)
    return x, taps, seen

  def _loop(self, body: Callable[[Maps, PyTree], tuple[Maps, PyTree]], x: Maps, given: PyTree) -> tuple[Maps, PyTree]:
    """`lax.scan` over the cells of a stage, written out on a CPU if the role `unrolls`."""
    if not (self.unrolls and jax.default_backend() == "cpu"):
      return lax.scan(body, x, given)
    if self.cells > 1:
      return lax.scan(body, x, given, unroll=True)
    # A scan of one step would stay a loop, in which convolutions are slower.
    x, shown = body(x, jax.tree.map(lambda leaf: leaf[0], given))
    return x, jax.tree.map(lambda leaf: leaf[None], shown)

  def _head(self, operations: Operations, params: PyTree, x: Maps, given: PyTree) -> tuple[Array, Maps, Seen]:
    """(logits, what is pooled, what it shows)."""
    raise NotImplementedError

  def _choices(self, arch: Arch, run: Pass) -> Choices:
    """What each edge chose."""
    shape = (len(arch),) if isinstance(arch, tuple) else arch.shape
    if shape != (NUM_EDGES,):
      raise ConfigError(f"arch of shape {shape}: expected ({NUM_EDGES},), a row of what encode() returned")
    return arch if run.shows else useful(arch)

  def _check(self, images: Array) -> None:
    passes.check_images(images, multiple=4)  # the two reductions halve them, their shortcuts exactly


@dataclasses.dataclass(frozen=True)
class Classified(NB201Network):
  """The network with BN-ReLU, pooling and a classifier behind the cells.

  Attributes:
    classes: K.
    initialisation: how parameters are drawn.
  """

  classes: int = 10
  initialisation: Init = "kaiming_fan_out"

  def __post_init__(self):
    super().__post_init__()
    if self.classes < 1:
      raise ConfigError(f"classes={self.classes} must be at least 1")
    parameters.check_init(self.initialisation)

  def init(self, key: Array) -> PyTree:
    """As `base.Network`."""
    return draw(self.channels, self.cells, self.classes, self.initialisation, key)

  def _head(self, operations: Operations, params: PyTree, x: Maps, given: PyTree) -> tuple[Array, Maps, Seen]:
    """(logits, what is pooled, what it shows)."""
    x, seen = operations.normalise(x, params["last"]["bn"], given.get("last"))
    features = jax.nn.relu(x)
    logits = passes.linear(features.mean((1, 2)), params["classifier"])
    return logits, features, seen.plus(operations.run.of_relu(x))


def reduction(operations: Operations, x: Read, params: PyTree, given: PyTree) -> tuple[Maps, Seen]:
  """C -> 2C at half the size: two ReLU-conv3x3-BN, the first at stride 2, plus pool-conv1x1 of the input."""
  run, relu = operations.run, jax.nn.relu
  middle, seen_a = operations.conv_bn(relu(x), params["conv_a"], given.get("conv_a"), stride=2)
  y, seen_b = operations.conv_bn(relu(middle), params["conv_b"], given.get("conv_b"))
  shortcut = operations.convolve(layers.avg_pool_2x2(x), params["downsample"]["conv"])
  seen = together({"conv_a": seen_a, "conv_b": seen_b}).plus(run.of_relu(x), run.of_relu(middle))
  return y + passes.gated(shortcut, params["downsample"]), seen


def effective(operations: Any) -> tuple[Any, Bool[Array, ""]]:
  """The operations, int [6], with `none` on edges that no path from input to output takes; whether there is a path."""
  reached: dict[int, Any] = {0: True}
  for node in range(1, NUM_NODES):
    into = [reached[s] & (operations[e] != NONE) for e, (t, s) in enumerate(EDGES) if t == node]
    reached[node] = functools.reduce(operator.or_, into)
  leading = useful(operations)
  return jnp.stack([jnp.where(reached[s], leading[e], NONE) for e, (_, s) in enumerate(EDGES)]), reached[NUM_NODES - 1]


def useful(operations: Any) -> Any:
  """The operations of the edges with `none` on those from whose target no path leads to the output; ints or int [6]."""
  leads: dict[int, Any] = {NUM_NODES - 1: True}
  for node in (2, 1):
    onward = [leads[t] & (operations[e] != NONE) for e, (t, source) in enumerate(EDGES) if source == node]
    leads[node] = functools.reduce(operator.or_, onward)
  if isinstance(operations, tuple):
    return tuple(op if leads[t] else NONE for op, (t, _) in zip(operations, EDGES, strict=True))
  return jnp.stack([jnp.where(leads[t], operations[e], NONE) for e, (t, _) in enumerate(EDGES)])
