"""What `empirical_ntk_fn` does with input that is wrong, or empty, or not finite."""

import jax.numpy as jnp
import numpy as np
import pytest
from kernel_cases import CASES, K, N, draw_from

from jaxnas import ntk
from jaxnas.errors import ConfigError

IMPLEMENTATIONS = (0, 1, 2, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bad_outputs(unchecked, implementation):
  x, params = jnp.ones((N, 2)), {"w": jnp.ones((2, K))}

  def kernel(f, **how):
    return ntk.empirical_ntk_fn(f, implementation=implementation, **how)(x, None, params)

  for f, message in [
    (lambda p, x: (x @ p["w"]).astype(jnp.int32), "f: returned int32"),
    (lambda p, x: (x @ p["w"]).astype(jnp.complex64), "f: returned complex64"),
    (lambda p, x: (x @ p["w"]) > 0, "f: returned bool"),
    (lambda p, x: {"y": x @ p["w"], "name": "logits"}, "f: returned .*'logits'"),
    (lambda p, x: object(), "f: returned .*object"),
  ]:
    for vmap_axes in (None, 0):
      with pytest.raises(ConfigError, match=message):
        kernel(f, trace_axes=(), vmap_axes=vmap_axes)
  assert kernel(lambda p, x: (), trace_axes=()) == ()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(params={}), "none of the 0 parameter leaves"),
    (dict(params={"w": jnp.ones((2, K)), "n": jnp.ones(2, jnp.int32)}), "params: leaf 'n' is int32"),
    (dict(params={"w": "text"}), "params: leaf 'w'"),
    (dict(x1=(), vmap_axes=0), "vmap_axes=0"),
    (dict(x1=[jnp.ones((N, 2)), jnp.ones((3, 2))], vmap_axes=0), "vmap_axes=0.*sizes"),
    (dict(x2=jnp.ones((3, 2)), trace_axes=(0,)), "x2: f"),
    (dict(x2=jnp.ones((3, 2)), diagonal_axes=(0,), batch_size=2, vmap_axes=0), "x2: f"),
    (dict(trace_axes=(2,)), r"trace_axes=\(2,\)"),
    (dict(trace_axes=1.0), "trace_axes=1.0"),
    (dict(trace_axes=("1",)), r"trace_axes=\('1',\)"),
    (dict(diagonal_axes=(-3,)), r"diagonal_axes=\(-3,\)"),
    (dict(trace_axes=(1,), diagonal_axes=(-1,)), "shares an axis"),
    (dict(vmap_axes=2), "vmap_axes=2"),
    (dict(vmap_axes=(0, None, {})), "every output"),
    (dict(vmap_axes=(1, 1, {})), "vmap_axes"),
    (dict(batch_size=2), "batch_size=2"),
    (dict(batch_size=0, vmap_axes=0), "batch_size=0"),
    (dict(batch_size=2.5, vmap_axes=0), "batch_size=2.5"),
    (dict(memory=2**30), "memory=1073741824: f is taken by samples"),
    (dict(memory=0.5, vmap_axes=0), "memory=0.5"),
    (dict(memory=2**30, batch_size=2, vmap_axes=0), "batch_size=2 and memory=1073741824"),
    (dict(chunk_size=0), "chunk_size=0"),
    (dict(implementation=7), "implementation=7"),
    (dict(implementation="fast"), "implementation='fast'"),
    (dict(select=lambda path: path == "nothing"), "select: none of the 1"),
    (dict(select="w"), "select='w'"),
  ],
)
def test_bad_arguments(unchecked, change, message):
  settings = dict(x1=jnp.ones((N, 2)), x2=None, params={"w": jnp.ones((2, K))}) | change
  x1, x2, params = (settings.pop(name) for name in ("x1", "x2", "params"))

  def f(p, x):
    return jnp.ones((N, 2)) @ p["w"] if isinstance(x, tuple) else (x[0] if isinstance(x, list) else x) @ p["w"]

  with pytest.raises(ConfigError, match=message):
    ntk.empirical_ntk_fn(f, **settings)(x1, x2, params)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_non_finite_outputs_stay_where_they_are(x64, implementation):
  f, params, x = CASES["mlp"](draw_from())
  x = x.at[1, 2].set(jnp.nan)
  kernel = np.array(ntk.empirical_ntk_fn(f, vmap_axes=0, implementation=implementation)(x, None, params))
  rest = np.ones((N, N), bool)
  rest[1], rest[:, 1] = False, False
  assert np.isfinite(kernel[rest]).all() and np.isnan(kernel[~rest]).all()


def tree_of_its_input(p, x):
  y = x @ p["w"]
  return (y,) if len(x) == N else [y, y]


@pytest.mark.parametrize(
  "call",
  [
    lambda *own: ntk.empirical_ntk_fn(tree_of_its_input)(*own),
    lambda *own: ntk.empirical_nngp_fn(tree_of_its_input)(*own),
    lambda x1, _, params: ntk.empirical_ntk_fn(tree_of_its_input, vmap_axes=0)(x1, None, params),
    lambda x1, _, params: ntk.check_independence(tree_of_its_input, params, x1),
  ],
)
def test_outputs_are_one_tree(call):
  with pytest.raises(ConfigError, match="f: returns PyTreeDef.* trees of one structure"):
    call(jnp.ones((N, 2)), jnp.ones((3, 2)), {"w": jnp.ones((2, K))})


@pytest.mark.parametrize("how", [dict(batch_size=2), dict(memory=1), dict(memory=1000)])
@pytest.mark.parametrize(("trace_axes", "diagonal_axes"), [((), ()), ((1,), ()), ((1,), (0,)), ((0, 1), ())])
def test_empty_kernels_in_blocks(how, trace_axes, diagonal_axes):
  params = {"w": jnp.ones((2, K))}
  for samples, others, outputs in [(0, None, K), (0, 3, K), (3, 0, K), (3, None, 0), (3, 3, 0)]:
    if others not in (None, samples) and 0 in (*trace_axes, *diagonal_axes):
      continue
    x1, x2 = jnp.ones((samples, 2)), None if others is None else jnp.ones((others, 2))

    def f(p, x, outputs=outputs):
      return (x @ p["w"])[:, :outputs]

    own = dict(trace_axes=trace_axes, diagonal_axes=diagonal_axes, vmap_axes=0)
    whole, blocks = (ntk.empirical_ntk_fn(f, **own, **more)(x1, x2, params) for more in ({}, how))
    np.testing.assert_array_equal(blocks, whole)  # NaN where it is the mean of nothing


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("vmap_axes", [None, 0])
def test_no_samples(implementation, vmap_axes):
  def f(p, x):
    return jnp.tanh(x @ p["a"]) @ p["c"]

  params = {"a": jnp.ones((4, 5)), "c": jnp.ones((5, K))}
  kernel_fn = ntk.empirical_ntk_fn(f, (), implementation=implementation, vmap_axes=vmap_axes)
  assert kernel_fn(jnp.ones((0, 4)), None, params).shape == (0, 0, K, K)
  assert kernel_fn(jnp.ones((2, 4)), jnp.ones((0, 4)), params).shape == (2, 0, K, K)
