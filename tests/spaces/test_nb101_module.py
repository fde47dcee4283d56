"""The Flax module of one NAS-Bench-101 cell against the fast network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from module_checks import check_module_is_network, number_of_params

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError
from jaxnas.spaces.nb101 import costs, encoding
from jaxnas.spaces.nb101.mapping import parameters, statistics
from jaxnas.spaces.nb101.module import NB101Module

CONFIG = NetworkConfig(channels=5, cells=2, classes=3)  # 5, 10, 20 channels divide unevenly by 3 and 4
CELLS = {
  "input to output": "output:0",
  "one vertex": "conv3x3:0|output:1",
  "two and the input": "conv3x3:0|maxpool3x3:01|output:012",
  "three, unevenly": "conv1x1:0|conv3x3:01|maxpool3x3:02|output:123",
  "four, unevenly": "conv3x3:0|conv1x1:0|maxpool3x3:0|conv3x3:0|output:01234",
  "wider into narrower": "conv3x3:0|conv1x1:1|maxpool3x3:1|conv3x3:13|output:234",
  "pools in a row": "maxpool3x3:0|maxpool3x3:1|maxpool3x3:2|output:03",
  "vertices on no path": "conv3x3:0|conv1x1:0|maxpool3x3:1|conv3x3:2|output:13",
}


SLOW = (
  "one vertex",
  "three, unevenly",
  "four, unevenly",
  "two and the input",
  "wider into narrower",
  "pools in a row",
  "vertices on no path",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CELLS])
def test_module_is_the_fast_network(name, x64):
  code = encoding.parse(CELLS[name])
  network = spaces.get("nb101").network(CONFIG)
  own = network.variants()[int(network.variant(jnp.asarray(network.encode(code[None])[0])))]
  check_module_is_network(spaces.get("nb101"), code, CONFIG, (parameters, statistics), own)


@pytest.mark.parametrize(
  "text", [*CELLS.values(), *map(encoding.format, spaces.get("nb101").sample(jax.random.key(0), 4))]
)
def test_parameters_are_those_that_costs_count(text):
  assert number_of_params(NB101Module(text, 5, 2, 3)) == costs.params(text, 5, 2, 3)
  assert number_of_params(NB101Module(text)) == costs.params(text)


def test_initial_kernels_are_normal_by_their_own_fan_out():
  module = NB101Module(CELLS["four, unevenly"], channels=32, cells=1)
  params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  kernel = params["stack_2_cell_0"]["vertex_1"]["conv"]["kernel"]
  assert kernel.shape == (3, 3, 32, 32)
  np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 32)), rtol=0.05)
  assert np.abs(kernel).max() > 2.5 * np.sqrt(2 / (9 * 32))  # not truncated


def test_text_that_is_no_architecture_is_refused():
  with pytest.raises(ArchitectureError):
    jax.eval_shape(NB101Module("conv3x3:0").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
