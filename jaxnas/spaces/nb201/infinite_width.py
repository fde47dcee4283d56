"""The neural tangent kernel of a NAS-Bench-201 network whose channels go to infinity, in closed form.

The network is that of `module` without batch normalisation and with one cell a stage, in the NTK parameterisation: the
weights of every layer are normal with standard deviation sqrt(2 / fan in) (He), which a factor outside the trained
parameters provides; there are no biases. What every layer does to the covariances between all pixels of all images is
neural-tangents' `stax` (Novak et al., ICLR 2020), but for the sums: `stax.FanInSum` takes its branches as independent,
and in a cell they are not where a node reaches another by two ways without a convolution (skip_connect and
avg_pool_3x3). So a node is written as a linear map of independent sources, which are the cell's input and the output
of each convolution: with x = sum_s L_s s, the covariances of x are sum_s L_s K_s L_s', those of its gradients too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxnas.errors import ConfigError
from jaxnas.nets import layers
from jaxnas.ntk import neural_tangents_bridge
from jaxnas.spaces.nb201 import encoding
from jaxnas.spaces.nb201.operations import POOL, SKIP
from jaxnas.spaces.nb201.parameters import CONVS

PIXELS = 16 * 8 * 8  # of all images together, at most: a covariance has an entry for each pair of them
_STAGES = 3
_COVARIANCES = ("nngp", "ntk", "cov1", "cov2")  # of the outputs, of their gradients, and of each image with itself

Images = Float[Array, "_ H W 3"] | Float[np.ndarray, "_ H W 3"]
Map = Float[Array, "S S"]  # of a channel's S pixels


class _Layers(NamedTuple):
  """`stax`'s layers, each a function of its kernel objects."""

  relu: Callable[..., Any]
  conv: dict[int, Callable[..., Any]]  # by the side of its window
  every_second: Callable[..., Any]
  halve: Callable[..., Any]
  head: Callable[..., Any]


def infinite_width(code: Int[np.ndarray, "6"] | Int[Array, "6"]) -> Callable[..., Float[Array, "N1 N2"]]:
  """The kernel function of an architecture.

  Args:
    code: as of `encoding`; or a JAX array of op columns, which may be traced and is not checked.

  Returns:
    `kernel_fn(x1, x2=None)` of normalised images [N1, H, W, 3] and [N2, H, W, 3], H and W multiples of 4: the kernel
    [N1, N2] of every output, in the images' type, zero where no path leads through the cell. x2 of None stands for x1.
    It can be traced, and raises ConfigError where images do not fit or have more pixels than `PIXELS`.

  Raises:
    ArchitectureError: no architecture.
    ImportError: neural-tangents is missing; says how to install it.
  """
  choices = jnp.asarray(code if isinstance(code, jax.Array) else encoding.as_code(code))
  own = _layers(neural_tangents_bridge.load())

  def kernel_fn(x1: Images, x2: Images | None = None) -> Float[Array, "N1 N2"]:
    for images in (x1, x2):
      if images is not None:
        _check(images.shape)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # whatever the user has set
      return _kernel(own, choices, x1, x2)

  return kernel_fn


def _check(shape: tuple[int, ...]) -> None:
  if len(shape) != 4 or shape[1] % 4 or shape[2] % 4 or not math.prod(shape[:3]):
    raise ConfigError(f"images of shape {shape}: expected [N, H, W, 3] with H and W multiples of 4")
  if math.prod(shape[:3]) > PIXELS:
    raise ConfigError(
      f"images of shape {shape}: covariances between all pixels of all images take too much memory; give {PIXELS} "
      "pixels in all or fewer, such as 16 images of 8 x 8"
    )


def _layers(package: Any) -> _Layers:
  stax, he = package.stax, math.sqrt(2)

  def conv(size: int) -> Callable[..., Any]:
    return stax.Conv(1, (size, size), padding="SAME", W_std=he)[2]

  _, _, head = stax.serial(stax.Relu(), stax.GlobalAvgPool(), stax.Dense(1, W_std=he))
  return _Layers(
    relu=stax.Relu()[2],
    conv={size: conv(size) for size in CONVS.values()},
    every_second=stax.AvgPool((1, 1), (2, 2))[2],
    halve=stax.AvgPool((2, 2), (2, 2))[2],
    head=head,
  )


