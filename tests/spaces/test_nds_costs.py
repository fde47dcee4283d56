"""Counts of Network Design Spaces: every row of the published tables, GenNAS's networks, and by hand."""

import json

import jax
import pytest
from nds_cases import BLOCKS, CELLS, ENAS, EVERY_OP, FILES, RESNEXT, any_cells, rows_of

from jaxnas import spaces
from jaxnas.base import NetworkConfig
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nds.blocks import costs as stages
from jaxnas.spaces.nds.cells import costs, encoding


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_the_table_is_met_exactly(shared, name):
  """All eleven together take about two seconds."""
  space = spaces.get(name)
  rows = rows_of(shared, name)
  assert len(rows) >= 59
  wrong = []
  for row in rows:
    code = space.from_net(row["net"])
    found = space.published_costs(code)
    if (found.params, found.macs) != (row["params"], row["flops"]) or space.costs(code).params != row["params"]:
      wrong.append(row["position"])
  assert not wrong


def test_one_network_of_each_kind_without_the_tables():
  enas, resnext = spaces.get("nds_enas"), spaces.get("nds_resnext_a")
  assert enas.published_costs(enas.from_net(ENAS)) == (1_752_376, 219_717_992)
  assert resnext.published_costs(resnext.from_net(RESNEXT)) == (277_592, 115_707_848)


def test_what_the_tables_count_besides_is_no_multiply_add():
  enas = spaces.get("nds_enas")
  code = enas.from_net(ENAS)
  assert enas.costs(code).macs < enas.published_costs(code).macs
  assert enas.costs(code, image_size=112).macs < enas.costs(code).macs
  resnext = spaces.get("nds_resnext_a")
  code = resnext.from_net(RESNEXT)
  assert resnext.costs(code).macs < resnext.published_costs(code).macs


