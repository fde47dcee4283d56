"""NAS-Bench-201 encoding: text, index order, sampling, alphas, isomorphism classes, costs."""

import csv
import gzip
import hashlib
import itertools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.nb201 import costs, encoding, isomorphism

TEXT = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|"
ARCH = (4, 2, 1, 2, 0, 3)

BAD_ARCHS = {
  "float": np.array(ARCH, np.float32),
  "bool": np.ones(6, bool),
  "short": np.zeros(5, np.int8),
  "scalar": 3,
  "none": None,
  "ragged": [[1, 2], [3]],
  "high": [0, 0, 5, 0, 0, 0],
  "negative": [0, 0, 0, 0, 0, -1],
  "wraps in int8": [256, 0, 0, 0, 0, 0],
}


@pytest.fixture(scope="module")
def table(shared) -> dict[str, list[str]]:
  with gzip.open(shared / "data" / "nasbench201.csv.gz", "rt") as file:
    rows = list(csv.DictReader(file))
  return {name: [row[name] for row in rows] for name in ("index", "arch", "params_mb")}


# Text


def test_parse_and_format():
  arch = encoding.parse(TEXT)
  assert arch.dtype == np.int8
  assert tuple(arch) == ARCH
  assert encoding.format(arch) == TEXT
  assert encoding.format(list(ARCH)) == TEXT
  np.testing.assert_array_equal(encoding.parse(f"  {TEXT}\n"), arch)


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    (TEXT.replace("none", "nor_conv_5x5"), ["'nor_conv_5x5~1'", "character 65", *encoding.OPS]),
    (
      TEXT.replace("skip_connect~1", "skip_connect~0"),
      ["'skip_connect~0'", "2<-1", "character 33"],
    ),
    (TEXT.replace("none~1", "none"), ["'none~1'", "character 65"]),
    (TEXT.replace("none~1", "none~1~1"), ["'none~1~1'", "'none~1'"]),
    ("|none~0|+|none~0|none~1|", ["2 node group(s)"]),
    (TEXT + "+|none~0|", ["4 node group(s)"]),
    ("|none~0|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", ["node 1 takes 1", "has 2"]),
    ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", ["'none~1'", "'none~0'", "character 10"]),
    ("none~0+|none~0|none~1|+|none~0|none~1|none~2|", ["node 1", "'|'", "character 0"]),
    ("  x|+|none~0|none~1|+|none~0|none~1|none~2|", ["character 2"]),
    ("|+|none~0|none~1|+|none~0|none~1|none~2|", ["node 1"]),
    ("||+|none~0|none~1|+|none~0|none~1|none~2|", ["unknown op ''", "character 1"]),
    ("", ["1 node group(s)"]),
    ("a\nb" * 1000, ["node group(s)"]),
    (7, ["7"]),
  ],
)
def test_parse_says_where(unchecked, text, parts):
  with pytest.raises(ArchitectureError) as error:
    encoding.parse(text)
  message = str(error.value)
  assert all(part in message for part in parts), message
  assert "\n" not in message
  assert len(message) < 500
  if place := re.search(r"at character (\d+), '([^']*)'", message):
    assert text[int(place[1]) :].startswith(place[2])


@pytest.mark.parametrize("bad", BAD_ARCHS.values(), ids=BAD_ARCHS.keys())
@pytest.mark.parametrize(
  "function",
  [
    encoding.format,
    encoding.index_of,
    encoding.indices_of,
    encoding.neighbours,
    encoding.alphas,
    encoding.is_connected,
    isomorphism.canonical,
    costs.params,
    costs.macs,
  ],
)
def test_bad_architectures(function, bad):
  with pytest.raises(ArchitectureError) as error:
    function(bad)
  assert "\n" not in str(error.value)


def test_one_architecture_means_one():
  with pytest.raises(ArchitectureError, match=r"\[2, 6\]"):
    encoding.format([ARCH, ARCH])
  with pytest.raises(ArchitectureError, match=r"archs\[1, 3\] = 9"):
    encoding.as_codes([ARCH, (0, 0, 0, 9, 0, 0)])


