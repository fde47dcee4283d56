"""MGM, the mean of the Gram matrix of gradients: KNAS's score.

    g_i = d s_i / d theta,   MGM = (1 / n^2) sum_ij g_i . g_j = || d (mean_i s_i) / d theta ||^2

with s_i the cross-entropy of sample i (`MGM`) or the sum of its outputs (`MGMOutput`), theta every
trainable tensor. One backward pass. Higher is better. Source: Xu et al., "KNAS: Green Neural Architecture Search",
ICML 2021, section 3. With the loss target it is NASI's approximated trace norm (`trace_norm`).

The released code computes something else, `MGMCode`. On 50 images, one at a time, it keeps the head of each of
the first 11 tensors (of at least 50 entries) of the gradient: A and B, the first and the last 25 samples, entries 0..49
a tensor, each centred over its samples, give

    S = sum_k sum (A_k * B_k) / 50^2

which pairs sample k with sample k of the other half: its expectation over pairings is 0, so it is noise whose scale
grows with the gradients. Kept for fidelity. `MGMTruncated` is the MGM of the same gradients (100 entries a
tensor, not centred, nothing paired).
"""

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PyTree

from jaxnas import registry
from jaxnas.base import Evaluated, Mode, Proxy, Reading
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import embedded, losses, names_of

SAMPLES = 50
TENSORS = 11  # the code stops once its counter exceeds 10, before it counts
SMALLEST = 50  # entries below which a tensor is skipped
STORED, CENTRED = 100, 50  # entries kept of a tensor, entries that the code's score reads
_LEAF_ORDER = ("conv", "bn", "kernel", "scale", "bias")


