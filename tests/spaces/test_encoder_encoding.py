"""Variants of an encoder as arrays and text."""

import itertools

import jax
import numpy as np
import pytest

from jaxnas.errors import ArchitectureError, ConfigError
from jaxnas.spaces.encoder import encoding

TEXT = "drop|keep:seq:2|share:par:2|drop|keep:par:1|share:seq:1"


def test_rows_are_the_layers_executed():
  rows = encoding.rows_of(TEXT, 6)
  assert rows.tolist() == [[1, 0, 1], [1, 1, 1], [4, 1, 0], [4, 0, 0]]
  assert encoding.rows_of("unchanged", 3).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_variants_are_as_many_as_said():
  for layers in (1, 2, 3):
    found = 0
    for code in itertools.product(range(len(encoding.OPS)), repeat=layers):
      try:
        encoding.as_codes(np.array(code), layers)
      except ArchitectureError:
        continue
      found += 1
    assert found == encoding.number(layers)
  assert encoding.number(6) == 265_720


def test_those_that_compute_the_same_are_equal():
  canonical = [
    encoding.canonical(text, 3)
    for text in (
      "keep:seq:1|share:seq:1|drop", "keep:seq:2|share:seq:1|drop", "keep:seq:1|drop|share:seq:1",
      "keep:seq:1|share:seq:2|drop", "drop|keep:seq:1|share:seq:1",
    )
  ]  # fmt: skip
  assert canonical[0] == canonical[1] == canonical[2]
  assert len(set(canonical)) == 3


def test_random_variants_are_around_the_encoder():
  codes = encoding.sample(jax.random.key(0), 2000, 6, unique=False)
  assert (codes == encoding.UNCHANGED).mean() == pytest.approx(encoding.KEPT, abs=0.03)
  assert set(np.unique(codes)) == set(range(len(encoding.OPS)))
  with pytest.raises(ConfigError, match="40 architectures"):
    encoding.sample(jax.random.key(0), 41, 2)
  assert len(encoding.sample(jax.random.key(0), 40, 2)) == 40


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("keep:seq:1|keep:seq:1", "has 2 layers, and the encoder 3"),
    ("keep:seq:1|keep:seq:3|drop", "layer 1, 'keep:seq:3': unknown"),
    ("drop|drop|drop", "first layer that is there must be a kept one"),
    ("drop|share:seq:1|keep:seq:1", "first layer that is there must be a kept one"),
    ("changed", "has 1 layers"),
  ],
)
def test_other_texts_are_refused(text, match):
  with pytest.raises(ArchitectureError, match=match):
    encoding.parse(text, 3)


def test_other_arrays_are_refused(unchecked):
  for wrong, match in (([9, 1, 1], r"archs\[0\] = 9"), ([[1, 1, 1], [0, 5, 1]], "drop|share:seq:1.*kept one")):
    with pytest.raises(ArchitectureError, match=match):
      encoding.as_codes(np.array(wrong), 3)
