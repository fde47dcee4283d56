"""Encoders of NAS-Bench-BERT: text, arrays, neighbours, costs, the benchmark's file."""

import csv
import json

import jax
import numpy as np
import pytest
from helpers import benchmark_refused

from jaxnas import base, spaces, tabular
from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.flexibert import benchmark, costs, encoding

SPACE = spaces.get("flexibert")
TEXT = "256|sdp:4:1024x3|dct:2:512x1"
LONG = "128|sdp:2:512x1|wma:4:1024x3|dsc5:2:512x1|dsc9:4:1024x1"


@pytest.fixture(scope="module")
def published(shared):
  """(entry of the benchmark, parameters that its authors count at hidden size 256) of every shared encoder."""
  data = shared / "data"
  with (data / "flexibert_params.csv").open() as file:
    counts = {int(row["id"]): int(row["params_hidden_256"]) for row in csv.DictReader(file)}
  entries = json.loads((data / "flexibert_glue.json").read_text())["archs"]
  return [(entry, counts[entry["id"]]) for entry in entries]


# Forms


def test_text_and_array():
  code = encoding.parse(TEXT)
  assert code.tolist() == [1, 0, 1, 1, 1, 3, 0, 0, 0, *[-1] * 8]
  assert code.dtype == np.int8
  assert encoding.format(code) == TEXT
  assert (encoding.hidden_of(LONG), len(encoding.layers_of(LONG))) == (128, 4)
  assert SPACE.shape(code) == (256, 2)


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("512|sdp:4:1024x3|dct:2:512x1", ["'512'", "128 or 256"]),
    ("256|sdp:4:1024x3", ["1 layers", "2 or 4"]),
    ("256", ["0 layers"]),
    ("256|sdp:4:1024x3|relu:2:512x1", ["layer 1", "'relu:2:512x1'", "dsc9"]),
    ("256|sdp:8:1024x3|dct:2:512x1", ["layer 0", "'8'", "2 or 4"]),
    ("256|sdp:4:1024x2|dct:2:512x1", ["layer 0", "'1024x2'", "512x3"]),
    ("256|sdp:4|dct:2:512x1", ["layer 0", "operation:heads:widthxdepth"]),
    ("", ["hidden size"]),
    (7, ["7"]),
  ],
)
def test_parse_says_where(unchecked, text, parts):
  with pytest.raises(ArchitectureError) as error:
    encoding.parse(text)
  assert all(part in str(error.value) for part in parts), error.value
  assert "\n" not in str(error.value)


def test_half_a_layer_is_no_layer():
  code = encoding.parse(TEXT)
  for place, value in ((9, 0), (16, 1), (1, -1), (8, 2), (0, 2)):
    wrong = code.copy()
    wrong[place] = value
    with pytest.raises(ArchitectureError, match="archs"):
      encoding.as_codes(np.stack([code, wrong]))
  third = encoding.parse(LONG)
  third[13:] = -1
  with pytest.raises(ArchitectureError, match="archs"):
    encoding.as_codes(third)


# The neighbourhood


def test_neighbours_are_all_that_differ_in_one_setting():
  long, short = encoding.parse(LONG), encoding.parse(TEXT)
  assert len(encoding.neighbours(long)) == 1 + 4 * (5 + 1 + 1 + 1) + 1
  assert len(encoding.neighbours(short)) == 1 + 2 * 8 + 48**2
  assert encoding.format(encoding.neighbours(long)[-1]) == "128|sdp:2:512x1|wma:4:1024x3"


def test_mutants_change_every_setting_alike():
  code = encoding.parse(TEXT)
  mutants = [encoding.mutate(jax.random.key(i), code) for i in range(90)]
  changed = [np.flatnonzero(mutant != code) for mutant in mutants]
  assert {tuple(places) for places in changed if len(places) == 1} == {(i,) for i in range(9)}
  assert 2 <= sum(len(places) == 8 for places in changed) <= 20  # one in ten grows


def test_samples_are_as_the_benchmark_drew():
  codes = encoding.sample(jax.random.key(0), 400)
  layers = codes[:, 1:].reshape(400, 4, 4)
  assert 150 < (layers[:, 2, 0] < 0).sum() < 250 and 150 < codes[:, 0].sum() < 250
  present = layers[layers[..., 0] >= 0]
  for setting, choices in enumerate(encoding.CHOICES):
    share = np.bincount(present[:, setting], minlength=len(choices)) / len(present)
    np.testing.assert_allclose(share, 1 / len(choices), atol=0.06)
  for wrong in (-1, encoding.NUM_ARCHS + 1):
    with pytest.raises(ConfigError, match=str(wrong)):
      encoding.sample(jax.random.key(0), wrong)


