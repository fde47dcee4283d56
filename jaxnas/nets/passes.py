"""One pass of a network: how batch normalisation normalises in it, and what it shows of the batch.

The maps of a network have their channels last ([N, H, W, C]) or first ([C, N, H, W]); a `Pass` knows their axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxnas.base import Collect, Mode
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.nets import grams
from jaxnas.nets.layers import BN_EPSILON
from jaxnas.nets.products import matmul

Moments = tuple[Float[Array, " C"], Float[Array, " C"]]  # mean, variance
Observed = tuple[Float[Array, "N N"], Float[Array, ""]]  # agreement, log deviation: see `base.Observation`


class Seen(NamedTuple):
  """What a part of a network shows in a pass; each is None where it is not collected.

  Attributes:
    stats: the moments of its batch normalisations, a tree.
    observed: (agreement, log deviation), their sums; agreements of shape [1, 1] are zeros.
    correlation: the sum of the smallest eigenvalues of its correlations.
    patterns: the signs of its ReLUs, [N, bits].
    log_scale: log2 of what its maps were divided by (`rescaled`).
  """

  stats: PyTree = None
  observed: Observed | None = None
  correlation: Float[Array, "*layers"] | None = None
  patterns: Bool[Array, "*layers N bits"] | None = None
  log_scale: Float[Array, "*layers"] | None = None

  def plus(self, *others: "Seen") -> "Seen":
    """These statistics, and the sums of what all of them observed, and all patterns side by side."""
    return _total([self, *others])._replace(stats=self.stats)

  def over_layers(self) -> "Seen":
    """Of what `lax.scan` stacked: statistics as they are, the sum of what the layers observed, all patterns."""
    summed = self.observed, self.correlation, self.log_scale
    observed, correlation, log_scale = jax.tree.map(lambda leaf: leaf.sum(0), summed)
    patterns = self.patterns
    if patterns is not None:
      patterns = jnp.moveaxis(patterns, 0, 1).reshape(patterns.shape[1], -1)
    return Seen(self.stats, observed, correlation, patterns, log_scale)

  def where(self, executed: Bool[Array, ""]) -> "Seen":
    """These statistics, and nothing else of an operation that is not executed."""
    shown = jax.tree.map(lambda leaf: jnp.where(executed, leaf, jnp.zeros_like(leaf)), self._replace(stats=None))
    return shown._replace(stats=self.stats)

  def padded(self, bits: int) -> "Seen":
    """The same with so many bits in its patterns: operations among which is chosen show one form."""
    if self.patterns is None:
      return self
    return self._replace(patterns=jnp.pad(self.patterns, ((0, 0), (0, bits - self.patterns.shape[1]))))


def together(parts: Mapping[str, Seen]) -> Seen:
  """What several parts show: their statistics by name, the sums of what they observed, and all patterns."""
  return _total(list(parts.values()))._replace(stats={name: part.stats for name, part in parts.items()})


def _total(parts: Sequence[Seen]) -> Seen:
  observed = [part.observed for part in parts if part.observed is not None]
  correlations = [part.correlation for part in parts if part.correlation is not None]
  patterns = [part.patterns for part in parts if part.patterns is not None]
  scales = [part.log_scale for part in parts if part.log_scale is not None]
  return Seen(
    observed=jax.tree.map(lambda *values: sum(values[1:], values[0]), *observed) if observed else None,
    correlation=sum(correlations[1:], correlations[0]) if correlations else None,
    patterns=jnp.concatenate(patterns, 1) if patterns else None,
    log_scale=sum(scales[1:], scales[0]) if scales else None,
  )


class Pass(NamedTuple):
  """How one pass normalises, and what it collects.

  Attributes:
    mode: of batch normalisation.
    collect: see `base.Output`.
    axis: of the channels in maps, 0 or -1.
    rows: whether many cotangents will be pulled back through it at once.
  """

  mode: Mode
  collect: tuple[Collect, ...] = ()
  axis: int = -1
  rows: bool = False

  @property
  def keeps_stats(self) -> bool:
    """Whether the moments of the batch are collected."""
    return "stats" in self.collect or "running_stats" in self.collect

  @property
  def observes(self) -> bool:
    """Whether agreements and deviations are collected."""
    return "observation" in self.collect

  @property
  def shows(self) -> bool:
    """Whether something is collected of all operations that are executed, also those that the output ignores."""
    return self.observes or "patterns" in self.collect or "correlation" in self.collect

  def statistics(self, z: Array, given: Moments | None) -> Moments:
    """Mean and variance that z is normalised with: those of the batch, or the `given` ones in mode `running`."""
    if self.mode == "running":
      assert given is not None  # `begin` has seen to it
      return given
    if self.mode == "identity":
      channels = z.shape[self.axis]
      return jnp.zeros((channels,), z.dtype), jnp.ones((channels,), z.dtype)
    own = moments(z, self.axis)
    return own if self.mode == "batch" else lax.stop_gradient(own)

  def normalise(self, z: Array, bn: PyTree, given: Moments | None) -> tuple[Array, Seen]:
    """BN of the maps z with its `scale` and `bias`, and what it shows."""
    seen = self.statistics(z, given)
    return self.affine(z, seen, bn), self.of_bn(z, seen)

  def affine(self, z: Array, seen: Moments, bn: PyTree) -> Array:
    """(z - mean) / sqrt(variance + eps) * scale + bias, per channel."""
    mean, variance = seen
    if "gram" in bn:
      normal = (z - self.channels(mean)) * self.channels(lax.rsqrt(variance + jnp.asarray(BN_EPSILON, variance.dtype)))
      return grams.layer(self._scaled, normal, bn, samples=0 if self.axis else 1)
    gain = bn["scale"] * lax.rsqrt(variance + jnp.asarray(BN_EPSILON, variance.dtype))
    return (z - self.channels(mean)) * self.channels(gain) + self.channels(bn["bias"])

  def _scaled(self, z: Array, bn: PyTree) -> Array:
    return z * self.channels(bn["scale"]) + self.channels(bn["bias"])

  def of_bn(self, z: Array, seen: Moments, counts: Bool[Array, " C"] | None = None) -> Seen:
    """What a BN shows that normalised z by these moments; `counts`: which channels the architecture has (None: all)."""
    stats, observed, correlation = None, None, None
    if "running_stats" in self.collect:
      count = z.size // z.shape[self.axis]
      stats = lax.stop_gradient((seen[0], seen[1] * (count / max(1, count - 1))))
    elif self.keeps_stats:
      stats = seen
    if self.observes:
      observed = jnp.zeros((1, 1), jnp.float32), _log_deviation(seen[1], counts)
    if "correlation" in self.collect:
      correlation = _least_correlation(z if self.axis else jnp.moveaxis(z, 0, -1), counts)
    return Seen(stats, observed, correlation)

  def rescaled(self, *states: Array) -> tuple[tuple[Array, ...], Seen]:
    """Maps, and what the pass shows of them: in mode `identity` divided by their largest number, a constant.

    All that the rest of a network reads must be among them: without biases it then is as much smaller, and its
    gradients too, whatever they were.
    """
    if self.mode != "identity":
      return states, Seen()
    largest = lax.stop_gradient(jnp.stack([jnp.abs(state).max() for state in states]).max())
    largest = jnp.where(largest > 0, largest, 1)
    return tuple(state / largest for state in states), Seen(log_scale=jnp.log2(largest))

  def of_relu(self, x: Array, counts: Bool[Array, " C"] | None = None) -> Seen:
    """What a ReLU shows that reads x, or returns it; `counts` as of `of_bn`."""
    seen = self._blank(x)
    if self.observes:
      seen = seen._replace(observed=(self.agreement(x, counts), jnp.zeros((), x.dtype)))
    if "patterns" in self.collect:
      maps = jnp.moveaxis(x, 0, -1) if self.axis == 0 else x
      signs = maps > 0 if counts is None else (maps > 0) & counts[None, None, None]
      seen = seen._replace(patterns=signs.reshape(len(signs), -1))
    return seen

  def of_nothing(self, x: Array) -> Seen:
    """What shows nothing of maps like x; of the shape of what does, but for the bits of its patterns (`padded`)."""
    return self._blank(x)

  def _blank(self, x: Array) -> Seen:
    samples = x.shape[0 if self.axis else 1]
    return Seen(
      observed=(jnp.zeros((samples, samples), jnp.float32), jnp.zeros((), x.dtype)) if self.observes else None,
      correlation=jnp.zeros((), x.dtype) if "correlation" in self.collect else None,
      patterns=jnp.zeros((samples, 0), bool) if "patterns" in self.collect else None,
    )

  def agreement(self, x: Array, counts: Bool[Array, " C"] | None = None) -> Float[Array, "N N"]:
    """In how many units two samples are both positive or both not."""
    x = jnp.moveaxis(x, 0, 1) if self.axis == 0 else x
    code = jnp.where(x > 0, 1.0, -1.0).astype(jnp.float32)  # a product is 1 where two agree, and -1 where not
    units: Any = float(x[0].size)
    if counts is not None:
      units = (counts.sum(dtype=jnp.int32) * (x[0].size // len(counts))).astype(jnp.float32)
      code = jnp.where(counts[None, None, None], code, 0)
    code = code.reshape(len(x), -1)
    return 0.5 * (units + code @ code.T)

  def channels(self, vector: Float[Array, " C"]) -> Array:
    """A vector of channels in the rank of maps."""
    return vector[None, None, None] if self.axis else vector[:, None, None, None]


class Chain:
  """The outputs of a chain of cells in order, and what the next cell reads of them (`base.CellNetwork`).

  Args:
    keeps: whether the outputs are asked for.
    shifts: as of `CellNetwork.cell_outputs`.

  Attributes:
    outputs: those kept so far, [cells, ...] each.
  """

  def __init__(self, keeps: bool = False, shifts: Sequence[Array] | None = None):
    self.keeps, self._shifts = keeps, shifts
    self.outputs: list[Array] = []

  @property
  def shift(self) -> Array | None:
    """The shifts, [cells, ...], of the cells whose outputs are kept next."""
    return None if self._shifts is None else self._shifts[len(self.outputs)]

  def keep(self, outputs: Array | None) -> None:
    """Takes the outputs of neighbours of one shape."""
    if self.keeps and outputs is not None:
      self.outputs.append(outputs)

  def link(self, y: Array) -> Array:
    """What the next cell reads of the output of a single one, which is kept."""
    read = linked(y, None if self.shift is None else self.shift[0])
    self.keep(y[None])
    return read


def linked(y: Array, shift: Array | None) -> Array:
  """What the next cell reads of a cell's output: a constant and the shift where there is one."""
  return y if shift is None else lax.stop_gradient(y) + shift


