"""neural-tangents through the bridge: it imports, leaves JAX as it was, and its kernels are ours."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw, needs_neural_tangents, python

from jaxnas import ntk
from jaxnas.ntk import neural_tangents_bridge

UNDONE = """
import sys, warnings
import jax, jax.core, jax.extend.core, jax.interpreters.ad
import jax.experimental.ode, jax.example_libraries.stax, jax.scipy  # which it imports itself
from jaxnas.ntk import neural_tangents_bridge
assert "neural_tangents" not in sys.modules
modules = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "jax"]
before = [dict(module.__dict__) for module in modules]
util = sys.modules.get("jax.util")
nt = neural_tangents_bridge.load()
for module, names in zip(modules, before):
  changed = {name for name in names.keys() | module.__dict__.keys() if module.__dict__.get(name) is not names.get(name)}
  submodules = {name for name in changed if f"{module.__name__}.{name}" in sys.modules}
  assert changed == submodules, (module.__name__, changed - submodules)
assert sys.modules.get("jax.util") is util
assert "neural_tangents.experimental" not in sys.modules and not hasattr(nt, "experimental")
assert not {"tensorflow", "tf2jax"} & set(sys.modules)
assert neural_tangents_bridge.load() is nt
print(nt.__version__)
"""


@pytest.fixture
def nt():
  """The package, in the modes of JAX that it was written in."""
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield neural_tangents_bridge.load()


def mlp(params, x):
  for layer in params[:-1]:
    x = jnp.tanh(x @ layer["w"] + layer["b"][None])
  return x @ params[-1]["w"]


def cnn(params, x):
  for kernel in params["conv"]:
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.nn.relu(x)
  return x.mean((1, 2)) @ params["head"]


MLP = [
  {"w": draw(0, 5, 12, dtype=np.float32), "b": draw(1, 12, dtype=np.float32)},
  {"w": draw(2, 12, 8, dtype=np.float32), "b": draw(3, 8, dtype=np.float32)},
  {"w": draw(4, 8, 3, dtype=np.float32)},
]
CNN = {
  "conv": [draw(0, 3, 3, 2, 6, dtype=np.float32), draw(1, 3, 3, 6, 4, dtype=np.float32)],
  "head": draw(2, 4, 3, dtype=np.float32),
}
MODELS = [
  pytest.param(mlp, MLP, [draw(20 + i, n, 5, dtype=np.float32) for i, n in enumerate((4, 3))], id="mlp"),
  pytest.param(cnn, CNN, [draw(30 + i, n, 6, 6, 2, dtype=np.float32) for i, n in enumerate((4, 3))], id="cnn"),
]


@needs_neural_tangents
def test_nothing_of_jax_is_changed_afterwards():
  assert python(UNDONE).stdout.strip().startswith("0.6")


@needs_neural_tangents
@pytest.mark.parametrize("implementation", [0, 1, 2, 3])
@pytest.mark.parametrize(("f", "params", "inputs"), MODELS)
def test_its_finite_kernels_are_ours(nt, f, params, inputs, implementation):
  axes = {"trace_axes": (-1,)}, {"trace_axes": ()}, {"trace_axes": (), "diagonal_axes": (1,)}
  for own in axes if implementation else axes[:1]:  # 0 compiles all of the others
    theirs = nt.empirical_ntk_fn(f, vmap_axes=0, implementation=implementation, **own)(*inputs, params)
    ours = ntk.empirical_ntk_fn(f, vmap_axes=0, **own)(*inputs, params)
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5 * np.abs(ours).max())


@needs_neural_tangents
def test_infinite_width_is_the_limit_of_ours(nt):
  """The kernel of a ReLU layer from the arc-cosine formula, and of a wide network from ours."""
  stax = nt.stax
  x = draw(0, 4, 6, dtype=np.float32)

  def network(width):
    return stax.serial(stax.Dense(width, W_std=2**0.5), stax.Relu(), stax.Dense(1))

  infinite = network(1)[2](x, None, "ntk")
  norms = jnp.linalg.norm(x, axis=1)
  cosine = jnp.clip(x @ x.T / jnp.outer(norms, norms), -1, 1)
  angle = jnp.arccos(cosine)
  gate = (jnp.pi - angle) / (2 * jnp.pi)
  sigma = jnp.outer(norms, norms) / 6 * 2
  expected = sigma * ((jnp.sin(angle) + (jnp.pi - angle) * cosine) / (2 * jnp.pi) + cosine * gate)
  np.testing.assert_allclose(infinite, expected, rtol=1e-3, atol=1e-4)
  init, f, _ = network(4096)
  _, params = init(jax.random.key(0), x.shape)
  finite = ntk.empirical_ntk_fn(f, vmap_axes=0)(x, None, params)
  np.testing.assert_allclose(finite, infinite, atol=0.1 * np.abs(infinite).max())


@needs_neural_tangents
def test_what_else_it_has_works(nt):
  """Predictions, blocks, draws and expansions, each against a formula of its own."""
  x, y = draw(0, 5, 6, dtype=np.float32), draw(1, 5, 1, dtype=np.float32)
  init, f, kernel_fn = nt.stax.serial(nt.stax.Dense(64), nt.stax.Erf(), nt.stax.Dense(1))
  theta = kernel_fn(x, None, "ntk")
  values, vectors = np.linalg.eigh(np.asarray(theta, np.float64))
  decay = vectors @ np.diag(np.exp(-values * 2.0 / y.size)) @ vectors.T
  zero = jnp.zeros_like(y)
  mse = nt.predict.gradient_descent_mse(theta, y)(2.0, zero)
  np.testing.assert_allclose(mse, y - decay @ y, rtol=1e-3, atol=1e-4)
  flow = nt.predict.gradient_descent(lambda fx, y: 0.5 * jnp.mean((fx - y) ** 2), theta, y)(2.0, zero)
  np.testing.assert_allclose(flow, mse, rtol=1e-3, atol=1e-3)
  ensemble = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x, y, diag_reg=1e-6)
  np.testing.assert_allclose(ensemble(x_test=x, get="ntk"), y, atol=1e-2)
  np.testing.assert_allclose(nt.predict.max_learning_rate(theta), 2 * y.size / values[-1], rtol=1e-4)
  blocks = nt.batch(lambda x1, x2: kernel_fn(x1, x2, "ntk"), batch_size=1, device_count=0)
  np.testing.assert_allclose(blocks(x, x), theta, rtol=1e-3, atol=1e-4)
  drawn = nt.monte_carlo_kernel_fn(init, f, jax.random.key(0), 200)(x, None, "ntk")
  np.testing.assert_allclose(drawn, theta, atol=0.1 * np.abs(theta).max())
  _, params = init(jax.random.key(0), x.shape)
  moved = jax.tree.map(lambda a: a + 1e-3, params)
  np.testing.assert_allclose(nt.linearize(f, params)(moved, x), nt.taylor_expand(f, params, 1)(moved, x), atol=1e-5)
  np.testing.assert_allclose(nt.linearize(f, params)(moved, x), f(moved, x), atol=1e-3)


def test_without_the_package_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "neural_tangents", None)
  with pytest.raises(ImportError, match=r"pip install --no-deps neural-tangents frozendict.*jaxnas\[neural-tangents\]"):
    neural_tangents_bridge.load()
