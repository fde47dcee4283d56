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
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import layers, plain_layers, single
from jaxnas.nets.single import Observation, choose
from jaxnas.spaces.nb101 import encoding, parameters
from jaxnas.spaces.nb101.encoding import COLUMNS, INNER_OPS, MAX_VERTICES, OP_COLUMNS, OPS, RANK_COLUMN
from jaxnas.spaces.nb101.normalisation import batch_norm_relu
from jaxnas.spaces.nb101.observation import nothing_seen, seen_of, total
from jaxnas.spaces.nb101.parameters import (
  CONV_NAMES,
  INNER,
  MOST_FEEDING,
  OUT,
  STACKS,
  NetworkConfig,
  Rows,
  feeding_of,
  layer_names,
  slot_channels,
)
from jaxnas.spaces.nb101.pooling import max_pool, max_pool_2x2

MOMENTUM = 0.1  # of running statistics, as PyTorch counts it


@dataclasses.dataclass(frozen=True)
class PlainNetwork:
  """Pure functions of parameters, images and `encoding.alphas`.

  Attributes:
    config: shape and BN mode.
    rows: the kernel gradients will be asked for many cotangents at once (per-sample gradients).
    feeding: how many vertices feed the output, if that is known: see `variants`.
  """

  config: NetworkConfig
  rows: bool = False
  feeding: int | None = None
  shape: ClassVar[tuple[int, int, int]] = (1, MAX_VERTICES, COLUMNS)  # of alphas
  rows_on_cpu: ClassVar[int] = 16  # cotangents that go back together on a CPU: each chunk repeats the forward pass

  encode = staticmethod(encoding.alphas)

  def with_batch_norm(self, mode: str) -> "PlainNetwork":
    """The same network with another `batch_norm` mode; parameters are the same."""
    return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_norm=mode))

  def for_rows(self) -> "PlainNetwork":
    """The same network, its backward pass made for many cotangents."""
    return dataclasses.replace(self, rows=True)

  def variants(self) -> tuple["PlainNetwork", ...]:
    """This network for 0, 1, ... feeding vertices.

    Choosing among them inside one forward pass costs the backward pass a second forward pass. A long computation, such
    as a training, saves it by one switch around all of it:
    `lax.switch(net.variant(alphas), [partial(train, v) for v in net.variants()], alphas)`.
    """
    return tuple(dataclasses.replace(self, feeding=k) for k in range(MOST_FEEDING + 1))

  def variant(self, alphas: Float[Array, "1 7 11"]) -> Int[Array, ""]:
    """Which of `variants` computes this architecture."""
    return feeding_of(self._rows(alphas))

  # Parameters

  def init_params(self, key: Array) -> PyTree:
    """Fresh float32 parameters: normal, std sqrt(2 / (k k Cout)) by the full Cout; BN scale 1, offset 0."""
    return parameters.draw(self.config, key)

  def start(self, params: PyTree, alphas: Float[Array, "1 7 11"]) -> PyTree:
    """`init_params` as initial values of this architecture: kernels scaled to their vertex's own Cout."""
    return parameters.scaled(self.config, params, self._rows(alphas))

  def own_params(self, params: PyTree, alphas: Float[Array, "1 7 11"]) -> PyTree:
    """The initial values that proxies look at: `start`, with zeros in channels that the architecture lacks."""
    return parameters.cut_to_own(self.config, self.start(params, alphas), self._rows(alphas))

  def own_channels(self, alphas: Float[Array, "1 7 11"]) -> PyTree:
    """A tree like the parameters: the (channels in, channels out) in use, int32 [2] or [modules, 2]; a vector has 1 in.

    Those of layers that are not executed mean nothing.
    """
    return parameters.own_channels(self.config, self._rows(alphas))

  def executed(self, alphas: Float[Array, "1 7 11"]) -> PyTree:
    """A tree like the parameters: 1 where they belong to a layer of this architecture, [] or [modules] each.

    A vertex uses only the first channels of its kernels; the others have no gradient.
    """
    return parameters.executed(self.config, self._rows(alphas))

  def by_layer(self, fn: Callable[..., Array], *trees: PyTree) -> Float[Array, " L"]:
    """See `single.by_layer`."""
    return single.by_layer(fn, trees, lambda path: path[0] in STACKS)

  # Outputs

  def logits(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    alphas: Float[Array, "1 7 11"],
    *,
    stats: PyTree | None = None,
    gates: PyTree | None = None,
  ) -> Float[Array, "N K"]:
    """The outputs of this architecture; all-zero `alphas` are a network whose cells give 0.

    Args:
      stats: what `moments` returned; needed in mode `running`.
      gates: factors on the output of every convolution before its BN, [N, Cout] each, see `gates`.

    Raises:
      DatasetError: images of another shape.
      ConfigError: alphas of another shape, or `stats` missing.
    """
    return self._forward(params, images, alphas, stats, gates=gates)[0]

  def logits_and_moments(
    self, params: PyTree, images: Array, alphas: Array, *, unbiased: bool = False
  ) -> tuple[Array, PyTree]:
    """One pass for `logits` in mode `batch` and for `moments`.

    With `unbiased`, variances are of n - 1 and the moments are constants, as running statistics need them.
    """
    collect = "unbiased" if unbiased else "moments"
    return self.with_batch_norm("batch")._forward(params, images, alphas, None, collect)

  def moments(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 7 11"]) -> PyTree:
    """(mean, variance) of this batch at every BN, for mode `running`; 0 in channels that the architecture lacks."""
    return self.logits_and_moments(params, images, alphas)[1]

  def observe(self, params: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 7 11"]) -> Observation:
    """See `Observation`; here a ReLU follows every BN, and channels above a vertex's own width do not count."""
    (logits, features), found = self._forward(params, images, alphas, None, "observation")
    return Observation(logits, features, *found)

  def gates(self, samples: int) -> PyTree:
    """Ones: [N, C] for the stem, [modules, N, Cout] for each vertex (one convolution at most) and projection."""
    modules = self.config.modules
    ones: dict[str, Any] = {"stem": jnp.ones((samples, self.config.channels))}
    for name, width in zip(STACKS, self.tap_channels, strict=True):
      ones[name] = {layer: jnp.ones((modules, samples, width)) for layer in layer_names()}
    return ones

  @property
  def tap_channels(self) -> tuple[int, int, int]:
    """Channels of the three `taps`."""
    c = self.config.channels
    return c, 2 * c, 4 * c

  def init_stats(self) -> PyTree:
    """Running statistics before the first step: mean 0, variance 1, for every BN."""
    modules = self.config.modules
    out: dict[str, Any] = {}
    out["stem"] = _unit_moments((self.config.channels,))
    for stack, name in enumerate(STACKS):
      width = self.config.channels * 2**stack
      out[name] = {layer: _unit_moments((modules, width)) for layer in layer_names()}
    return out

  def taps(
    self, params: PyTree, stats: PyTree, images: Float[Array, "N H W 3"], alphas: Float[Array, "1 7 11"], train: bool
  ) -> tuple[tuple[Array, Array, Array], PyTree]:
    """(outputs of the three stacks, running statistics after this pass).

    In training BN normalises by the batch's own statistics and moves the running ones by a tenth towards its mean and
    its unbiased variance; else it uses the running ones, which stay.
    """
    if not train:
      return self.with_batch_norm("running")._forward(params, images, alphas, stats, taps=True)[0], stats
    taps, seen = self.with_batch_norm("batch")._forward(params, images, alphas, None, "unbiased", taps=True)
    return taps, jax.tree.map(lambda old, new: (1 - MOMENTUM) * old + MOMENTUM * new, stats, seen)

  # Costs

  def parameter_count(self, alphas: Float[Array, "1 7 11"]) -> Float[Array, ""]:
    """Trainable parameters, as `costs.params` counts them; float32, rounded above 2^24."""
    c = self.config
    stem, head = (27 + 2) * c.channels, (4 * c.channels + 1) * c.classes
    total = jnp.asarray(stem + head, jnp.int32)
    for _, kernels, scales in parameters.sizes(c, self._rows(alphas)):
      total = total + kernels + scales
    return total.astype(jnp.float32)

  def mac_count(self, alphas: Float[Array, "1 7 11"], image_size: int = 32) -> Float[Array, ""]:
    """Multiply-adds of one image, as `costs.macs` counts them; float32."""
    c, total = self.config, jnp.zeros((), jnp.float32)
    for stack, kernels, _ in parameters.sizes(c, self._rows(alphas)):
      total = total + kernels.astype(jnp.float32) * float((image_size >> stack) ** 2)
    return total + float(27 * c.channels * image_size**2 + (4 * c.channels + 1) * c.classes)

  # The pass

  def _forward(self, params, images, alphas, stats, collect="", taps=False, gates=None) -> tuple[Any, Any]:
    """(logits or taps, what was collected); to observe: ((logits, features), (agreement, log deviation))."""
    self._check(images)
    rows = lax.stop_gradient(self._rows(alphas)).astype(images.dtype)
    if self.config.batch_norm == "running" and stats is None:
      raise ConfigError("batch_norm='running' needs stats: give what moments() returned")
    own = {"params": params, "stats": stats, "gates": gates, "rows": rows}
    if self.feeding is not None:
      return self._run(images, own, self.feeding, collect, taps)
    branches = [functools.partial(self._run_of, k, collect, taps) for k in range(MOST_FEEDING + 1)]
    return choose(branches, feeding_of(rows), images, own)

  def _run_of(self, feeding, collect, taps, images, own):
    return self._run(images, own, feeding, collect, taps)

  def _run(self, images, own, feeding, collect, taps):
    params = own["params"]
    seen: dict[str, Any] = {}

    def part(name):
      return {k: v[name] if v else None for k, v in own.items() if k != "rows"}

    stem = part("stem")
    x, seen["stem"] = self._conv_bn_relu(images, stem, collect)
    found = []
    for stack, name in enumerate(STACKS):
      if stack:
        x = max_pool_2x2(x)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, x.shape[-1])))
      x, seen[name] = self._stack(x, part(name), own["rows"], feeding, collect)
      found.append(x)
    if taps:
      return tuple(found), seen
    head = params["classifier"]
    features = x.mean((1, 2))
    logits = jnp.matmul(features, head["kernel"], precision=lax.Precision.HIGHEST) + head["bias"][None]
    return ((logits, x), total(seen)) if collect == "observation" else (logits, seen)

  def _stack(self, x, own, rows, feeding, collect):
    """The modules of one stack; x is [N, H, W, C]."""
    full = x.shape[-1]
    width = -(-full // feeding) if feeding else 0
    used = {layer: {k: _cut(v[layer], layer, width) if v else None for k, v in own.items()} for layer in layer_names()}
    module = functools.partial(self._module, rows=rows, feeding=feeding, collect=collect)
    x, seen = lax.scan(module, x, used)
    if not collect:
      return x, ()
    if collect == "observation":
      return x, jax.tree.map(lambda values: values.sum(0), seen)
    modules = self.config.modules
    padded: dict[str, Any] = {layer: _zero_moments((modules, full), x.dtype) for layer in layer_names()}
    for layer, pair in seen.items():
      padded[layer] = tuple(jnp.pad(m, ((0, 0), (0, full - m.shape[-1]))) for m in pair)
    return x, padded

  def _module(self, x, own, *, rows, feeding, collect):
    """One cell, and the moments of its BN layers."""
    values, seen = {}, {}
    full = x.shape[-1]
    mask = _masks(rows, full, feeding) if feeding else {}
    if collect == "observation" and full % max(1, feeding):
      places, widths = np.arange(full // feeding + 1, dtype=np.int32), slot_channels(rows, full)
      for v, layer in itertools.product(INNER, ("projection", "vertex")):
        own = {**own, f"{layer}_{v}": {**own[f"{layer}_{v}"], "counts": places < widths[v]}}
    for v in INNER if feeding else ():
      sources = [rows[v, u] * values[u] for u in values]
      name = f"projection_{v}"
      projected, seen[name] = self._projection(
        rows[v, 0], x, own[name], full // feeding + (full % feeding > 0), collect
      )
      name = f"vertex_{v}"
      values[v], seen[name] = self._vertex(rows[v], mask[v](sum(sources, projected)), own[name], collect)
      values[v] = mask[v](values[v])
    name = f"projection_{OUT}"
    y, seen[name] = self._projection(rows[OUT, 0], x, own[name], full, collect)
    if feeding:
      y = y + _concatenated(values, rows, full, feeding)
    found: Any = total(seen) if collect == "observation" else seen
    return y, found

  def _vertex(self, row, x, own, collect):
    """The vertex's operation. Only the convolution is chosen: what BN needs for its pull-back is then kept."""
    kernels = {k: v["kernel"] for k, v in own["params"].items() if k != "bn"}
    branches = [lambda x, kernels: jnp.zeros_like(x)]
    for op in INNER_OPS:
      name = OPS[op]
      branches.append(
        (lambda x, kernels, name=name: self._convolve(x, kernels[name]))
        if name in CONV_NAMES
        else (lambda x, kernels: max_pool(x))
      )
    hot = row[OP_COLUMNS]
    operation = jnp.where(hot.max() > 0, 1 + jnp.argmax(hot), 0).astype(jnp.int32)
    z = choose(branches, operation, x, kernels)
    y, found = self._normalise(_gated(z, own), own["params"]["bn"], own, collect)
    convolved = hot[:2].max() > 0
    if collect == "observation":
      found = jax.tree.map(lambda value: jnp.where(convolved, value, jnp.zeros_like(value)), found)
    return jnp.where(convolved, y, z), found

  def _projection(self, edge, x, own, width, collect):
    """The 1x1 convolution, BN and ReLU of the module's input, or zeros without the edge."""

    def without(x, own):
      found: Any = _zero_moments((width,), x.dtype) if collect else ()
      found = nothing_seen(x) if collect == "observation" else found
      return jnp.zeros((*x.shape[:-1], width), x.dtype), found

    return choose([without, lambda x, own: self._conv_bn_relu(x, own, collect)], (edge > 0).astype(jnp.int32), x, own)

  def _conv_bn_relu(self, x, own, collect):
    z = _gated(self._convolve(x, own["params"]["conv"]["kernel"]), own)
    return self._normalise(z, own["params"]["bn"], own, collect)

  def _normalise(self, z, bn, own, collect):
    """BN and ReLU, and what is to be collected."""
    if self.config.batch_norm == "batch":
      y, (mean, variance) = batch_norm_relu(z, bn["scale"], bn["bias"])
    else:
      mean, variance = self._statistics(z, bn, own["stats"])
      y = layers.normalise(z, mean, variance) * bn["scale"][None, None, None] + bn["bias"][None, None, None]
      y = jax.nn.relu(y)
    if collect == "unbiased":
      count = z.size // z.shape[-1]
      return y, lax.stop_gradient((mean, variance * (count / max(1, count - 1))))
    if collect == "observation":
      return y, seen_of(y, variance, own.get("counts"))
    return y, (mean, variance) if collect else ()

  def _statistics(self, z, bn, stats):
    mode = self.config.batch_norm
    if mode == "identity":
      return jnp.zeros_like(bn["bias"]), jnp.ones_like(bn["scale"])
    return stats if mode == "running" else lax.stop_gradient(layers.batch_moments(z))

  def _convolve(self, x, kernel):
    return layers.conv(x, kernel) if self.rows else plain_layers.convolve(x, kernel)

  def _check(self, images):
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < 4:
      raise DatasetError(f"images of shape {images.shape}: expected (N, H, W, 3) with H and W of at least 4")

  def _rows(self, alphas) -> Rows:
    if alphas.shape != self.shape:
      raise ConfigError(f"alphas of shape {alphas.shape}: expected {self.shape}")
    return alphas[0]


def _gated(z, own):
  gate = own["gates"]
  return z if gate is None else z * gate[:, None, None]


def _unit_moments(shape):
  return jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32)


def _zero_moments(shape, dtype):
  return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def _masks(rows, full, feeding):
  """For each inner slot the function that sets channels to 0 that it lacks; the identity where none can lack."""
  if full % feeding == 0:
    return dict.fromkeys(INNER, lambda x: x)
  own = slot_channels(rows, full)
  places = np.arange(full // feeding + 1, dtype=np.int32)

  def cut(x, v):
    return jnp.where((places < own[v])[None, None, None], x, jnp.zeros((), x.dtype))

  return {v: functools.partial(cut, v=v) for v in INNER}


def _concatenated(values, rows, full, feeding):
  """The feeding vertices' channels side by side. Slot 5 is always the last of them (`encoding.alphas`)."""
  share, extra = divmod(full, feeding)
  parts = []
  for place in range(feeding - 1):
    chosen: Any = None
    for v in range(1 + place, OUT - feeding + 1 + place):  # there must be room for the others
      weight = jnp.where(rows[v, RANK_COLUMN] == place, rows[OUT, v], 0)
      chosen = weight * values[v] if chosen is None else chosen + weight * values[v]
    parts.append(chosen[..., : share + (place < extra)])
  return jnp.concatenate([*parts, values[OUT - 1][..., :share]], -1) if parts else values[OUT - 1]


def _cut(tree, layer, width):
  """The parameters, statistics or gates of a layer that a vertex of this width can use."""

  def cut(leaf):
    if layer == f"projection_{OUT}":
      return leaf
    if leaf.ndim < 5 or layer.startswith("projection"):  # kernels are [modules, k, k, Cin, Cout]
      return leaf[..., :width]
    return leaf[..., :width, :width]

  return jax.tree.map(cut, tree)
