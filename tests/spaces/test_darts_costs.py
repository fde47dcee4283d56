"""Counts of the DARTS evaluation networks: published ones, hand counts, the shapes of TE-NAS's fixtures."""

import jax
import numpy as np
import pytest

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.darts import costs, encoding, genotypes
from jaxnas.spaces.darts.costs import CIFAR10, IMAGENET, CellShape, Cost, EvaluationNetwork

V2 = genotypes.get("DARTS_V2")


def test_darts_v2_has_the_parameters_of_the_released_code():
  assert costs.params(V2) == 3_349_342
  assert costs.params(V2, IMAGENET) == 4_718_752
  assert costs.params(encoding.format(V2), EvaluationNetwork(classes=100)) == 3_349_342 + 90 * (16 * 36 + 1)


@pytest.mark.parametrize(
  ("name", "cifar", "imagenet"),
  [
    ("DARTS_V2", 3.3, 4.7),
    ("PDARTS", 3.4, 4.9),
    ("PC_DARTS_CIFAR", 3.6, 5.3),
    ("PC_DARTS_IMAGENET", None, 5.3),
    ("TENAS_IMAGENET", None, 5.4),
  ],
)
def test_published_parameters_in_millions(name, cifar, imagenet):
  arch = genotypes.get(name)
  assert round(costs.params(arch, IMAGENET) / 1e6, 1) == imagenet
  assert cifar is None or round(costs.params(arch) / 1e6, 1) == cifar


@pytest.mark.parametrize(
  ("name", "millions", "digits"),
  [("PDARTS", 557, 0), ("PC_DARTS_CIFAR", 586, 0), ("PC_DARTS_IMAGENET", 597, 0), ("DARTS_V2", 544.59, 2)],
)
def test_published_operations_of_the_mobile_network(name, millions, digits):
  """The last is not the paper's 574 M, which no count of the released network gives, but a user's measurement of it."""
  assert round(costs.operations(genotypes.get(name), IMAGENET) / 1e6, digits) == millions


@pytest.mark.parametrize("name", [n for n in genotypes.NAMES if n != "TENAS_CIFAR10"])
def test_mobile_networks_keep_within_600_million_multiply_adds(name):
  assert costs.macs(genotypes.get(name), IMAGENET) < 600e6


def test_ops_by_hand():
  """8 channels, 6 x 6 in; 3 x 3 out at stride 2. Elementwise: 2 a BN output, 1 a ReLU, 1 a pooled input."""
  sep = 2 * (9 * 8 + 64 + 16)
  assert costs.op_cost("sep_conv_3x3", 8, 1, 6) == Cost(sep, 2 * (72 + 64) * 36, 6 * 8 * 36)
  assert costs.op_cost("sep_conv_3x3", 8, 2, 6) == Cost(sep, 2 * (72 + 64) * 9, 8 * 36 + 8 * 9 + 4 * 8 * 9)
  assert costs.op_cost("sep_conv_5x5", 8, 1, 6).params == 2 * (25 * 8 + 64 + 16)
  assert costs.op_cost("dil_conv_5x5", 8, 2, 6) == Cost(200 + 64 + 16, (200 + 64) * 9, 8 * 36 + 2 * 8 * 9)
  assert costs.op_cost("dil_conv_3x3", 8, 1, 6).params == 72 + 64 + 16
  assert costs.op_cost("skip_connect", 8, 1, 6) == costs.op_cost("none", 8, 2, 6) == Cost()
  assert costs.op_cost("skip_connect", 8, 2, 6) == Cost(64 + 16, 64 * 9, 8 * 36 + 2 * 8 * 9)
  assert costs.op_cost("skip_connect", 8, 2, 3).macs == 64 * 4  # odd sides round up
  assert costs.op_cost("max_pool_3x3", 8, 2, 6) == costs.op_cost("avg_pool_3x3", 8, 1, 6) == Cost(0, 0, 8 * 36)


def test_preprocessing_by_hand():
  assert costs.relu_conv_norm(12, 8, 6) == Cost(96 + 16, 96 * 36, 12 * 36 + 2 * 8 * 36)
  assert costs.factorised_reduction(12, 8, 6) == Cost(96 + 16, 96 * 9, 12 * 36 + 2 * 8 * 9)


