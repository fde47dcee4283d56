"""How an empirical kernel function reads its axes, `vmap_axes` and keyword arguments."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxnas.errors import ConfigError


def output_axes(axes: SupportsIndex | Sequence[SupportsIndex], ndim: int, name: str) -> tuple[int, ...]:
  """Sorted non-negative axes of an output of rank `ndim`, of any integers; ConfigError if one is out of range."""
  try:
    listed = [int(operator.index(axis)) for axis in (axes if isinstance(axes, Iterable) else [axes])]
  except TypeError as error:
    raise ConfigError(f"{name}={axes!r}: expected an integer or several.") from error
  if any(not -ndim <= axis < ndim for axis in listed):
    raise ConfigError(f"{name}={axes!r}: f returns {ndim} axes; expected {-ndim} to {ndim - 1}.")
  return tuple(sorted({axis % ndim for axis in listed}))


def checked_integer(value: Any, least: int, name: str) -> int:
  """`value` as an int, of any integer type; ConfigError unless it is one of at least `least`."""
  try:
    number = least - 1 if isinstance(value, bool) else operator.index(value)
  except TypeError:
    number = least - 1
  if number < least:
    raise ConfigError(f"{name}={value!r}: expected an integer of at least {least}.")
  return number


def checked_number(value: Any, name: str, allowed: Callable[[float], bool], expected: str) -> Any:
  """`value`, one real number of any type; ConfigError unless it is `allowed`. A traced one is taken as it is."""
  try:
    array = np.asarray(value)
  except jax.errors.TracerArrayConversionError:
    return value
  except (TypeError, ValueError):
    array = np.asarray(None)
  real = jnp.issubdtype(array.dtype, np.number) and not jnp.iscomplexobj(array)
  if array.ndim or not real or not allowed(float(array)):
    raise ConfigError(f"{name}={value!r}: expected {expected}.")
  return value


def checked_not_negative(value: Any, name: str) -> Any:
  """`value`, one finite number of at least 0, or traced; else ConfigError."""
  return checked_number(value, name, lambda number: 0 <= number < np.inf, "a finite number of at least 0")


def checked_array(value: Any, name: str) -> jax.Array:
  """`value` as an array of numbers; ConfigError for what is none, such as None, text and ragged lists."""
  return _numbers(value, name, jnp.asarray)


def checked_on_host(value: Any, name: str) -> np.ndarray:
  """As `checked_array`, a NumPy array; raises JAX's own error for what is traced."""
  return _numbers(value, name, np.asarray)


def _numbers(value: Any, name: str, convert: Callable[[Any], Any]) -> Any:
  try:
    array = convert(value)
  except jax.errors.TracerArrayConversionError:
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError(f"{name}={value!r}: expected an array of numbers.") from error
  if value is None or not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
    raise ConfigError(f"{name}={value!r}: expected an array of numbers.")
  return array


def checked_callable(value: Any, name: str) -> None:
  """ConfigError unless `value` is None or a function."""
  if value is not None and not callable(value):
    raise ConfigError(f"{name}={value!r}: expected a function, or None.")


def check_structure(first: Any, second: Any, where: str) -> None:
  """ConfigError unless f's output is a tree of one structure at x1 and at another input, `where`."""
  if first != second:
    raise ConfigError(f"f: returns {first} at x1, but {second} {where}; expected trees of one structure.")


def outputs_of(out: PyTree) -> PyTree:
  """What f returned, numbers as arrays; ConfigError for anything else."""

  def array(value: Any) -> jax.Array:
    try:
      return jnp.asarray(value)
    except TypeError as error:
      raise ConfigError(f"f: returned {value!r}; expected arrays, or trees of them.") from error

  return jax.tree.map(array, out)


def second_input(x2: PyTree) -> PyTree:
  """x2, or None where it is a tree of Nones, which stands for x1 too."""
  return x2 if jax.tree.leaves(x2) else None


def split_vmap_axes(vmap_axes: Any) -> tuple[Any, Any, dict[str, Any] | int]:
  """The triple (input axes, output axes, keyword argument axes) that `vmap_axes` stands for."""
  if isinstance(vmap_axes, tuple) and len(vmap_axes) == 3:
    return vmap_axes[0], vmap_axes[1], {} if vmap_axes[2] is None else vmap_axes[2]
  return vmap_axes, vmap_axes, {}


def leaf_axes(axes: Any, tree: PyTree, name: str) -> list[int | None]:
  """One non-negative axis (or None) for every leaf of `tree`; `axes` is one for all, or a tree."""
  leaves, treedef = jax.tree.flatten(tree)
  if axes is None or _is_integer(axes):
    listed = [axes] * len(leaves)
  else:
    try:
      listed = treedef.flatten_up_to(axes)
    except (TypeError, ValueError) as error:
      raise ConfigError(f"{name}={axes!r}: expected an int, None or a tree like {treedef}.") from error
  result = []
  for axis, leaf in zip(listed, leaves, strict=True):
    ndim = jnp.ndim(leaf)
    if axis is not None and not (_is_integer(axis) and -ndim <= axis < ndim):
      raise ConfigError(f"{name}={axes!r}: no axis {axis!r} in an array of shape {jnp.shape(leaf)}.")
    result.append(None if axis is None else int(axis) % ndim)
  return result


def _is_integer(value: Any) -> bool:
  """Of Python or NumPy."""
  return isinstance(value, int | np.integer)


def split_kwargs(kwargs: dict[str, Any], x1: PyTree, x2: PyTree) -> tuple[dict, dict]:
  """Keyword arguments of f at x1 and at x2.

  A tuple of two is (value at x1, value at x2). The key `rng`, or an array of keys, becomes two when x2 is given:
  the same where x1 equals x2, so that both see the same noise, different ones elsewhere.
  Everything else goes to both.

  Raises:
    ConfigError: `rng` is neither a key nor an array of keys, nor a pair of them.
  """
  first, second = {}, {}
  for name, value in kwargs.items():
    pair = value if isinstance(value, tuple) and len(value) == 2 else None
    if name == "rng" and x2 is not None and value is not None:
      first[name], second[name] = _two_keys(pair or (value, value), _same(x1, x2))
    else:
      first[name], second[name] = pair or (value, value)
  return first, second


def _two_keys(keys: tuple, same_inputs) -> tuple:
  try:
    key1, key2 = jnp.asarray(keys[0]), jnp.asarray(keys[1])
    fold = jax.random.fold_in
    for _ in range(key_axes(key2)):
      fold = jax.vmap(fold, in_axes=(0, None))
    folded = fold(key2, 1)
    if key1.shape != key2.shape:  # a key a sample, of inputs with different numbers of them
      return key1, key2
    other = jnp.where(jnp.all(key1 == key2), folded, key2)
    return key1, jnp.where(same_inputs, key1, other)
  except (TypeError, ValueError) as error:
    raise ConfigError(f"rng={keys!r}: expected a key, an array of keys, or a pair of them.") from error


def key_axes(key: Any) -> int:
  """How many axes an array of keys, typed or raw, has before a key's own; 0 for one key."""
  return jnp.ndim(key) - (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)


def _same(x1: PyTree, x2: PyTree):
  """Whether two inputs are equal, as a traceable boolean."""
  if x1 is x2:
    return True
  leaves1, leaves2 = ([jnp.asarray(leaf) for leaf in jax.tree.leaves(x)] for x in (x1, x2))
  if [(a.shape, a.dtype) for a in leaves1] != [(b.shape, b.dtype) for b in leaves2]:
    return False
  return jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(leaves1, leaves2, strict=True)]))