def _kernel(own: _Layers, choices: Array, x1: Images, x2: Images | None) -> Array:
  k = _ordered(own.conv[3](x1, x2, diagonal_batch=True, diagonal_spatial=False))
  for stage in range(_STAGES):
    k = _cell(own, choices, _reduced(own, k) if stage else k)
  return own.head(k).ntk


def _reduced(own: _Layers, k: Any) -> Any:
  """The residual block of stride 2; at that stride a convolution padded symmetrically is every second of stride 1."""
  y = own.every_second(own.conv[3](own.relu(k)))
  return _sum([_ordered(own.conv[3](own.relu(y))), _ordered(own.conv[1](own.halve(k)))])


def _cell(own: _Layers, choices: Int[Array, "6"], k: Any) -> Any:
  """The kernel of the cell's output."""
  side = k.shape1[1:3]
  same = jnp.eye(math.prod(side), dtype=k.nngp.dtype)
  pool = layers.avg_pool(same.reshape(-1, *side, 1)).reshape(same.shape).T  # of each pixel's image
  maps = jnp.zeros((encoding.NUM_OPS, *same.shape), same.dtype).at[SKIP].set(same).at[POOL].set(pool)[choices]
  chosen = jax.nn.one_hot(choices, encoding.NUM_OPS, dtype=same.dtype)

  sources, nodes = [k], [k]
  paths: list[list[Map]] = [[same]]  # [node][source], of the sources that came before it
  through: list[dict[int, Any]] = []  # [node]: each convolution of it
  for target in range(1, encoding.NUM_NODES):
    positive = own.relu(nodes[-1])
    through.append({op: _ordered(own.conv[size](positive)) for op, size in CONVS.items()})
    into = [(e, source) for e, (t, source) in enumerate(encoding.EDGES) if t == target]
    linear = [
      _total([maps[e] @ paths[source][s] for e, source in into if s < len(paths[source])]) for s in range(len(sources))
    ]
    convolved = [_sum([_scaled(y, chosen[e, op]) for op, y in through[source].items()]) for e, source in into]
    nodes.append(_sum([*(_mapped(y, path) for y, path in zip(sources, linear, strict=True)), *convolved]))
    sources += convolved
    paths.append([*linear, *([same] * len(convolved))])
  return nodes[-1]


def _ordered(k: Any) -> Any:
  """With the axes of the pixels as [..., H, H', W, W']; a convolution turns them."""
  return k.reverse() if k.is_reversed else k


def _mapped(k: Any, path: Map) -> Any:
  """Of L x, from the kernel of x."""

  def both_sides(covariance: Array) -> Array:
    *lead, height, _, width, _ = covariance.shape
    a = jnp.swapaxes(covariance, -3, -2).reshape(*lead, height * width, height * width)
    a = jnp.einsum("pq,...qr,sr->...ps", path, a, path, precision=jax.lax.Precision.HIGHEST)
    return jnp.swapaxes(a.reshape(*lead, height, width, height, width), -3, -2)

  return _each(lambda parts: both_sides(parts[0]), [k])


def _scaled(k: Any, factor: Array) -> Any:
  return _each(lambda parts: factor * parts[0], [k])


def _sum(kernels: Sequence[Any]) -> Any:
  """Of a sum of independent terms."""
  return _each(_total, kernels)


def _total(parts: Sequence[Array]) -> Array:
  return sum(parts[1:], parts[0])


def _each(fn: Callable[[Sequence[Array]], Array], kernels: Sequence[Any]) -> Any:
  """The first kernel with covariances that `fn` makes of those of all."""
  names = [name for name in _COVARIANCES if getattr(kernels[0], name) is not None]  # cov2 is None where x2 is x1
  return kernels[0].replace(**{name: fn([getattr(k, name) for k in kernels]) for name in names})
