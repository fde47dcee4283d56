"""One module of the NAS-Bench-101 network: a cell that is data, whose vertices each choose their operation."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.nets import grams, layers, plain_layers
from jaxnas.nets.choose import choose
from jaxnas.nets.passes import Pass, Seen, gated, together
from jaxnas.spaces.nb101.encoding import INNER_OPS, OP_COLUMNS, OPS, RANK_COLUMN
from jaxnas.spaces.nb101.normalisation import batch_norm_relu
from jaxnas.spaces.nb101.parameters import CONV_NAMES, INNER, OUT, Cell, slot_channels
from jaxnas.spaces.nb101.pooling import max_pool

Maps = Float[Array, "N H W C"]
Convolved = Float[Array, "N H W D"]


def run_module(x: Maps, own: PyTree, *, cell: Cell, feeding: int, run: Pass) -> tuple[Convolved, Seen]:
  """(output, what it shows) of one module; `own` is what its layers compute with, by name, `feeding` is of the cell."""
  values, seen = {}, {}
  full = x.shape[-1]
  width = full // feeding + (full % feeding > 0) if feeding else 0
  mask = _masks(cell, full, feeding) if feeding else {}
  if run.shows and full % max(1, feeding):
    places, widths = np.arange(width, dtype=np.int32), slot_channels(cell, full)
    for v, layer in itertools.product(INNER, ("projection", "vertex")):
      own = {**own, f"{layer}_{v}": {**own[f"{layer}_{v}"], "counts": places < widths[v]}}
  for v in INNER if feeding else ():
    sources = [cell[v, u] * values[u] for u in values]
    projected, seen[f"projection_{v}"] = _projection(cell[v, 0], x, own[f"projection_{v}"], width, run)
    entered = mask[v](sum(sources, projected))
    values[v], seen[f"vertex_{v}"] = _vertex(cell[v], entered, own[f"vertex_{v}"], run)
    values[v] = mask[v](values[v])
  name = f"projection_{OUT}"
  y, seen[name] = _projection(cell[OUT, 0], x, own[name], full, run)
  if feeding:
    y = y + _concatenated(values, cell, full, feeding)
  return y, together(seen)


def conv_bn_relu(x: Maps, own: PyTree, run: Pass) -> tuple[Convolved, Seen]:
  """Convolution, BN and ReLU of one layer, and what they show."""
  return _bn_relu(gated(_convolve(x, own["params"]["conv"], run), own["params"]), own, run)


def _vertex(row: Float[Array, " 11"], x: Maps, own: PyTree, run: Pass) -> tuple[Maps, Seen]:
  """The vertex's operation. Only the convolution is chosen: what BN needs for its pull-back is then kept."""
  convs = {name: own["params"][name] for name in CONV_NAMES}
  branches = [lambda x, convs: jnp.zeros_like(x)]
  for op in INNER_OPS:
    name = OPS[op]
    branches.append(
      (lambda x, convs, name=name: _convolve(x, convs[name], run))
      if name in CONV_NAMES
      else (lambda x, convs: max_pool(x))
    )
  hot = row[OP_COLUMNS]
  operation = jnp.where(hot.max() > 0, 1 + jnp.argmax(hot), 0).astype(jnp.int32)
  z = choose(branches, operation, x, convs)
  y, seen = _bn_relu(gated(z, own["params"]), own, run)
  convolved = hot[:2].max() > 0
  return jnp.where(convolved, y, z), seen.where(convolved)


def _projection(edge: Float[Array, ""], x: Maps, own: PyTree, width: int, run: Pass) -> tuple[Convolved, Seen]:
  """The 1x1 convolution, BN and ReLU of the module's input, or zeros without the edge."""

  def without(x, own):
    stats = (jnp.zeros((width,), x.dtype), jnp.zeros((width,), x.dtype)) if run.keeps_stats else None
    nothing = jnp.zeros((*x.shape[:-1], width), x.dtype)
    return nothing, run.of_nothing(x)._replace(stats=stats).padded(nothing[0].size)

  return choose([without, functools.partial(conv_bn_relu, run=run)], (edge > 0).astype(jnp.int32), x, own)


def _bn_relu(z: Maps, own: PyTree, run: Pass) -> tuple[Maps, Seen]:
  bn, counts = own["params"]["bn"], own.get("counts")
  if run.mode == "batch":
    y, moments = batch_norm_relu(z, bn["scale"], bn["bias"])
  else:
    moments = run.statistics(z, lax.stop_gradient(own["stats"]))
    y = jax.nn.relu(run.affine(z, moments, bn))
  return y, run.of_bn(z, moments, counts).plus(run.of_relu(y, counts))


def _convolve(x: Maps, conv: PyTree, run: Pass) -> Convolved:
  return grams.convolve(x, conv, fn=layers.conv if run.rows else plain_layers.convolve)


def _masks(cell: Cell, full: int, feeding: int):
  """For each inner slot the function that sets channels to 0 that it lacks; the identity where none can lack."""
  if full % feeding == 0:
    return dict.fromkeys(INNER, lambda x: x)
  own = slot_channels(cell, full)
  places = np.arange(full // feeding + 1, dtype=np.int32)

  def cut(x, v):
    return jnp.where((places < own[v])[None, None, None], x, jnp.zeros((), x.dtype))

  return {v: functools.partial(cut, v=v) for v in INNER}


def _concatenated(values: dict[int, Maps], cell: Cell, full: int, feeding: int) -> Convolved:
  """The feeding vertices' channels side by side. Slot 5 is always the last of them (`encoding.alphas`)."""
  share, extra = divmod(full, feeding)
  parts = []
  for place in range(feeding - 1):
    chosen: Any = None
    for v in range(1 + place, OUT - feeding + 1 + place):  # there must be room for the others
      weight = jnp.where(cell[v, RANK_COLUMN] == place, cell[OUT, v], 0)
      chosen = weight * values[v] if chosen is None else chosen + weight * values[v]
    parts.append(chosen[..., : share + (place < extra)])
  return jnp.concatenate([*parts, values[OUT - 1][..., :share]], -1) if parts else values[OUT - 1]
