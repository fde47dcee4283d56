"""The scoring engine: one program for any number of architectures, same readings in any company."""

import dataclasses
import functools
import logging
import threading
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.base import Parametrised, Proxy, Status
from jaxnas.errors import ConfigError
from jaxnas.proxies.evaluation import Evaluation
from jaxnas.proxies.linear_regions import LinearRegions
from jaxnas.proxies.naswot import NASWOT
from jaxnas.proxies.ntk_condition_number import NTKConditionNumber
from jaxnas.scoring import Batch, Engine
from jaxnas.scoring import engine as engine_module
from jaxnas.spaces.nb201 import RegionNetwork, encoding

OPS = ((0, 1, 3, 4), (0, 1), (0, 1), (0, 1, 4), (0, 1), (0, 1, 2))  # of each edge, in the architectures here
NETWORK = RegionNetwork(3, 1, 2)  # small enough to compile several programs
REGIONS = LinearRegions()
KERNEL = NTKConditionNumber(batch_norm="batch_frozen")


@functools.cache
def own_params():
  return NETWORK.init(jax.random.key(0))


@functools.cache
def archs():
  """Weights [7, 1, 6, 5] of connected architectures of `OPS`."""
  rng = np.random.default_rng(0)
  found: list[tuple[int, ...]] = []
  while len(found) < 7:
    arch = tuple(int(rng.choice(ops)) for ops in OPS)
    if encoding.is_connected(arch) and 3 in arch and arch not in found:
      found.append(arch)
  return encoding.alphas(np.array(found))


@functools.cache
def batch_of(proxy):
  """Images, or two batches of crops that are alike enough to share regions."""
  rng = np.random.default_rng(1)
  if proxy is KERNEL:
    return Batch(jnp.asarray(rng.normal(size=(5, 4, 4, 3)), jnp.float32))
  grey = rng.normal(size=(2, 50, 1, 1, 1))
  return Batch(jnp.asarray(grey + 0.05 * rng.normal(size=(2, 50, 3, 3, 3)), jnp.float32))


@functools.cache
def engine():
  """Shared by the tests that need nothing of its own, so that each program compiles once."""
  return Engine(block=3)


@functools.cache
def readings(proxy):
  return scored(engine(), proxy)


def scored(own, proxy, params=None, alphas=None, batch=None):
  """One proxy's readings."""
  given = (own_params() if params is None else params, archs() if alphas is None else alphas, batch or batch_of(proxy))
  (found,) = own.score([proxy], NETWORK, *given)
  return found


@pytest.mark.parametrize("proxy", [REGIONS, KERNEL], ids=lambda p: p.name)
def test_measures_what_the_proxy_alone_measures(proxy):
  program = jax.jit(lambda *given: proxy.measure(Evaluation(NETWORK, *given)))
  (raw,) = engine().measure([proxy], NETWORK, own_params(), archs(), batch_of(proxy))
  assert len(raw) == len(archs())
  for row, found in zip(archs(), raw, strict=True):
    alone = np.asarray(program(own_params(), jnp.asarray(row), batch_of(proxy).inputs))
    assert found.dtype == alone.dtype
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4 * alone.max())
  assert [proxy.finish(found) for found in raw] == readings(proxy)
  assert len({reading.value for reading in readings(proxy)}) > 3  # the architectures differ


@pytest.mark.parametrize("block", [1, 7, 10])
def test_block_size_does_not_change_readings(block):
  """Blocks of 3 leave a last block of one; 1, 7 and 10 divide, hold and exceed the number."""
  assert scored(Engine(block), REGIONS) == readings(REGIONS)


def test_block_size_does_not_change_kernels():
  assert scored(Engine(4), KERNEL) == readings(KERNEL)  # to the last bit


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_blocks_side_by_side_change_nothing(streams):
  own, done = Engine(block=2, streams=streams), []
  kernels = own.score([KERNEL], NETWORK, own_params(), archs(), batch_of(KERNEL), advance=done.append)
  assert kernels[0] == readings(KERNEL)
  assert max(done) <= 2
  assert sum(done) == len(archs())
  assert done[-1] == 1 or streams == 1  # the streams end together


def test_a_stopped_run_leaves_no_blocks_behind():
  own = Engine(block=1, streams=2)
  blocks = own.blocks([REGIONS], NETWORK, own_params(), archs(), batch_of(REGIONS))
  rows, (first,) = next(blocks)
  blocks.close()
  assert rows == [0] and REGIONS.finish(first[0]) == readings(REGIONS)[0]
  assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("proxy", [REGIONS, KERNEL], ids=lambda p: p.name)
