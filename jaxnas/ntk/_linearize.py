"""Taylor expansions of a network in its parameters."""

import math
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_integer, outputs_of


def linearize(f: Callable[..., PyTree], params: PyTree) -> Callable[..., PyTree]:
  """The first-order Taylor expansion of `f` in its parameters, about `params`.

  `f_lin(p, x) = f(params, x) + J(x) (p - params)`, J = d f(params, x) / d params, by one forward-mode derivative; its
  empirical NTK is that of f at `params`, whatever p (Lee et al., "Wide Neural Networks of Any Depth Evolve as Linear
  Models Under Gradient Descent", NeurIPS 2019, arXiv 1902.06720).

  Args:
    f: `f(params, *args, **kwargs)`; params and the output may be any pytrees of floating-point arrays.
    params: where to expand.

  Returns:
    `f_lin(p, *args, **kwargs)` with the output of f; p has the structure and shapes of `params`.

  Raises:
    ConfigError: a parameter or output leaf is not floating point; p, when `f_lin` is called, is not like `params`.
  """
  return taylor_expand(f, params, 1)


def taylor_expand(f: Callable[..., PyTree], params: PyTree, degree: SupportsIndex) -> Callable[..., PyTree]:
  """The Taylor expansion of `f` in its parameters up to `degree`, about `params`.

  `f_tayl(p, x) = sum over k <= degree of D^k f(params, x)[p - params, ..., p - params] / k!`, by nested forward-mode
  derivatives: time and memory double with each degree, and no derivative tensor is formed.

  Args:
    f: `f(params, *args, **kwargs)`; params and the output may be any pytrees of floating-point arrays.
    params: where to expand.
    degree: the highest power of `p - params`, at least 0; 1 is `linearize`.

  Returns:
    `f_tayl(p, *args, **kwargs)` with the output of f; p has the structure and shapes of `params`.

  Raises:
    ConfigError: `degree` is not an integer of at least 0; a parameter or output leaf is not floating point; p, when
      `f_tayl` is called, is not like `params`.
  """
  order = checked_integer(degree, 0, "degree")
  flat, treedef = jax.tree_util.tree_flatten_with_path(params)
  leaves = []
  for path, leaf in flat:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    leaves.append(checked_array(leaf, f"params: leaf {name!r}"))
    if not jnp.issubdtype(leaves[-1].dtype, jnp.inexact):
      raise ConfigError(
        f"params: leaf {name!r} is {leaves[-1].dtype}; an expansion needs floating-point leaves (close f over the "
        "others)."
      )
  base = jax.tree.unflatten(treedef, leaves)

  def f_tayl(p: PyTree, *args: Any, **kwargs: Any) -> PyTree:
    step = _difference(p, base)

    # A tuple of the derivatives along `step` up to the k-th, as a function of where they are taken.
    def derivatives(k: int) -> Callable[[PyTree], tuple[PyTree, ...]]:
      if k == 0:
        return lambda q: (_floating(f(q, *args, **kwargs)),)
      lower = derivatives(k - 1)

      def fn(q):
        values, slopes = jax.jvp(lower, (q,), (step,))
        return (*values, slopes[-1])

      return fn

    def total(*terms):
      return sum((term / math.factorial(k) for k, term in enumerate(terms[1:], 1)), start=terms[0])

    return jax.tree.map(total, *derivatives(order)(base))

  return f_tayl


def _difference(p: PyTree, base: PyTree) -> PyTree:
  """`p - base`, leaf by leaf, in base's dtypes."""
  wanted, got = jax.tree.structure(base), jax.tree.structure(p)
  if wanted != got:
    raise ConfigError(f"p: expected a tree like params, {wanted}, got {got}.")
  shapes = [jnp.shape(checked_array(leaf, "p")) for leaf in jax.tree.leaves(p)]
  expected = [leaf.shape for leaf in jax.tree.leaves(base)]
  if shapes != expected:
    raise ConfigError(f"p: expected leaves of the shapes of params, {expected}, got {shapes}.")
  return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype) - b, p, base)


def _floating(out: PyTree) -> PyTree:
  out = outputs_of(out)
  for leaf in jax.tree.leaves(out):
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      raise ConfigError(f"f: returned {leaf.dtype}; an expansion needs floating-point outputs.")
  return out