def begin(
  mode: Mode, collect: Sequence[Collect], stats: PyTree | None, *, able: Sequence[Collect], axis: int = -1, rows=False
) -> Pass:
  """The `Pass` of a network that can collect what is in `able`.

  Raises:
    ConfigError: an unknown mode, something else to collect, or no `stats` in mode `running`.
  """
  if mode not in get_args(Mode):
    raise ConfigError(f"mode={mode!r} must be one of {', '.join(get_args(Mode))}")
  for what in collect:
    if what not in able:
      raise ConfigError(
        f"collect={what!r}: this network has only {', '.join(able)}; leave out the proxies that read {what}"
      )
  if mode == "running" and stats is None:
    raise ConfigError("mode='running' needs stats: give those that a pass with collect=('stats',) returned")
  return Pass(mode, tuple(collect), axis, rows)


def moments(z: Array, axis: int = -1) -> Moments:
  """Mean and biased variance over samples and pixels; `axis` is that of the channels, 0 or -1."""
  others = (0, 1, 2) if axis else (1, 2, 3)
  mean = z.mean(others)
  centred = z - (mean[None, None, None] if axis else mean[:, None, None, None])
  return mean, jnp.square(centred).mean(others)


def _log_deviation(variance: Float[Array, " C"], counts: Bool[Array, " C"] | None) -> Float[Array, ""]:
  """log sqrt of the mean variance; 0 for a constant input."""
  mean = variance.mean()
  if counts is not None:
    mean = jnp.where(counts, variance, 0).sum() / counts.sum(dtype=jnp.int32).astype(variance.dtype)
  return jnp.where(mean > 0, 0.5 * jnp.log(jnp.where(mean > 0, mean, 1)), 0)