def test_reduction_cell_by_hand():
  """DARTS_V2's: 5 max-pools from cell inputs at stride 2, 3 skips from node 2 at stride 1, so no weights."""
  cell = encoding.slots(V2)[1]
  shape = CellShape(1, channels_0=12, channels_1=16, channels=8, side=6, halve_0=False)
  preprocess = Cost((12 + 16) * 8 + 32, (12 + 16) * 8 * 36, (12 + 16) * 36 + 4 * 8 * 36)
  assert costs.cell_cost(cell, shape) == costs.total([preprocess, Cost(0, 0, 5 * 8 * 36)])
  halved = costs.cell_cost(cell, shape._replace(halve_0=True))
  assert halved.params == preprocess.params and halved.macs == preprocess.macs


def test_normal_cell_by_hand():
  """DARTS_V2's normal cell: 5 sep_conv_3x3, 1 dil_conv_3x3, 2 skips, all at stride 1."""
  cost = costs.cell_cost(encoding.slots(V2)[0], CellShape(0, 32, 32, 8, 4, False))
  conv = 72 + 64
  assert cost[:2] == (2 * (256 + 16) + 10 * (conv + 16) + conv + 16, (2 * 256 + 11 * conv) * 16)


def test_reduction_stride_applies_to_cell_inputs_only():
  pairs = [("skip_connect", 0), ("skip_connect", 1)] + 3 * [("skip_connect", 0), ("skip_connect", 2)]
  cell = encoding.slots(encoding.from_cells(pairs, pairs))[1]
  cost = costs.cell_cost(cell, CellShape(1, 8, 8, 8, 6, False))
  assert cost.params == 2 * (64 + 16) + 5 * (64 + 16)
  assert cost.macs == 2 * 64 * 36 + 5 * 64 * 9


def test_layout_of_the_cifar_network():
  shapes = costs.cell_shapes()
  assert [i for i, s in enumerate(shapes) if s.cell_type] == [6, 13]
  assert shapes[0] == CellShape(0, 108, 108, 36, 32, False)
  assert shapes[1] == CellShape(0, 108, 144, 36, 32, False)
  assert shapes[6] == CellShape(1, 144, 144, 72, 32, False)
  assert shapes[7] == CellShape(0, 144, 288, 72, 16, True)
  assert shapes[8] == CellShape(0, 288, 288, 72, 16, False)
  assert shapes[19] == CellShape(0, 576, 576, 144, 8, False)


def test_layout_of_the_mobile_network():
  shapes = costs.cell_shapes(IMAGENET)
  assert [i for i, s in enumerate(shapes) if s.cell_type] == [4, 9]
  assert shapes[0] == CellShape(0, 48, 48, 48, 28, True)
  assert shapes[-1] == CellShape(0, 768, 768, 192, 7, False)


def test_breakdown_adds_up():
  rows = costs.breakdown(V2)
  assert len(rows) == 22 and rows[0] == ("stem", costs.stem_cost()) and rows[7][0] == "cell 6, reduce"
  assert rows[0][1] == Cost(3 * 9 * 108 + 216, 27 * 108 * 1024, 2 * 108 * 1024)
  assert rows[-1] == ("classifier", Cost(5770, 5770, 576 * 64))
  assert sum(cost.params for _, cost in rows) == costs.params(V2)
  assert costs.operations(V2) - costs.macs(V2) == sum(cost.elementwise for _, cost in rows)


def test_mobile_stem_by_hand():
  assert costs.stem_cost(IMAGENET).params == 27 * 24 + 48 + 9 * 24 * 48 + 96 + 9 * 48 * 48 + 96
  assert costs.stem_cost(IMAGENET).macs == 27 * 24 * 112**2 + 9 * 24 * 48 * 56**2 + 9 * 48 * 48 * 28**2


def test_auxiliary_heads_by_hand():
  assert costs.auxiliary_cost().params == 576 * 128 + 256 + 128 * 768 * 4 + 1536 + 7690
  assert costs.auxiliary_cost().macs == 576 * 128 * 4 + 128 * 768 * 4 + 7690
  assert costs.auxiliary_cost(IMAGENET).params == 768 * 128 + 256 + 128 * 768 * 4 + 769_000
  with pytest.raises(ConfigError, match="auxiliary head 4x4"):
    costs.auxiliary_cost(EvaluationNetwork(image_size=16))


