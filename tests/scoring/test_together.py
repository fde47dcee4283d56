"""Many architectures in one program: the numbers of the loop, whatever the block."""

import dataclasses
import functools
import logging
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, python

from jaxnas import proxies, spaces
from jaxnas.base import Batch, NetworkConfig, Parametrised, Proxy, Selections
from jaxnas.errors import ConfigError
from jaxnas.gennas import tasks
from jaxnas.gennas.heads import DispatchedSignalNetwork
from jaxnas.gennas.proxy import SignalRegression
from jaxnas.gennas.regression import WIDTHS, Training, pose
from jaxnas.nets.choose import choose
from jaxnas.scoring import Engine
from jaxnas.spaces.nb201 import encoding

SMALL = NetworkConfig(4, 1, 5)
OPERATIONS = (
  lambda x, kernel: jnp.zeros_like(x),
  lambda x, kernel: jnp.tanh(x @ kernel),
  lambda x, kernel: jnp.sin(x),
)
CODES = np.array([[1, 2], [0, 1], [2, 2], [1, 1], [2, 0], [1, 0], [2, 1]])
WIDTH = 4


@dataclasses.dataclass(frozen=True)
class Chain:
  """Two operations in a row, each chosen; the first one reads what all architectures share."""

  def encode(self, codes):
    return np.asarray(codes, np.int32)

  def choices(self, archs):
    return [Selections(archs, len(OPERATIONS), (0,))]

  def by_program(self, archs):
    return [(self, np.arange(len(archs)))]

  def init(self, key):
    return jax.random.normal(key, (2, WIDTH, WIDTH))

  def start(self, params, arch):
    return params

  def value(self, params, x, arch):
    for kernel, which in zip(params, arch, strict=True):
      x = choose(OPERATIONS, which, x, kernel)
    return x


@dataclasses.dataclass(frozen=True)
class Shown(Proxy):
  """A value and a gradient, of two shapes."""

  name: str = "shown"
  needs: ClassVar[type] = Parametrised

  def measure(self, evaluation):
    own = evaluation
    gradient = jax.grad(lambda p: own.network.value(p, own.inputs, own.arch).sum())(own.params)
    return {"value": own.network.value(own.params, own.inputs, own.arch), "norm": jnp.abs(gradient).sum()}


@dataclasses.dataclass(frozen=True)
class Doubled(DispatchedSignalNetwork):
  """Weights in float64."""

  def init(self, key):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), super().init(key))


@functools.cache
def batch():
  return Batch(np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32))


def measured(engine, network=None, codes=CODES, **given):
  network = network or Chain()
  params = None if given else network.init(jax.random.key(0))
  (found,) = engine.measure([Shown()], network, params, codes, batch(), **given)
  return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def assert_same(found, wanted):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)


@pytest.mark.parametrize("block", [1, 2, 3, 7, None])
def test_a_block_of_any_size_gives_what_the_loop_gives(block):
  done, own = [], Engine(block, batching="dispatch")
  found = measured(own)
  assert_same(found, measured(Engine(3, batching="loop")))
  assert len(own._programs) == 1
  own.measure([Shown()], Chain(), Chain().init(jax.random.key(0)), CODES, batch(), advance=done.append)
  assert done == [min(block or 7, 7 - start) for start in range(0, 7, block or 7)]
  assert len(own._programs) == 1


def test_weights_of_ones_own():
  keys = jax.random.split(jax.random.key(5), len(CODES))
  found = measured(Engine(4, batching="dispatch"), init_keys=keys)
  assert_same(found, measured(Engine(batching="loop"), init_keys=keys))
  assert not np.allclose(found["value"][0], measured(Engine(batching="loop"))["value"][0])


def test_rows_come_with_their_architectures():
  own, seen = Engine(3, batching="dispatch"), []
  wanted = measured(Engine(batching="loop"))["norm"]
  for rows, values in own.blocks([Shown()], Chain(), Chain().init(jax.random.key(0)), CODES, batch()):
    seen += rows
    np.testing.assert_allclose([value["norm"] for value in values[0]], wanted[rows], rtol=1e-6)
  assert sorted(seen) == list(range(len(CODES)))


