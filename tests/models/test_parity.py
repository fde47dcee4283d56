"""What `jaxnas.measure` gives for the readable modules of the spaces is what the engine gives, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw
from module_checks import random_params

import jaxnas
from jaxnas import proxies, spaces
from jaxnas.base import Network, NetworkConfig, Single
from jaxnas.models import as_network
from jaxnas.proxies import zen
from jaxnas.proxies.evaluation import Evaluation, observe
from jaxnas.proxies.mgm import MGMCode, MGMTruncated
from jaxnas.spaces import darts, mapping, nb201
from jaxnas.spaces.darts import encoding

N = 4
LABELS = np.array([0, 2, 1, 1])
KEY = jax.random.key(5)
SMALLER = {"mgm_code": MGMCode(samples=N), "mgm_truncated": MGMTruncated(samples=N)}
ALL = tuple(SMALLER.get(name) or proxies.get(name) for name in proxies.names())
USUAL = tuple(p for p in ALL if p.Settings is None and p.needs in (Single, Network))  # not of cells or graphs
QUICK = tuple(proxies.get(name) for name in ("naswot", "snip", "fisher", "zen", "params", "flops"))
PARTS = 4

# Both convolutions, a pool, a skip, an edge that is there and reaches no output.
NB201 = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"
# Separable and dilated convolutions of both sizes, both pools, skips, factorised reductions.
_OPS = [op for op in encoding.OPS if op != "none"]
DARTS = encoding.from_cells(
  [(op, source) for op, source in zip([*_OPS, "skip_connect"], (0, 1, 0, 2, 1, 3, 2, 4), strict=True)],
  [(op, source) for op, source in zip([*_OPS, "sep_conv_3x3"], (0, 1, 0, 1, 0, 1, 0, 4), strict=True)],
)


def case(name):
  """(fast network, its parameters, architecture, module, its variables)."""
  space = spaces.get(name)
  if name == "nb201":
    code, config, parts = space.parse(NB201), NetworkConfig(3, 1, 3), nb201.mapping.parameters
  else:
    code, config, parts = DARTS, NetworkConfig(4, 3, 3), darts.mapping.parameters
  network = space.network(config)
  arch = jnp.asarray(network.encode(code[None])[0])
  module, params = space.module(code, config), random_params(network)
  return network, params, arch, module, {"params": mapping.gather(parts(module), params)}


def same_gaussians(monkeypatch, name, network, as_model):
  """Lets zen draw the same weights for both trees: those of one are mapped to the other."""
  module = case(name)[3]
  parts = {"nb201": nb201, "darts": darts}[name].mapping.parameters(module)
  drawn = zen.gaussian_params(KEY, random_params(network))
  theirs = as_model.layout.tree(mapping.gather(parts, drawn))
  monkeypatch.setattr(zen, "gaussian_params", lambda key, params: theirs if "stage_000" in params else drawn)


def check(name, some, monkeypatch, static=False):
  """`static`: with the architecture as a constant, which compiles sooner."""
  network, params, arch, module, variables = case(name)
  images = draw(1, N, 8, 8, 3)
  _, own_key = jax.random.split(KEY)

  @jax.jit
  def engine(params, images, arch):
    arch = tuple(spaces.get(name).parse(NB201).tolist()) if static else arch
    e = Evaluation(network, params, arch, images, jnp.asarray(LABELS, jnp.int32), key=own_key)
    return [proxy.measure(e) for proxy in some]

  with jax.numpy_dtype_promotion("standard"):  # Flax's pools count in the widest type that is on
    as_model, _ = as_network(module, images, variables)
    same_gaussians(monkeypatch, name, network, as_model)
    found = jaxnas.measure(module, (images, LABELS), some, KEY, variables=variables)
  readings = [p.finish(raw) for p, raw in zip(some, jax.device_get(engine(params, images, arch)), strict=True)]
  wanted = {proxy.name: reading for proxy, reading in zip(some, readings, strict=True)}
  assert {p.why for p in found.values()} == {""}
  assert {n: p.status for n, p in found.items()} == {n: r.status for n, r in wanted.items()}
  for one, reading in wanted.items():
    np.testing.assert_allclose(found[one].value, reading.value, rtol=1e-9, err_msg=one)


def test_nb201(x64, monkeypatch, unchecked):
  check("nb201", QUICK, monkeypatch, static=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("nb201", 0), *(("darts", part) for part in range(PARTS))])
def test_every_proxy(name, part, x64, monkeypatch):
  """DARTS in parts: its programs are large."""
  check(name, USUAL if name == "nb201" else USUAL[part::PARTS], monkeypatch)


def test_darts_shows_the_same(x64):
  """ReLUs, pooled maps and deviations of batch normalisations of all operations."""
  network, params, arch, module, variables = case("darts")
  images = draw(1, N, 8, 8, 3)
  with jax.numpy_dtype_promotion("standard"):
    as_model, tree = as_network(module, images, variables)
    found = jax.jit(lambda p, x: observe(as_model, p, x, jnp.zeros(0)))(tree, images)
    assert as_model.costs(arch).params == network.costs(arch).params
    assert as_model.costs(arch).macs == network.costs(arch, 8).macs
  wanted = jax.jit(lambda p, x, arch: observe(network, p, x, arch))(params, images, arch)
  np.testing.assert_array_equal(found.agreement, wanted.agreement)
  np.testing.assert_allclose(found.features, wanted.features, rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(found.log_deviation, wanted.log_deviation, rtol=1e-9)