def test_macs_scale_with_the_area_and_params_do_not():
  small, large = EvaluationNetwork(image_size=16), EvaluationNetwork(image_size=32)
  assert costs.params(V2, small) == costs.params(V2, large)
  assert 4 * (costs.macs(V2, small) - 5770) == costs.macs(V2, large) - 5770


@pytest.mark.parametrize("network", [CIFAR10, IMAGENET])
def test_parameters_grow_with_the_op_and_ignore_its_source_in_the_normal_cell(network):
  slots = encoding.slots(V2).copy()
  found = {}
  for op in ("skip_connect", "dil_conv_3x3", "dil_conv_5x5", "sep_conv_3x3", "sep_conv_5x5"):
    slots[0, 3, 1, 0] = encoding.OPS.index(op)
    found[op] = costs.params(slots.reshape(-1), network)
    moved = slots.copy()
    moved[0, 3, 1, 1] = 4
    assert costs.params(moved.reshape(-1), network) == found[op]
  assert list(found.values()) == sorted(set(found.values()))


def test_nb301_style_counts_are_a_linear_function_of_ops():
  archs = encoding.sample(jax.random.key(0), 60)
  slots = encoding.slots(archs)
  normal = (slots[:, 0, :, :, 0, None] == np.arange(1, 8)).sum((1, 2))
  reduce = (slots[:, 1, :, :, 0, None] == np.arange(1, 8)).sum((1, 2))
  skips = ((slots[:, 1, :, :, 0] == 3) & (slots[:, 1, :, :, 1] < 2)).sum((1, 2))
  table = np.concatenate([normal, reduce, skips[:, None], np.ones((60, 1))], axis=1)
  counts = np.array([costs.params(a) for a in archs], float)
  fit = table @ np.linalg.lstsq(table, counts, rcond=None)[0]
  np.testing.assert_allclose(fit, counts, rtol=1e-10)


def test_ops_and_preprocessing_have_the_parameters_of_tenas_supernet(fixtures):
  """Its network: C = 1, a normal and a reduction cell; every op on every edge, pooling without BN."""
  fixture = np.load(fixtures / "tenas/f4_ntk_darts_generic.npz")
  sizes: dict[str, int] = {}
  for key in fixture.files:
    if key.startswith("w/"):
      part = ".".join(key[2:].split(".")[:4])
      sizes[part] = sizes.get(part, 0) + fixture[key].size
  expected = {}
  for cell, (channels, reduction) in enumerate([(1, False), (2, True)]):
    for target, source in encoding.EDGES:
      for op in encoding.OPS:
        cost = costs.op_cost(op, channels, 2 if reduction and source < 2 else 1, side=8)
        if cost.params:
          expected[f"cells.{cell}.edge{target - 2}_{source}.{op}"] = cost.params
  found = {part: size for part, size in sizes.items() if ".edge" in part}
  assert found == expected
  shapes = [[(1, 1), (1, 1)], [(1, 2), (4, 2)]]
  preprocess = sum(costs.relu_conv_norm(*shape, side=8).params for cell in shapes for shape in cell)
  stem, last, classifier = 27 + 2, 16, 8 * 10 + 10
  total = stem + preprocess + sum(expected.values()) + last + classifier
  assert total == int(fixture["n_params_without_alpha"]) == sum(sizes.values())


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"channels": 0}, "channels is 0"),
    ({"cells": 2.5}, "cells is 2.5"),
    ({"classes": True}, "classes is True"),
    ({"image_size": 30}, "multiple of 4 for the cifar stem"),
    ({"image_size": 200, "stem": "imagenet"}, "multiple of 32 for the imagenet stem"),
    ({"image_size": 224, "stem": "imagenet", "channels": 15}, "must be even"),
    ({"stem": "tiny"}, "use one of cifar, imagenet"),
  ],
)
def test_bad_networks_are_refused(unchecked, fields, message):
  with pytest.raises(ConfigError, match=message):
    EvaluationNetwork(**fields)


def test_bad_architectures_are_refused():
  with pytest.raises(ArchitectureError, match="give one architecture"):
    costs.params(np.stack([V2, V2]))
  with pytest.raises(ArchitectureError, match="Genotype"):
    costs.macs("|nor_conv_3x3~0|")