def _least_correlation(z: Float[Array, "N H W C"], counts: Bool[Array, " C"] | None) -> Float[Array, ""]:
  """The smallest eigenvalue of the channels' correlations; a constant channel has a row of zeros.

  Channels that do not count have 1 on the diagonal, which is never the smallest: the mean of the others is 1 at most.
  """
  rows = z.reshape(-1, z.shape[-1])
  rows = rows - rows.mean(0, keepdims=True)
  rows = rows / _nonzero(jnp.abs(rows).max(0, keepdims=True))
  rows = rows / _nonzero(jnp.sqrt(jnp.square(rows).sum(0, keepdims=True)))
  correlations = matmul(rows.T, rows)
  if counts is not None:
    both = counts[:, None] & counts[None]
    correlations = jnp.where(both, correlations, jnp.eye(len(counts), dtype=rows.dtype))
  return jnp.linalg.eigvalsh(correlations)[0]


def _nonzero(x: Array) -> Array:
  return jnp.where(x > 0, x, jnp.ones_like(x))


def unit_moments(seen: PyTree) -> PyTree:
  """A tree like collected moments (or their shapes): means 0 and variances 1, float32, where running ones start."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(leaf.shape, float(path[-1].idx), jnp.float32), seen
  )


def with_gates(params: PyTree, gates: PyTree | None) -> PyTree:
  """The parameters with each layer's factors beside its kernels, as `gate`."""
  if gates is None:
    return params
  if not isinstance(gates, dict):
    return {**params, "gate": gates}
  return {name: with_gates(own, gates.get(name)) for name, own in params.items()}