def test_order_does_not_matter(proxy):
  order = np.array([4, 0, 6, 2, 1, 5, 3])
  turned = scored(engine(), proxy, alphas=archs()[order])
  assert turned == [readings(proxy)[i] for i in order]
  twice = scored(engine(), proxy, alphas=archs()[[2, 2, 2, 2]])
  assert twice == [readings(proxy)[2]] * 4


def test_no_architectures():
  assert scored(engine(), REGIONS, alphas=archs()[:0]) == []


def compilations(caplog):
  return [r for r in caplog.records if "Finished XLA compilation of jit(run)" in r.getMessage()]


def test_one_compilation_for_any_number_of_architectures(caplog):
  own, images = Engine(block=3), batch_of(REGIONS).inputs
  with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
    for number in (1, 3, 4, 7):
      assert scored(own, REGIONS, alphas=archs()[:number]) == readings(REGIONS)[:number]
    assert len(compilations(caplog)) == 1
    scored(own, REGIONS, jax.tree.map(lambda a: 2 * a, own_params()), batch=Batch(-images))
    again = dataclasses.replace(NETWORK)  # an equal network
    own.score([LinearRegions()], again, own_params(), archs(), Batch(images))
    assert len(compilations(caplog)) == 1
    scored(own, REGIONS, batch=Batch(images[:, :10]))
    assert len(compilations(caplog)) == 2


def test_batches_of_another_dtype_have_a_program_of_their_own():
  @dataclasses.dataclass(frozen=True)
  class Total(Proxy):
    name: str = "total"
    needs: ClassVar[type] = Parametrised

    def measure(self, evaluation):
      return evaluation.inputs.sum()

  own = Engine()
  for images in (np.full(3, 1.5, np.float32), np.full(3, 2, np.int32)):
    assert own.score([Total()], NETWORK, own_params(), archs()[:1], Batch(images)) == [[(images.sum(), Status.OK)]]


def test_codes_are_encoded_by_the_network_and_weights_are_taken_as_they_are():
  codes = np.argmax(archs()[:, 0], -1)
  found = scored(engine(), REGIONS, alphas=codes)
  assert found == readings(REGIONS)


def test_a_network_that_is_not_what_the_proxy_needs_is_refused():
  with pytest.raises(ConfigError, match=r"'naswot' needs .* jaxnas\.base.*Single, which .*RegionNetwork is not"):
    engine().score([NASWOT()], NETWORK, own_params(), archs(), batch_of(KERNEL))


def test_weights_and_batch_are_not_baked_into_the_program():
  batch = Batch(batch_of(REGIONS).inputs[::-1] * 2)
  other = NETWORK.init(jax.random.key(1))
  fresh = scored(Engine(block=3), REGIONS, other, batch=batch)
  assert scored(engine(), REGIONS, other, batch=batch) == fresh
  assert fresh != readings(REGIONS)


def test_progress_and_seconds():
  own, done = Engine(block=3, streams=1), []
  own.score([REGIONS], NETWORK, own_params(), archs(), batch_of(REGIONS), advance=done.append)
  assert sum(done) == 7
  assert done[0] == 1 and max(done) == 3  # the first one tells how long an architecture takes
  compiling, scoring = own.seconds.compile, own.seconds.score
  assert compiling > 0
  assert scoring > 0
  scored(own, REGIONS)
  assert own.seconds.compile == compiling
  assert own.seconds.score > scoring


def test_disconnected_architectures_do_not_stop_the_others():
  mixed = np.concatenate([archs()[:2], encoding.alphas([[0] * 6]), archs()[2:3]])
  kernels = scored(engine(), KERNEL, alphas=mixed)
  assert kernels[2].status != "ok"
  assert KERNEL.ranking_value(kernels[2]) == -KERNEL.worst
  assert [kernels[i] for i in (0, 1, 3)] == readings(KERNEL)[:3]
  regions = scored(engine(), REGIONS, alphas=mixed)
  assert regions[2].value == 1


def test_slow_architectures_come_one_by_one(monkeypatch):
  monkeypatch.setattr(engine_module, "CALL_SECONDS", 0.0)
  done = []
  Engine(block=3).score([REGIONS], NETWORK, own_params(), archs(), batch_of(REGIONS), advance=done.append)
  assert done == [1] * 7


@pytest.mark.parametrize("name", ["block", "streams"])
@pytest.mark.parametrize("value", [0, -1])
def test_bad_settings(name, value):
  with pytest.raises(ConfigError, match=f"{name}={value} must be at least 1"):
    Engine(**{name: value})


@pytest.mark.parametrize("shape", [(1, 6, 5), (2, 2, 6, 5), (2, 1, 14, 8)])
def test_weights_of_another_space(unchecked, shape):
  with pytest.raises(ConfigError, match=r"weights of shape .*expected \(1, 6, 5\)"):
    scored(engine(), REGIONS, alphas=np.ones(shape, np.float32))
