"""What every proxy promises, for each one that is registered; see `jaxnas.base.Proxy`."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import Tiny

from conformance import tiny
from conformance.tiny import MANY, N, batch, several, stood_for
from jaxnas import proxies, scoring, spaces
from jaxnas.base import Batch, CellNetwork, GraphNetwork, Network, Reading, Single, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation

ALL = tuple(proxies.get(name) for name in proxies.names())
USUAL = tuple(p for p in ALL if p.Settings is None and p.needs in (Single, Network, CellNetwork, GraphNetwork))
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


# On a small network, written without the package's layers


TINY = Tiny()
CODES = np.array([[1], [0], [1], [1], [0]])


def measured(some, network=TINY, codes=CODES, params=None, key=0, engine=ENGINE, batch=batch):
  """Readings [proxy][architecture]."""
  params, groups, found = network.init(jax.random.key(0)) if params is None else params, {}, {}
  for proxy in some:
    groups.setdefault(MANY.get(proxy.name, N), []).append(proxy)
  for n, group in groups.items():
    readings = engine.score(group, network, params, codes, batch(n), key=jax.random.key(key))
    found |= dict(zip(group, readings, strict=True))
  return [found[proxy] for proxy in some]


@functools.cache
def together():
  """All usual proxies in company."""
  return dict(zip(USUAL, measured(USUAL), strict=True))


def same(ours, theirs, rtol=1e-4):
  assert [one.status for one in ours] == [one.status for one in theirs]
  np.testing.assert_allclose([one.value for one in ours], [one.value for one in theirs], rtol=rtol, atol=1e-6)


@usual
def test_company_order_and_blocks_change_nothing(proxy):
  """Alone, backwards, one architecture a call: what it was in company."""
  (alone,) = measured([proxy], codes=CODES[::-1], engine=scoring.Engine(block=1))
  same(alone[::-1], together()[proxy])


@usual
def test_weights_and_draws_are_all_that_it_depends_on(proxy):
  (again,) = measured([proxy], codes=CODES[:1])
  same(again, together()[proxy][:1])
  others = [measured([proxy], codes=CODES[:1], **other) for other in ({"params": TINY.init(seed=1)}, {"key": 1})]
  if {"params", "key"} & used_by(proxy):
    assert any(other[0].value != again[0].value for (other,) in others)


@pytest.mark.parametrize(
  "proxy", [pytest.param(p, id=p.name, marks=[pytest.mark.slow] * (p.name in MANY)) for p in USUAL]
)
def test_compiled_is_what_python_computes(proxy):
  """Without jit, loops run by Python."""
  inputs, labels, _ = batch_of(proxy)
  with jax.disable_jit():
    arch = jnp.asarray(TINY.encode(CODES[:1])[0])
    evaluation = Evaluation(TINY, TINY.init(), arch, inputs, labels, None, jax.random.key(0))
    raw = proxy.measure(evaluation)
  same([proxy.finish(jax.device_get(raw))], together()[proxy][:1])


# On every space


THREE = tuple(proxies.get(name) for name in ("naswot", "mgm", "params"))


def check_on(name, some):
  """Values where there is a path, else a status that ranks last if there is no value; the order changes nothing."""
  space = spaces.get(name)
  network, codes = several(space, A)
  inputs = functools.partial(tiny.batch_of, space)
  if lacks := [proxy for proxy in some if not isinstance(network, proxy.needs)]:
    with pytest.raises(ConfigError, match=f"{lacks[0].name}.*{lacks[0].needs.__name__}"):
      measured(lacks[:1], network, codes, batch=inputs)
    return
  in_order, backwards = (measured(some, network, codes[::step], batch=inputs) for step in (1, -1))
  for proxy, ours, theirs in zip(some, in_order, backwards, strict=True):
    same(ours, theirs[::-1], 2e-4)
    ranks = [proxy.ranking_value(one) for one in ours]
    assert all(isinstance(one.status, Status) for one in ours), proxy.name
    assert not any(one.status.degenerate for one in ours[1:]), proxy.name
    assert all(math.isfinite(one.value) for one in ours[1:]), proxy.name
    if ours[0].status.degenerate:
      assert ranks[0] < min(ranks[1:]), proxy.name


@pytest.mark.parametrize(
  "name", tiny.spaces_of(spaces.names(), slow=lambda name: name not in ("nb201", "nlp"))
)  # the others take minutes to compile; tests/proxies has each proxy of NAS-Bench-101 by hand
def test_every_space_is_measured(name):
  check_on(name, THREE)


@pytest.mark.slow
@usual
@pytest.mark.parametrize("name", tiny.spaces_of([name for name in spaces.names() if not stood_for(name)]))
def test_every_proxy_on_every_space(name, proxy):
  check_on(name, (proxy,))


@pytest.mark.parametrize("proxy", [pytest.param(p, id=p.name) for p in USUAL if p.needs_labels])
def test_a_batch_without_labels_is_refused(proxy):
  with pytest.raises(ConfigError, match=rf"{proxy.name}.*labels"):
    ENGINE.measure([proxy], TINY, None, CODES, Batch(batch_of(proxy).inputs))


@functools.cache
def used_by(proxy):
  """Which of the evaluation's attributes a proxy reads."""
  inputs, labels, _ = batch_of(proxy)
  seen = set()

  class Watched(Evaluation):
    def __getattribute__(self, name):
      seen.add(name)
      return super().__getattribute__(name)

  def measure(params, arch, key):
    return proxy.measure(Watched(TINY, params, arch, inputs, labels, None, key))

  jax.eval_shape(measure, jax.eval_shape(TINY.init), TINY.encode(CODES[:1])[0], jax.random.key(0))
  return frozenset(seen)
