"""AZ-NAS's expressivity: how evenly a cell's output fills the space of its channels, summed over the cells.

    s_l = - sum_i p_i log p_i,   p = lambda / sum lambda,   lambda the eigenvalues of the covariance of the C channels
    score = sum_l s_l,   l over the outputs of the stem, of all cells and of all reductions

The covariance is over the N H W pixels of a batch of standard Gaussian images of the size of the given one; batch
normalisation in `batch` mode. Higher is better. A cell whose output is constant has no spectrum: -inf, status
`non_finite`, as in the code. Covariances are formed on the device in float32, their eigenvalues on the host in float64;
those that rounding makes negative count as 0, where the code's logarithm (of p + 1e-8) may fail.

The weights are the given ones; the code draws Kaiming's by fan in, but behind batch normalisation their scale is lost.
Source: Lee & Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, section 3.2.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxnas import registry
from jaxnas.base import CellNetwork, Evaluated, Proxy, Reading
from jaxnas.nets.products import einsum, matmul
from jaxnas.proxies.evaluation import embedded

Matrices = list[Float[Array, "_ _ _"]]  # [cells, rows, columns] for cells of one shape


class CellStatistics(NamedTuple):
  """What AZ-NAS's proxies look at.

  Attributes:
    covariances: of the channels, the stem's first.
    products: g_in' g_out / (N H W) of each cell but the stem.
    identities: whether a cell is the identity, of all but the stem.
  """

  covariances: Matrices
  products: Matrices
  identities: Bool[Array, " L"]


def cells_of(evaluation: Evaluated) -> CellStatistics:
  """One pass through all cells and one back, which the three proxies share."""

  def compute() -> CellStatistics:
    e, network, x = evaluation, cast(CellNetwork, evaluation.network), embedded(evaluation)
    inputs, signs = jax.random.split(jax.random.fold_in(e.key, 3))
    images = jax.random.normal(inputs, x.shape, x.dtype)

    def outputs(shifts):
      return network.cell_outputs(e.params, images, e.arch, shifts=shifts)

    zeros = [jnp.zeros(out.shape, out.dtype) for out in jax.eval_shape(lambda: outputs(None))]
    cells, back = jax.vjp(outputs, zeros)
    cotangents = _rademacher(signs, cells)
    (gradients,) = back(cotangents)
    g_in = [row for group in gradients for row in group][:-1]
    g_out = [row for group in cotangents for row in group][1:]
    finite = jnp.stack([jnp.isfinite(group).all() for group in cells]).all()  # a ReLU's pull-back forgets what is not
    products = [jnp.where(finite, _product(i, o), jnp.nan) for i, o in zip(g_in, g_out, strict=True)]
    same = [jnp.all(i == o) if i.shape == o.shape else jnp.zeros((), bool) for i, o in zip(g_in, g_out, strict=True)]
    return CellStatistics([_covariances(group) for group in cells], _side_by_side(products), jnp.stack(same))

  return evaluation.once("cells", compute)


def entropies(covariances: list[np.ndarray]) -> Float[np.ndarray, " cells"]:
  """s_l of every cell in order; NaN for an output that is constant or not finite."""
  found = []
  for matrix in (matrix for group in covariances for matrix in np.asarray(group, np.float64)):
    eigenvalues = np.maximum(np.linalg.eigvalsh(matrix), 0) if np.isfinite(matrix).all() else np.zeros(1)
    p = eigenvalues[eigenvalues > 0] / eigenvalues.sum() if eigenvalues.any() else np.array([math.nan])
    found.append(-(p * np.log(p)).sum())
  return np.array(found)


def _covariances(cells: Float[Array, "cells N H W C"]) -> Float[Array, "cells C C"]:
  rows = cells.reshape(len(cells), -1, cells.shape[-1])
  rows = rows - rows.mean(1, keepdims=True)
  return einsum("lnc,lnd->lcd", rows, rows) / rows.shape[1]


def _product(g_in: Float[Array, "N H W C"], g_out: Float[Array, "N H2 W2 D"]) -> Float[Array, "CK D"]:
  """g_in' g_out / (N H2 W2); pixels that a reduction makes one of are channels of g_in."""
  n, height, width, channels = g_out.shape
  rows, columns = g_in.shape[1] // height, g_in.shape[2] // width
  blocks = g_in.reshape(n, height, rows, width, columns, -1).transpose(0, 1, 3, 2, 4, 5)
  flat = blocks.reshape(n * height * width, -1)
  product = matmul(flat.T, g_out.reshape(-1, channels))
  return product / (n * height * width)


def _side_by_side(matrices: list[Array]) -> Matrices:
  """Matrices of one shape together."""
  groups: dict[tuple[int, ...], list[Array]] = {}
  for matrix in matrices:
    groups.setdefault(matrix.shape, []).append(matrix)
  return [jnp.stack(group) for group in groups.values()]


def _rademacher(key: Array, like: tuple[Array, ...]) -> tuple[Array, ...]:
  """Signs in the shapes of these arrays: a random number has 32 of them."""
  total = sum(leaf.size for leaf in like)
  bits = jax.random.bits(key, (-(-total // 32),), jnp.uint32)
  ones = (bits[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None]) & 1
  flat, found = ones.reshape(-1), []
  for leaf in like:
    found.append((2 * flat[: leaf.size].astype(leaf.dtype) - 1).reshape(leaf.shape))
    flat = flat[leaf.size :]
  return tuple(found)


@registry.register("proxy", "az_expressivity")
@dataclasses.dataclass(frozen=True)
class AZExpressivity(Proxy):
  """The proxy; of the batch only the shape is used, of the evaluation the key."""

  name: str = "az_expressivity"
  needs: ClassVar[type] = CellNetwork

  def measure(self, evaluation: Evaluated) -> Matrices:
    return cells_of(evaluation).covariances

  def finish(self, measured: list[np.ndarray]) -> Reading:
    total = entropies(measured).sum()
    return super().finish(-math.inf if math.isnan(total) else total)