def test_parameters_are_those_of_gennas_networks(fixtures):
  networks = json.loads((fixtures / "gennas/g5_nds.json").read_text())["param_counts"]
  assert len(networks) == 11
  for one in networks:
    if "net" in one:
      net = stages.staged(one["net"], "code")
      assert stages.count(net, 0, 32)[0] == one["params_backbone"], one["name"]
      if one["groups_of_3x3_per_stage"]:
        assert [stage.groups for stage in net.stages] == one["groups_of_3x3_per_stage"]
      continue
    table = any_cells(len(one["genotype"]["normal"]) // 2)
    own = encoding.genotype(table, encoding.from_net(table, {key: one[key] for key in ("width", "depth", "genotype")}))
    size = costs.CellSize(own.width, own.depth, 0, "code" if one["imagenet"] else "cifar", 32)
    assert costs.count(own, EVERY_OP, size).params == one["params_backbone"], one["name"]


@pytest.mark.parametrize("name", ["nds_darts", "nds_nasnet", "nds_amoeba"])
def test_the_published_cells_of_gennas_are_in_their_spaces(fixtures, name):
  known = {"nds_darts": "DARTS_V2", "nds_nasnet": "NASNet", "nds_amoeba": "AmoebaNet"}[name]
  networks = json.loads((fixtures / "gennas/g5_nds.json").read_text())["param_counts"]
  one = next(one for one in networks if one["name"] == known)
  space = spaces.get(name)
  code = space.from_net({key: one[key] for key in ("width", "depth", "genotype")})
  config = NetworkConfig(classes=1, stem="cifar")
  features = one["inputs_of_heads_chw"][-1][0]
  assert space.costs(code, config).params == one["params_backbone"] + features + 1


@pytest.mark.parametrize("name", [*CELLS, *BLOCKS])
def test_a_config_has_the_last_word_on_sizes(name):
  space = spaces.get(name)
  code = space.sample(jax.random.key(0), 1)[0]
  small = space.costs(code, NetworkConfig(channels=4, cells=1, classes=3), 8)
  assert small.params < space.costs(code, NetworkConfig(classes=3), 8).params
  with pytest.raises(ConfigError, match=r"give .*shape=space.shape"):
    space.network(NetworkConfig(channels=4))
  if name in BLOCKS:
    with pytest.raises(ConfigError, match="channels=3 must be even"):
      space.costs(code, NetworkConfig(channels=3))


def test_stages_that_cannot_be_built_are_refused(unchecked):
  with pytest.raises(ArchitectureError, match="stage 1: 4 inner channels .* not divided by 3 groups"):
    stages.staged(RESNEXT | {"num_gs": [1, 3, 4, 2]}, "trained")
  with pytest.raises(ArchitectureError, match="stage 1: 4 inner channels have no group of 8"):
    stages.staged(RESNEXT | {"num_gs": [1, 8, 4, 2]}, "code")
  with pytest.raises(ArchitectureError, match="block_type is 'res_other'"):
    stages.staged(RESNEXT | {"block_type": "res_other"}, "trained")
  with pytest.raises(ConfigError, match="variant='paper' must be one of trained, code"):
    stages.staged(RESNEXT, "paper")
  vanilla = spaces.get("nds_vanilla_lr_wd")
  code = vanilla.as_codes([32, 5, 2, 3, 10, 32, 32, 192, 128])
  with pytest.raises(ConfigError, match="variant='code': GenNAS's code builds residual networks of four entries"):
    vanilla.costs(code, variant="code")


def test_smaller_networks_keep_what_groups_divide():
  space = spaces.get("nds_resnext_b")
  code = space.from_net(
    RESNEXT | {"ws": [64, 64, 1024, 256], "num_gs": [1, 16, 16, 8], "bot_muls": [1.0, 0.25, 0.25, 1.0]}
  )
  net = stages.resized({**RESNEXT, "ws": [64, 64, 1024, 256], "num_gs": [1, 16, 16, 8]}, 4, 1)
  assert net["ds"] == [1, 1, 1, 1] and net["ws"][0] == 4
  small = space.module(code, NetworkConfig(channels=4, cells=1, classes=3)).net
  assert [stage.blocks for stage in small.stages] == [1, 1, 1]
  assert all(stage.inner % stage.groups == 0 for stage in small.stages)
  assert [stage.channels for stage in small.stages] == [64, 64, 16]


def test_effective_parameters_are_those_on_a_path():
  enas = spaces.get("nds_enas")
  own = encoding.genotype(enas.table, enas.from_net(ENAS))
  size = costs.CellSize(32, 14, 10)
  assert costs.effective_params(own, enas.ops, size) == costs.count(own, enas.ops, size).params  # has no `none`
  darts = spaces.get("nds_darts")
  none, sep = darts.ops.index("none"), darts.ops.index("sep_conv_3x3")
  dead = ((none, 0), (none, 1))  # node 2
  used, last = ((sep, 0), (sep, 1)), ((sep, 0), (sep, 2))  # the last reads the dead one
  genotype = encoding.Genotype(4, 6, ((*dead, *used, *used, *last),) * 2, ((2, 3, 4, 5),) * 2)
  size = costs.CellSize(4, 6, 10)
  lost = sum(costs.slot_cost("sep_conv_3x3", 2, cell.body).params for cell in costs.plan(size))
  assert lost == 2 * sum(9 * c + c * c + 2 * c for c in (4, 4, 8, 8, 16, 16))
  assert costs.count(genotype, darts.ops, size).params - costs.effective_params(genotype, darts.ops, size) == lost
  # Cells that read the cell before the last only: every second cell lies on no path, with its two entries.
  far = ((sep, 0), (sep, 0))
  genotype = encoding.Genotype(4, 3, ((*far * 4,),) * 2, ((2, 3, 4, 5),) * 2)
  size = costs.CellSize(4, 3, 10, "cifar")
  lost = 8 * costs.slot_cost("sep_conv_3x3", 0, costs.plan(size)[1].body).params
  lost += sum(rows * columns + 2 * columns for rows, columns in ((12, 4), (12, 8), (16, 8), (32, 16)))
  assert costs.count(genotype, darts.ops, size).params - costs.effective_params(genotype, darts.ops, size) == lost
