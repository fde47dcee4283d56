"""Parameters and multiply-adds of NAS-Bench-101 networks, counted from their layer shapes.

The network: stem (3x3 conv, BN, ReLU); three stacks of `modules` cells at C, 2C, 4C channels, a 2x2 max-pool before the
second and the third; global average pool, linear layer. Pooling, BN, ReLU and additions are free of multiply-adds.

Source: Ying et al., "NAS-Bench-101", ICML 2019, section 2 and the released code.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxnas.base import Costs, NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.nb101 import encoding
from jaxnas.spaces.nb101.channels import vertex_channels

STACKS = 3
_IMAGE_CHANNELS = 3
_KERNELS = {encoding.CONV3: 3, encoding.CONV1: 1}


def count(code: Any, config: NetworkConfig | None = None, image_size: int | None = None) -> Costs:
  """Parameters and multiply-adds of the network that a config describes.

  Args:
    code: one architecture, [28] or text.
    config: with its channels and cells; None: the benchmark's network, C=128 and 3 cells a stage.
    image_size: side of the square image; None: 32.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a stem or an auxiliary head, or an image size that does not fit, see `macs`.
  """
  config = (config or NetworkConfig()).plain("nb101").filled(NetworkConfig(128, 3))
  channels, cells = config.size
  sizes = {"channels": channels, "modules": cells, "classes": config.classes}
  return Costs(params(code, **sizes), macs(code, 32 if image_size is None else image_size, **sizes))


def params(code: Any, channels: int = 128, modules: int = 3, classes: int = 10) -> int:
  """Number of trainable parameters.

  Args:
    code: one architecture, [28] or text.
    channels: C, the stem's filters (128 in the benchmark).
    modules: cells per stack (3 in the benchmark).
    classes: outputs of the linear layer; 0 for a network without one.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a size that is not a positive integer.
  """
  convs = _convolutions(code, _size("channels", channels), _size("modules", modules))
  backbone = sum(k * k * c_in * c_out + 2 * c_out for k, c_in, c_out, _ in convs)
  return backbone + (_size("classes", classes, 0) * (channels * 2 ** (STACKS - 1) + 1))


def macs(code: Any, image_size: int = 32, channels: int = 128, modules: int = 3, classes: int = 10) -> int:
  """Multiply-adds of one image's forward pass: convolutions, linear layer and its bias.

  Args:
    code: one architecture, [28] or text.
    image_size: side of the square image; an odd side loses a row and a column in the max-pool that halves it.
    channels, modules, classes: as of `params`.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a size that is not a positive integer, or an image smaller than 4.
  """
  if _size("image_size", image_size) < 2 ** (STACKS - 1):
    raise ConfigError(f"image_size is {image_size}; use at least {2 ** (STACKS - 1)} (two max-pools)")
  convs = _convolutions(code, _size("channels", channels), _size("modules", modules))
  backbone = sum(k * k * c_in * c_out * (image_size >> stack) ** 2 for k, c_in, c_out, stack in convs)
  return backbone + (_size("classes", classes, 0) * (channels * 2 ** (STACKS - 1) + 1))


def _convolutions(code: Any, channels: int, modules: int) -> Iterator[tuple[int, int, int, int]]:
  """(kernel size, channels in, channels out, stack) of every convolution."""
  matrix, ops = encoding.prune(code)
  width = channels
  yield 3, _IMAGE_CHANNELS, width, 0
  for stack in range(STACKS):
    for _ in range(modules):
      out = channels * 2**stack
      own = vertex_channels(matrix, width, out)
      for v in range(1, len(ops)):
        if ops[v] in _KERNELS:
          yield _KERNELS[ops[v]], own[v], own[v], stack
        if matrix[0, v]:
          yield 1, width, own[v], stack
      width = out


def _size(name: str, value: Any, least: int = 1) -> int:
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
    raise ConfigError(f"{name} is {value!r}; use an integer >= {least}")
  return int(value)
