"""The Flax module of one NAS-Bench-201 architecture against the fast network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from module_checks import check_module_is_network, number_of_params, random_params

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError
from jaxnas.spaces import mapping
from jaxnas.spaces.nb201 import costs, encoding
from jaxnas.spaces.nb201.mapping import parameters, statistics
from jaxnas.spaces.nb201.module import NB201Module

SPACE = spaces.get("nb201")
CONFIG = NetworkConfig(channels=4, cells=2, classes=3)
ARCHS = {
  "every op": (3, 1, 0, 4, 2, 2),
  "pools": (4, 4, 3, 1, 4, 2),
  "all skip": (1, 1, 1, 1, 1, 1),
  "all none": (0, 0, 0, 0, 0, 0),
  "dead nodes feed convolutions": (0, 0, 3, 3, 2, 1),  # nodes 1 and 2 do not see the input
  "useless nodes": (3, 2, 3, 3, 0, 0),  # nodes 1 and 2 lead nowhere
}
USELESS = {"useless nodes": ("edge1_0", "edge2_0", "edge2_1")}  # the fast network does not compute their statistics


def module_of(arch, channels=4, cells=2, classes=3):
  return SPACE.module(np.asarray(arch, np.int8), NetworkConfig(channels, cells, classes))


@pytest.mark.parametrize("name", ARCHS)
def test_module_is_the_fast_network(name, x64):
  cells = [f"stage_{stage}_cell_{i}" for stage in range(3) for i in range(2)]
  meaningless = {(cell, edge) for cell in cells for edge in USELESS.get(name, ())}
  code = np.asarray(ARCHS[name], np.int8)
  check_module_is_network(SPACE, code, CONFIG, (parameters, statistics), meaningless=meaningless, static=True)


@pytest.mark.parametrize("arch", [*ARCHS.values(), *encoding.sample(jax.random.key(0), 4).tolist()])
def test_parameters_are_those_that_costs_count(arch):
  assert number_of_params(module_of(arch)) == costs.params(arch, 4, 2, 3)
  assert number_of_params(module_of(arch, 16, 5, 10)) == costs.params(arch)


def test_initial_kernels_are_uniform_within_one_over_root_fan_in():
  params = module_of(ARCHS["every op"], channels=16).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
  for kernel in (params["stem"]["conv"]["kernel"], params["reduce_2"]["conv_b"]["conv"]["kernel"]):
    bound = np.prod(kernel.shape[:-1]) ** -0.5
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.1)


def test_trees_of_another_architecture_are_refused():
  module, other = module_of(ARCHS["every op"]), module_of(ARCHS["pools"])
  params = random_params(SPACE.network(CONFIG))
  with pytest.raises(KeyError, match="other leaves"):
    mapping.scatter(parameters(module), mapping.gather(parameters(other), params), params)


def test_text_that_is_no_architecture_is_refused():
  with pytest.raises(ArchitectureError):
    NB201Module("|nor_conv_3x3~0|").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
