"""The layers of single architectures: values, first and second derivatives of the plain formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnas.nets import plain_layers

# kernel size, stride, height, width
CASES = [(3, 1, 6, 5), (3, 2, 6, 8), (3, 2, 7, 5), (1, 1, 4, 5), (1, 2, 5, 6), (5, 1, 6, 7), (3, 1, 1, 2)]


def expected_conv(x, kernel, stride):
  pad = (kernel.shape[0] - 1) // 2
  numbers = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers)


@pytest.mark.parametrize(("size", "stride", "height", "width"), CASES)
def test_values_and_derivatives_are_those_of_xla(x64, size, stride, height, width):
  """Also the gradient of a gradient's product with a direction, for input and kernel; a curved loss mixes them."""
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, height, width, 3)), rng.normal(size=(size, size, 3, 4))
  along = rng.normal(size=x.shape), rng.normal(size=kernel.shape)

  def everything(conv):
    def loss(args):
      return jnp.sin(conv(*args, stride)).sum()

    def slope(args):
      return sum(jnp.vdot(g, a) for g, a in zip(jax.grad(loss)(args), along, strict=True))

    def run(args):
      return conv(*args, stride), jax.grad(loss)(args), jax.grad(slope)(args)

    return jax.jit(run)((jnp.asarray(x), jnp.asarray(kernel)))

  found, wanted = everything(plain_layers.convolve), everything(expected_conv)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
  assert np.abs(found[2][1]).max() > 0.1


def test_batch_norm_and_its_derivatives_are_those_of_the_formula(x64):
  rng = np.random.default_rng(0)
  args = [jnp.asarray(rng.normal(2, 3, size)) for size in ((4, 3, 5, 6), 6, 6)]
  along = [jnp.asarray(rng.normal(size=a.shape)) for a in args]
  cotangents = jnp.asarray(rng.normal(size=(3, *args[0].shape)))

  def formula(z, scale, bias):
    mean, variance = (moment((0, 1, 2), keepdims=True) for moment in (z.mean, z.var))
    return (z - mean) / jnp.sqrt(variance + 1e-5) * scale[None, None, None] + bias[None, None, None]

  def everything(norm):
    def loss(args):
      return jnp.sin(norm(*args)).sum()

    def slope(args):
      return sum(jnp.vdot(g, a) for g, a in zip(jax.grad(loss)(args), along, strict=True))

    def run(args):
      return norm(*args), jax.grad(loss)(args), jax.grad(slope)(args), jax.vmap(jax.vjp(norm, *args)[1])(cotangents)

    return jax.jit(run)(args)

  found, wanted = everything(plain_layers.batch_norm), everything(formula)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == np.float64
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_float32_is_at_full_precision():
  rng = np.random.default_rng(1)
  x, kernel = rng.normal(size=(2, 5, 5, 8)), rng.normal(size=(3, 3, 8, 4))
  found = plain_layers.convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), 2)
  with jax.enable_x64(True):
    wanted = np.asarray(expected_conv(jnp.asarray(x), jnp.asarray(kernel), 2))
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
  text = str(jax.make_jaxpr(functools.partial(plain_layers.convolve, stride=1))(x, kernel))
  assert "HIGHEST" in text


@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_gradients_of_several_architectures_are_products(x64, stride):
  """Under `vmap` they are a batch of them, not a grouped convolution."""
  rng = np.random.default_rng(0)
  x, kernel = jnp.asarray(rng.normal(size=(2, 3, 6, 8, 2))), jnp.asarray(rng.normal(size=(3, 3, 2, 4)))

  def gradient(x):
    return jax.grad(lambda kernel: jnp.sin(plain_layers.convolve(x, kernel, stride)).sum())(kernel)

  np.testing.assert_allclose(jax.vmap(gradient)(x), jnp.stack([gradient(own) for own in x]), rtol=1e-12, atol=1e-12)
  assert "group_count=2" not in str(jax.make_jaxpr(jax.vmap(gradient))(x))
