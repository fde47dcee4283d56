"""Networks of proxies that prepare none of their own: sizes that do not fit are refused by the flags they came from."""

import re

import jax
import pytest
from helpers import needs_encoder

from jaxnas import data, spaces
from jaxnas.algorithms.knas import KNAS, KNASConfig
from jaxnas.algorithms.measuring import UsualInputs
from jaxnas.base import Context
from jaxnas.errors import ConfigError, naming
from jaxnas.train import TrainConfig, trained_costs, trained_network


@pytest.mark.parametrize(
  ("name", "sizes", "said"),
  [
    ("nb101", {"score_channels": 2}, "--score_channels=2 must be at least 4"),
    ("nds_resnext_b", {"score_channels": 7}, "--score_channels=7 must be even"),
    ("flexibert", {"score_channels": 6}, "--score_channels=6: hidden sizes"),
    ("flexibert", {"score_cells": 2}, "--score_cells=2: encoders"),
  ],
)
def test_of_scores(name, sizes, said):
  space = spaces.get(name)
  with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
    UsualInputs(**sizes).networks(space, 10)(space.shape(space.sample(jax.random.key(0), 1)[0]))


def test_of_a_training():
  recipe, space = TrainConfig(train_stem="imagenet", train_channels=5), spaces.get("darts")
  with pytest.raises(ConfigError, match=r"^--train_channels=5 must be even"):
    trained_costs(space, space.sample(jax.random.key(0), 1)[0], recipe, 10, 224)


@needs_encoder
def test_of_a_shortlist_and_of_a_training_of_encoders():
  space, source = spaces.get("encoder"), data.load("tokens")
  with pytest.raises(ConfigError, match=r"^--train_cells=2: an architecture says itself"):
    trained_network(space, TrainConfig(train_cells=2), 2)
  settings = KNASConfig(knas_candidates=2, knas_shortlist=1, knas_cells=2, knas_fine="train")
  with pytest.raises(ConfigError, match=r"^--knas_cells=2: an architecture says itself"):
    KNAS().search(Context(space, source, settings), 0)


def test_every_size_gets_its_flag_once():
  with pytest.raises(ConfigError) as caught, naming("knas"):
    raise ConfigError("channels=3, cells=2, --score_cells=4: subchannels=1")
  assert str(caught.value) == "--knas_channels=3, --knas_cells=2, --score_cells=4: subchannels=1"
