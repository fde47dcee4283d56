"""Gram matrices of per-sample gradients: the NTK of a scalar, a trace over classes, or in full."""

from collections.abc import Callable
from typing import Literal

import jax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.ntk._arguments import checked_array, checked_callable
from jaxnas.ntk._chunking import check_chunk_size, chunked_vmap
from jaxnas.ntk._jacobian import contract, jacobian, matmul_precision, select_leaves


def per_sample_gradients(
  f: Callable[[PyTree, PyTree], Array],
  params: PyTree,
  x: PyTree,
  *,
  target: Literal["sum_logits", "per_logit"] = "sum_logits",
  coupled: bool = True,
  select: Callable[[str], bool] | None = None,
  chunk_size: int | None = None,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> PyTree:
  """The rows `g_i = d sum_k f(params, x)[i, k] / d params`, one a sample.

  Args:
    f: `f(params, x) -> [N, K]`, floating point.
    params: pytree of real floating-point arrays.
    x: inputs [N, ...], or a pytree of them.
    target: "sum_logits": the K outputs of a sample are summed before differentiation (TE-NAS).
      "per_logit": every output has its own row.
    coupled: True: f may couple the samples, as BatchNorm in batch mode does; N (or N K) one-hot
      cotangents go back through one forward pass of the whole batch, O(N^2). False: f treats the
      samples independently, and `vmap` takes single samples, O(N).
    select: which parameter leaves enter, by path ("cells_0/conv/kernel"); None: all.
    chunk_size: cotangents (coupled) or samples (not) a chunk; None: all at once.
    precision: of the products inside f that name none.

  Returns:
    A tree like `params`: leaves [N, *leaf] for "sum_logits", [N, K, *leaf] for "per_logit", in the
    leaf's dtype; None in place of the leaves not selected.

  Raises:
    ConfigError: f does not return [N, K]; unknown target; a bad chunk size; nothing selected; a
      selected leaf or the output is not real floating point.
  """
  check_chunk_size(chunk_size)
  checked_callable(select, "select")
  if target not in ("sum_logits", "per_logit"):
    raise ConfigError(f"target={target!r}: expected 'sum_logits' or 'per_logit'.")
  parameters = select_leaves(params, select)

  def outputs(leaves, inputs):
    logits = f(parameters.rebuild(leaves), inputs)
    samples = jax.tree.leaves(inputs)[0].shape[0]
    if not isinstance(logits, jax.Array):
      kind = jax.tree.structure(logits)
      raise ConfigError(f"f: returned {kind}; expected one array [N, K]; wrap f to give the output that is meant.")
    if logits.ndim != 2 or logits.shape[0] != samples:
      raise ConfigError(f"f: returned shape {logits.shape}; expected [N, K] with N={samples}.")
    return logits.sum(-1) if target == "sum_logits" else logits

  def one_sample(sample):
    inputs = jax.tree.map(lambda a: a[None], sample)
    return jacobian(lambda leaves: outputs(leaves, inputs)[0], parameters.leaves)[0]

  with matmul_precision(precision):
    if coupled:
      rows = jacobian(lambda leaves: outputs(leaves, x), parameters.leaves, chunk_size)[0]
    else:
      rows = chunked_vmap(one_sample, x, chunk_size)
  return parameters.pack(rows)


def gram(rows: PyTree, *, precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST) -> Float[Array, "N N"]:
  """`G G^T`, G being the leaves [N, ...] of `rows` side by side; summed leaf by leaf.

  Returns:
    [N, N], float32, or float64 where a leaf is.

  Raises:
    ConfigError: no leaves, or leaves of different leading size.
  """
  leaves = [checked_array(leaf, "rows") for leaf in jax.tree.leaves(rows)]
  if not leaves or any(leaf.ndim == 0 or leaf.shape[0] != leaves[0].shape[0] for leaf in leaves):
    shapes = [leaf.shape for leaf in leaves[:4]]
    raise ConfigError(f"rows: expected leaves [N, ...] with one N, got shapes {shapes}.")
  return contract(leaves, leaves, 1, precision=precision)


def gram_matrix(
  f: Callable[[PyTree, PyTree], Array],
  params: PyTree,
  x: PyTree,
  *,
  target: Literal["sum_logits", "trace", "full"] = "sum_logits",
  coupled: bool = True,
  select: Callable[[str], bool] | None = None,
  chunk_size: int | None = None,
  precision: jax.lax.Precision | None = jax.lax.Precision.HIGHEST,
) -> Float[Array, "N N"] | Float[Array, "N N K K"]:
  """The kernel of `f(params, x) -> [N, K]` on one batch.

  With `T[i, j, k, l] = <d f[i, k], d f[j, l]>`:

  - "sum_logits": [N, N], the sum of T over k and l. TE-NAS (Chen et al., ICLR 2021) as its
    official code computes it: the classes are summed before differentiation.
  - "trace": [N, N], the sum of T over k = l, not divided by K; it is K times
    `empirical_ntk_fn(f, trace_axes=(-1,))`.
  - "full": [N, N, K, K], T itself; equal to `empirical_ntk_fn(f, trace_axes=())`.

  Arguments, dtypes and errors are those of `per_sample_gradients`.
  """
  if target not in ("sum_logits", "trace", "full"):
    raise ConfigError(f"target={target!r}: expected 'sum_logits', 'trace' or 'full'.")
  rows = per_sample_gradients(
    f,
    params,
    x,
    target="sum_logits" if target == "sum_logits" else "per_logit",
    coupled=coupled,
    select=select,
    chunk_size=chunk_size,
    precision=precision,
  )
  if target == "sum_logits":
    return gram(rows, precision=precision)
  leaves = jax.tree.leaves(rows)
  trace_axes = (1,) if target == "trace" else ()
  return contract(leaves, leaves, 2, trace_axes=trace_axes, precision=precision)
