"""The network of `nb201.Network`, every edge mixing all its operations, made for the derivative of a derivative.

`nb201.Network` is made for many backward passes through one forward pass; the derivative of its backward pass costs
twice as much and takes several times as long to compile. Here everything is plain operations.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxnas.errors import ConfigError
from jaxnas.nets import layers, plain_layers
from jaxnas.spaces.nb201.encoding import EDGES, OPS
from jaxnas.spaces.nb201.network import CONVS, POOL, SKIP, Network, NetworkConfig
from jaxnas.spaces.nb201.plain import STAGES, stack


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Pure functions of parameters, images and weights of the operations.

  Attributes:
    config: as of `Network`, in mode `batch` or `running`.
  """

  config: NetworkConfig

  def __post_init__(self):
    if self.config.batch_norm not in ("batch", "running"):
      raise ConfigError(f"batch_norm={self.config.batch_norm!r} must be batch or running")
    if self.config.first_cell_only or not self.config.stem:
      raise ConfigError("Mixture is the whole network: first_cell_only and stem=False are for Network")

  def with_batch_norm(self, mode: str) -> "Mixture":
    """The same network with another `batch_norm` mode; parameters are the same.

    Raises:
      ConfigError: neither `batch` nor `running`.
    """
    return dataclasses.replace(self, config=dataclasses.replace(self.config, batch_norm=mode))

  def init_params(self, key: Array) -> PyTree:
    """The values that `Network.init_params` draws from `key`, the cells of a stage stacked."""
    return stack(Network(self.config).init_params(key), self.config.cells)

  def logits(
    self,
    params: PyTree,
    images: Float[Array, "N H W 3"],
    weights: Float[Array, "1 6 5"],
    *,
    stats: PyTree | None = None,
  ) -> Float[Array, "N K"]:
    """The outputs of `Network` for any weights of the operations; in mode `running` with the moments `stats`.

    Raises:
      ConfigError: mode `running` without `stats`.
    """
    running = self.config.batch_norm == "running"
    if running and stats is None:
      raise ConfigError("batch_norm='running' needs stats: give what moments() returned")
    return _forward(params, images, weights, stats if running else None)[0]

  def moments(self, params: PyTree, images: Float[Array, "N H W 3"], weights: Float[Array, "1 6 5"]) -> PyTree:
    """Mean and variance of this batch at every BN, for mode `running`."""
    return _forward(params, images, weights, None)[1]


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

    # A loop compiles once for all cells, but convolutions in it are slower on a CPU.
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
