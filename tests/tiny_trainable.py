"""A network of a few layers that keeps the trainer's contract, and images that it can learn.

Stem conv-BN-ReLU, global pooling, then one residual dense branch an edge with op 1; classifier and auxiliary head.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.base import Output
from jaxnas.data import ImageSource

CLASSES, WIDTH = 3, 4
CODE = np.array([1, 0, 1, 1, 0, 2])  # the operation of each edge of both cell types; 2: none


def encode(codes):
  return np.eye(3, dtype=np.float32)[codes][..., :2].reshape(len(codes), 2, 3, 2)


ALPHAS = encode(CODE[None])[0]


@dataclasses.dataclass(frozen=True)
class TinyTrainable:
  auxiliary: bool = False
  classes: int = CLASSES
  rows_on_cpu: ClassVar[int] = 1

  encode = staticmethod(encode)

  def start(self, params, arch):
    return params

  def embed(self, params, inputs):
    return inputs

  def init(self, key):
    keys = jax.random.split(key, 4)

    def dense(key, *shape):
      return 0.5 * jax.random.normal(key, shape, jnp.float32)

    params = {
      "stem": dense(keys[0], 3, 3, 3, WIDTH),
      "bn": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
      "branch": dense(keys[1], 2, 3, WIDTH, WIDTH),
      "classifier": dense(keys[2], WIDTH, CLASSES),
    }
    return params | ({"auxiliary": dense(keys[3], WIDTH, CLASSES)} if self.auxiliary else {})

  def init_stats(self):
    return {"stem": (jnp.zeros(WIDTH), jnp.ones(WIDTH))}

  def executed(self, arch):
    tree = jax.tree.map(lambda leaf: jnp.ones(()), jax.eval_shape(self.init, jax.random.key(0)))
    return tree | {"branch": arch[..., 1]}

  def apply(self, params, inputs, arch, mode="batch", *, stats=None, gates=None, collect=(), rows=False):
    assert mode == "running"
    return Output(self._forward(params, inputs, arch, stats["stem"], None)[0])

  def train(self, params, images, alphas, drop_path, key):
    z = self._convolve(params, images)
    mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    keep = None
    if key is not None:
      kept = 1 - drop_path
      keep = (jax.random.uniform(key, (6, len(images), 1)) < kept).astype(images.dtype) / kept.astype(images.dtype)
    logits, side = self._forward(params, images, alphas, (mean, variance), keep)
    size = z.size // WIDTH
    moments = {"stem": (mean, variance * (size / (size - 1)))}
    return Output(logits, stats=jax.lax.stop_gradient(moments), auxiliary=side)

  def _convolve(self, params, images):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, params["stem"], (1, 1), "SAME", dimension_numbers=dims)

  def _forward(self, params, images, alphas, moments, keep):
    mean, variance = (m[None, None, None] for m in moments)
    z = (self._convolve(params, images) - mean) / jnp.sqrt(variance + 1e-5)
    x = jax.nn.relu(z * params["bn"]["scale"][None, None, None] + params["bn"]["bias"][None, None, None])
    x = side = x.mean((1, 2))
    for i, (cell, edge) in enumerate(np.ndindex(2, 3)):
      y = jax.nn.tanh(x @ params["branch"][cell, edge]) * alphas[cell, edge, 1].astype(x.dtype)
      x = x + (y if keep is None else y * keep[i])
    return x @ params["classifier"], side @ params["auxiliary"] if self.auxiliary else None


def toy(size, seed, name="toy"):
  """Images of 8x8 whose colour tells the label, under noise."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, size)
  images = rng.integers(0, 120, (size, 8, 8, 3))
  images[np.arange(size), :, :, labels] += 100

  def read(indices):
    return images[indices].astype(np.uint8), labels[indices]

  return ImageSource(name, CLASSES, (8, 8, 3), size, np.full(3, 0.4), np.full(3, 0.2), read)