def gated(z: Array, layer: PyTree, axis: int = -1) -> Array:
  """A convolution's output times its factors for each sample and channel, [N, C], where the layer has a `gate`."""
  if "gate" not in layer:
    return z
  gate = layer["gate"]
  return z * (gate[:, None, None] if axis else gate.T[:, :, None, None])


def linear(features: Float[Array, "N C"], params: PyTree) -> Float[Array, "N K"]:
  """The linear layer of a classifier."""

  def affine(features, params):
    return matmul(features, params["kernel"]) + params["bias"][None]

  return grams.layer(affine, features, params)


def check_images(images: Array, channels: int = 3, least: int = 4, multiple: int = 1) -> None:
  """Checks a network's inputs.

  Args:
    least, multiple: of the sides: the smallest, and what they must be multiples of.

  Raises:
    DatasetError: not [N, H, W, channels], sides that do not fit, or not float32 (or float64).
  """
  shape = images.shape
  if len(shape) != 4 or shape[-1] != channels or min(shape[1:3]) < least or any(s % multiple for s in shape[1:3]):
    sides = f"of at least {least}" if multiple == 1 else f"multiples of {multiple}"
    raise DatasetError(f"images of shape {shape}: expected (N, H, W, {channels}) with H and W {sides}")
  if images.dtype not in (jnp.float32, jnp.float64):
    raise DatasetError(f"images of type {images.dtype}: expected float32, normalised ((x / 255 - mean) / std of bytes)")