def test_the_width_is_not_read():
  assert SPACE.canonical(TEXT) == SPACE.canonical(TEXT.replace("512", "1024"))
  assert SPACE.costs(encoding.parse(TEXT)) == SPACE.costs(encoding.parse(TEXT.replace("512", "1024")))
  assert SPACE.canonical(TEXT) != SPACE.canonical(TEXT.replace("256", "128"))


# Costs


def test_parameters_are_the_published_ones(published):
  assert len(published) == 250
  for entry, count in published:
    arch = benchmark.from_entry(entry)
    assert costs.params(arch, 256) == count
    if entry["hidden_size"] == 256:
      assert SPACE.costs(encoding.parse(arch)).params == count


def test_parameters_by_hand():
  """The embeddings, a layer of scaled dot products with one feed-forward layer, and one of cosines with three."""
  tables = (30522 + 512 + 2 + 2) * 128
  project = 128 * 256 + 256
  first = 4 * (256 * 256 + 256) + 2 * 256 + 256 * 1024 + 1024 + 1024 * 256 + 256 + 2 * 256
  second = 256 * 256 + 256 + 256 * 1024 + 1024 + 2 * (1024 * 1024 + 1024) + 1024 * 256 + 256 + 2 * 256
  arch = "256|sdp:4:1024x1|dct:2:512x3"
  assert SPACE.costs(encoding.parse(arch)).params == tables + project + first + second
  with_classifier = SPACE.costs(encoding.parse(arch), base.NetworkConfig(classes=3))
  assert with_classifier.params - SPACE.costs(encoding.parse(arch)).params == 256 * 3 + 3
  macs = 128 * 256 + 4 * 256 * 256 + 2 * 256 * 1024 + 256 * 256 + 2 * 256 * 1024 + 2 * 1024 * 1024
  assert SPACE.costs(encoding.parse(arch), None, 10).macs == 10 * macs + 2 * 10 * 10 * 256


@pytest.mark.parametrize(
  ("config", "tokens", "match"),
  [
    ({"cells": 3}, 8, "cells=3"),
    ({"stem": "imagenet"}, 8, "stem="),
    ({"channels": 6}, 8, "channels=6"),
    ({}, 513, "513"),
  ],
)
def test_what_encoders_have_not_is_refused(config, tokens, match):
  with pytest.raises(ConfigError, match=match):
    SPACE.costs(encoding.parse(TEXT), base.NetworkConfig(**config), tokens)


# The benchmark's file


def test_benchmark_is_read(shared, published):
  table = tabular.open_benchmark(shared / "data" / "flexibert_glue.json", SPACE)
  assert len(table.archs) == 248  # two encoders were trained twice
  assert table.datasets[0] == "glue" and table.split == "dev"
  groups = {}
  for entry, _ in published:
    groups.setdefault(benchmark.from_entry(entry), []).append(entry)
  for arch, entries in groups.items():
    for task in ("glue", "rte"):
      assert table.accuracy(f" {arch}", task) == pytest.approx(np.mean([e["scores"][task] for e in entries]))
  with pytest.raises(ArchitectureError, match="not among"):
    table.index(LONG)


def entry(**changes):
  layer = {
    "operation_type": "SA", "operation_parameter": "SDP", "num_operation_heads": 4, "feed_forward_dimension": 512,
    "num_feed_forward": 1,
  }  # fmt: skip
  own = {"hidden_size": 128, "encoder_layers": [layer, layer], "scores": {"glue": 70.0}}
  return own | changes


def test_a_file_of_little_is_read(tmp_path):
  path = tmp_path / "own.json"
  path.write_text(json.dumps({"archs": [entry()]}))
  table = SPACE.read_benchmark(path)
  assert table.archs == ("128|sdp:4:512x1|sdp:4:512x1",)
  assert table.accuracy(table.archs[0], "glue") == 70 and np.isnan(table.accuracy(table.archs[0], "cola"))


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"hidden_size": 64}, r"archs\[0\] is no encoder"),
    ({"encoder_layers": []}, "0 layers"),
    ({"encoder_layers": [1, 2]}, "list of objects"),
    ({"encoder_layers": [{}, {}]}, "layer 0 lacks operation_type"),
    ({"encoder_layers": [entry()["encoder_layers"][0] | {"operation_parameter": 5}] * 2}, "operation 'SA', '5'"),
    ({"scores": {"glue": 171}}, "score '171' of glue"),
    ({"scores": {"glue": 70, "rte": "high"}}, "score 'high' of rte"),
    ({"scores": {}}, "`glue`"),
  ],
)
def test_wrong_files_are_refused(tmp_path, changes, match):
  path = tmp_path / "own.json"
  path.write_text(json.dumps({"archs": [entry(**changes)]}))
  benchmark_refused(path, match, "flexibert")
