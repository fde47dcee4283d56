"""Data parallelism: every device has all parameters and a share of each mini-batch.

`jit` does the rest: it computes what one device would, sums over the whole batch (loss, gradients, batch statistics)
included, so a step does not know of it.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.train.recipe import TrainConfig


def mesh_for(config: TrainConfig) -> Mesh | None:
  """All devices in a row; None without --data_parallel.

  Raises:
    ConfigError: the mini-batch cannot be shared evenly.
  """
  if not config.data_parallel:
    return None
  devices = jax.devices()
  if config.train_batch % len(devices):
    raise ConfigError(
      f"--train_batch={config.train_batch} must be a multiple of {len(devices)}, the number of devices that "
      "--data_parallel shares it among"
    )
  return Mesh(np.array(devices), ("batch",))


def shardings(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
  """(the same on every device, first axis shared)."""
  return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))


def replicated(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """`tree` on every device of the mesh; as it is without one."""
  return tree if mesh is None else jax.device_put(tree, shardings(mesh)[0])


def compiled(fn: Any, mesh: Mesh | None, arguments: str, **options: Any) -> Any:
  """`jax.jit(fn)`; `arguments` has an "s" for each argument whose first axis is shared, else an "a"."""
  if mesh is None:
    return jax.jit(fn, **options)
  everywhere, shared = shardings(mesh)
  places = tuple(shared if kind == "s" else everywhere for kind in arguments)
  return jax.jit(fn, in_shardings=places, out_shardings=everywhere, **options)
