"""What the networks of single architectures of all spaces share: how they choose an operation, and what they show."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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
