"""Synthetic signals, the regression targets of GenNAS: five bases, each from explicit draws or from a key.

    target of a stage = sum over its bases of level * maps,   float32 [B, 8, 8, C]

in the order sin1d, sin2d, resize, dot, dot_gaussian; nothing is normalised afterwards. `sin1d` and `sin2d` are waves,
`dot` is +1 or -1 in some cells and 0 elsewhere, `dot_gaussian` is the same, blurred, and `resize` is the images
themselves at 8 x 8. Waves and dots are drawn for every image (local) or once for the batch (global). Letters: G draws
(B if local, otherwise 1), F frequencies, C channels, H x W the grid.

Source: Li et al., "Generic Neural Architecture Search via Regression", NeurIPS 2021, section 3, and its code.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

from jaxnas.base import host_generator
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.tasks import GRID, LENGTH, ORDER, Dots, SequenceTask, Signals, SignalTask, Sines

PHASES = 32  # maps of one frequency and direction; a block of the bank holds two directions
_COLOURS = 1000  # numbers that `resize` permutes to choose colour planes
_RADIUS = 4  # of the blur, whose standard deviation is one cell
_compiled = functools.partial(jax.jit, static_argnames="grid")


@_compiled
def sin1d(
  betas: Float[Array, " F"],
  phases: Float[Array, "G F 32"],
  indices: Int[Array, "G C"],
  grid: tuple[int, int] = GRID,
) -> Float32[Array, "G H W C"]:
  """Waves along one axis: f_k(2 pi beta t + phase), t = 1, 2, ...; f_k is sin for even k, cos for odd k.

  Args:
    betas: frequencies, in periods per cell.
    phases: in radians.
    indices: which maps, in the bank of 64 F: for each frequency 32 (k) that vary along rows, then 32 along columns.
    grid: H, W.
  """
  block, k, along_columns = _places(indices)
  y, x = _positions(grid)
  t = jnp.where(along_columns, x, y)
  beta = jnp.asarray(betas, jnp.float32)[block]
  return _wave(k, 2 * math.pi * beta * t + _chosen(phases, block, k))


@_compiled
def sin2d(
  betas: Float[Array, " F"],
  phases: Float[Array, "G F*F 32"],
  indices: Int[Array, "G C"],
  grid: tuple[int, int] = GRID,
) -> Float32[Array, "G H W C"]:
  """Plane waves f_k(2 pi (beta_1 y + beta_2 x) + 2 phase); the phase enters twice, as in the code.

  Args:
    betas: frequencies, in periods per cell.
    phases: in radians, one row for each ordered pair of frequencies, beta_1 in the outer loop.
    indices: which maps, in the bank of 64 F F: for each pair 32 (k), then the same 32 upside down.
    grid: H, W; if they differ, the maps are the top left corner of a square's.
  """
  block, k, flipped = _places(indices)
  y, x = _positions(grid)
  y = jnp.where(flipped, max(grid) + 1 - y, y)
  betas = jnp.asarray(betas, jnp.float32)
  first, second = betas[block // len(betas)], betas[block % len(betas)]
  return _wave(k, 2 * math.pi * (first * y + second * x) + 2 * _chosen(phases, block, k))


@_compiled
def dot(
  cells: Int[Array, "G C n"], signs: Float[Array, "G C n"], grid: tuple[int, int] = GRID
) -> Float32[Array, "G H W C"]:
  """Single cells: `signs` (+1, -1; 0 leaves the cell out) at the different `cells`, row * W + column; 0 elsewhere."""
  samples, channels, _ = cells.shape
  flat = jnp.zeros((samples, channels, math.prod(grid)), jnp.float32)
  g, c = jnp.arange(samples)[:, None, None], jnp.arange(channels)[None, :, None]
  flat = flat.at[g, c, cells].set(jnp.asarray(signs, jnp.float32))
  return flat.reshape(samples, channels, *grid).transpose(0, 2, 3, 1)


@jax.jit
def dot_gaussian(dots: Float32[Array, "G H W C"]) -> Float32[Array, "G H W C"]:
  """The maps of `dot`, blurred, each divided by its largest absolute value.

  Gaussian of standard deviation 1 and nine taps, border mirrored with the edge cell. A map without dots gives NaN.
  """
  rows, columns = (jnp.asarray(_blur(n), jnp.float32) for n in dots.shape[1:3])
  blurred = jnp.einsum("yi,gijc,xj->gyxc", rows, dots, columns, precision=lax.Precision.HIGHEST)
  return blurred / jnp.abs(blurred).max((1, 2), keepdims=True)


@_compiled
def resize(
  images: Float[Array | np.ndarray, "B h w colours"], indices: Int[Array, " C"], grid: tuple[int, int] = GRID
) -> Float32[Array, "B H W C"]:
  """Colour plane `indices` mod colours of the images, nearest neighbour, mapped to [-1, 1].

  The smallest and the largest value are those of the whole small batch, all colours.
  """
  images = jnp.asarray(images, jnp.float32)
  rows, columns = (np.arange(n) * size // n for n, size in zip(grid, images.shape[1:3], strict=True))
  small = images[:, rows][:, :, columns]
  low, high = small.min(), small.max()
  return (2 * ((small - low) / (high - low) - 0.5))[..., indices % images.shape[3]]


# Draws are made on the host, so nothing has to be compiled for them; the key must be concrete (not under jit).


def draw_waves(
  key: Array, samples: int, blocks: int, channels: int
) -> tuple[Float32[np.ndarray, "G blocks 32"], Int32[np.ndarray, "G C"]]:
  """Phases, U[0, 2 pi), and `channels` different maps of the bank in random order, for each of G samples.

  `blocks` is F for `sin1d` and F * F for `sin2d`; the bank has 64 maps a block.
  """
  generator = host_generator(key)
  phases = 2 * math.pi * generator.random((samples, blocks, PHASES))
  return phases.astype(np.float32), _permutations(generator, samples, 2 * PHASES * blocks)[:, :channels]


def draw_dots(
  key: Array, samples: int, channels: int, count: int, cells: int = math.prod(GRID)
) -> tuple[Int32[np.ndarray, "G C n"], Float32[np.ndarray, "G C n"]]:
  """Random cells and signs for each sample and channel: n = `cells` of them, all different, signs 0 after `count`."""
  generator = host_generator(key)
  order = _permutations(generator, samples * channels, cells).reshape(samples, channels, cells)
  signs = generator.choice(np.array([-1, 1], np.float32), order.shape)
  signs[:, :, count:] = 0
  return order, signs


def draw_colours(key: Array, channels: int) -> Int32[np.ndarray, " C"]:
  """`channels` different numbers below 1000 in random order, for `resize`."""
  return _permutations(host_generator(key), 1, _COLOURS)[0, :channels]


def targets(
  task: SignalTask, images: Float[Array | np.ndarray, "B h w colours"], key: Array
) -> tuple[Float32[Array, "B 8 8 _"], ...]:
  """The three stages' targets, [B, 8, 8, C_l] with C_l = task.channels[l]; the same for every architecture.

  Each basis of each stage has a key of its own: leaving one out does not change the others.

  Args:
    images: normalised and augmented, without noise; only `resize` looks at them.

  Raises:
    ConfigError: the task is out of range, see `tasks.validate`; the images are not [B, h, w, colours].
  """
  tasks.validate(task)
  if images.ndim != 4:
    raise ConfigError(f"images: got shape {images.shape}; pass [B, h, w, colours]")
  keys = jax.random.split(key, len(task.stages))
  stages = zip(task.stages, task.channels, keys, strict=True)
  return tuple(stage_target(signals, channels, images, k) for signals, channels, k in stages)


def stage_target(
  signals: Signals, channels: int, images: Float[Array | np.ndarray, "B h w colours"], key: Array
) -> Float32[Array, "B 8 8 C"]:
  """One stage's target: the sum of its bases, each times its level; zeros if it has none."""
  return _stage(signals, (len(images), *GRID, channels), key, images)


