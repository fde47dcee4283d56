"""Kernels averaged over random initialisations."""

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_integer
from jaxnas.ntk._batch import batch
from jaxnas.ntk._empirical import Implementation, NtkImplementation
from jaxnas.ntk._nngp import empirical_kernel_fn
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
  implementation: Implementation = NtkImplementation.AUTO,
  _j_rules: bool = True,
  _s_rules: bool = True,
  _fwd: bool | None = None,
) -> Callable[..., Any]:
  """The function that estimates a network's NNGP and NTK over its initialisation, by their mean over random ones.

  Names, argument order and returned shapes are those of `neural_tangents.monte_carlo_kernel_fn`, and so are the
  networks drawn from a key: sample i has the second half of the i-th `jax.random.split` of the chain that goes on with
  the first half, and splits it into the key of `init_fn` and that of `apply_fn`. So n samples are the first n of any
  greater number, and the same in every call of the kernel function.

  Args:
    init_fn: `init_fn(key, input_shape) -> (output_shape, params)`; input_shape is a tree of shapes where inputs are a
      tree. For a Flax module: `lambda key, shape: (None, module.init(key, jnp.zeros(shape)))`.
    apply_fn: `apply_fn(params, x, **kwargs)`; it is given `rng=key` if it takes an argument of that name, or any, as
      `module.apply` of a Flax module does, which has no `rng`: wrap it, `lambda params, x: module.apply(params, x)`, or
      with dropout `lambda params, x, rng: module.apply(params, x, rngs={"dropout": rng})`.
    key: the random key, typed or raw.
    n_samples: how many networks; or several such numbers, for a generator of the estimates after so many, ascending.
    batch_size: as `batch`'s, and so are device_count and store_on_device: rows computed at a time, for less memory.
    device_count: over how many devices the rows of x1 are spread; -1: over as many as divide them evenly, 0: none.
    store_on_device: False: kernels are moved to the host's memory block by block, and summed there as NumPy arrays.
    trace_axes: output axes to take the mean of the diagonal over.
    diagonal_axes: output axes of which only the diagonal is computed.
    vmap_axes: as `empirical_ntk_fn`'s; for NTK.
    implementation: as `empirical_ntk_fn`'s; for NTK.
    _j_rules, _s_rules, _fwd: neural_tangents' switches of its rules; without effect.

  Returns:
    `kernel_fn(x1, x2=None, get=None, **apply_fn_kwargs)`: the kernel for `get` "nngp" or "ntk", a named tuple
    `EmpiricalKernel` of those in a tuple `get` (None: both), as `empirical_kernel_fn`'s; or a generator of such. It is
    compiled once for each shape; of keyword arguments what is not an array has to be hashable.

  Raises:
    ConfigError: as `batch`; `n_samples` out of range; `key` is not one random key; an unknown `get`.

  Example:
    >>> kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), 100, vmap_axes=0)
    >>> theta = kernel_fn(x_train, None, "ntk")
    >>> kernel_fn = ntk.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), [1, 10, 100], vmap_axes=0)
    >>> for n, kernel in zip([1, 10, 100], kernel_fn(x_train, x_test), strict=True):
    ...   print(n, kernel.nngp, kernel.ntk)
  """
  del _j_rules, _s_rules, _fwd
  numbers, several = _sample_numbers(n_samples)
  try:
    jax.random.split(key)
  except (TypeError, ValueError) as error:
    raise ConfigError(f"key={key!r}: expected one random key, typed or raw.") from error
  kernel_fn = empirical_kernel_fn(apply_fn, trace_axes, diagonal_axes, vmap_axes, implementation)
  takes_rng = any(
    parameter.kind == parameter.VAR_KEYWORD or parameter.name == "rng"
    for parameter in inspect.signature(apply_fn).parameters.values()
  )

  def of_one_network(x1: PyTree, x2: PyTree, key: Any, names: tuple[str, ...], **kwargs: Any) -> dict[str, PyTree]:
    init_key, apply_key = jax.random.split(key)
    params = init_fn(init_key, jax.tree.map(jnp.shape, x1))[1]
    noise = {"rng": apply_key} if takes_rng else {}
    kernels = kernel_fn(x1, x2, names, params, **(noise | kwargs))
    return {name: getattr(kernels, name) for name in names}

  of_one_network = batch(of_one_network, batch_size, device_count, store_on_device)

  def estimates(names, x1, x2, get, kwargs) -> Iterator[Any]:
    total, chain = None, key
    for n in range(1, numbers[-1] + 1):
      chain, sample_key = jax.random.split(chain)
      sample = of_one_network(x1, x2, sample_key, names, **kwargs)
      total = sample if total is None else jax.tree.map(operator.add, total, sample)
      if n in numbers:
        mean = jax.tree.map(lambda leaf, n=n: leaf / n, total)
        yield named("EmpiricalKernel", get, {name: mean[name] for name in names})

  def sampled_kernel_fn(
    x1: PyTree, x2: PyTree = None, get: str | Sequence[str] | None = None, **apply_fn_kwargs: Any
  ) -> Any:
    found = estimates(requested(get, ("nngp", "ntk")), x1, x2, get, apply_fn_kwargs)
    return found if several else next(found)

  return sampled_kernel_fn


def _sample_numbers(n_samples: SupportsIndex | Iterable[SupportsIndex]) -> tuple[list[int], bool]:
  """The numbers of samples at which an estimate is given, ascending, and whether several were asked for."""
  several = isinstance(n_samples, Iterable)
  numbers = sorted({checked_integer(n, 1, "n_samples") for n in (n_samples if several else [n_samples])})
  if not numbers:
    raise ConfigError("n_samples: empty; expected at least one number of samples.")
  return numbers, several
