"""What tests of the Network Design Spaces share: genotypes, stages, and the networks of GenNAS's fixtures."""

import gzip
import json

import numpy as np

from jaxnas.spaces.nds import CELL_TABLES, CellTable

FILES = {
  "nds_amoeba": "Amoeba",
  "nds_darts": "DARTS",
  "nds_darts_fix_w_d": "DARTS_fix-w-d",
  "nds_darts_lr_wd": "DARTS_lr-wd",
  "nds_enas": "ENAS",
  "nds_nasnet": "NASNet",
  "nds_pnas": "PNAS",
  "nds_resnext_a": "ResNeXt-A",
  "nds_resnext_b": "ResNeXt-B",
  "nds_resnet_lr_wd": "ResNet_lr-wd",
  "nds_vanilla_lr_wd": "Vanilla_lr-wd",
}
CELLS = tuple(table.name for table in CELL_TABLES)
BLOCKS = tuple(name for name in FILES if name not in CELLS)
EVERY_OP = tuple(dict.fromkeys(op for table in CELL_TABLES for op in table.ops))

ENAS = {  # position 0 of the table, whose parts the data pack lists
  "width": 32, "depth": 14,
  "genotype": {
    "normal": [["sep_conv_3x3", 0], ["avg_pool_3x3", 1], ["skip_connect", 2], ["sep_conv_5x5", 0], ["max_pool_3x3", 3],
               ["sep_conv_3x3", 2], ["skip_connect", 3], ["sep_conv_5x5", 4], ["max_pool_3x3", 5], ["sep_conv_5x5", 5]],
    "normal_concat": [6],
    "reduce": [["max_pool_3x3", 1], ["avg_pool_3x3", 0], ["avg_pool_3x3", 1], ["sep_conv_5x5", 0], ["sep_conv_5x5", 0],
               ["sep_conv_3x3", 0], ["sep_conv_3x3", 2], ["sep_conv_5x5", 2], ["sep_conv_5x5", 2], ["avg_pool_3x3", 3]],
    "reduce_concat": [4, 5, 6],
  },
}  # fmt: skip
RESNEXT = {
  "block_type": "res_bottleneck_block", "ds": [1, 2, 2, 2], "ws": [64, 16, 128, 128], "ss": [8, 1, 2, 2],
  "bot_muls": [1.0, 0.25, 0.5, 0.25], "num_gs": [1, 2, 4, 2],
}  # fmt: skip


def any_cells(nodes):
  """A space of all operations and any concat sets."""
  return CellTable("any", EVERY_OP, nodes, False, (4,), (5,), most_params=10**9)


def path_of(shared, name):
  return shared / "data/nds_imagenet" / f"{FILES[name]}.jsonl.gz"


def rows_of(shared, name):
  """The lines of a published table."""
  with gzip.open(path_of(shared, name), "rt") as file:
    return [json.loads(line) for line in file]


def fixture_tree(arrays, prefix):
  """{(name, ..., "kernel"): array} of what is under a prefix."""
  return {
    tuple(key.removeprefix(prefix).split("/")): np.asarray(value, np.float64)
    for key, value in arrays.items()
    if key.startswith(prefix)
  }
