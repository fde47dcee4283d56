"""A network of a few layers with the interface that the trainer relies on, and images that it can learn.

Stem conv-BN-ReLU, global pooling, then one residual dense branch an edge with op 1; classifier and auxiliary head.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.data import ImageSource

CLASSES, WIDTH = 3, 4
ALPHAS = np.zeros((2, 3, 2), np.float32)  # edge 2 of the second cell type is used by no architecture below
ALPHAS[[0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [1, 0, 1, 1, 0]] = 1


@dataclasses.dataclass(frozen=True)
class Config:
  classes: int = CLASSES
  batch_norm: str = "batch"
  auxiliary: bool = False
  genotype: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class TinyTrainable:
  config: Config = Config()

  def with_batch_norm(self, mode):
    return TinyTrainable(dataclasses.replace(self.config, batch_norm=mode))

  def init_params(self, key):
    keys = jax.random.split(key, 4)

    def dense(key, *shape):
      return 0.5 * jax.random.normal(key, shape, jnp.float32)

    params = {
      "stem": dense(keys[0], 3, 3, 3, WIDTH),
      "bn": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
      "branch": dense(keys[1], 2, 3, WIDTH, WIDTH),
      "classifier": dense(keys[2], WIDTH, CLASSES),
    }
    return params | ({"auxiliary": dense(keys[3], WIDTH, CLASSES)} if self.config.auxiliary else {})

  def executed(self, alphas):
    tree = jax.tree.map(lambda leaf: jnp.ones(()), jax.eval_shape(self.init_params, jax.random.key(0)))
    return tree | {"branch": alphas[..., 1]}

  def logits(self, params, images, alphas, *, stats=None):
    return self._forward(params, images, alphas, stats["stem"], None)[0]

  def logits_and_moments(self, params, images, alphas, *, unbiased=False, drop_path=None, key=None):
    z = self._convolve(params, images)
    mean, variance = z.mean((0, 1, 2)), z.var((0, 1, 2))
    keep = None
    if drop_path is not None:
      kept = 1 - drop_path
      keep = (jax.random.uniform(key, (6, len(images), 1)) < kept).astype(images.dtype) / kept.astype(images.dtype)
    logits, side = self._forward(params, images, alphas, (mean, variance), keep)
    size = z.size // WIDTH
    moments = {"stem": (mean, variance * (size / (size - 1)) if unbiased else variance)}
    return ((logits, side) if self.config.auxiliary else logits), jax.lax.stop_gradient(moments)

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
    return x @ params["classifier"], side @ params["auxiliary"] if self.config.auxiliary else None


def toy(size, seed, name="toy"):
  """Images of 8x8 whose colour tells the label, under noise."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, size)
  images = rng.integers(0, 120, (size, 8, 8, 3))
  images[np.arange(size), :, :, labels] += 100

  def read(indices):
    return images[indices].astype(np.uint8), labels[indices]

  return ImageSource(name, CLASSES, (8, 8, 3), size, np.full(3, 0.4), np.full(3, 0.2), read)