def tensor_mgm(
  evaluation: Evaluated, target: str = "loss", batch_norm: Literal["batch", "batch_frozen", "batch1"] = "batch"
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
  """The MGM of every tensor (cells apart), whose sum is the network's, and 1 where the architecture has the tensor.

  Args:
    evaluation: the network on one batch.
    target: "loss" or "output".
    batch_norm: "batch", "batch_frozen", or "batch1": every image is normalised by its own statistics.
  """
  if batch_norm == "batch1":
    gradient = _single_image_gradient(evaluation, target)
  elif target == "loss":
    gradient = evaluation.loss_gradient(batch_norm)
  else:
    gradient = output_gradient(evaluation, batch_norm)
  masks = evaluation.network.executed(evaluation.arch)

  def squares(leaf, mask):  # the mask's axes are the stacked cells
    return jnp.square(leaf).sum(tuple(range(mask.ndim, leaf.ndim))).ravel()

  by_tensor = jax.tree.leaves(jax.tree.map(squares, gradient, masks))
  return jnp.concatenate(by_tensor), jnp.concatenate(
    [mask.ravel().astype(jnp.float32) for mask in jax.tree.leaves(masks)]
  )


def output_gradient(evaluation: Evaluated, mode: Mode = "batch") -> PyTree:
  """d mean over samples of the sum over classes of the logits / d params."""
  return jax.grad(lambda p: _mean_output(evaluation, evaluation.logits(p, mode)))(evaluation.params)


def _mean_output(evaluation: Evaluated, logits: Float[Array, "N K"]) -> Float[Array, ""]:
  """Mean over samples of the sum over classes, with weights that XLA takes for data.

  Of sums over pixels times a constant matrix, which the gradient would else contain, jaxlib 0.10.2 compiles programs
  for CPUs that read other memory (BUILD_NOTES.md, decision 39).
  """
  x = embedded(evaluation)
  first = x.reshape(len(x), -1)[:, 0]
  weights = jnp.where(jnp.isnan(first), first, 1 / len(first))
  return (logits * weights.astype(logits.dtype)[:, None]).sum()


def _single_image_gradient(evaluation: Evaluated, target: str) -> PyTree:
  network = evaluation.network

  def mean(params):
    def one(image):  # under vmap its kernel gradients are products
      return network.apply(params, image[None], evaluation.arch, "batch", rows=True).logits[0]

    logits = jax.vmap(one)(network.embed(params, evaluation.inputs))
    return losses(logits, evaluation.labels).mean() if target == "loss" else _mean_output(evaluation, logits)

  return jax.grad(mean)(evaluation.params)


def in_definition_order(params: PyTree, executed: PyTree) -> list[tuple[Array, Array]]:
  """Every tensor and whether it is executed, in the order in which the PyTorch network defines them.

  Stem, stages and reduction blocks by depth, last BN, classifier; stacked cells one after the other; in a cell edges by
  target and source, or vertices before projections; kernel, BN scale, BN bias; `conv_a`, `conv_b`, `downsample`.
  """
  leaves = [(names_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
  starts: dict[str, int] = {}  # a part of a stage's stack is named after its first cell
  for top, *rest in (names for names, _ in leaves):
    for number in _cells(rest):
      starts[top] = min(number, starts.get(top, number))
  entries = []
  for ((top, *rest), leaf), mask in zip(leaves, jax.tree.leaves(executed), strict=True):
    inner = [(_place(name), name) for name in rest]
    if mask.ndim:
      first = sum(number - starts[top] for number in _cells(rest))
      entries += [((_depth(top), top, first + i, inner), leaf[i], mask[i]) for i in range(len(mask))]
    else:
      entries.append(((_depth(top), top, 0, inner), leaf, mask))
  return [(leaf, mask) for _, leaf, mask in sorted(entries, key=lambda entry: entry[0])]


def _cells(names: list[str]) -> list[int]:
  return [int(name.removeprefix("cell_")) for name in names if name.startswith("cell_")]


def _place(name: str) -> int:
  return _LEAF_ORDER.index(name) if name in _LEAF_ORDER else name.startswith("projection") - 1


def _depth(top: str) -> int:
  kind, _, number = top.rpartition("_")
  if kind in ("stage", "stack", "reduce") and number.isdigit():
    return 2 * int(number) + (kind != "reduce")  # stage_0, reduce_1, stage_1, ...
  return {"stem": 0, "last": 1000, "classifier": 1001}.get(top, 999)


def head_of(tensor: Array) -> Num[Array, " S"]:
  """The first entries in PyTorch's layout (OIHW, or out x in), with zeros behind a shorter tensor."""
  if tensor.ndim > 1:
    tensor = jnp.moveaxis(tensor, (-1, -2), (0, 1))
  flat = tensor.ravel()[:STORED]
  return jnp.pad(flat, (0, STORED - flat.size))


def own_head_of(tensor: Array, channels: Int[Array, "2"]) -> tuple[Float[Array, " S"], Int[Array, ""]]:
  """`head_of` and the size of the tensor that has only the first (channels in, channels out) of this one."""
  channels_in, channels_out = channels
  if tensor.ndim == 1:
    used = np.arange(tensor.size) < channels_out
    return head_of(jnp.where(used, tensor, jnp.zeros((), tensor.dtype))), channels_out
  taps = math.prod(tensor.shape[:-2])
  size = taps * channels_in * channels_out
  entry = np.arange(STORED)
  whole = tensor.reshape(taps, *tensor.shape[-2:])
  head = whole[entry % taps, entry // taps % channels_in, entry // (taps * channels_in)]
  return jnp.where(entry < size, head, jnp.zeros((), head.dtype)), size


def first_tensors(
  gradient: PyTree, executed: PyTree, used_channels: PyTree | None = None
) -> tuple[Float[Array, "T S"], Float[Array, " T"]]:
  """Heads of the first executed tensors of at least `SMALLEST` entries, at most `TENSORS`, and 1 where there is one.

  `used_channels`: see `Single.used_channels`; tensors are then those of the architecture, cut to its channels.
  """
  ordered = in_definition_order(gradient, executed)
  own = None if used_channels is None else [pair for pair, _ in in_definition_order(used_channels, executed)]
  heads, masks = [], []
  for i, (leaf, mask) in enumerate(ordered):
    if leaf.size >= SMALLEST:
      head, size = (head_of(leaf), leaf.size) if own is None else own_head_of(leaf, own[i])
      heads.append(head)
      masks.append(jnp.where(size >= SMALLEST, mask, jnp.zeros_like(mask)).astype(jnp.float32))
  there = jnp.stack(masks)
  chosen = jnp.argsort(-there, stable=True)[:TENSORS]
  return jnp.stack(heads)[chosen], there[chosen]


def first_gradients(evaluation: Evaluated, samples: int) -> Float[Array, "samples T S"]:
  """Heads of the loss gradients of the first images, each in a batch of its own; zeros for tensors there are not."""
  e = evaluation
  executed, used = e.network.executed(e.arch), e.network.used_channels(e.arch)

  def one(sample):
    image, label = sample[0][None], sample[1][None]

    def loss(params):
      x = e.network.embed(params, image)
      return losses(e.network.apply(params, x, e.arch, "batch", rows=True).logits, label)[0]

    heads, there = first_tensors(jax.grad(loss)(e.params), executed, used)
    return heads * there.astype(heads.dtype)[:, None]

  return jax.lax.map(one, (e.inputs[:samples], e.labels[:samples]), batch_size=e.rows or 10)


def code_score(heads: np.ndarray) -> float:
  """S of the released code from the heads [samples, T, 50 or more] of the gradients; samples is even."""
  rows = np.asarray(heads, np.float64)[:, :, :CENTRED]
  half = len(rows) // 2
  first, second = (part - part.mean(0) for part in (rows[:half], rows[half : 2 * half]))
  return float((first * second).sum() / (2 * half) ** 2)


@dataclasses.dataclass(frozen=True)
class MGM(Proxy):
  """The MGM of the loss. The default name lists what differs from the default: `mgm_layer_mean_batch1`.

  Attributes:
    reduce: the whole network ("sum"), or the mean over its tensors: another ranking.
    batch_norm: see `tensor_mgm`.

  Raises:
    ConfigError: an unknown value.
  """

  name: str = ""
  worst: ClassVar[float] = 0.0
  needs_labels: ClassVar[bool] = True
  target: ClassVar[Literal["loss", "output"]] = "loss"
  reduce: Literal["sum", "layer_mean"] = "sum"
  batch_norm: Literal["batch", "batch_frozen", "batch1"] = "batch"

  def __post_init__(self):
    for field, value, allowed in (
      ("reduce", self.reduce, ("sum", "layer_mean")),
      ("batch_norm", self.batch_norm, ("batch", "batch_frozen", "batch1")),
    ):
      if value not in allowed:
        raise ConfigError(f"{field}={value!r} must be one of {', '.join(allowed)} (mgm)")
    if not self.name:
      parts = ((self.target, "loss"), (self.reduce, "sum"), (self.batch_norm, "batch"))
      name = "mgm" + "".join("" if value == default else f"_{value}" for value, default in parts)
      object.__setattr__(self, "name", name)

  def measure(self, evaluation: Evaluated) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    return tensor_mgm(evaluation, self.target, self.batch_norm)

  def finish(self, measured: tuple[np.ndarray, np.ndarray]) -> Reading:
    by_tensor, executed = (np.asarray(part, np.float64) for part in measured)
    total = by_tensor.sum()
    return super().finish(total if self.reduce == "sum" else total / executed.sum())


@dataclasses.dataclass(frozen=True)
class MGMOutput(MGM):
  """The MGM of the outputs."""

  needs_labels: ClassVar[bool] = False
  target: ClassVar[Literal["loss", "output"]] = "output"


@dataclasses.dataclass(frozen=True)
class MGMCode(Proxy):
  """What the released code computes, of images one at a time.

  Attributes:
    samples: how many images of the batch are taken, an even number.

  Raises:
    ConfigError: an odd number, or none.
  """

  name: str = "mgm_code"
  needs_labels: ClassVar[bool] = True
  samples: int = SAMPLES

  def __post_init__(self):
    if self.samples < 2 or self.samples % 2:
      raise ConfigError(f"samples={self.samples} must be an even number (mgm pairs two halves)")

  @property
  def least_inputs(self) -> int:
    return self.samples

  def measure(self, evaluation: Evaluated) -> Float[Array, "samples T S"]:
    return first_gradients(evaluation, self.samples)

  def finish(self, measured: np.ndarray) -> Reading:
    return super().finish(code_score(measured))


@dataclasses.dataclass(frozen=True)
class MGMTruncated(MGMCode):
  """The MGM of the gradients that the released code looks at."""

  name: str = "mgm_truncated"
  worst: ClassVar[float] = 0.0

  def finish(self, measured: np.ndarray) -> Reading:
    return Proxy.finish(self, np.square(np.asarray(measured, np.float64).mean(0)).sum())


registry.register("proxy", "mgm", MGM)
registry.register("proxy", "mgm_output", MGMOutput)
registry.register("proxy", "mgm_layer_mean", functools.partial(MGM, reduce="layer_mean"))
registry.register("proxy", "mgm_batch1", functools.partial(MGM, batch_norm="batch1"))
registry.register("proxy", "mgm_code", MGMCode)
registry.register("proxy", "mgm_truncated", MGMTruncated)
