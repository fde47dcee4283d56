"""The networks of `benchmark_ntk.py` in plain JAX: `f(params, x)` of a dict of arrays, which PyTorch gets too.

Names tell PyTorch's side (`pytorch_ntk.py`) what an array is: of four axes a convolution's kernel HWIO, of two a dense
layer's, of one a bias or a scale.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CLASSES = 10
HEADS = 4


class Model(NamedTuple):
  """Sizes of a network: `width` of its layers, `side` of its images or length of its sequences, `samples` N."""

  f: Callable
  shapes: Callable[[int], dict[str, tuple[int, ...]]]
  width: int
  side: int
  samples: int

  def toy(self) -> "Model":
    return self._replace(width=8, side=min(self.side, 16), samples=4)

  def parameters(self) -> dict[str, np.ndarray]:
    """float32; scales are 1 and biases 0 but for a little noise, kernels have variance 2 / inputs."""
    rng, drawn = np.random.default_rng(0), {}
    for name, shape in self.shapes(self.width).items():
      noise = rng.normal(size=shape)
      fan = np.prod(shape[:-1])
      drawn[name] = noise * np.sqrt(2 / fan) if len(shape) > 1 else float(name.endswith("scale")) + 0.1 * noise
    return {name: array.astype(np.float32) for name, array in drawn.items()}

  def inputs(self) -> np.ndarray:
    """[N, 64], [N, side, width] or [N, side, side, 3], float32."""
    shape = {mlp: (64,), transformer: (self.side, self.width)}.get(self.f, (self.side, self.side, 3))
    return np.random.default_rng(1).normal(size=(self.samples, *shape)).astype(np.float32)


def mlp(p, x):
  for i in range(3):
    x = jax.nn.relu(x @ p[f"{i}/kernel"] + p[f"{i}/bias"][None])
  return x @ p["last/kernel"] + p["last/bias"][None]


def mlp_shapes(width):
  sizes = [64, width, width, width]
  shapes = {f"{i}/kernel": (sizes[i], sizes[i + 1]) for i in range(3)} | {f"{i}/bias": (width,) for i in range(3)}
  return shapes | last(width)


def last(width):
  return {"last/kernel": (width, CLASSES), "last/bias": (CLASSES,)}


def conv(x, kernel, stride=1):
  pads = [(side // 2, side // 2) for side in kernel.shape[:2]]
  return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def cnn(p, x):
  for i in range(4):
    x = jax.nn.relu(conv(x, p[f"{i}/kernel"]) + p[f"{i}/bias"][None, None, None])
  return x.mean((1, 2)) @ p["last/kernel"] + p["last/bias"][None]


def cnn_shapes(width):
  shapes = {f"{i}/kernel": (3, 3, width if i else 3, width) for i in range(4)}
  return shapes | {f"{i}/bias": (width,) for i in range(4)} | last(width)


def normalised(h, axes):
  return (h - h.mean(axes, keepdims=True)) * lax.rsqrt(h.var(axes, keepdims=True) + 1e-5)


def layer_norm(p, name, x):
  return normalised(x, -1) * p[f"{name}/scale"][None, None] + p[f"{name}/bias"][None, None]


def transformer(p, x):
  n, t, d = x.shape
  h = layer_norm(p, "norm0", x)
  q, k, v = ((h @ p[f"{name}/kernel"]).reshape(n, t, HEADS, d // HEADS) for name in "qkv")
  weights = jax.nn.softmax(jnp.einsum("nthe,nuhe->nhtu", q, k) / np.sqrt(d // HEADS))
  x = x + jnp.einsum("nhtu,nuhe->nthe", weights, v).reshape(n, t, d) @ p["o/kernel"]
  h = jax.nn.relu(layer_norm(p, "norm1", x) @ p["up/kernel"] + p["up/bias"][None, None])
  x = x + h @ p["down/kernel"] + p["down/bias"][None, None]
  return x.mean(1) @ p["last/kernel"] + p["last/bias"][None]


def transformer_shapes(width):
  shapes = {f"{name}/kernel": (width, width) for name in "qkvo"}
  shapes |= {f"norm{i}/{name}": (width,) for i in range(2) for name in ("scale", "bias")}
  shapes |= {"up/kernel": (width, 4 * width), "up/bias": (4 * width,)}
  return shapes | {"down/kernel": (4 * width, width), "down/bias": (width,)} | last(width)


def group_norm(p, name, x):
  """Groups of two channels at least, 32 at most."""
  n, height, width, channels = x.shape
  h = x.reshape(n, height, width, min(32, channels // 2), -1)
  h = normalised(h, (1, 2, 4)).reshape(x.shape)
  return h * p[f"{name}/scale"][None, None, None] + p[f"{name}/bias"][None, None, None]


def resnet18(p, x):
  """He et al., CVPR 2016, with GroupNorm and the stem for CIFAR: a 3x3 convolution, no pooling."""
  x = jax.nn.relu(group_norm(p, "stem", conv(x, p["stem/kernel"])))
  for block in range(8):
    stride = 2 if block in (2, 4, 6) else 1
    h = jax.nn.relu(group_norm(p, f"{block}a", conv(x, p[f"{block}a/kernel"], stride)))
    h = group_norm(p, f"{block}b", conv(h, p[f"{block}b/kernel"]))
    x = group_norm(p, f"{block}c", conv(x, p[f"{block}c/kernel"], stride)) if stride > 1 else x
    x = jax.nn.relu(x + h)
  return x.mean((1, 2)) @ p["last/kernel"] + p["last/bias"][None]


def resnet18_shapes(width):
  kernels = {"stem": (3, 3, 3, width)}
  for block in range(8):
    outputs = width * 2 ** (block // 2)
    inputs = outputs // 2 if block in (2, 4, 6) else outputs
    kernels |= {f"{block}a": (3, 3, inputs, outputs), f"{block}b": (3, 3, outputs, outputs)}
    if inputs != outputs:
      kernels[f"{block}c"] = (1, 1, inputs, outputs)
  shapes = {f"{name}/kernel": shape for name, shape in kernels.items()}
  shapes |= {f"{name}/{part}": shape[-1:] for name, shape in kernels.items() for part in ("scale", "bias")}
  return shapes | last(8 * width)


MODELS = {
  "mlp": Model(mlp, mlp_shapes, 512, 1, 100),
  "cnn": Model(cnn, cnn_shapes, 32, 16, 64),
  "transformer": Model(transformer, transformer_shapes, 64, 16, 32),
  "resnet18": Model(resnet18, resnet18_shapes, 64, 32, 32),
}
