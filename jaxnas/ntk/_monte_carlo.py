"""Kernels averaged over random initialisations."""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk import _empirical
from jaxnas.ntk._arguments import checked_integer, output_axes
from jaxnas.ntk._requests import named, requested


def monte_carlo_kernel_fn(
  init_fn: Callable[..., tuple[Any, PyTree]],
  apply_fn: Callable[..., PyTree],
  key: Any,
  n_samples: SupportsIndex | Iterable[SupportsIndex],
  batch_size: SupportsIndex = 0,
  device_count: SupportsIndex = -1,
  store_on_device: bool = True,
  trace_axes: SupportsIndex | Sequence[SupportsIndex] = (-1,),
  diagonal_axes: SupportsIndex | Sequence[SupportsIndex] = (),
  vmap_axes: Any = None,
  implementation: int | Literal["auto"] = 1,
) -> Callable[..., Any]:
  """The function that estimates a network's NNGP and NTK over its initialisation, by their mean over random ones.

  Names, argument order and returned shapes are those of `neural_tangents.monte_carlo_kernel_fn`, and so are the
  networks drawn from a key: sample i has the second half of the i-th `jax.random.split` of the chain that goes on with
  the first half, and splits it into the key of `init_fn` and that of `apply_fn`. So n samples are the first n of any
  greater number, and the same in every call of the kernel function.

  Args:
    init_fn: `init_fn(key, input_shape) -> (output_shape, params)`; input_shape is a tree of shapes where inputs are a
      tree. For a Flax module: `lambda key, shape: (None, module.init(key, jnp.zeros(shape)))`.
    apply_fn: `apply_fn(params, x, **kwargs)`; it is given `rng=key` if it takes an argument of that name, or any.
    key: the random key, typed or raw.
    n_samples: how many networks; or several such numbers, for a generator of the estimates after so many, ascending.
    batch_size: rows of x1 and of x2 that are computed at a time, for less memory; the last block may be smaller. Each
      network sees so many rows only: batch normalisation takes its statistics over them, and each block draws its noise
      from `rng` anew. A keyword argument that is a tuple of two arrays is cut along with x1 and x2. 0: all.
    device_count: over how many devices the rows of x1 are spread; -1: over as many as divide them evenly, 0: none.
    store_on_device: False: kernels are moved to the host's memory block by block, and summed there as NumPy arrays.
    trace_axes: output axes to take the mean of the diagonal over.
    diagonal_axes: output axes of which only the diagonal is computed.
    vmap_axes: as `empirical_ntk_fn`'s; for NTK.
    implementation: as `empirical_ntk_fn`'s; for NTK.

  Returns:
    `kernel_fn(x1, x2=None, get=None, **apply_fn_kwargs)`: the kernel for `get` "nngp" or "ntk", a named tuple
    `MonteCarloKernel` of those in a tuple `get` (None: both); or a generator of such. It is compiled once for each
    shape; keyword arguments that are not arrays have to be hashable.

  Raises:
    ConfigError: numbers out of range; a `device_count` that does not divide the rows; `batch_size` where the kernel
      lacks the axis of the rows, 0; an unknown `get`.

  Example:
    >>> kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 100, vmap_axes=0)
    >>> theta = kernel_fn(x_train, None, "ntk")
    >>> kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), [1, 10, 100], vmap_axes=0)
    >>> for n, kernel in zip([1, 10, 100], kernel_fn(x_train, x_test), strict=True):
    ...   print(n, kernel.nngp, kernel.ntk)
  """
  numbers, several = _sample_numbers(n_samples)
  rows_at_once = checked_integer(batch_size, 0, "batch_size")
  devices = checked_integer(device_count, -1, "device_count")
  kernel_fn = _empirical.empirical_kernel_fn(apply_fn, trace_axes, diagonal_axes, vmap_axes, implementation)
  takes_rng = any(
    parameter.kind == parameter.VAR_KEYWORD or parameter.name == "rng"
    for parameter in inspect.signature(apply_fn).parameters.values()
  )

  def network(key: Any, x: PyTree) -> tuple[PyTree, dict[str, Any]]:
    init_key, apply_key = jax.random.split(key)
    params = init_fn(init_key, jax.tree.map(jnp.shape, x))[1]
    return params, {"rng": apply_key} if takes_rng else {}

  @functools.partial(jax.jit, static_argnames=("names", "constants"))
  def block(key, x1, x2, arrays, *, names, constants):
    params, noise = network(key, x1)
    kernels = kernel_fn(x1, x2, names, params, **(noise | dict(constants) | arrays))
    return {name: getattr(kernels, name) for name in names}

  def diagonal(x1: PyTree, arrays: dict[str, Any], constants: tuple) -> bool:
    """Whether the kernel has the rows once; ConfigError unless it has them at all."""

    def outputs(key):
      params, noise = network(key, x1)
      first = {name: value[0] if isinstance(value, tuple) else value for name, value in arrays.items()}
      return apply_fn(params, x1, **(noise | dict(constants) | first))

    ndims = {len(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(outputs, key))}
    once = {0 in output_axes(diagonal_axes, ndim, "diagonal_axes") for ndim in ndims}
    if len(once) != 1 or any(0 in output_axes(trace_axes, ndim, "trace_axes") for ndim in ndims):
      raise ConfigError(
        f"batch_size={batch_size!r}: expected output axis 0, the rows, in no trace_axes and in diagonal_axes of all "
        f"outputs or of none; got {trace_axes!r} and {diagonal_axes!r}."
      )
    return once.pop()

  def one_sample(key, x1, x2, arrays, once, static):
    if not rows_at_once:
      return stored(block(*_spread(key, x1, x2, arrays, devices), **static))
    other = x1 if x2 is None else x2
    starts1, starts2 = (range(0, _rows(x), rows_at_once) for x in (x1, other))

    def at(i, j):
      cut = {name: _cut_pair(value, i, j, rows_at_once) for name, value in arrays.items()}
      args = _spread(key, _cut(x1, i, rows_at_once), _cut(other, j, rows_at_once), cut, devices)
      return stored(block(*args, **static))

    concatenate = jnp.concatenate if store_on_device else np.concatenate

    def joined(blocks, axis):
      return jax.tree.map(lambda *parts: concatenate(parts, axis), *blocks)

    if once:
      return joined([at(i, i) for i in starts1], 0)
    return joined([joined([at(i, j) for j in starts2], 1) for i in starts1], 0)

  def stored(kernels):
    return kernels if store_on_device else jax.tree.map(np.asarray, kernels)

  def estimates(names, x1, x2, get, kwargs) -> Iterator[Any]:
    arrays = {name: value for name, value in kwargs.items() if _is_arrays(value)}
    constants = tuple(sorted((name, value) for name, value in kwargs.items() if name not in arrays))
    once = bool(rows_at_once) and diagonal(x1, arrays, constants)
    total, chain = None, key
    for n in range(1, numbers[-1] + 1):
      chain, sample_key = jax.random.split(chain)
      sample = one_sample(sample_key, x1, x2, arrays, once, {"names": names, "constants": constants})
      total = sample if total is None else jax.tree.map(operator.add, total, sample)
      if n in numbers:
        mean = jax.tree.map(lambda leaf, n=n: leaf / n, total)
        yield named("MonteCarloKernel", get, {name: mean[name] for name in names})

  def sampled_kernel_fn(
    x1: PyTree, x2: PyTree = None, get: str | Sequence[str] | None = None, **apply_fn_kwargs: Any
  ) -> Any:
    names = requested(get, ("nngp", "ntk"))
    found = estimates(names, x1, x2 if jax.tree.leaves(x2) else None, get, apply_fn_kwargs)
    return found if several else next(found)

  return sampled_kernel_fn


