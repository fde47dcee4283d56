"""MGM, the mean of the Gram matrix of gradients: KNAS's score.

    g_i = d s_i / d theta,   MGM = (1 / n^2) sum_ij g_i . g_j = || d (mean_i s_i) / d theta ||^2

with s_i the cross-entropy of sample i (`target="loss"`) or the sum of its outputs (`target="output"`), theta every
trainable tensor. One backward pass. Higher is better. Source: Xu et al., "KNAS: Green Neural Architecture Search",
ICML 2021, section 3. With the loss target it is NASI's approximated trace norm (`trace_norm`).

The released code computes something else, `variant="code"`. On 50 images, one at a time, it keeps the head of each of
the first 11 tensors (of at least 50 entries) of the gradient: A and B, the first and the last 25 samples, entries 0..49
a tensor, each centred over its samples, give

    S = sum_k sum (A_k * B_k) / 50^2

which pairs sample k with sample k of the other half: its expectation over pairings is 0, so it is noise whose scale
grows with the gradients. Kept for fidelity. `variant="truncated"` is the MGM of the same gradients (100 entries a
tensor, not centred, nothing paired).
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation, cross_entropy
from jaxnas.proxies.proxy import Proxy, Reading
from jaxnas.proxies.scalar import finite_reading, names_of

SAMPLES = 50
TENSORS = 11  # the code stops once its counter exceeds 10, before it counts
SMALLEST = 50  # entries below which a tensor is skipped
STORED, CENTRED = 100, 50  # entries kept of a tensor, entries that the code's score reads
_LEAF_ORDER = ("conv", "bn", "kernel", "scale", "bias")


def tensor_mgm(
  evaluation: Evaluation, target: str = "loss", batch_norm: str = "batch"
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
    gradient = evaluation.output_gradient(batch_norm)
  masks = evaluation.network.executed(evaluation.alphas)

  def squares(leaf, mask):  # the mask's axes are the stacked cells
    return jnp.square(leaf).sum(tuple(range(mask.ndim, leaf.ndim))).ravel()

  by_tensor = jax.tree.leaves(jax.tree.map(squares, gradient, masks))
  return jnp.concatenate(by_tensor), jnp.concatenate(
    [mask.ravel().astype(jnp.float32) for mask in jax.tree.leaves(masks)]
  )


def _measure_paper(evaluation, *, target, batch_norm):
  return tensor_mgm(evaluation, target, batch_norm)


def _single_image_gradient(evaluation, target):
  network = evaluation.network.with_batch_norm("batch").for_rows()  # under vmap its kernel gradients are products

  def mean(params):
    logits = jax.vmap(lambda image: network.logits(params, image[None], evaluation.alphas)[0])(evaluation.images)
    return cross_entropy(logits, evaluation.labels).mean() if target == "loss" else evaluation.mean_output(logits)

  return jax.grad(mean)(evaluation.params)


def _finish_paper(raw: tuple[np.ndarray, np.ndarray], *, reduce: str) -> Reading:
  by_tensor, executed = (np.asarray(part, np.float64) for part in raw)
  total = by_tensor.sum()
  return finite_reading(total if reduce == "sum" else total / executed.sum())


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


def head_of(tensor: Array) -> Float[Array, " S"]:
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
  gradient: PyTree, executed: PyTree, own_channels: PyTree | None = None
) -> tuple[Float[Array, "T S"], Float[Array, " T"]]:
  """Heads of the first executed tensors of at least `SMALLEST` entries, at most `TENSORS`, and 1 where there is one.

  `own_channels`: see `Evaluation.own_channels`; tensors are then those of the architecture, cut to its channels.
  """
  ordered = in_definition_order(gradient, executed)
  own = None if own_channels is None else [pair for pair, _ in in_definition_order(own_channels, executed)]
  heads, masks = [], []
  for i, (leaf, mask) in enumerate(ordered):
    if leaf.size >= SMALLEST:
      head, size = (head_of(leaf), leaf.size) if own is None else own_head_of(leaf, own[i])
      heads.append(head)
      masks.append(jnp.where(size >= SMALLEST, mask, jnp.zeros_like(mask)).astype(jnp.float32))
  there = jnp.stack(masks)
  chosen = jnp.argsort(-there, stable=True)[:TENSORS]
  return jnp.stack(heads)[chosen], there[chosen]


def _measure_heads(evaluation: Evaluation, *, samples: int) -> Float[Array, "samples T S"]:
  """Heads of the loss gradients of the first images, each in a batch of its own; zeros for tensors there are not."""
  e = evaluation
  if len(e.images) < samples:
    raise ConfigError(f"a batch of {len(e.images)} images: this variant of mgm needs {samples} or more")
  network, executed = e.network.with_batch_norm("batch").for_rows(), e.network.executed(e.alphas)
  own = e.own_channels

  def one(sample):
    image, label = sample[0][None], sample[1][None]
    gradient = jax.grad(lambda p: cross_entropy(network.logits(p, image, e.alphas), label)[0])(e.params)
    heads, there = first_tensors(gradient, executed, own)
    return heads * there.astype(heads.dtype)[:, None]

  return jax.lax.map(one, (e.images[:samples], e.labels[:samples]), batch_size=e.rows or 10)


def code_score(heads: np.ndarray) -> float:
  """S of the released code from the heads [samples, T, 50 or more] of the gradients; samples is even."""
  rows = np.asarray(heads, np.float64)[:, :, :CENTRED]
  half = len(rows) // 2
  first, second = (part - part.mean(0) for part in (rows[:half], rows[half : 2 * half]))
  return float((first * second).sum() / (2 * half) ** 2)


def _finish_code(heads: np.ndarray) -> Reading:
  return finite_reading(code_score(heads))


def _finish_truncated(heads: np.ndarray) -> Reading:
  return finite_reading(np.square(np.asarray(heads, np.float64).mean(0)).sum())


@functools.cache
def mgm(
  variant: Literal["paper", "code", "truncated"] = "paper",
  *,
  target: Literal["loss", "output"] = "loss",
  reduce: Literal["sum", "layer_mean"] = "sum",
  batch_norm: Literal["batch", "batch_frozen", "batch1"] | None = None,
  samples: int = SAMPLES,
) -> Proxy:
  """The proxy. Its name lists what differs from the default: `mgm_output`, `mgm_layer_mean_batch1`, `mgm_code`, ...

  Args:
    variant: see the module.
    target: what is differentiated; "loss" needs labels.
    reduce: the whole network ("sum"), or the mean over its tensors: another ranking.
    batch_norm: of the variant "paper", "batch" if not given; the other variants are "batch1".
    samples: of "code" and "truncated": how many images of the batch are taken, an even number.

  Raises:
    ConfigError: an unknown value, or one that the variant does not have.
  """
  modes = ("batch", "batch_frozen", "batch1") if variant == "paper" else ("batch1",)
  batch_norm = batch_norm or modes[0]
  for name, value, allowed in (
    ("variant", variant, ("paper", "code", "truncated")),
    ("target", target, ("loss", "output") if variant == "paper" else ("loss",)),
    ("reduce", reduce, ("sum", "layer_mean") if variant == "paper" else ("sum",)),
    ("batch_norm", batch_norm, modes),
  ):
    if value not in allowed:
      raise ConfigError(f"{name}={value!r} must be one of {', '.join(allowed)} (mgm, variant {variant})")
  if samples < 2 or samples % 2:
    raise ConfigError(f"samples={samples} must be an even number (mgm pairs two halves)")
  if variant == "paper":
    measure = functools.partial(_measure_paper, target=target, batch_norm=batch_norm)
    finish = functools.partial(_finish_paper, reduce=reduce)
  else:
    measure = functools.partial(_measure_heads, samples=samples)
    finish = _finish_code if variant == "code" else _finish_truncated
  parts = [
    ("" if value == default else f"_{value}")
    for value, default in ((variant, "paper"), (target, "loss"), (reduce, "sum"), (batch_norm, modes[0]))
  ]
  return Proxy(
    name="mgm" + "".join(parts),
    higher_is_better=True,
    worst=-math.inf if variant == "code" else 0.0,
    batch_norm=batch_norm,
    measure=measure,
    finish=finish,
    needs_labels=target == "loss",
  )
