"""What the networks of single architectures of all spaces share: how they choose an operation, and what they show."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree


class Observation(NamedTuple):
  """What the forward pass of one batch shows, for proxies without gradients.

  Attributes:
    logits: [N, K].
    features: the input of the global average pooling, [N, H, W, C].
    agreement: [N, N], how many ReLU units two samples agree in (both active or both not), summed over the ReLUs of all
      executed convolutions and the last one.
    log_deviation: [], sum over executed BN layers of log sqrt(mean over channels of the batch variance); a layer whose
      input is constant (a convolution behind a dead node) adds 0.
  """

  logits: Float[Array, "N K"]
  features: Float[Array, "N H W C"]
  agreement: Float[Array, "N N"]
  log_deviation: Float[Array, ""]


def by_layer(
  fn: Callable[..., Array], trees: Sequence[PyTree], is_stacked: Callable[[list[str]], bool]
) -> Float[Array, " L"]:
  """`fn` of the kernels (one from each of `trees`) of every convolution and of the classifier, side by side.

  An auxiliary head does not count. `is_stacked` tells by a parameter's path whether its first axis is that of layers.
  """
  found = []
  for leaves in zip(*(jax.tree_util.tree_leaves_with_path(t) for t in trees), strict=True):
    names = [p.key for p in leaves[0][0]]
    if names[-1] == "kernel" and names[0] != "auxiliary":
      values = [leaf for _, leaf in leaves]
      found.append(jax.vmap(fn)(*values) if is_stacked(names) else fn(*values)[None])
  return jnp.concatenate(found)


def choose(branches: list[Callable], operation: Array, x: Array, own: PyTree) -> Any:
  """`lax.switch`, whose pull-back computes its branch again: the automatic one saves what every branch might need."""

  @jax.custom_vjp
  def run(operation, x, own):
    return lax.switch(operation, branches, x, own)

  def pull(saved, cotangent):
    operation, x, own = saved
    pulls = [lambda x, own, ct, branch=branch: jax.vjp(branch, x, own)[1](ct) for branch in branches]
    return None, *lax.switch(operation, pulls, x, own, cotangent)

  run.defvjp(lambda operation, x, own: (run(operation, x, own), (operation, x, own)), pull)
  return run(operation, x, own)
