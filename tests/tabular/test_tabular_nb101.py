"""Accuracies of NAS-Bench-101 cells: values, look-ups, isomorphic cells, bad input."""

import gzip
import json

import numpy as np
import pytest
from helpers import benchmark_refused, python

from jaxnas import spaces, tabular
from jaxnas.errors import ArchitectureError, BenchmarkError, ConfigError

SPACE = spaces.get("nb101")
INPUT, CONV3, CONV1, POOL, OUTPUT = "input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3", "output"
CHAIN = {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": [INPUT, CONV3, OUTPUT], "accuracy": 0.5}
# Two branches, conv3x3 and max-pool, in either order: the same cell.
BRANCHES = {
  "matrix": [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
  "ops": [INPUT, CONV3, POOL, OUTPUT],
  "accuracy": 0.75,
}
SWAPPED = {**BRANCHES, "ops": [INPUT, POOL, CONV3, OUTPUT]}
BRANCHES_TEXT, SWAPPED_TEXT = "conv3x3:0|maxpool3x3:0|output:12", "maxpool3x3:0|conv3x3:0|output:12"
DEAD_END = "conv3x3:0|conv1x1:0|output:1"  # its second vertex leads nowhere, so it is the chain


@pytest.fixture(scope="module")
def data(shared):
  return shared / "data"


@pytest.fixture(scope="module")
def cells(data):
  return tabular.open_benchmark(data / "nasbench101_2500.json", SPACE)


def written(path, *entries, **more):
  path.write_text(json.dumps({"archs": list(entries), **more}))
  return path


@pytest.fixture
def two(tmp_path):
  return tabular.open_benchmark(written(tmp_path / "two.json", CHAIN, BRANCHES), SPACE)


# Values.


def test_published_file(cells, data):
  entries = json.loads((data / "nasbench101_2500.json").read_text())["archs"]
  assert (cells.space, cells.datasets, len(cells.archs)) == ("nb101", ("cifar10",), 1250)
  expected = 100 * np.array([entry["accuracy"] for entry in entries])
  np.testing.assert_allclose(cells.accuracies("cifar10"), expected, rtol=1e-12)
  best = int(np.argmax(expected))
  assert cells.best("cifar10") == (best, pytest.approx(expected[best]))
  assert cells.rank(best, "cifar10") == (1, 1250)
  for index in (0, 77, 1249):
    assert cells.accuracy(cells.archs[index], "cifar10") == pytest.approx(expected[index])
    assert cells.rank(index, "cifar10")[0] == 1 + np.sum(expected.round(4) > expected[index].round(4))


def test_archs_are_the_cells_as_written(cells, data):
  from jaxnas.spaces.nb101 import NB101

  entries = json.loads((data / "nasbench101_2500.json").read_text())["archs"]
  for index in (0, 600, 1249):
    assert NB101.to_cell(NB101.parse(cells.archs[index])) == (entries[index]["matrix"], entries[index]["ops"])


def test_twenty_cells_of_the_task_search(data):
  twenty = tabular.open_benchmark(data / "nasbench101_20.json", SPACE)
  assert len(twenty.archs) == 20
  assert twenty.accuracy(0, "cifar10") == pytest.approx(92.72035300731659)


def test_values_by_hand(two):
  assert two.archs == ("conv3x3:0|output:1", BRANCHES_TEXT)
  assert list(two.accuracies("cifar10")) == [50, 75]
  assert two.best("cifar10") == (1, 75.0)
  assert two.rank(0, "cifar10") == (2, 2)
  assert two.unread == set()


# Look-ups.


def test_isomorphic_cells_are_found(two):
  assert two.index(BRANCHES_TEXT) == two.index(SWAPPED_TEXT) == 1
  assert two.accuracy(SWAPPED_TEXT, "cifar10") == 75
  assert two.index(DEAD_END) == 0


@pytest.mark.parametrize("arch", ["conv1x1:0|output:1", "|none~0|", "", 2, -1])
def test_unknown_architecture(two, arch):
  with pytest.raises(ArchitectureError) as caught:
    two.index(arch)
  assert "\n" not in str(caught.value)


def test_what_the_benchmark_lacks(two):
  with pytest.raises(ConfigError, match=r"dataset 'cifar100'.*'cifar10'"):
    two.accuracy(0, "cifar100")
  with pytest.raises(ConfigError, match=r"split 'valid'.*'test'"):
    two.best("cifar10", "valid")
  assert np.isnan(two.value(0, "cost_12ep_s"))
  assert np.isnan(two.value(0, "params_mb"))


def test_a_table_cannot_hold_it(two, tmp_path):
  with pytest.raises(BenchmarkError, match=r"^OUT=.*not nb101"):
    tabular.write_csv(two, tmp_path / "t.csv")
  assert not (tmp_path / "t.csv").exists()


def test_it_opens_with_a_byte_order_mark(tmp_path):
  path = tmp_path / "cells"
  path.write_bytes(b"\xef\xbb\xbf\r\n " + json.dumps({"archs": [CHAIN]}).encode())
  assert tabular.open_benchmark(path, SPACE).accuracy(0, "cifar10") == 50


# Bad input: each is one line that names the flag, the path and a fix.


def test_files_of_another_space(data, tmp_path):
  benchmark_refused(data / "nasbench201.csv.gz", "not JSON .*another space", space="nb101")
  benchmark_refused(data / "NATS-tss-v1_0-3ffb9-simple", "a folder; .*another space", space="nb101")
  benchmark_refused(data / "nasbench101_20.json", "another space", space="nb201")
  benchmark_refused(data / "darts_nb301.json", r"archs\[0\] lacks matrix", space="nb101")
  benchmark_refused(data / "nasbench101_500_imagenet.json", r"archs\[0\] lacks accuracy", space="nb101")
  table = tmp_path / "t.csv"
  table.write_bytes(gzip.decompress((data / "nasbench201.csv.gz").read_bytes()))
  benchmark_refused(table, "not JSON .*index,arch.*another space", space="nb101")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "an empty file"),
    (b"   ", "not JSON"),
    (b"\x80\x04]\x94.", "not JSON"),
    (b'{"archs": [', "damaged or truncated JSON"),
    (b'{"archs": "\xff"}', "damaged or truncated JSON"),
    (b"[" * 100_000, "damaged or truncated JSON"),
    (b"[]", "no `archs`"),
    (b'{"cells": []}', "no `archs`"),
    (b'{"archs": []}', "empty list"),
    (b'{"archs": {"a": 1}}', "no `archs`"),
    (b'{"archs": [3]}', r"archs\[0\] lacks matrix, ops, accuracy"),
  ],
)
def test_files_that_are_no_benchmark(tmp_path, content, message):
  path = tmp_path / "file.json"
  path.write_bytes(content)
  benchmark_refused(path, message, space="nb101")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"matrix": [[0, 1, 0], [0, 0, 1], [1, 0, 0]]}, r"archs\[1\] is no cell .*matrix\[2\]\[0\] = 1.*upper triangular"),
    ({"matrix": [[0, 1, 0], [0, 0, 0], [0, 0, 0]]}, r"archs\[1\] .*no path"),
    ({"matrix": [[0, 1], [0]]}, r"archs\[1\] .*ragged"),
    ({"matrix": None}, r"archs\[1\] .*rows of V zeros and ones"),
    ({"matrix": [[0] * 8] * 8, "ops": [CONV3] * 8}, r"archs\[1\] .*8 vertices"),
    ({"matrix": (1 - np.tri(7, dtype=int)).tolist(), "ops": [INPUT, *[CONV3] * 5, OUTPUT]}, r"archs\[1\] .*21 edges"),
    ({"ops": [INPUT, "conv5x5", OUTPUT]}, r"archs\[1\] .*ops\[1\] = 'conv5x5'"),
    ({"ops": None}, r"archs\[1\] has ops 'None'"),
    ({"accuracy": 92.7}, r"archs\[1\] .*accuracy '92.7'.*0..1; divide percentages by 100"),
    ({"accuracy": -0.1}, r"archs\[1\] .*accuracy '-0.1'"),
    ({"accuracy": float("nan")}, r"archs\[1\] .*accuracy 'nan'"),
    ({"accuracy": "0.9"}, r"archs\[1\] .*accuracy '0.9'"),
    ({"accuracy": True}, r"archs\[1\] .*accuracy 'True'"),
  ],
)
def test_entries_that_are_wrong(tmp_path, change, message):
  benchmark_refused(written(tmp_path / "t.json", BRANCHES, {**CHAIN, **change}), message, space="nb101")


def test_duplicate_cells(tmp_path):
  benchmark_refused(
    written(tmp_path / "t.json", CHAIN, BRANCHES, SWAPPED), r"archs\[2\] is the same cell as archs\[1\]", space="nb101"
  )


def test_paths(tmp_path):
  benchmark_refused(tmp_path / "absent.json", "no such file or folder; give a JSON file", space="nb101")
  with pytest.raises(BenchmarkError, match="^--benchmark=: an empty path; give a file"):
    tabular.open_benchmark("", SPACE)


def test_importing_the_room_brings_no_jax():
  code = "import sys, jaxnas.tabular\nprint([m for m in ('jax', 'flax') if m in sys.modules])"
  assert python(code).stdout == "[]\n"
