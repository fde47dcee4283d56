"""The auxiliary head: a small classifier on the second reduction cell's output, which only training uses.

ReLU, 5x5 average pool, 1x1 convolution to 128, BN, ReLU, 2x2 convolution to 768, BN, ReLU, linear layer. The pool has
stride 3 on CIFAR and 2 on ImageNet and must leave 2x2; the head of ImageNet has no second BN. Source: Liu et al.,
"DARTS", ICLR 2019, section 3.1, and the released code, model.py.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import DatasetError
from jaxnas.nets.parameters import bn_shapes
from jaxnas.nets.passes import linear
from jaxnas.spaces.darts import blocks, operations
from jaxnas.spaces.darts.operations import Maps

MIDDLE, LAST, WINDOW = 128, 768, 5


def shapes(channels: int, classes: int, norm: bool) -> PyTree:
  """Of its parameters; `norm`: whether it has the second BN."""
  last = {"conv": {"kernel": (2, 2, MIDDLE, LAST)}, **({"bn": bn_shapes(LAST)} if norm else {})}
  return {
    "a": blocks.relu_conv_bn_shapes(channels, MIDDLE),
    "b": last,
    "classifier": {"kernel": (LAST, classes), "bias": (classes,)},
  }


def logits(x: Maps, params: PyTree, norm: blocks.Norm, stride: int) -> Float[Array, "N K"]:
  """Outputs of the head; BN is called with the places a and b.

  Raises:
    DatasetError: maps that the pool does not bring to 2x2.
  """
  height, width = x.shape[2:]
  if any((n - WINDOW) // stride + 1 != 2 for n in (height, width)):
    sides = f"{WINDOW + stride}..{WINDOW + 2 * stride - 1}"
    raise DatasetError(f"the auxiliary head gets maps of {height}x{width}; it needs sides {sides}: leave it out")
  x = jax.nn.relu(x)
  rows = [x[:, :, i * stride : i * stride + WINDOW] for i in range(2)]
  pooled = jnp.stack(
    [jnp.stack([r[..., j * stride : j * stride + WINDOW].mean((2, 3)) for j in range(2)]) for r in rows]
  )
  pooled = jnp.moveaxis(pooled, (0, 1), (2, 3))  # [C, N, 2, 2]
  z = norm("a", operations.pointwise(pooled, params["a"]["conv"]["kernel"]), params["a"]["bn"])
  window = ((0, 1, 2), (2, 3, 0))
  z = lax.dot_general(
    params["b"]["conv"]["kernel"], jax.nn.relu(z), (window, ((), ())), precision=lax.Precision.HIGHEST
  )
  z = z[..., None, None]  # [768, N, 1, 1]
  if "bn" in params["b"]:
    z = norm("b", z, params["b"]["bn"])
  return linear(jax.nn.relu(z)[..., 0, 0].T, params["classifier"])