def sequences(task: SequenceTask, samples: int, key: Array) -> tuple[Float32[Array, "B T D"], Float32[Array, "B T D"]]:
  """Inputs and targets of a task of sequences: one map of the signals of stage 0, and one of stage 1, a sample.

  Raises:
    ConfigError: the task is out of range, see `tasks.validate`.
  """
  tasks.validate(task)
  keys = jax.random.split(key, len(task.stages))
  shape = (samples, LENGTH, task.dimension, 1)
  inputs, wanted = (_stage(signals, shape, k)[..., 0] for signals, k in zip(task.stages, keys, strict=True))
  return inputs, wanted


def _stage(
  signals: Signals,
  shape: tuple[int, int, int, int],
  key: Array,
  images: Float[Array | np.ndarray, "B h w colours"] | None = None,
) -> Float32[Array, "B H W C"]:
  """The sum of the bases on a grid of any size; images are only there for `resize`."""
  size, grid, channels = shape[0], shape[1:3], shape[3]
  keys = dict(zip(ORDER, jax.random.split(key, len(ORDER)), strict=True))
  total = jnp.zeros(shape, jnp.float32)
  for basis in ORDER:
    signal = getattr(signals, basis)
    if signal is None:
      continue
    if basis == "resize":
      assert images is not None
      maps = resize(images, draw_colours(keys[basis], channels))
    else:
      samples = size if signal.local else 1
      make = _waves if basis.startswith("sin") else _dots
      maps = make(keys[basis], basis, signal, samples, channels, grid)
    total = total + signal.level * jnp.broadcast_to(maps, total.shape)
  return total


