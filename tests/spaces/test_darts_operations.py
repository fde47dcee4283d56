"""Layers and operations of DARTS: the reference code's numbers, XLA's own convolutions, derivatives of any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draw, nested
from jax import lax
from jax.test_util import check_grads

from jaxnas.nets.passes import Pass
from jaxnas.spaces.darts import blocks, operations

KINDS = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "none")
CASES = [f"{op}.s{stride}.hw{side}" for op in (*KINDS, "skip_connect") for stride in (1, 2) for side in (8, 7, 3)]
CASES.append("skip_connect.s2.c6to5.hw8")
MODES = [("batch", "y_train_nhwc"), ("identity", "y_eval_nhwc")]


@pytest.fixture(scope="module")
def ops(fixtures):
  return dict(np.load(fixtures / "tenas/f0_ops.npz"))


@pytest.mark.parametrize(("mode", "output"), MODES)
@pytest.mark.parametrize("case", CASES)
def test_operation_is_the_reference(x64, ops, case, mode, output):
  norm, _ = blocks.collecting(Pass(mode, axis=0), None)
  op, stride = case.split(".")[0], int(case.split(".s")[1][0])
  x = operations.to_maps(jnp.asarray(ops[f"{case}/x_nhwc"], jnp.float64))
  y, _ = blocks.apply(op, x, nested(ops, f"{case}/w/"), norm, stride)
  np.testing.assert_allclose(y.transpose(1, 2, 3, 0), ops[f"{case}/{output}"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", [8, 7, 3])
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_is_a_grouped_convolution(x64, side, size, dilation, stride):
  x, kernel = draw(0, 3, 2, side, side), draw(1, size, size, 1, 3)

  reference = functools.partial(operations._grouped, stride=stride, dilation=dilation)
  own = functools.partial(operations._banded, stride=stride, dilation=dilation)
  y, pull = jax.vjp(own, x, kernel)
  expected, pull_expected = jax.vjp(reference, x, kernel)
  np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
  for found, wanted in zip(pull(y), pull_expected(y), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_has_second_derivatives(x64, stride):
  own = functools.partial(operations.depthwise, stride=stride, dilation=2)
  check_grads(
    lambda x, k: jnp.sin(own(jnp.asarray(x), jnp.asarray(k))),
    (draw(0, 2, 1, 5, 4), draw(1, 3, 3, 1, 2)),
    2,
    modes=["rev"],
  )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [6, 5])
def test_pooling_has_the_derivatives_of_its_formula(x64, stride, side):
  x = draw(0, 2, 1, side, side)
  for pool in (operations.avg_pool, operations.max_pool):
    check_grads(lambda x, pool=pool: jnp.sin(pool(jnp.asarray(x), stride)), (x,), 1, modes=["rev"])


def test_equal_values_of_a_maximum_give_the_derivative_to_the_first(x64):
  found = jax.grad(lambda x: operations.max_pool(x).sum())(jnp.zeros((1, 1, 3, 3)))
  # each of the nine windows gives to its first pixel inside the image
  np.testing.assert_array_equal(found[0, 0], [[4, 2, 0], [2, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("stride", [1, 2])
def test_dense_convolution_is_the_library_one(x64, stride):
  x, kernel = draw(0, 3, 2, 7, 6), draw(1, 3, 3, 3, 4)
  expected = lax.conv_general_dilated(
    x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=("CNHW", "HWIO", "CNHW"), precision="highest"
  )
  np.testing.assert_allclose(operations.convolve(x, kernel, stride), expected, rtol=1e-12, atol=1e-12)
