"""The empirical kernel of networks, axes, trees, keyword arguments, dtypes, implementations and blocks, by a grid.

Every value is compared with `jax.jacrev` of the whole batch in float64, contracted in NumPy (`kernel_cases`).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_cases import CASES, K, N, assert_close, contracted, dense_kernels, draw_from

from jaxnas import ntk
from jaxnas.errors import ConfigError

IMPLEMENTATIONS = (0, 1, 2, 3)
some_implementations = pytest.mark.parametrize(
  "implementation", [0, pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)


def kernels(f, x1, x2, params, *how, **kwargs):
  """For each of `how`, arguments of `empirical_ntk_fn` by name, the leaves of the kernel; one program."""

  @jax.jit
  def run(x1, x2, params, kwargs):
    return [jax.tree.leaves(ntk.empirical_ntk_fn(f, **own)(x1, x2, params, **kwargs)) for own in how]

  return run(x1, x2, params, kwargs)


def assert_kernels(found, expected, tolerance=1e-10):
  for leaves in found:
    for got, want in zip(leaves, expected, strict=True):
      assert_close(got, want, tolerance)


# Networks.


WAYS = [
  dict(trace_axes=(), implementation=i, vmap_axes=v, batch_size=b)
  for i, v, b in itertools.product(IMPLEMENTATIONS, (None, 0), (None, 3))
  if v == 0 or b is None
]
ALIKE = (  # others of their kind run every time
  *("explicitly_padded_nchw_convolution", "one_dimensional_convolution", "kernel_that_slides_over_itself", "tokens"),
  *("filled_embedding", "indexed_embedding", "nested_calls", "flax_nnx"),
)
QUICK = [w for w in WAYS if (w["implementation"], w["vmap_axes"], w["batch_size"]) in ((3, None, None), (0, 0, None))]


@pytest.mark.parametrize(
  ("name", "ways"),
  [
    *(pytest.param(n, QUICK, marks=[pytest.mark.slow] * (n in ALIKE), id=f"{n}-quick") for n in CASES),
    *(pytest.param(n, WAYS, marks=pytest.mark.slow, id=f"{n}-all") for n in CASES),
  ],
)
def test_networks(x64, name, ways):
  f, params, x = CASES[name](draw_from())
  other = x[:3][::-1]
  assert_kernels(kernels(f, x, other, params, *ways), dense_kernels(f, params, x, other))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_networks_with_themselves(x64, name):
  f, params, x = CASES[name](draw_from())
  expected = [k.diagonal(0, 2, 3).mean(-1) for k in dense_kernels(f, params, x)]
  ways = [w | {"trace_axes": (-1,)} for w in WAYS]
  assert_kernels(kernels(f, x, None, params, *ways), expected)


@pytest.mark.parametrize(
  ("name", "kinds"),
  [
    ("mlp", {"a/w": "dense", "a/b": "-", "c/b": "-", "c/w": "dense"}),
    ("strided_and_dilated_convolutions", {"a": "convolution", "b": "convolution", "c": "dense"}),
    ("explicitly_padded_nchw_convolution", {"a": "convolution", "c": "dense"}),
    ("depthwise_and_grouped_convolutions", {"a": "convolution", "b": "convolution", "c": "dense"}),
    ("transposed_convolution", {"a": "-", "c": "dense"}),
    ("clipped_embedding", {"t": "embedding", "c": "dense"}),
    ("indexed_embedding", {"t": "embedding", "c": "dense"}),
    ("embedding_of_other_ranks", {"columns": "-", "matrices": "embedding"}),
    ("attention", dict.fromkeys("qkvoc", "dense")),
    ("shared_parameters", {"w": "-", "b": "-", "c": "dense", "d": "-"}),
    ("control_flow", dict.fromkeys(("closed", "scanned", "branch", "loop", "switch"), "-")),
    ("nested_calls", {"a": "dense", "b": "dense", "c": "dense", "twice": "-"}),
    ("own_derivatives", {"a": "-", "m": "dense", "b": "-", "c": "-"}),
    ("batched_and_left_products", dict.fromkeys(("groups", "left", "both", "other"), "dense")),
    ("rearranged_parameters", {"a": "dense", "b": "dense", "stopped": "-", "scaled": "dense", "cut": "-"}),
    (
      "products_of_parameters",
      {"left": "dense", "right": "dense", "w": "dense", "gain": "-", "v": "-", "row": "dense"},
    ),
    ("scaled_parameters", {"a": "convolution", "b": "dense", "c": "dense", "bias": "-", "gain": "-", "number": "-"}),
    ("odd_places", {"w": "dense", "bias": "-", "output": "-", "scale": "-", "unused": "-", "e": "-"}),
  ],
)
def test_layers_that_are_seen(x64, name, kinds):
  """A fast path that is never taken would pass every other test."""
  f, params, x = CASES[name](draw_from())
  table = ntk.empirical_ntk_fn(f, explain=True, vmap_axes=0)(x, None, params)
  seen = {line.split()[1]: line.split()[2] for line in table.splitlines()[1:]}
  assert {path: seen[path] for path in kinds} == kinds


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_f_that_does_otherwise_at_the_other_input(x64, implementation):
  """What a parameter is multiplied with first, and along which axis, may depend on the number of samples."""
  draw = draw_from()
  other = draw(4, 4)
  for f in (
    lambda p, x: x @ p if len(x) < 4 else x @ p.T,
    lambda p, x: jnp.einsum("ni,ij,jk->nk", x, p, other),
    lambda p, x: x @ (p[:2] if len(x) < 4 else p).sum(0),
  ):
    p, x1, x2 = draw(4, 4), draw(2, 4), draw(30, 4)
    assert_kernels(
      kernels(f, x1, x2, p, dict(trace_axes=(), implementation=implementation)), dense_kernels(f, p, x1, x2)
    )


# Dtypes.


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_integer_inputs_and_python_numbers(x64, implementation):
  """An integer operand of a product of mixed types; a parameter that is a Python float does not lower the precision."""
  draw, x = draw_from(), jnp.arange(N * 4).reshape(N, 4) % 5

  def mixed(p, x):
    return jax.lax.dot_general(x, p, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float64)

  def weak(p, x):
    return p["number"] * jnp.tanh(x @ p["w"])

  ways = [dict(trace_axes=(), implementation=implementation, vmap_axes=v) for v in (None, 0)]
  for f, params, inputs in ((mixed, draw(4, K), x), (weak, {"number": 0.7, "w": draw(4, K)}, draw(N, 4))):
    found = kernels(f, inputs, None, params, *ways)
    assert {leaf.dtype for leaves in found for leaf in leaves} == {jnp.dtype(jnp.float64)}
    assert_kernels(found, dense_kernels(f, params, inputs))


@pytest.mark.parametrize(
  "name", ["mlp", "strided_and_dilated_convolutions", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_lower_precision(name):
  with jax.enable_x64(True):
    f, params, x = CASES[name](draw_from())
    (expected,) = dense_kernels(f, params, x)
    params, x = jax.tree.map(np.asarray, (params, x))
  for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.1)):

    def cast(tree, dtype=dtype):
      return jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype == np.float64 else np.int32), tree)

    ways = [dict(trace_axes=(), vmap_axes=v, implementation=i) for i, v in ((0, 0), (1, None), (2, 0), (3, 0))]
    found = kernels(f, cast(x), None, cast(params), *ways)
    assert {leaf.dtype for leaves in found for leaf in leaves} == {jnp.dtype(jnp.float32)}
    assert_kernels(found, [expected], tolerance)


@pytest.mark.slow
def test_mixed_dtypes(x64):
  """Parameters of several dtypes, cast where they are used; the kernel is float64 where one is."""

  def f(p, x):
    h = jnp.tanh(x.astype(jnp.bfloat16) @ p["low"]).astype(jnp.float32) @ p["single"]
    return jnp.tanh(h).astype(jnp.float64) @ p["double"]

  draw = draw_from()
  params = {"low": draw(3, 4).astype(jnp.bfloat16), "single": draw(4, 5).astype(jnp.float32), "double": draw(5, K)}
  x = draw(N, 3)
  found = kernels(f, x, None, params, *WAYS)
  assert all(kernel.dtype == jnp.float64 for (kernel,) in found)
  assert_kernels(found, dense_kernels(f, params, x), 2e-2)
  alone = [w | {"select": lambda path: path == "double"} for w in WAYS]
  rows = jax.jacrev(lambda w: f(params | {"double": w}, x))(params["double"]).reshape(N, K, -1)
  assert_kernels(kernels(f, x, None, params, *alone), [contracted(np.asarray(rows), np.asarray(rows))], 2e-2)


# Axes.


@functools.cache
def images():
  """A network whose output has two axes beside the samples', where they stand, and its Jacobians at two inputs."""
  draw = draw_from()
  params = {"a": draw(2, 2, 2, 3), "c": draw(3, 2)}

  def f(p, x):
    h = jax.lax.conv_general_dilated(x, p["a"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (jnp.tanh(h).mean(1) @ p["c"]) ** 2  # [N, 3, 2]

  x1, x2 = draw(N, 3, 4, 2), draw(N, 3, 4, 2)
  rows = [np.asarray(jax.jit(jax.jacrev(lambda p, x=x: f(p, x)))(params)["a"]) for x in (x1, x2)]
  last = [np.asarray(jax.jit(jax.jacrev(lambda p, x=x: f(p, x)))(params)["c"]) for x in (x1, x2)]
  rows = [np.concatenate([r.reshape(N, 3, 2, -1) for r in pair], -1) for pair in zip(rows, last, strict=True)]
  return f, params, x1, x2, *rows


def spelled(axes, ndim=3):
  """The axes as users write them: negative, of NumPy's types, one alone."""
  forms = [lambda a: a, lambda a: a - ndim, np.int64, lambda a: np.int32(a - ndim)]
  listed = [forms[(a + len(axes)) % 4](a) for a in axes]
  return listed[0] if len(listed) == 1 and axes[0] % 2 else tuple(listed)


COMBINATIONS = [
  (tuple(a for a in range(3) if states[a] == "trace"), tuple(a for a in range(3) if states[a] == "diagonal"))
  for states in itertools.product(("free", "trace", "diagonal"), repeat=3)
]
AXES_GRID = [
  (0, 0, None),
  *(
    pytest.param(i, v, b, marks=pytest.mark.slow)
    for i, v, b in itertools.product(IMPLEMENTATIONS, (None, 0), (None, 1, 3, N, 64))
    if (v == 0 or b is None) and (i, v, b) != (0, 0, None)
  ),
]


@pytest.mark.parametrize(("implementation", "vmap_axes", "batch_size"), AXES_GRID)
def test_axes(x64, implementation, vmap_axes, batch_size):
  """All 27 combinations of free, traced and diagonal axes, of the samples' axis too."""
  f, params, x1, x2, rows1, rows2 = images()
  ways = [
    dict(
      trace_axes=spelled(traced),
      diagonal_axes=spelled(diagonal),
      implementation=implementation,
      vmap_axes=vmap_axes,
      batch_size=batch_size,
    )
    for traced, diagonal in COMBINATIONS
  ]
  found = kernels(f, x1, x2, params, *ways)
  for (kernel,), axes in zip(found, COMBINATIONS, strict=True):
    assert_close(kernel, contracted(rows1, rows2, *axes))


@pytest.mark.parametrize(
  "implementation", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 2, 3]
)
@pytest.mark.parametrize("batch_size", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_samples_along_other_axes(x64, implementation, batch_size):
  """Samples along the third axis of the inputs and the last of the output."""
  f, params, x1, x2, rows1, rows2 = images()
  order = (1, 2, 0)  # of the output, samples last

  def g(p, x):
    return f(p, jnp.moveaxis(x, 2, 0)).transpose(order)

  x1, x2 = (jnp.moveaxis(x, 0, 2) for x in (x1, x2))
  rows1, rows2 = (rows.transpose(*order, 3) for rows in (rows1, rows2))
  chosen = COMBINATIONS[::2]
  ways = [
    dict(trace_axes=t, diagonal_axes=d, vmap_axes=(2, -1, {}), implementation=implementation, batch_size=batch_size)
    for t, d in chosen
  ]
  for (kernel,), axes in zip(kernels(g, x1, x2, params, *ways), chosen, strict=True):
    assert_close(kernel, contracted(rows1, rows2, *axes))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_blocks(x64, batch_size):
  """Of every implementation where samples go by in pairs, where one output does after the other, and by rows."""
  f, params, x1, x2, rows1, rows2 = images()
  for axes in [((1,), (2,)), ((1, 2), ()), ((2,), (0,)), ((0, 1), (2,))]:
    how = dict(trace_axes=axes[0], diagonal_axes=axes[1], vmap_axes=0, batch_size=batch_size)
    ways = [how | {"implementation": i} for i in ((0, 2) if batch_size == 3 else (3,))]
    assert_kernels(kernels(f, x1, x2, params, *ways), [contracted(rows1, rows2, *axes)])


@pytest.mark.parametrize(
  ("size", "count"),
  [(3, 0), *(pytest.param(*own, marks=pytest.mark.slow) for own in ((0, -1), (1, 1), (N, 1), (64, 1)))],
)
def test_batch_equals_whole(x64, size, count):
  f, params, x1, x2, rows1, rows2 = images()
  for axes in [((1,), (2,)), ((2,), (0,))]:
    kernel_fn = ntk.batch(ntk.empirical_ntk_fn(f, *axes, vmap_axes=0), size, count, store_on_device=size != 3)
    kernel = kernel_fn(x1, x2, params)
    assert isinstance(kernel, np.ndarray) == (size == 3)
    assert_close(kernel, contracted(rows1, rows2, *axes))
    if 0 not in axes[1]:
      assert_close(kernel_fn(x1, x2[:3], params), contracted(rows1, rows2[:3], *axes))
      assert_close(kernel_fn(x1, None, params), contracted(rows1, rows1, *axes))


# Trees.


def tree_case():
  """Inputs, parameters and outputs are trees; one output is a number."""
  draw = draw_from()

  def f(p, x):
    image, extra = x["image"], x["rest"][0]
    h = jax.lax.conv_general_dilated(image, p[0]["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h) + extra[:, None, None]
    return {"map": h, "logits": (h.mean((1, 2)) @ p[1][0], 0.0), "none": None, "sum": h.sum((1, 2, 3)) * p[1][1]}

  params = ({"conv": draw(2, 2, 2, 3)}, [draw(3, K), draw()], None)

  def inputs(samples):
    return {"image": draw(samples, 3, 2, 2), "rest": (draw(samples, 3), None)}

  return f, params, inputs(N), inputs(3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_trees(x64, implementation):
  f, params, x1, x2 = tree_case()
  found = jax.jit(ntk.empirical_ntk_fn(f, trace_axes=(), implementation=implementation))(x1, x2, params)
  assert jax.tree.structure(found) == jax.tree.structure(f(params, x1))
  expected = dense_kernels(f, params, x1, x2)
  assert [np.shape(k) for k in expected] == [(N, 3, K, K), (), (N, 3, 3, 3, 2, 2, 3, 3), (N, 3)]
  assert_kernels([jax.tree.leaves(found)], expected)
  assert found["logits"][1] == 0


@some_implementations
@pytest.mark.parametrize("vmap_axes", [None, 0])
def test_second_input_of_nones(x64, implementation, vmap_axes):
  f, params, x1, _ = tree_case()

  def g(p, x):
    out = f(p, x)
    return [out["map"], out["logits"][0]]

  def kernel(x2, batch_size=None):
    how = dict(implementation=implementation, vmap_axes=vmap_axes, batch_size=batch_size)
    return ntk.empirical_ntk_fn(g, **how)(x1, x2, params)

  nones = {"image": None, "rest": (None, None)}
  sizes = (None,) if vmap_axes is None else (None, 3)
  found = jax.jit(lambda: [kernel(x2, size) for x2 in (None, nones) for size in sizes])()
  assert_kernels(found, dense_kernels(g, params, x1, trace_axes=(-1,)))


@some_implementations
def test_trees_by_samples(x64, implementation):
  """Of the inputs one leaf has samples along its second axis, one has none; outputs have them in several places."""
  draw = draw_from()

  def f(p, x):
    h = jnp.tanh(x[0].T @ p["a"] + x[1]["shift"])
    return h.T, (h @ p["c"])[:, None], (h**2)[:, 0]

  params, shift = {"a": draw(4, 3), "c": draw(3, K)}, draw(1, 3)
  x1, x2 = ((draw(4, n), {"shift": shift}) for n in (N, 3))
  axes = ((1, {"shift": None}), (1, 0, 0), {})
  ways = [dict(trace_axes=(), vmap_axes=axes, implementation=implementation, batch_size=b) for b in (None, 3)]
  assert_kernels(kernels(f, x1, x2, params, *ways), dense_kernels(f, params, x1, x2))


# Keyword arguments.


@some_implementations
def test_keyword_arguments(x64, implementation):
  """One for both inputs, a pair, one by samples, a pair of those, a flag, a key that both inputs share or not."""
  draw = draw_from()
  params, x1, x2 = {"a": draw(4, 5), "c": draw(5, K)}, draw(N, 4), draw(3, 4)

  def f(p, x, *, rng, scale, mask, temperature=1.0, square=False):
    noise = jax.random.normal(rng, (5,))  # one for all samples
    h = jnp.tanh(x @ p["a"] * scale + noise[None]) * mask[:, None]
    return (h**2 if square else h) @ p["c"] / temperature

  masks, scales = (draw(N), draw(3)), (draw(), draw())
  keys = jax.random.key(0), jax.random.key(1)
  expected = dense_kernels(
    lambda p, x, rng, mask, scale: f(p, x, rng=rng, scale=scale, mask=mask, temperature=2.0, square=True),
    params,
    x1,
    x2,
    kwargs1=dict(rng=keys[0], mask=masks[0], scale=scales[0]),
    kwargs2=dict(rng=keys[1], mask=masks[1], scale=scales[1]),
  )

  def kernel(vmap_axes, batch_size=None):
    how = dict(vmap_axes=vmap_axes, implementation=implementation, batch_size=batch_size)
    kernel_fn = ntk.empirical_ntk_fn(f, (), **how)
    return [kernel_fn(x1, x2, params, rng=keys, scale=scales, mask=masks, temperature=2.0, square=True)]

  by_samples = (0, 0, {"mask": 0})
  assert_kernels(jax.jit(lambda: [kernel(None), kernel(by_samples), kernel(by_samples, 3)])(), expected)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_a_key_a_sample(x64, make_key):
  """Keys are mapped with the samples: the same for equal inputs, others where they differ, and pairs as they are."""
  draw = draw_from()
  params, x1, x2 = {"w": draw(4, K)}, draw(N, 4), draw(3, 4)

  def f(p, x, rng):
    return jnp.tanh(x @ p["w"]) * jax.vmap(lambda key: jax.random.uniform(key, (K,)))(rng)

  keys, others = (jax.random.split(make_key(i), n) for i, n in enumerate((N, 3)))
  folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)
  kernel_fn = ntk.empirical_ntk_fn(f, (), vmap_axes=(0, 0, {"rng": 0}), implementation=1)
  cases = [(x2, (keys, others), others), (x1 + 0, keys, keys), (x1 + 1, keys, folded)]
  found = jax.jit(lambda: [kernel_fn(x1, second, params, rng=given) for second, given, _ in cases])()
  for kernel, (second, _, used) in zip(found, cases, strict=True):
    (expected,) = dense_kernels(f, params, x1, second, kwargs1=dict(rng=keys), kwargs2=dict(rng=used))
    assert_close(kernel, expected)
  assert_close(ntk.batch(kernel_fn, 2)(x1, x2, params, rng=(keys, others)), found[0])
  with pytest.raises(ConfigError, match="the inputs and rng .*got sizes"):
    kernel_fn(x1, x2, params, rng=keys)


@pytest.mark.parametrize("rng", ["a", 1.5, 3, [1.0, 2.0], (jax.random.PRNGKey(0), "a")])
def test_rng_is_a_key(rng):
  with pytest.raises(ConfigError, match="rng="):
    ntk.empirical_nngp_fn(lambda p, x, rng: x * p)(jnp.ones((2, 2)), jnp.ones((3, 2)), jnp.ones(()), rng=rng)


def test_noise_at_a_number():
  kernel_fn = ntk.empirical_ntk_fn(lambda p, x, rng: x * p, ())
  assert kernel_fn(2.0, 3.0, jnp.ones(()), rng=jax.random.key(0)) == 6


# Transforms.

TRANSFORMED = [
  pytest.param(name, implementation, marks=() if quick else pytest.mark.slow)
  for name, quick in (("mlp", 2), ("strided_and_dilated_convolutions", 3), ("filled_embedding", 0))
  for implementation in (0, 2, 3)
  for quick in [quick == implementation]
]


@pytest.mark.parametrize(("name", "implementation"), TRANSFORMED)
def test_transforms(x64, name, implementation):
  """`vmap` and `lax.map` over parameters, and the gradient of a function of the kernel."""
  f, params, x = CASES[name](draw_from())
  several = jax.tree.map(lambda a: jnp.stack([a, 2 * a, jnp.cos(a)]), params)

  def kernel(p, implementation=implementation, **how):
    return ntk.empirical_ntk_fn(f, (), vmap_axes=0, implementation=implementation, **how)(x, None, p)

  def loss(p, *how):
    return (kernel(p, *how) ** 2).mean()

  one = jax.tree.map(lambda a: a[2], several)
  (expected,) = dense_kernels(f, one, x)
  for batch in (jax.vmap(kernel), lambda p: jax.lax.map(kernel, p), jax.vmap(lambda p: kernel(p, batch_size=3))):
    assert_close(jax.jit(batch)(several)[2], expected)
  found, wanted = jax.jit(lambda p: (jax.grad(loss)(p), jax.grad(lambda p: loss(p, 1))(p)))(one)
  jax.tree.map(assert_close, found, wanted)


def test_gradient_in_the_inputs(x64):
  """Of f as a whole, which closes over its inputs, and by samples, beside a central difference."""
  f, params, x = CASES["mlp"](draw_from())
  direction = draw_from(1)(*x.shape)

  def total(step, implementation, vmap_axes):
    kernel_fn = ntk.empirical_ntk_fn(f, implementation=implementation, vmap_axes=vmap_axes)
    return jnp.sin(kernel_fn(x + step * direction, None, params)).sum()

  ways = [(0, None), (3, None), (3, 0), (2, 0)]
  found = jax.jit(lambda: [jax.grad(total)(0.0, *way) for way in ways])()
  up, down = jax.jit(lambda: [total(step, 1, None) for step in (1e-5, -1e-5)])()
  np.testing.assert_allclose(found, float(up - down) / 2e-5, rtol=1e-7)


def test_eager_equals_jit(x64):
  f, params, x = CASES["mlp"](draw_from())
  kernel_fn = ntk.empirical_ntk_fn(f, implementation=3, vmap_axes=0)
  assert_close(kernel_fn(x, None, params), np.asarray(jax.jit(kernel_fn)(x, None, params)))
