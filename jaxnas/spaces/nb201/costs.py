"""Parameters and multiply-adds of NAS-Bench-201 networks, counted from their layer shapes.

The network: stem (3x3 conv, BN); three stages of `cells` cells at C, 2C, 4C channels, a reduction
block before the second and the third; BN, global average pool, linear layer. Pooling, BN, ReLU and
additions are free, as in the benchmark. Every op of the cell counts, also one that no path uses:
that is how the benchmark reports its costs.

Source: Dong & Yang, "NAS-Bench-201", ICLR 2020, section 2.1 and the released code.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxnas.base import Costs, NetworkConfig
from jaxnas.errors import ConfigError
from jaxnas.spaces.nb201 import encoding

_IMAGE_CHANNELS = 3
_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


class _Cost(NamedTuple):
  params: int
  macs: int


def count(code: Any, config: NetworkConfig | None = None, image_size: int | None = None) -> Costs:
  """Parameters and multiply-adds of the network that a config describes.

  Args:
    code: one architecture, [6] or text.
    config: with its channels and cells; None: the benchmark's network, C=16 and 5 cells a stage.
    image_size: side of the square image; None: 32.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a stem or an auxiliary head, or an image size that does not fit, see `macs`.
  """
  config = (config or NetworkConfig()).plain("nb201").filled(NetworkConfig(16, 5))
  channels, cells = config.size
  sizes = {"channels": channels, "cells": cells, "classes": config.classes}
  return Costs(params(code, **sizes), macs(code, 32 if image_size is None else image_size, **sizes))


def params(code: Any, channels: int = 16, cells: int = 5, classes: int = 10) -> int:
  """Number of trainable parameters.

  Args:
    code: one architecture, [6] or text.
    channels: C, the stem's filters (16 in the benchmark).
    cells: N, cells per stage (5 in the benchmark).
    classes: outputs of the linear layer.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a size that is not an integer >= 1.
  """
  return sum(c.params for c in _layers(code, channels, cells, classes, image_size=32))


def macs(code: Any, image_size: int = 32, channels: int = 16, cells: int = 5, classes: int = 10) -> int:
  """Multiply-adds of one image's forward pass: convolutions, linear layer and its bias.

  The benchmark calls this number (in millions) FLOPs.

  Args:
    code: one architecture, [6] or text.
    image_size: side of the square image, a multiple of 4: the shortcuts of the two reduction
      blocks pool 2x2 without padding.
    channels: C, the stem's filters.
    cells: N, cells per stage.
    classes: outputs of the linear layer.

  Raises:
    ArchitectureError: not one architecture.
    ConfigError: a size that is not an integer >= 1, or an image size not divisible by 4.
  """
  return sum(c.macs for c in _layers(code, channels, cells, classes, image_size))


def _layers(code: Any, channels: int, cells: int, classes: int, image_size: int) -> list[_Cost]:
  channels, cells = _size("channels", channels), _size("cells", cells)
  classes, image_size = _size("classes", classes), _size("image_size", image_size)
  if image_size % 4:
    raise ConfigError(f"image_size is {image_size}; use a multiple of 4 (two reduction blocks)")

  ops = [encoding.OPS[op] for op in encoding.as_code(code).tolist()]
  kernels = [_KERNELS[op] for op in ops if op in _KERNELS]
  width, side = channels, image_size
  layers = [_conv(3, _IMAGE_CHANNELS, width, side)]
  for stage in range(3):
    if stage > 0:
      side //= 2
      layers += _reduction(width, 2 * width, side)
      width *= 2
    layers += cells * [_conv(kernel, width, width, side) for kernel in kernels]
  return [*layers, _norm(width), _linear(width, classes)]


def _size(name: str, value: Any) -> int:
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
    raise ConfigError(f"{name} is {value!r}; use an integer >= 1")
  return int(value)


def _reduction(c_in: int, c_out: int, side: int) -> list[_Cost]:
  """Two 3x3 convs, the first with stride 2, and a pooled 1x1 shortcut without BN."""
  return [
    _conv(3, c_in, c_out, side),
    _conv(3, c_out, c_out, side),
    _conv(1, c_in, c_out, side, norm=False),
  ]


def _conv(kernel: int, c_in: int, c_out: int, side: int, norm: bool = True) -> _Cost:
  """A convolution without bias whose output is side x side, with its BN."""
  weights = kernel * kernel * c_in * c_out
  return _Cost(weights + (_norm(c_out).params if norm else 0), weights * side * side)


def _norm(width: int) -> _Cost:
  return _Cost(2 * width, 0)


def _linear(c_in: int, c_out: int) -> _Cost:
  size = c_in * c_out + c_out
  return _Cost(size, size)
