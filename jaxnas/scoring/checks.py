"""What of a batch and of proxies is checked before anything is measured."""

from collections.abc import Sequence

import numpy as np

from jaxnas.base import Batch, Network, Parametrised, Proxy, RecurrentNetwork
from jaxnas.errors import ConfigError


def checked(batch: Batch, network: Parametrised, proxies: Sequence[Proxy]) -> Batch:
  """The batch with int32 labels (or float32 targets), if these proxies can be measured with it on this network.

  Inputs are checked by the network, which alone knows what it takes.

  Raises:
    ConfigError: a proxy needs labels and the batch has none, more inputs, or another network; labels that are not the
      classes of the inputs, or targets that are not numbers in the place of the outputs.
  """
  for proxy in proxies:
    if proxy.needs_labels and batch.labels is None:
      raise ConfigError(f"proxy {proxy.name!r} needs labels and the batch has none: give Batch(inputs, labels)")
    if len(batch.inputs) < proxy.least_inputs:
      raise ConfigError(
        f"proxy {proxy.name!r} needs {proxy.least_inputs} inputs or more and the batch has {len(batch.inputs)}: give a "
        "larger one, or leave it out"
      )
    if not isinstance(network, proxy.needs):
      kind = type(network)
      raise ConfigError(
        f"proxy {proxy.name!r} needs a network that is {proxy.needs.__module__}.{proxy.needs.__qualname__}, which "
        f"{kind.__module__}.{kind.__qualname__} is not: give it space.network(...), or leave it out"
      )
  if batch.labels is None:
    return batch
  labels = np.asarray(batch.labels)
  if isinstance(network, RecurrentNetwork) and np.issubdtype(labels.dtype, np.floating):
    return batch._replace(labels=_targets(labels, (len(batch.inputs), network.classes)))
  return batch._replace(labels=_classes(labels, np.shape(batch.inputs), network))


def _targets(targets: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
  """Targets as float32 [N, K], one for each of the network's outputs."""
  if targets.shape != wanted:
    raise ConfigError(f"targets of shape {targets.shape}: give {wanted}, a number for each output of each input")
  if not np.isfinite(targets).all():
    place = tuple(int(i) for i in np.argwhere(~np.isfinite(targets))[0])
    raise ConfigError(f"targets{list(place)} = {targets[place]}: give finite numbers")
  return targets.astype(np.float32)


def _classes(labels: np.ndarray, inputs: tuple[int, ...], network: Parametrised) -> np.ndarray:
  """Labels as int32 [N], each a class of the network."""
  fix = "give the number of each input's class"
  if not np.issubdtype(labels.dtype, np.integer):
    raise ConfigError(f"labels of type {labels.dtype}: {fix}, as integers")
  if labels.ndim != 1 or labels.shape != inputs[:1]:
    one_hot = ", labels.argmax(-1) of one-hot ones" if labels.ndim == 2 else ""
    raise ConfigError(f"labels of shape {labels.shape} for inputs of shape {inputs}: {fix}{one_hot}")
  if isinstance(network, Network):
    wrong = (labels < 0) | (labels >= network.classes)
    if wrong.any():
      place = int(np.argmax(wrong))
      raise ConfigError(
        f"labels[{place}] = {labels[place]}: the network has {network.classes} classes, numbered from 0; shift the "
        "labels, or give a network of more classes"
      )
  return labels.astype(np.int32)
