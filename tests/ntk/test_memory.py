"""Blocks that a number of bytes chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_cases import assert_close, dense_kernels

from jaxnas import ntk

SAMPLES, CLASSES, WIDTH = 48, 5, 24
WAYS = {"trace": ((1,), ()), "full": ((), ()), "diagonal": ((1,), (0,)), "mean of samples": ((0,), ())}
MEANS = {
  "trace": lambda theta: np.einsum("nmkk->nm", theta) / CLASSES,
  "full": lambda theta: theta,
  "diagonal": lambda theta: np.einsum("nnkk->n", theta) / CLASSES,
  "mean of samples": lambda theta: np.einsum("nnkl->kl", theta) / SAMPLES,
}


def network(params, x):
  """A convolution, whose Jacobian is made, and two dense layers, which are taken by factors."""
  x = jax.lax.conv_general_dilated(x, params[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  x = jnp.tanh(jnp.tanh(x).reshape(len(x), -1) @ params[1])
  return x @ params[2]


@pytest.fixture(scope="module")
def case():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 2, 8), (8 * 36, WIDTH), (WIDTH, CLASSES)]
    params = [jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-2])) for shape in shapes]
    x = jnp.asarray(rng.normal(size=(SAMPLES, 6, 6, 2)))
    yield params, x, dense_kernels(network, params, x)[0]


def programs(params, x, way, memory, **options):
  kernel_fn = ntk.empirical_ntk_fn(network, *WAYS[way], vmap_axes=0, memory=memory, **options)
  blocks = ntk.empirical_ntk_fn(network, *WAYS[way], vmap_axes=0, memory=memory, explain=True, **options)(
    x, None, params
  )
  return jax.jit(lambda p, x: kernel_fn(x, None, p)).lower(params, x).compile(), blocks.splitlines()[-1]


@pytest.mark.parametrize(
  ("way", "memory", "expected"),
  [
    ("trace", 2**40, "all samples at once"),
    ("trace", 2 * 2**20, "one output element at a time, with all samples"),
    ("trace", 2**20, "in blocks of"),
    ("full", 2**20, "in blocks of"),
    ("full", 1, "in blocks of 1 samples"),
    ("diagonal", 2**40, "all samples at once"),
    ("diagonal", 2**20, "in blocks of"),
    ("mean of samples", 2**20, "in blocks of"),
  ],
)
def test_equals_whole_and_keeps_within(x64, case, way, memory, expected):
  params, x, theta = case
  program, blocks = programs(params, x, way, memory)
  assert expected in blocks
  kernel = np.asarray(program(params, x))
  assert_close(kernel, MEANS[way](theta))
  if memory > 1:
    assert program.memory_analysis().temp_size_in_bytes <= memory + kernel.nbytes


@pytest.mark.parametrize("implementation", [1, 2, 3])
def test_every_implementation(x64, case, implementation):
  params, x, theta = case
  program, blocks = programs(params, x[:6], "trace", 2**18, implementation=implementation)
  assert "blocks" in blocks or "one output" in blocks
  assert_close(np.asarray(program(params, x[:6])), MEANS["trace"](theta[:6, :6]))


def test_two_inputs(x64, case):
  params, x, theta = case
  kernel_fn = ntk.empirical_ntk_fn(network, vmap_axes=0, memory=2**20)
  assert_close(np.asarray(kernel_fn(x[:7], x[7:], params)), MEANS["trace"](theta[:7, 7:]))