def _waves(
  key: Array, basis: str, signal: Sines, samples: int, channels: int, grid: tuple[int, int]
) -> Float32[Array, "G H W C"]:
  frequencies = np.array(signal.range, np.float32)
  if basis == "sin1d":
    return sin1d(frequencies, *draw_waves(key, samples, len(frequencies), channels), grid)
  return sin2d(frequencies, *draw_waves(key, samples, len(frequencies) ** 2, channels), grid)


def _dots(
  key: Array, basis: str, signal: Dots, samples: int, channels: int, grid: tuple[int, int]
) -> Float32[Array, "G H W C"]:
  cells = math.prod(grid)
  maps = dot(*draw_dots(key, samples, channels, tasks.dot_count(signal.partial, cells), cells), grid)
  return dot_gaussian(maps) if basis == "dot_gaussian" else maps


def _places(indices: Int[Array, "G C"]):
  """(block of the bank, k, whether in the second half of the block), each [G, 1, 1, C]."""
  indices = jnp.asarray(indices)[:, None, None, :]
  within = indices % (2 * PHASES)
  return indices // (2 * PHASES), within % PHASES, within >= PHASES


def _positions(grid: tuple[int, int]):
  """Rows [1, H, 1, 1] and columns [1, 1, W, 1], counted from 1."""
  y, x = (jnp.arange(1, n + 1, dtype=jnp.float32) for n in grid)
  return y[None, :, None, None], x[None, None, :, None]


def _chosen(phases, block, k):
  """Each sample's own phases at (block, k), [G, 1, 1, C]."""
  return jnp.asarray(phases, jnp.float32)[jnp.arange(len(phases))[:, None, None, None], block, k]


def _wave(k, angle):
  return jnp.where(k % 2 == 0, jnp.sin(angle), jnp.cos(angle))


def _blur(n: int) -> np.ndarray:
  """The blur of n cells as a matrix, float64 [n, n]: its rows hold the taps, folded in at the borders."""
  taps = np.exp(-0.5 * np.arange(-_RADIUS, _RADIUS + 1) ** 2)
  padded = np.pad(np.eye(n), ((_RADIUS, _RADIUS), (0, 0)), mode="symmetric")
  return np.stack([taps / taps.sum() @ padded[i : i + len(taps)] for i in range(n)])


def _permutations(generator: np.random.Generator, rows: int, n: int) -> Int32[np.ndarray, "rows n"]:
  """Independent uniform permutations of 0 ... n - 1."""
  return generator.permuted(np.tile(np.arange(n, dtype=np.int32), (rows, 1)), axis=1)
