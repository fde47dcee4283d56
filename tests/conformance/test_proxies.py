"""What every proxy promises, for each one that is registered; see `jaxnas.base.Proxy`."""

import dataclasses
import functools
import math

import jax
import pytest

from conformance.tiny import MANY, N, batch, several
from jaxnas import proxies, scoring, spaces
from jaxnas.base import Batch, Network, Reading, Single, Status
from jaxnas.errors import ConfigError, DatasetError
from jaxnas.proxies.evaluation import Evaluation

ALL = tuple(proxies.get(name) for name in proxies.names())
USUAL = tuple(p for p in ALL if p.Settings is None and p.needs in (Single, Network))
ENGINE = scoring.Engine(block=3)
A = 4  # architectures


def batch_of(proxy):
  return batch(MANY.get(proxy.name, N))


usual = pytest.mark.parametrize("proxy", [pytest.param(p, id=p.name) for p in USUAL])
every = pytest.mark.parametrize("proxy", [pytest.param(p, id=p.name) for p in ALL])


@every
def test_is_a_value_and_says_what_is_better(proxy):
  again = proxies.get(proxy.name)
  assert again == proxy and hash(again) == hash(proxy)
  assert all(proxy != other for other in ALL if other.name != proxy.name)
  assert dataclasses.is_dataclass(proxy) and isinstance(proxy.higher_is_better, bool)
  assert proxy.ranking_value(Reading(2.0, Status.OK)) != proxy.ranking_value(Reading(1.0, Status.OK))
  assert (proxy.ranking_value(Reading(2.0, Status.OK)) > proxy.ranking_value(Reading(1.0, Status.OK))) == (
    proxy.higher_is_better
  )
  last = {proxy.ranking_value(Reading(2.0, status)) for status in Status if status.degenerate}
  last |= {proxy.ranking_value(Reading(value, Status.OK)) for value in (math.nan, math.inf, -math.inf)}
  assert last == {proxy.worst if proxy.higher_is_better else -proxy.worst}
  assert not any(map(math.isnan, last))


@usual
def test_batches_that_do_not_fit_are_refused(proxy):
  """Without labels, where they are needed, and without the axis of samples, where weights meet images."""
  space = spaces.get("nb201")
  network, codes = several(space, A)
  inputs, labels, _ = batch_of(proxy)
  if proxy.needs_labels:
    with pytest.raises(ConfigError, match=rf"{proxy.name}.*labels"):
      ENGINE.measure([proxy], network, None, codes, Batch(inputs))
  if {"inputs", "params"} <= used_by(proxy):
    with pytest.raises((ConfigError, DatasetError)):
      traced(proxy, network, codes, inputs[0], labels)


@functools.cache
def used_by(proxy):
  """Which of the evaluation's attributes a proxy reads."""
  network, codes = several(spaces.get("nb201"), A)
  inputs, labels, _ = batch_of(proxy)
  return traced(proxy, network, codes, inputs, labels)


def traced(proxy, network, codes, inputs, labels):
  """Traces the proxy and returns the names of the evaluation's attributes that it asked for."""
  seen = set()

  class Watched(Evaluation):
    def __getattribute__(self, name):
      seen.add(name)
      return super().__getattribute__(name)

  def measure(params, arch, key):
    return proxy.measure(Watched(network, params, arch, inputs, labels, None, key))

  params = jax.eval_shape(network.init, jax.random.key(0))
  jax.eval_shape(measure, params, network.encode(codes[:1])[0], jax.random.key(0))
  return frozenset(seen)
