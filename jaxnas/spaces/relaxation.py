"""Continuous relaxation of a space: Gumbel samples of edge-op weights, and the network of such a sample.

    soft:              w = softmax((alpha + g) / tau) on every edge,    g ~ Gumbel(0, 1)
    straight-through:  w = onehot(argmax(alpha + g)), with the derivative of soft

Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017; NASI, appendix B.3.

`mixture_logits` is the NAS-Bench-201 network of `nb201.Network`, every edge mixing all its operations, made for the
derivative of a derivative. `nb201.Network` is made for many backward passes through one forward pass; the derivative
of its backward pass costs twice as much and takes several times as long to compile (BUILD_NOTES.md).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.spaces import layers, plain_layers
from jaxnas.spaces.nb201 import NetworkConfig
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import CONVS, POOL, SKIP, Network
from jaxnas.spaces.nb201.plain import STAGES, stack

RELAXATIONS = ("straight_through", "soft")


def relax(
  alphas: Float[Array, "cells E O"],
  noise: Float[Array, "cells E O"],
  kind: Literal["straight_through", "soft"] = "straight_through",
  tau: float = 1.0,
) -> Float[Array, "cells E O"]:
  """A relaxed sample of the distribution softmax(alphas), differentiable in `alphas`; rows sum to 1.

  Args:
    alphas: logits of each edge's operations.
    noise: standard Gumbel noise; the sampled operation of an edge is argmax(alphas + noise).
    kind: "soft" gives every operation a positive weight; "straight_through" is exactly one-hot.
    tau: temperature, above 0.

  Raises:
    ConfigError: an unknown `kind`, or `tau` not above 0.
  """
  if kind not in RELAXATIONS:
    raise ConfigError(f"kind={kind!r} must be one of {', '.join(RELAXATIONS)}")
  if not tau > 0:
    raise ConfigError(f"tau={tau} must be above 0")
  logits = alphas + noise
  soft = jax.nn.softmax(logits / jnp.asarray(tau, logits.dtype), -1)
  if kind == "soft":
    return soft
  hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
  return hard + (soft - lax.stop_gradient(soft))  # the bracket is exactly 0


def mixture_params(config: NetworkConfig, key: Array) -> PyTree:
  """The values that `nb201.Network(config).init_params` draws from `key`, the cells of a stage stacked."""
  return stack(Network(config).init_params(key), config.cells)


def mixture_logits(
  params: PyTree,
  images: Float[Array, "N H W 3"],
  weights: Float[Array, "1 6 5"],
  batch_norm: Literal["batch", "batch_frozen"] = "batch",
) -> Float[Array, "N K"]:
  """The outputs of `nb201.Network` for any `weights` of the operations; `params` as of `mixture_params`.

  In mode `batch_frozen` the statistics are constants with respect to `params`, but not to `weights`: a derivative in
  `weights` of a gradient in `params` is that of the frozen gradient as it is computed at each `weights`.

  Raises:
    ConfigError: another `batch_norm`.
  """
  if batch_norm == "batch":
    return _forward(params, images, weights, None)[0]
  if batch_norm == "batch_frozen":
    moments = _forward(lax.stop_gradient(params), images, weights, None)[1]
    return _forward(params, images, weights, moments)[0]
  raise ConfigError(f"batch_norm={batch_norm!r} must be batch or batch_frozen")


def _forward(params, images, weights, moments):
  """(logits, moments of every BN); the moments given, if any, replace those of the batch."""
  found: dict[str, Any] = {}
  given = moments or {}
  x, found["stem"] = _conv_bn(images, params["stem"], given.get("stem"))
  for stage, name in enumerate(STAGES):
    if stage:
      reduce = f"reduce_{stage}"
      x, found[reduce] = _reduction(x, params[reduce], given.get(reduce))

    def cell(x, own):
      return _cell(x, own[0], weights[0], own[1])

    # A loop compiles once for all cells, but convolutions in it are slower on a CPU (BUILD_NOTES.md).
    x, found[name] = lax.scan(cell, x, (params[name], given.get(name)), unroll=jax.default_backend() == "cpu")
  x, found["last"] = _batch_norm(x, params["last"]["bn"], given.get("last"))
  head = params["classifier"]
  features = jax.nn.relu(x).mean((1, 2))
  return jnp.matmul(features, head["kernel"], precision=lax.Precision.HIGHEST) + head["bias"][None], found


def _cell(x, params, weights, moments):
  """One cell, and the moments of its BN layers."""
  nodes, found = [x], {}
  positive, pooled = [], []
  for target in (1, 2, 3):
    positive.append(jax.nn.relu(nodes[-1]))
    pooled.append(layers.avg_pool(nodes[-1]))
    total: Any = 0.0
    for e, (t, source) in enumerate(EDGES):
      if t == target:
        own = params[f"edge{t}_{source}"]
        total = total + weights[e, SKIP] * nodes[source] + weights[e, POOL] * pooled[source]
        for op in CONVS:
          given = None if moments is None else moments[f"edge{e}_{op}"]
          y, found[f"edge{e}_{op}"] = _conv_bn(positive[source], own[OPS[op]], given)
          total = total + weights[e, op] * y
    nodes.append(total)
  return nodes[-1], found


def _reduction(x, params, moments):
  given = moments or {}
  middle, found_a = _conv_bn(jax.nn.relu(x), params["conv_a"], given.get("conv_a"), stride=2)
  y, found_b = _conv_bn(jax.nn.relu(middle), params["conv_b"], given.get("conv_b"))
  shortcut = plain_layers.convolve(layers.avg_pool_2x2(x), params["downsample"]["conv"]["kernel"])
  return y + shortcut, {"conv_a": found_a, "conv_b": found_b}


def _conv_bn(x, params, moments, stride=1):
  return _batch_norm(plain_layers.convolve(x, params["conv"]["kernel"], stride), params["bn"], moments)


def _batch_norm(z, params, moments):
  mean, variance = layers.batch_moments(z) if moments is None else moments
  y = layers.normalise(z, mean, variance) * params["scale"][None, None, None] + params["bias"][None, None, None]
  return y, (mean, variance)
