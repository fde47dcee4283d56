"""GenNAS below a limit of multiply-adds."""

import dataclasses

import jax
import numpy as np
import pytest
from conformance.tiny import small

from jaxnas import data, spaces
from jaxnas.base import Context
from jaxnas.errors import ConfigError
from jaxnas.gennas.budget import Budget
from jaxnas.gennas.evolution import EvolutionConfig
from jaxnas.gennas.proxy import SignalConfig
from jaxnas.gennas.search import GenNASConfig, evolve_architectures

DARTS = spaces.get("darts")


def imagenet(size=64):
  """Grey images under ImageNet's name, which decides about the network that is counted."""

  def read(indices):
    return np.full((len(indices), 32, 32, 3), indices[:, None, None, None] % 256, np.uint8), indices % 1000

  return data.ImageSource("imagenet2012", 1000, (32, 32, 3), size, np.full(3, 0.5), np.full(3, 0.25), read)


SOURCE = imagenet()


def macs(code):
  return DARTS.costs_on(code, SOURCE).macs


def test_draws_stay_below_the_limit():
  key = jax.random.key(0)
  without = Budget(DARTS, SOURCE).sample(key, 40)
  np.testing.assert_array_equal(without, DARTS.sample(key, 40))
  limit = float(np.median([macs(code) for code in without])) / 1e6
  budget = Budget(DARTS, SOURCE, limit)
  below = budget.sample(key, 40)
  assert len(below) == 40 and max(map(macs, below)) < limit * 1e6 < max(map(macs, without))
  kept = [code for code in without if macs(code) < limit * 1e6]
  np.testing.assert_array_equal(below[: len(kept)], kept)  # the others are drawn on, in order
  children = [budget.resample(k, below[0], 1.0) for k in jax.random.split(jax.random.key(1), 20)]
  assert max(map(macs, children)) < limit * 1e6 and len({child.tobytes() for child in children}) > 10


def test_children_that_are_too_large_are_drawn_again():
  heaviest = max(DARTS.sample(jax.random.key(0), 20), key=macs)
  limit = macs(heaviest) / 1e6 + 0.1
  keys = jax.random.split(jax.random.key(2), 30)
  above = [key for key in keys if macs(DARTS.resample(key, heaviest)) > limit * 1e6]
  assert above
  for key in above:
    child = Budget(DARTS, SOURCE, limit).resample(key, heaviest, 1.0)
    assert macs(child) < limit * 1e6 and (child != heaviest).any()


def test_a_limit_that_nothing_meets_is_refused():
  with pytest.raises(ConfigError, match=r"max_macs=1: 0 of 40 .*--space=darts.*the lightest \d+; 2 are needed"):
    Budget(DARTS, SOURCE, 1.0).sample(jax.random.key(0), 2)
  with pytest.raises(ConfigError, match="--gennas_max_macs=-1.0 must be finite and at least 0"):
    GenNASConfig(gennas_max_macs=-1.0)


@pytest.mark.slow
def test_search_of_darts():
  """All that live stay below, also under children; the result is the lowest loss."""
  limit = float(np.median([macs(code) for code in DARTS.sample(jax.random.key(0), 40)])) / 1e6
  signal = small(SignalConfig)
  signal = dataclasses.replace(signal, regression=dataclasses.replace(signal.regression, signal_cells=3))
  config = GenNASConfig(small(EvolutionConfig), signal, gennas_max_macs=limit)
  found = evolve_architectures(Context(DARTS, SOURCE, config), 0)
  assert all(macs(DARTS.parse(one.genome)) < limit * 1e6 for one in found.log)
  losses = {one.genome: one.fitness for one in found.log}
  assert losses[DARTS.format(found.code)] == min(losses.values())
