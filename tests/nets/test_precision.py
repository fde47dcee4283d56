"""Products at every precision against NumPy's in float64, and convolutions of many architectures' kernels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.nets import plain_layers, products

ERRORS = {"highest": 1e-6, "high": 2e-5, "bfloat16": 1e-2}  # of the sum of absolute products
PADS = ((1, 1), (0, 2))


def drawn(*shape, dtype=np.float32, seed=0):
  return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype))


@pytest.mark.parametrize("name", ERRORS)
def test_a_precision_is_as_exact_as_it_says(name):
  a, b = drawn(40, 300), drawn(300, 20)
  with jax.default_matmul_precision(name):
    found = [products.matmul(a, b), products.einsum("ij,jk->ik", a, b), products.tensordot(a, b, 1)]
  error = np.abs(np.asarray(found, np.float64) - np.float64(a) @ np.float64(b)) / np.asarray(np.abs(a) @ np.abs(b))
  coarser = ERRORS[name] / 100 if name != "highest" else 0
  assert (coarser < error.max((1, 2))).all() and (error < ERRORS[name]).all()


@pytest.mark.parametrize("name", ERRORS)
def test_pull_backs_have_the_precision_too(name):
  a, b, c = drawn(6, 50), drawn(50, 7), drawn(6, 7)

  def loss(a, b):
    return (c * jnp.tanh(products.matmul(a, b))).sum()

  def slope(a, b):
    return sum(jnp.square(g).sum() for g in jax.grad(loss, (0, 1))(a, b))

  found, wanted = [], jax.grad(slope)(a, b)
  for fn in (slope, jax.grad(slope)):
    with jax.default_matmul_precision(name):
      found.append(jax.jit(fn)(a, b))
  error = np.abs(found[1] - wanted).max() / np.abs(wanted).max()
  assert error < 10 * ERRORS[name] and (name == "highest" or error > ERRORS[name] / 1000)
  assert abs(found[0] / slope(a, b) - 1) < 10 * ERRORS[name]


def test_programs_of_another_precision_are_traced_again():
  a, b = drawn(20, 30), drawn(30, 20)
  run = jax.jit(products.matmul)
  exact = run(a, b)
  with jax.default_matmul_precision("bfloat16"):
    assert np.abs(run(a, b) - exact).max() > 1e-3
  np.testing.assert_array_equal(run(a, b), exact)


def test_float64_stays(x64):
  a, b = drawn(4, 5, dtype=np.float64), drawn(5, 6, dtype=np.float64)
  with jax.default_matmul_precision("bfloat16"):
    np.testing.assert_allclose(products.matmul(a, b), a @ b, rtol=1e-14)


@pytest.mark.parametrize("mapped", [m for m in itertools.product((True, False), repeat=2) if any(m)])
def test_convolutions_of_many_kernels_equal_one_after_the_other(x64, mapped):
  """By value and second derivative; maps or kernels that architectures share are shared."""
  x, kernel = drawn(3, 2, 5, 6, 4, dtype=np.float64), drawn(3, 3, 3, 4, 7, dtype=np.float64)
  args = [own if many else own[0] for own, many in zip((x, kernel), mapped, strict=True)]

  def value(x, kernel):
    return jnp.square(plain_layers._convolution(x, kernel, PADS)).sum()

  def all_of(x, kernel):
    gradients = jax.grad(value, (0, 1))
    slope = jax.grad(lambda x, k: sum(jnp.square(g).sum() for g in gradients(x, k)), (0, 1))
    return plain_layers._convolution(x, kernel, PADS), gradients(x, kernel), slope(x, kernel)

  axes = tuple(0 if many else None for many in mapped)
  found = jax.vmap(all_of, axes)(*args)
  wanted = [all_of(*(own[i] if many else own for own, many in zip(args, mapped, strict=True))) for i in range(3)]
  jax.tree.map(lambda a, *b: np.testing.assert_allclose(a, np.stack(b), rtol=1e-10), found, *wanted)


def test_convolutions_of_many_kernels_are_products():
  x, kernel = drawn(3, 2, 5, 6, 4), drawn(3, 3, 3, 4, 7)
  fn = functools.partial(products.convolution, pads=PADS)
  assert "conv_general_dilated" not in str(jax.make_jaxpr(jax.vmap(fn))(x, kernel))
  assert "conv_general_dilated" in str(jax.make_jaxpr(jax.vmap(fn, (0, None)))(x, kernel[0]))
