"""Parameters of the NAS-Bench-201 networks: their tree and their first values.

The cells of a stage are stacked:

    stem                       {conv: {kernel}, bn: {scale, bias}}
    stage_0, stage_1, stage_2  {edge1_0, ...: {nor_conv_1x1, nor_conv_3x3: {conv: {kernel [cells, k, k, C, C]}, bn}}}
    reduce_1, reduce_2         {conv_a, conv_b: {conv, bn}, downsample: {conv}}
    last                       {bn}
    classifier                 {kernel [4C, K], bias [K]}
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxnas.base import Init
from jaxnas.nets.initialise import Named, draw_named, torch_uniform
from jaxnas.spaces.nb201.encoding import EDGES, OPS

STAGES = ("stage_0", "stage_1", "stage_2")
CONVS = {OPS.index("nor_conv_1x1"): 1, OPS.index("nor_conv_3x3"): 3}  # op column -> kernel size
_SIZES = {OPS[op]: size for op, size in CONVS.items()}
_REDUCTION = ("conv_a", "conv_b", "downsample")


def edge_name(edge: tuple[int, int]) -> str:
  """As in trees of parameters."""
  return f"edge{edge[0]}_{edge[1]}"


def draw(channels: int, cells: int, classes: int, init: Init, key: Array, *, region: bool = False) -> PyTree:
  """Fresh float32 parameters, each value by its name; `region`: of the first cell without a stem."""
  wanted: dict[tuple[str, ...], Named] = {}
  for path, shape in _kernels(channels, region):
    if path[0] not in STAGES:
      number = (f"cells_{int(path[0][-1]) * (cells + 1) - 1}", *path[1:]) if path[0].startswith("reduce") else path
      wanted[path] = Named(shape, ((*number, 1),))
    else:
      first = STAGES.index(path[0]) * (cells + 1)
      names = tuple((f"cells_{first + i}", *path[1:], 1) for i in range(cells))
      wanted[path] = Named(shape, names, stacked=True)
  width = channels if region else 4 * channels
  head = (width, classes)
  wanted["classifier",] = Named(head, (("classifier", 1),))
  if init == "torch_default":
    wanted["classifier", "bias"] = Named((classes,), (("classifier", 2),), fans=head)
  drawn = dict(zip(wanted, draw_named(list(wanted.values()), init, key), strict=True))
  bias = drawn.pop(("classifier", "bias"), None)
  classifier = {
    "kernel": drawn.pop(("classifier",)),
    "bias": jnp.zeros((classes,), jnp.float32) if bias is None else bias,
  }
  tree: dict[str, Any] = {"last": {"bn": new_batch_norm((width,))}, "classifier": classifier}
  for path, kernel in drawn.items():
    layer = {"kernel": kernel}
    _put(tree, path, layer)
    if path[-2] != "downsample":
      lead = kernel.shape[:1] if path[0] in STAGES else ()
      _put(tree, (*path[:-1], "bn"), new_batch_norm((*lead, kernel.shape[-1])))
  return tree


def draw_backbone(channels: int, cells: int, key: Array) -> PyTree:
  """Fresh parameters as GenNAS draws them: uniform within 1 / sqrt(fan in), cells without scales and biases."""
  kernels = list(_kernels(channels))
  keys = jax.random.split(key, len(kernels))
  tree: dict[str, Any] = {}
  for own, (path, shape) in zip(keys, kernels, strict=True):
    lead = (cells,) if path[0] in STAGES else ()
    fan_in = shape[0] * shape[1] * shape[2]
    _put(tree, path, {"kernel": torch_uniform(own, (*lead, *shape), fan_in)})
    if not lead and path[-2] != "downsample":
      _put(tree, (*path[:-1], "bn"), new_batch_norm(shape[-1:]))
  return tree


def new_batch_norm(shape: tuple[int, ...]) -> PyTree:
  """Scales 1 and biases 0."""
  return {"scale": jnp.ones(shape, jnp.float32), "bias": jnp.zeros(shape, jnp.float32)}


def _kernels(channels: int, region: bool = False) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
  """(path, HWIO shape of one) of every convolution, in the order in which GenNAS draws them."""
  if not region:
    yield ("stem", "conv"), (3, 3, 3, channels)
  for stage, name in enumerate(STAGES[: 1 if region else 3]):
    width = channels * 2**stage
    if stage:
      for part, size, c_in in zip(_REDUCTION, (3, 3, 1), (width // 2, width, width // 2), strict=True):
        yield (f"reduce_{stage}", part, "conv"), (size, size, c_in, width)
    for edge in EDGES:
      for op, size in _SIZES.items():
        yield (name, edge_name(edge), op, "conv"), (size, size, width, width)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
  for part in path[:-1]:
    tree = tree.setdefault(part, {})
  tree[path[-1]] = value