def test_little_memory_halves_the_block(caplog):
  own = Engine(batching="dispatch")
  measured(own)
  (needed,) = (needed for _, needed in own._programs.values())
  poor = Engine(memory=needed // 2, batching="dispatch")
  assert_same(measured(poor), measured(own))
  halved = [r.args[0] for r in caplog.records if "little memory: blocks of" in r.getMessage()]
  assert halved and halved == [12, 6, 3, 1][: len(halved)]


def test_memory_for_not_even_one_leaves_the_loop(caplog):
  """After a program of seven and one of one: what memory is short by tells how many to try next."""
  own = Engine(memory=1, batching="dispatch")
  with caplog.at_level(logging.WARNING):
    assert_same(measured(own), measured(Engine()))
  assert "one after the other" in caplog.text
  assert sum("dispatch" in name for name in own._programs) == 2


def test_an_out_of_memory_of_the_device_halves_the_block(monkeypatch):
  own = Engine(batching="dispatch")

  def refused(values):
    if len(jax.tree.leaves(values)[0]) > 2:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    return jax.tree.map(np.asarray, values)

  monkeypatch.setattr(jax, "device_get", refused)
  assert_same(measured(own), measured(Engine(block=2, batching="loop")))


def test_networks_without_choices(unchecked):
  class Plain(Chain):
    choices = None

  with pytest.raises(ConfigError, match="--batching=dispatch: .*'loop' or 'auto'"):
    measured(Engine(batching="dispatch"), Plain())
  assert_same(measured(Engine(batching="auto"), Plain()), measured(Engine()))
  with pytest.raises(ConfigError, match="batching='vmap' must be one of auto, loop, dispatch"):
    Engine(batching="vmap")  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class OnTheHost(Shown):
  """Asks the host, which JAX does for one architecture only."""

  name: str = "on_the_host"

  def measure(self, evaluation):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda arch: np.float32(arch.sum()), shape, evaluation.arch)


@dataclasses.dataclass(frozen=True)
class Prepared(Shown):
  """Has a network of its own."""

  name: str = "prepared"
  Settings: ClassVar[type | None] = tuple


@pytest.mark.parametrize("batching", ["dispatch", "auto"])
def test_what_cannot_be_batched_says_so_and_loops(unchecked, monkeypatch, caplog, batching):
  class Plain(Chain):
    choices = None

  own, params = Engine(batching=batching), Chain().init(jax.random.key(0))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  for _ in range(2):
    (found,) = own.measure([OnTheHost()], Chain(), params, CODES, batch())
    assert found == CODES.sum(1).tolist()
    own.measure([Prepared()], Plain(), params, CODES, batch())
  said = [r.getMessage() for r in caplog.records]
  assert len(said) == (2 if batching == "dispatch" else 1)
  assert "on_the_host cannot be measured many at a time" in said[0] and "one after the other" in said[0]
  assert all("prepared cannot be measured many at a time (their network" in text for text in said[1:])


FOUR_DEVICES = """
import sys
sys.path[:0] = sys.argv[1:]
import jax
from test_together import CODES, Engine, assert_same, measured
assert len(jax.devices()) == 4
for given in ({}, {"init_keys": jax.random.split(jax.random.key(5), len(CODES))}):
  for block in (1, 2, None):
    alone = measured(Engine(batching="loop", devices=jax.devices()[:1]), **given)
    assert_same(measured(Engine(block, batching="dispatch"), **given), alone)
"""


def test_four_devices_measure_what_one_does():
  """Of 7 architectures, in blocks of 1 or 2 a device; the rest of a turn is filled with some for a second time."""
  python(FOUR_DEVICES, ROOT / "tests", ROOT / "tests" / "scoring", devices=4)


def test_accelerators_dispatch(monkeypatch):
  own, keys = Engine(4), jax.random.split(jax.random.key(5), len(CODES))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  measured(own)
  measured(own, init_keys=keys)
  assert all("dispatch" in name for name in own._programs) and len(own._programs) == 2


def test_small_sets_share_programs():
  """The next size up of a few, and slots that only grow."""
  own = Engine(batching="dispatch")
  for count in range(1, 8):
    for codes in (CODES[:count], CODES[-count:]):
      assert_same(measured(own, codes=codes), measured(Engine(batching="loop"), codes=codes))
  (slots,) = own._slots.values()
  assert set(slots) == {1, 5, 25} and len(own._programs) <= 6


OTHERS = ("jacob_cov", "synflow", "snip", "grad_norm", "grasp", "fisher", "zen", "mgm", "ntk_condition_number_frozen")
COSTLY = ("ntk_condition_number", "trace_norm_exact", "plain", "params", "flops")
LATER = ("log_synflow", "az_expressivity", "az_trainability", "zico", "swap", "meco")
GRAPH = ("effective_params", "skip_length")


@pytest.mark.parametrize(
  "names",
  [
    ("trace_norm", *GRAPH),
    *(pytest.param(names, marks=pytest.mark.slow) for names in (("naswot", *OTHERS), COSTLY, LATER)),
  ],
  ids=["one", "others", "costly", "later"],
)
def test_every_proxy_equals_the_loop(x64, names):
  """Of 12 architectures in blocks of 5, in float64."""
  rng = np.random.default_rng(0)
  codes = np.array([encoding.from_index(i) for i in rng.permutation(encoding.NUM_ARCHS)[:12]])
  check_equal_to_the_loop(spaces.get("nb201"), SMALL, codes, names)


