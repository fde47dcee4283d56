"""Condition number of the neural tangent kernel, TE-NAS's trainability indicator.

    K = G G',   G_i = d (sum_k logits[i, k]) / d theta_w,   kappa = lambda_max / lambda_min

theta_w are the convolution and classifier kernels and the scales of batch normalisation (the official code takes
every parameter whose name contains "weight"); biases stay out. Classes are summed before differentiating, not
traced. Lower is better. Source: Chen, Gong, Wang, ICLR 2021, section 3.1.1.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxnas import ntk, registry
from jaxnas.base import (
  Batch,
  Evaluated,
  Inputs,
  Network,
  NetworkConfig,
  Proxy,
  Reading,
  SampleGram,
  Source,
  Space,
  Status,
)
from jaxnas.data.batches import augmented_batch
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation, embedded, frozen, rows_at_once
from jaxnas.proxies.indicators import IndicatorConfig, supernets_of

WORST = 1e5  # the official code's value for a kernel that is not a number
_STATUS = {
  ntk.KernelStatus.OK: Status.OK,
  ntk.KernelStatus.SINGULAR: Status.SINGULAR,
  ntk.KernelStatus.NEGATIVE: Status.NEGATIVE,
  ntk.KernelStatus.NON_FINITE: Status.NON_FINITE,
}


def reading(kernel: Float[np.ndarray, "N N"]) -> Reading:
  """The condition number of a kernel, and whether it can be trusted."""
  condition = ntk.condition_number(kernel)
  return Reading(float(condition.ratio), _STATUS[ntk.KernelStatus(condition.status)])


def _enters(path: str) -> bool:
  return path.rsplit("/", 1)[-1] in ("kernel", "scale")


def _kernel_coupled(evaluation: Evaluated) -> Float[Array, "N N"]:
  """`batch` mode: every row needs a backward pass through the whole batch, cost O(N^2)."""
  e, network = evaluation, evaluation.network

  def logits(params, inputs):
    return network.apply(params, network.embed(params, inputs), e.arch, "batch", rows=True).logits

  rows = rows_at_once(e, network.rows_on_cpu)
  return ntk.gram_matrix(logits, e.params, e.inputs, coupled=True, select=_enters, chunk_size=rows)


def _kernel_frozen(evaluation: Evaluated) -> Float[Array, "N N"]:
  """`batch_frozen` mode: the batch's statistics are constants, so samples decouple, cost O(N)."""
  e, network, rows = evaluation, evaluation.network, rows_at_once(evaluation, 8)
  if isinstance(network, SampleGram):
    return network.sample_gram(e.params, embedded(e), e.arch, lambda logits: logits.sum(-1))
  _ = e.stats  # before the loop over samples, where it would be a value of the loop
  logits = functools.partial(frozen, e)
  return ntk.gram_matrix(logits, e.params, e.inputs, coupled=False, select=_enters, chunk_size=rows)


@dataclasses.dataclass(frozen=True)
class NTKConditionNumber(Proxy[IndicatorConfig]):
  """The proxy, of networks of any kind. A batch is normalised images, float32 [N, H, W, 3].

  The value is the raw ratio of the extreme eigenvalues (negative where lambda_min is); a kernel that is singular
  at its precision, not positive, or not finite has that status and ranks as `WORST`.

  Attributes:
    batch_norm: `batch` is what the official code does; `batch_frozen` is N times cheaper.

  Raises:
    ConfigError: an unknown mode.
  """

  name: str = "ntk_condition_number"
  higher_is_better: ClassVar[bool] = False
  worst: ClassVar[float] = WORST
  needs: ClassVar[type] = Network
  batch_norm: Literal["batch", "batch_frozen"] = "batch"

  def __post_init__(self):
    if self.batch_norm not in ("batch", "batch_frozen"):
      raise ConfigError(f"batch_norm={self.batch_norm!r} must be one of batch, batch_frozen")

  def measure(self, evaluation: Evaluated) -> Float[Array, "N N"]:
    return _kernel_coupled(evaluation) if self.batch_norm == "batch" else _kernel_frozen(evaluation)

  def finish(self, measured: np.ndarray) -> Reading:
    return reading(measured)


@dataclasses.dataclass(frozen=True)
class SupernetConditionNumber(NTKConditionNumber):
  """The same as TE-NAS measures it: on the space's supernet, whose weights are the architectures or supernets."""

  name: str = "supernet_condition_number"
  Settings: ClassVar[type | None] = IndicatorConfig

  def prepare(self, space: Space, source: Source, settings: IndicatorConfig, key: jax.Array) -> Inputs:
    """The supernet, and a fresh augmented batch of images.

    The images take the second of the two keys that `key` splits into; the first is for the weights.
    """
    _, batch_key = jax.random.split(key)
    supernets = supernets_of(space, self.name)
    own = settings.published(space, source)
    assert own.ntk_batch is not None
    config = NetworkConfig(own.ntk_channels, own.ntk_cells, source.classes, own.drawn("kaiming_fan_out"))
    network = supernets.supernet(config)
    return Inputs(network, Batch(augmented_batch(source, batch_key, own.ntk_batch, "--ntk_batch")))


registry.register("proxy", "ntk_condition_number", NTKConditionNumber)
registry.register(
  "proxy",
  "ntk_condition_number_frozen",
  functools.partial(NTKConditionNumber, name="ntk_condition_number_frozen", batch_norm="batch_frozen"),
)
registry.register("proxy", "supernet_condition_number", SupernetConditionNumber)
registry.register(
  "proxy",
  "supernet_condition_number_frozen",
  functools.partial(SupernetConditionNumber, name="supernet_condition_number_frozen", batch_norm="batch_frozen"),
)


def eigenvalues(
  network: Network,
  params: PyTree,
  arch: Array,
  images: Array,
  batch_norm: Literal["batch", "batch_frozen"] = "batch",
) -> Float[np.ndarray, " N"]:
  """Eigenvalues of the kernel of one network, float64 [N] ascending: what the spectrum plot shows."""
  proxy = NTKConditionNumber(batch_norm=batch_norm)

  def kernel(params, arch, images):
    return proxy.measure(Evaluation(network, params, arch, images))

  return ntk.spectrum(jax.jit(kernel)(params, arch, images)).eigenvalues
