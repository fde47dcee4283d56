"""The Flax modules of Network Design Spaces against the fast networks, in float64."""

import jax
import numpy as np
import pytest
from module_checks import check_module_is_network, number_of_params
from nds_cases import EVERY_OP, FILES, RESNEXT, any_cells

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.spaces.nds import CellSpace
from jaxnas.spaces.nds.blocks import mapping as block_mapping
from jaxnas.spaces.nds.cells import encoding
from jaxnas.spaces.nds.cells import mapping as cell_mapping

CELL_PARTS = cell_mapping.parameters, cell_mapping.statistics
BLOCK_PARTS = block_mapping.parameters, block_mapping.statistics


def every_op(concat):
  """A genotype of a made-up space with all operations in both cells, in the reduction cell at both strides."""
  space = CellSpace(any_cells(8))
  ops = [op for op in EVERY_OP if op != "none"]
  pairs = [(space.ops.index(ops[i % len(ops)]), (5 * i) % (i // 2 + 2)) for i in range(16)]
  turned = [(op, min(state, 1) if i % 3 else state) for i, (op, state) in enumerate(pairs[::-1])]
  turned = [(op, min(state, i // 2 + 1)) for i, (op, state) in enumerate(turned)]
  own = encoding.Genotype(4, 5, (tuple(pairs), tuple(turned)), concat)
  return space, space.as_codes(encoding.join(8, own))


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "size"), [(3, 7), (7, 8)])
def test_every_operation_at_both_strides(x64, cells, size):
  space, code = every_op(((3, 5, 9), (2, 4, 6, 7, 8)))
  check_module_is_network(space, code, NetworkConfig(4, cells, 3), CELL_PARTS, size=size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells", "stem", "size"), [
  ("nds_darts", 7, "cifar", 8), ("nds_enas", 4, "imagenet", 32), ("nds_amoeba", 1, "cifar", 9),
  ("nds_pnas", 6, "imagenet", 24), ("nds_nasnet", 2, "cifar", 8),
])  # fmt: skip
def test_cells_of_each_space(x64, name, cells, stem, size):
  space = spaces.get(name)
  code = space.sample(jax.random.key(1), 1)[0]
  check_module_is_network(space, code, NetworkConfig(4, cells, 3, stem=stem), CELL_PARTS, size=size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nds_resnext_b", "nds_resnet_lr_wd", "nds_vanilla_lr_wd"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_stages(x64, name, stem):
  space = spaces.get(name)
  code = space.sample(jax.random.key(2), 1)[0]
  code[1:3] = 3, 2
  config = NetworkConfig(4, 3, 3, stem=stem, shape=space.shape(code))
  check_module_is_network(space, code, config, BLOCK_PARTS, size=9 if stem == "cifar" else 32)


@pytest.mark.parametrize("name", FILES)
def test_modules_at_their_own_size_have_the_parameters_of_the_table(name):
  space = spaces.get(name)
  code = space.sample(jax.random.key(0), 1)[0]
  module = space.module(code, space.default_config)
  assert number_of_params(module, 64) == space.costs(code).params


def test_code_variant_is_another_network():
  space = spaces.get("nds_resnext_a")
  code = space.from_net(RESNEXT)
  config = NetworkConfig(classes=3)
  trained, code_net = (space.module(code, config, variant).net for variant in ("trained", "code"))
  assert [len(net.stages) for net in (trained, code_net)] == [3, 4]
  assert [stage.groups for stage in trained.stages] == [2, 4, 2]
  assert [stage.groups for stage in code_net.stages] == [64, 2, 16, 16]
  assert space.costs(code, config, variant="code").params == number_of_params(space.module(code, config, "code"))
  assert space.backbone(NetworkConfig(shape=space.shape(code))).net == code_net
  np.testing.assert_array_equal(space.network(NetworkConfig(shape=space.shape(code))).code, code)