# Index


def test_order_equals_the_benchmark(table):
  assert [int(i) for i in table["index"]] == list(range(encoding.NUM_ARCHS))
  archs = np.stack([encoding.parse(text) for text in table["arch"]])
  np.testing.assert_array_equal(encoding.enumerate_all(), archs)
  np.testing.assert_array_equal(encoding.indices_of(archs), np.arange(encoding.NUM_ARCHS))
  assert [encoding.format(arch) for arch in archs[::50]] == table["arch"][::50]


def test_order_is_pinned():
  digest = hashlib.sha256(encoding.enumerate_all().tobytes()).hexdigest()
  assert digest == "efc20b8c0d7b04db1ae693c5872f6ab5a8086a466abf23d8e7c6ac7faba8caa0"


def test_index_round_trip():
  for index in (0, 11, 284, 6111, np.int16(9930), np.array(15624)):
    arch = encoding.from_index(index)
    assert arch.dtype == np.int8
    assert encoding.index_of(arch) == encoding.index_of(encoding.format(arch)) == int(index)
  assert isinstance(encoding.index_of(TEXT), int)
  batch = encoding.enumerate_all()[:6].reshape(2, 3, 6)
  np.testing.assert_array_equal(encoding.indices_of(batch), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("index", [-1, 15625, 1.0, "3", True, np.True_, None, np.arange(2)])
def test_bad_index(unchecked, index):
  with pytest.raises(ArchitectureError, match=r"0\.\.15624"):
    encoding.from_index(index)


def test_table_is_complete_and_protected():
  archs = encoding.enumerate_all()
  assert archs.shape == (15625, 6)
  assert archs.dtype == np.int8
  assert len(np.unique(archs, axis=0)) == 15625
  with pytest.raises(ValueError, match="read-only"):
    archs[0, 0] = 1
  encoding.from_index(0)[:] = 0  # a copy, so the table is unharmed
  assert encoding.index_of(archs[0]) == 0


# Randomness and neighbourhoods


def test_sample_without_replacement():
  key = jax.random.key(3)
  archs = encoding.sample(key, 500)
  assert archs.dtype == np.int8
  assert len(np.unique(archs, axis=0)) == 500
  np.testing.assert_array_equal(archs[:20], encoding.sample(key, 20))
  assert (archs != encoding.sample(jax.random.key(4), 500)).any()
  whole = np.sort(encoding.indices_of(encoding.sample(key, 15625)))
  np.testing.assert_array_equal(whole, np.arange(15625))


def test_sample_with_replacement():
  key = jax.random.key(0)
  archs = encoding.sample(key, 20_000, unique=False)
  assert len(np.unique(archs, axis=0)) < 15625
  np.testing.assert_array_equal(archs, encoding.sample(key, 20_000, unique=False))
  shares = np.stack([np.bincount(archs[:, e], minlength=5) for e in range(6)]) / len(archs)
  np.testing.assert_allclose(shares, 0.2, atol=0.015)


def test_sample_is_the_same_in_64_bit_mode():
  draws = {}
  for wide in (False, True):
    with jax.enable_x64(wide):
      key = jax.random.key(1)
      draws[wide] = [encoding.sample(key, 40, unique) for unique in (True, False)]
  np.testing.assert_array_equal(draws[False], draws[True])


@pytest.mark.parametrize(("n", "unique"), [(-1, True), (1.0, True), (True, False), (15626, True)])
def test_bad_sample_size(unchecked, n, unique):
  with pytest.raises(ConfigError, match="n is"):
    encoding.sample(jax.random.key(0), n, unique)


def test_sample_edges():
  assert encoding.sample(jax.random.key(0), 0).shape == (0, 6)
  assert encoding.sample(jax.random.key(0), 0, unique=False).shape == (0, 6)


def test_neighbours_and_mutate():
  near = encoding.neighbours(ARCH)
  assert near.dtype == np.int8
  assert near.shape == (24, 6)
  assert len(np.unique(near, axis=0)) == 24
  assert ((near != np.array(ARCH)).sum(1) == 1).all()
  np.testing.assert_array_equal(near, encoding.neighbours(TEXT))

  keys = jax.random.split(jax.random.key(5), 200)
  drawn = np.stack([encoding.mutate(key, ARCH) for key in keys])
  np.testing.assert_array_equal(np.unique(drawn, axis=0), np.unique(near, axis=0))
  np.testing.assert_array_equal(drawn[0], encoding.mutate(keys[0], np.array(ARCH)))


# Alphas and paths


def test_alphas_are_one_hot():
  archs = encoding.enumerate_all()
  weights = encoding.alphas(archs)
  assert weights.shape == (15625, 1, 6, 5)
  assert weights.dtype == np.float32
  assert (weights.sum(-1) == 1).all()
  assert set(np.unique(weights)) == {0.0, 1.0}
  np.testing.assert_array_equal(encoding.from_weights(weights), archs)
  assert encoding.alphas(ARCH).shape == (1, 6, 5)
  assert encoding.alphas(archs[:6].reshape(2, 3, 6)).shape == (2, 3, 1, 6, 5)
  assert encoding.alphas(ARCH)[0, 1, 2] == 1  # edge 2<-0 holds nor_conv_1x1
  np.testing.assert_array_equal(encoding.from_weights(encoding.alphas(TEXT)), ARCH)


def test_from_alphas_takes_soft_and_pruned_weights():
  pruned = np.where(encoding.alphas(ARCH) == 1, 0.0, -1000.0)
  np.testing.assert_array_equal(encoding.from_weights(pruned), ARCH)
  np.testing.assert_array_equal(encoding.from_weights(jnp.asarray(pruned, jnp.bfloat16)), ARCH)
  np.testing.assert_array_equal(encoding.from_weights(np.zeros((1, 6, 5))), np.zeros(6))
  close = np.zeros((1, 6, 5))
  close[..., 4] = 1e-12  # below float32's resolution next to 1
  np.testing.assert_array_equal(encoding.from_weights(1 + close), np.full(6, 4))


@pytest.mark.parametrize("weights", [np.zeros((6, 5)), np.zeros((2, 6, 5)), np.full((1, 6, 5), np.nan), "x", None])
def test_bad_alphas(weights):
  with pytest.raises(ArchitectureError, match="alphas"):
    encoding.from_weights(weights)


def test_has_path_equals_a_search_of_all_paths():
  paths = [(3,), (0, 4), (1, 5), (0, 2, 5)]  # edges of 0-3, 0-1-3, 0-2-3, 0-1-2-3
  for arch in encoding.enumerate_all()[::7]:
    assert encoding.is_connected(arch) is any(all(arch[e] != 0 for e in path) for path in paths)


# Isomorphism


def test_published_number_of_unique_cells():
  labels = isomorphism.canonical_index()
  unique = np.unique(labels)
  assert len(unique) == isomorphism.NUM_UNIQUE == 6466
  assert (np.diff(unique) > 0).all()
  np.testing.assert_array_equal(labels[unique], unique)
  assert (labels <= np.arange(15625)).all()
  with pytest.raises(ValueError, match="read-only"):
    labels[0] = 1


def test_canonical_index_is_fast():
  isomorphism.canonical_index.cache_clear()
  start = time.process_time()
  isomorphism.canonical_index()
  assert time.process_time() - start < 3.0


def test_canonical_equals_nats_bench():
  genotype = pytest.importorskip("nats_bench.genotype_utils")
  for arch in encoding.enumerate_all()[::3]:
    structure = genotype.topology_str2structure(encoding.format(arch))
    assert isomorphism.canonical(arch) == structure.to_unique_str(consider_zero=True)


@pytest.mark.parametrize(
  ("ops", "text"),
  [
    ((0, 0, 0, 0, 0, 0), "#+#+#"),
    ((1, 0, 0, 0, 3, 0), "#+#+(0)@nor_conv_3x3"),
    ((0, 0, 0, 3, 0, 0), "#+#+(0)@nor_conv_3x3"),  # another route, the same cell
    ((0, 0, 0, 3, 0, 2), "#+(#+#)@nor_conv_1x1+(0)@nor_conv_3x3"),  # node 2 is zero, not "#"
    ((2, 1, 1, 1, 0, 4), "#+((0)@nor_conv_1x1+0)@avg_pool_3x3+0"),
  ],
)
def test_canonical_examples(ops, text):
  assert isomorphism.canonical(ops) == text
  assert isomorphism.canonical(encoding.format(ops)) == text


def test_classes_compute_one_function():
  """Oracle: run every cell on one number, each op a fixed polynomial modulo a prime, f(0) = 0."""
  prime = 2_147_483_629
  factors = {2: 12_345, 3: 987_654, 4: 5_554_443}

  def apply(op: int, x: int) -> int:
    if op < 2:
      return op * x
    return factors[op] * x * (x * x + 7 * x + op) % prime

  def run(arch: list[int]) -> int:
    nodes, ops = [123_456_789], iter(arch)
    for target in (1, 2, 3):
      nodes.append(sum(apply(next(ops), nodes[source]) for source in range(target)) % prime)
    return nodes[-1]

  values = np.array([run(arch) for arch in encoding.enumerate_all().tolist()])
  labels = isomorphism.canonical_index()
  np.testing.assert_array_equal(values, values[labels])  # isomorphic: the same function
  assert len(np.unique(values)) == 4930


# Costs


def test_costs_equal_the_official_code(fixtures):
  with np.load(fixtures / "tenas" / "f1_costs.npz") as file:
    reference = {name: file[name] for name in file.files}
  channels, cells = int(reference["C"]), int(reference["N"])
  shapes = list(zip(reference["num_classes"], reference["image_size"], strict=True))
  assert reference["params"].shape == (len(shapes), 27)
  for row, (classes, size) in enumerate(shapes):
    for column, text in enumerate(reference["arch"]):
      network = {"channels": channels, "cells": cells, "classes": int(classes)}
      assert costs.params(str(text), **network) == reference["params"][row, column]
      macs = costs.macs(str(text), image_size=int(size), **network)
      assert macs == reference["flops_macs"][row, column]


def test_params_equal_the_benchmark(table):
  counted = [costs.params(arch) for arch in encoding.enumerate_all()]
  assert counted == [round(float(value) * 1e6) for value in table["params_mb"]]


def test_costs_of_other_networks():
  # C=4, N=1, 10 classes, all 3x3, written out layer by layer.
  def conv(k, a, b):
    return k * k * a * b

  stem, reduce1, reduce2, head = 108, (288 + 576 + 32), (1152 + 2304 + 128), 160
  cells = [6 * conv(3, c, c) for c in (4, 8, 16)]
  norms = 2 * (4 + 6 * (4 + 8 + 16) + 2 * 8 + 2 * 16 + 16)
  arch = [3] * 6
  total = stem + reduce1 + reduce2 + head + 10 + sum(cells) + norms
  assert costs.params(arch, channels=4, cells=1) == total
  by_size = [stem + cells[0], reduce1 + cells[1], reduce2 + cells[2]]
  macs = sum(weights * side**2 for weights, side in zip(by_size, (32, 16, 8), strict=True))
  assert costs.macs(arch, channels=4, cells=1) == macs + head + 10
  assert costs.macs(arch, 64, 4, 1) - head - 10 == 4 * macs


def test_costs_depend_on_convolutions_only():
  for ops in itertools.permutations([3, 2, 1, 0, 4, 4]):
    assert costs.params(ops) == costs.params([3, 2, 0, 0, 0, 0])


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("channels", 0),
    ("cells", -1),
    ("classes", 10.0),
    ("channels", True),
    ("image_size", 0),
    ("image_size", 30),
    ("image_size", "32"),
  ],
)
def test_bad_sizes(unchecked, name, value):
  with pytest.raises(ConfigError, match=name):
    costs.macs(ARCH, **{name: value})