def _sample_numbers(n_samples: SupportsIndex | Iterable[SupportsIndex]) -> tuple[list[int], bool]:
  """The numbers of samples at which an estimate is given, ascending, and whether several were asked for."""
  several = isinstance(n_samples, Iterable)
  numbers = sorted({checked_integer(n, 1, "n_samples") for n in (n_samples if several else [n_samples])})
  if not numbers:
    raise ConfigError("n_samples: empty; expected at least one number of samples.")
  return numbers, several


def _is_arrays(value: Any) -> bool:
  """Whether a keyword argument is traced, and not compiled in."""
  leaves = jax.tree.leaves(value)
  return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)


def _rows(x: PyTree) -> int:
  return jnp.shape(jax.tree.leaves(x)[0])[0]


def _cut(x: PyTree, start: int, size: int) -> PyTree:
  return jax.tree.map(lambda leaf: leaf[start : start + size], x)


def _cut_pair(value: Any, start1: int, start2: int, size: int) -> Any:
  if isinstance(value, tuple) and len(value) == 2:
    return _cut(value[0], start1, size), _cut(value[1], start2, size)
  return value


def _spread(key: Any, x1: PyTree, x2: PyTree, arrays: dict[str, Any], device_count: int) -> tuple:
  """The arguments with the rows of x1 spread over devices and the others on each of them."""
  available, rows = len(jax.devices()), _rows(x1)
  count = math.gcd(available, rows) if device_count == -1 else max(device_count, 1)
  if count > available or rows % count:
    raise ConfigError(
      f"device_count={device_count}: expected at most the {available} devices there are, and a divisor of the {rows} "
      "rows computed at a time."
    )
  if count == 1:
    return key, x1, x2, arrays
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("rows",))
  by_rows, everywhere = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (["rows"], []))
  return (
    jax.device_put(key, everywhere),
    jax.device_put(x1, by_rows),
    jax.device_put(x2, everywhere),
    jax.device_put(arrays, everywhere),
  )