@pytest.mark.slow
def test_an_accelerators_form_equals_the_loop(x64, monkeypatch):
  """The edges of a cell in a loop; all samples at once."""
  codes = np.array([encoding.from_index(i) for i in (9930, 1, 7777, 15000, 6111, 2)])
  names = ("naswot", "jacob_cov", "synflow", "mgm", "grasp", "ntk_condition_number_frozen", "ntk_condition_number")
  dispatched, real = Engine._together, jax.default_backend

  def as_accelerator(self, which):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    return dispatched(self, which)

  monkeypatch.setattr(Engine, "_together", as_accelerator)
  check_equal_to_the_loop(spaces.get("nb201"), SMALL, codes, names)
  assert jax.default_backend() == "tpu" != real()


@pytest.mark.slow
def test_signs_of_gradients_equal_the_loop(x64):
  """On images of 16 x 16: on smaller ones some gradients are rounding only."""
  codes = np.array([encoding.from_index(i) for i in (9930, 1, 7777, 15000)])
  check_equal_to_the_loop(spaces.get("nb201"), SMALL, codes, ("gradsign",), side=16)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("naswot", "grad_norm"), ("swap", "meco", "az_trainability", *GRAPH)])
def test_cells_of_darts_equal_the_loop(x64, names):
  space = spaces.get("darts")
  check_equal_to_the_loop(space, NetworkConfig(2, 3, 5), space.sample(jax.random.key(0), 8), names)


@pytest.mark.slow
def test_cells_of_network_design_spaces_equal_the_loop(x64):
  space = spaces.get("nds_enas")
  codes = space.sample(jax.random.key(0), 6)
  codes[:, :2] = codes[0, :2]  # of one width and depth
  config = NetworkConfig(4, 3, 5, shape=space.shape(codes[0]))
  check_equal_to_the_loop(space, config, codes, ("naswot", "grad_norm"))


def test_cells_of_nb101_are_apart_by_how_many_vertices_feed_the_output():
  space = spaces.get("nb101")
  network = space.network(SMALL)
  archs = network.encode(space.sample(jax.random.key(3), 40))
  found = network.by_program(archs)
  assert sorted(np.concatenate([rows for _, rows in found])) == list(range(40)) and len(found) > 2
  for own, rows in found:
    assert {int(network.variant(jnp.asarray(arch))) for arch in archs[rows]} == {own.feeding}
    assert own.variants() == (own,) and int(own.variant(jnp.asarray(archs[rows[0]]))) == 0
    ((same, places),) = own.by_program(archs[rows])
    assert same == own and len(places) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
  "names",
  [("naswot", "trace_norm"), ("ntk_condition_number_frozen", "ntk_condition_number", "synflow", "snip", "grasp")],
  ids=["one", "kernels"],
)
def test_cells_of_nb101_equal_the_loop(x64, names):
  space = spaces.get("nb101")
  check_equal_to_the_loop(space, SMALL, space.sample(jax.random.key(3), 12), names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nb201", "nb101"])
def test_regressions_of_architectures_with_weights_of_their_own_equal_the_loop(x64, name):
  """Kernels have an axis of architectures: products of patches."""
  space, rng = spaces.get(name), np.random.default_rng(0)
  network = Doubled(space.backbone(NetworkConfig(4, 1)), WIDTHS)
  images = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
  problem = pose(tasks.get("CONF_NB101"), images, jax.random.key(0), Training(steps=3, interval=3))
  batch = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), Batch(images, None, problem))
  keys = jax.random.split(jax.random.key(5), 6)
  one, other = (
    engine.measure([SignalRegression()], network, None, space.sample(jax.random.key(1), 6), batch, init_keys=keys)
    for engine in (Engine(6, batching="loop", streams=1), Engine(5, batching="dispatch"))
  )
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), one, other)  # three steps enlarge what differs


def check_equal_to_the_loop(space, config, codes, names, side=8):
  network, rng = space.network(config), np.random.default_rng(0)
  data = Batch(rng.normal(size=(6, side, side, 3)), np.arange(6, dtype=np.int32) % 5)
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init(jax.random.key(0)))
  some = [proxies.get(name) for name in names]
  loop, together = (
    engine.measure(some, network, params, codes, data, key=jax.random.key(1))
    for engine in (Engine(6, batching="loop", streams=1), Engine(5, batching="dispatch"))
  )
  for proxy, one, other in zip(some, loop, together, strict=True):
    scale = jax.tree.map(lambda *leaves: np.abs(np.stack(leaves)[np.isfinite(leaves)]).max(initial=1e-300), *one)
    for a, b in zip(one, other, strict=True):
      jax.tree.map(
        lambda x, y, s, name=proxy.name: np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-9 * s, err_msg=name),
        a,
        b,
        scale,
      )
