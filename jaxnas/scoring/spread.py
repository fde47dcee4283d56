"""How the architectures of a call are shared among devices, of one host or of several.

Every device has all weights and images and loops over its own part of the architectures; nothing is exchanged before
the end, when every host gets all values. So numbers do not depend on how many devices there are. Several processes
(one a host) must make the same calls in the same order; `jax.distributed` has to be initialised before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

_EACH, _SAME = PartitionSpec("device"), PartitionSpec()


class Spread:
  """Devices in a row; with one device every method is what it would be without this class.

  Args:
    devices: of JAX; default all, also those of other processes.

  Attributes:
    size: how many.
    alone: whether all are this process's.
  """

  def __init__(self, devices: Sequence[Any] | None = None):
    chosen = jax.devices() if devices is None else list(devices)
    self.size = len(chosen)
    self._mesh = Mesh(np.array(chosen), ("device",)) if self.size > 1 else None
    self.alone = all(d.process_index == jax.process_index() for d in chosen)

  def same(self, tree: PyTree) -> PyTree:
    """Arrays (typed keys too) that every device has whole."""
    return jax.tree.map(lambda x: self._put(x, _SAME), tree)

  def shared(self, tree: PyTree) -> PyTree:
    """Arrays whose first axis, a multiple of `size`, is cut into equal parts."""
    return jax.tree.map(lambda x: self._put(x, _EACH), tree)

  def program(self, run: Callable[..., PyTree], arguments: str) -> Any:
    """`run` compiled for each device's part; what it returns is put together along the first axis, for all hosts.

    `arguments` has an "s" for each argument that is `shared`, an "a" for one that all have.
    """
    if self._mesh is None:
      return jax.jit(run)
    specs = tuple(_EACH if kind == "s" else _SAME for kind in arguments)
    parts = jax.shard_map(run, mesh=self._mesh, in_specs=specs, out_specs=_EACH, check_vma=False)
    return jax.jit(parts, out_shardings=NamedSharding(self._mesh, _SAME))

  def slowest(self, seconds: float) -> float:
    """The largest of all processes' figures, so that all of them go on alike."""
    if self.alone:
      return seconds
    return float(multihost_utils.process_allgather(np.float32(seconds)).max())

  def _put(self, x: Any, spec: PartitionSpec) -> jax.Array:
    x = jnp.asarray(x)
    if self._mesh is None:
      return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(self._put(jax.random.key_data(x), spec), impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(x.shape, NamedSharding(self._mesh, spec), lambda index: whole[index])
