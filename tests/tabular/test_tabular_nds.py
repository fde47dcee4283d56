"""Published accuracies of Network Design Spaces as a --benchmark."""

import gzip
import json

import numpy as np
import pytest
from helpers import benchmark_refused
from nds_cases import ENAS, FILES, path_of, rows_of

from jaxnas import spaces, tabular

ROW = {
  "position": 0, "net": ENAS, "base_lr": 0.05, "weight_decay": 5e-05, "epochs": 50, "params": 1752376,
  "flops": 219717992, "test_error_final": 38.5, "test_error_min": 38.25, "test_error_ep5": 67.0,
}  # fmt: skip


def write(path, *rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def other(**changes):
  return ROW | {"net": ENAS | {"depth": 18}} | changes


@pytest.mark.parametrize("name", FILES)
def test_every_table_is_read(shared, name):
  space, rows = spaces.get(name), rows_of(shared, name)
  table = tabular.open_benchmark(path_of(shared, name), space)
  assert len(table.archs) == len(rows) and table.datasets == ("imagenet2012",)
  for i in (0, len(rows) - 1):
    text = space.format(space.from_net(rows[i]["net"]))
    assert table.index(text) == i
    np.testing.assert_allclose(table.accuracy(text, "imagenet2012"), 100 - rows[i]["test_error_final"])
    assert table.value(text, "params") == rows[i]["params"]


def test_columns(tmp_path):
  space = spaces.get("nds_enas")
  packed = tmp_path / "t.jsonl.gz"
  packed.write_bytes(gzip.compress(write(tmp_path / "t.jsonl", ROW, other()).read_bytes()))
  for path in (packed, tmp_path / "t.jsonl"):
    table = tabular.open_benchmark(path, space)
    text = space.format(space.from_net(ENAS))
    found = [table.accuracy(text, "imagenet2012", split) for split in ("test", "lowest", "test_5ep")]
    np.testing.assert_allclose(found, [61.5, 61.75, 33.0])
    assert table.archs[0] == text


def test_damaged_files_are_refused(tmp_path):
  path = tmp_path / "t.jsonl"
  cases = [
    ([ROW, {}], "line 2 lacks net, test_error_final"),
    ([ROW | {"test_error_final": 101}], "line 1 has the test_error_final '101', which is no number from 0 to 100"),
    ([ROW | {"params": None}], "line 1 has the params 'None'"),
    ([ROW, ROW], r"archs\[1\] is the same cell as archs\[0\]"),
    ([ROW | {"net": ENAS | {"depth": 0}}], r"archs\[0\] is no cell of --space=nds_enas: depth is 0"),
  ]
  for rows, message in cases:
    benchmark_refused(write(path, *rows), message, "nds_enas")
  path.write_text('{"net": ')
  benchmark_refused(path, "line 1 is no JSON", "nds_enas")
  path.write_bytes(gzip.compress(json.dumps(ROW).encode())[:-20])
  benchmark_refused(path, "damaged or truncated", "nds_enas")
  path.write_bytes(b"\xff\xfe\x00")
  benchmark_refused(path, "damaged or truncated", "nds_enas")


def test_tables_of_another_space_are_refused(tmp_path, shared):
  path = write(tmp_path / "t.jsonl", ROW, other())
  benchmark_refused(path, "no cell of --space=nds_resnext_a", "nds_resnext_a")
  benchmark_refused(path, r"no cell of --space=nds_pnas: normal_concat is \[6\]", "nds_pnas")
  for name, their, message in (
    ("nds_darts", "nds_darts_fix_w_d", "line 1 was trained with base_lr=0.0125, those of nds_darts with 0.05"),
    ("nds_darts_lr_wd", "nds_darts", "all were trained with base_lr=0.05, those of nds_darts_lr_wd each with its own"),
    ("nds_darts", "nds_darts_lr_wd", "was trained with base_lr="),
    ("nds_vanilla_lr_wd", "nds_resnet_lr_wd", "no cell of --space=nds_vanilla_lr_wd: block_type"),
    ("nds_resnext_a", "nds_darts", "no cell of --space=nds_resnext_a"),
    ("nds_nasnet", "nds_amoeba", "no cell of --space=nds_nasnet"),
    ("nds_amoeba", "nds_enas", "none of 59 networks has the op sep_conv_7x7, dil_sep_conv_3x3, conv_7x1_1x7, which"),
    ("nds_nasnet", "nds_enas", "none of 59 networks has the op conv_3x1_1x3"),
    ("nds_nasnet", "nds_pnas", "none of 60 networks has the op conv_3x1_1x3"),
    ("nds_resnext_a", "nds_resnext_b", "none of 82 networks has the width 16, 32, which those of nds_resnext_a have"),
    ("nds_resnext_b", "nds_resnext_a", "none of 65 networks has the width 512, 1024"),
  ):
    benchmark_refused(path_of(shared, their), message, name)
